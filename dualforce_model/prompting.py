"""What a pipeline tells its model in words.

Legend: b clips of one call, n tokens of a text, l = 512 tokens as the towers see them, e width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from dualforce_model.captions import TEXT_TOKENS
from dualforce_model.encoders import make_encoder
from dualforce_model.errors import InputError
from dualforce_model.fitting import text_width
from dualforce_model.model import ModelConfig
from dualforce_model.text_features import LARGEST, pad_text
from dualforce_model.train_config import PipelineRecord

Told = str | Float32[np.ndarray, "n e"]


class TextInputError(InputError):
    """Words or tokens that cannot be used; the message says what was found and what is expected."""


class Prompting:
    """Turns words, or tokens made elsewhere, into what the towers attend to. The encoder is read when it is needed."""

    def __init__(self, model: ModelConfig, record: PipelineRecord) -> None:
        self.width, self.record = text_width(model), record
        self._encoder: Any = None

    def __call__(
        self, text: Told | Sequence[Told] | None, clips: int, *, without: bool, device: str = "cpu"
    ) -> Float[Tensor, "b l e"] | None:
        """One text for each clip, or one for all; nothing where none is given. Raises TextInputError."""
        if text is None:
            self._check_none(without)
            return None
        if without or not self.width:
            why = "together with without_text" if without else "but the model takes none"
            raise TextInputError(f"a text was given, {why}: leave it out")
        given = [text] * clips if isinstance(text, (str, np.ndarray)) else list(text)
        if len(given) != clips:
            raise TextInputError(f"{len(given)} texts for {clips} clips: give one of each, or one for all")
        return torch.from_numpy(np.stack([pad_text(each) for each in self._tokens(given, device)]))

    def _check_none(self, without: bool) -> None:
        """A condition that is missing by oversight would show in nothing but the pictures."""
        if self.record.text and self.width and not without:
            raise TextInputError(
                "the model was trained with text and none was given: say something, or allow without_text, which it "
                "has learned only if it was trained with text_dropout above 0"
            )

    def _tokens(self, given: list[Told], device: str) -> list[Float32[np.ndarray, "n e"]]:
        words = list(dict.fromkeys(each for each in given if isinstance(each, str)))
        known = dict(zip(words, self._encoded(words, device), strict=True)) if words else {}
        found = [known[each] if isinstance(each, str) else each for each in given]
        for tokens in found:
            if tokens.ndim != 2 or not 1 <= len(tokens) <= TEXT_TOKENS or tokens.shape[1] != self.width:
                raise TextInputError(
                    f"text tokens {list(tokens.shape)}: expected 1 to {TEXT_TOKENS} rows of {self.width}"
                )
            if not np.issubdtype(tokens.dtype, np.floating) or not np.isfinite(_halved(tokens)).all():
                raise TextInputError(
                    f"text tokens of {tokens.dtype}: expected finite floating-point numbers up to {LARGEST:g}"
                )
        return [_halved(tokens) for tokens in found]

    def _encoded(self, words: list[str], device: str) -> list[Float32[np.ndarray, "n e"]]:
        choice = self.record.encoders.text
        if choice is None:
            raise TextInputError(
                "a text was given in words, and the checkpoint names no encoder of them (encoders.text): give tokens"
            )
        if self._encoder is None:
            encoder = make_encoder(choice.name, choice.config)
            encoder.load(device)
            self._encoder = encoder
        found: list[np.ndarray] = self._encoder(words)
        return found


def _halved(tokens: Float[np.ndarray, "n e"]) -> Float32[np.ndarray, "n e"]:
    """As training saw them: in half precision, in which what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        halved: np.ndarray = tokens.astype(np.float16).astype(np.float32)
    return halved
