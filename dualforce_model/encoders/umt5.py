"""UMT5: captions to the tokens that Wan's towers attend to. Of each caption its own n tokens, and no padding.

Wan fills prompts up with zeros behind the encoder (dualforce_model/text_features.py does), so none are made here.
Legend: n tokens of a caption, e width.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import Field

from dualforce_model.captions import TEXT_TOKENS
from dualforce_model.encoders.base import Modality
from dualforce_model.encoders.exact import exact_arithmetic
from dualforce_model.encoders.hub import Form, PublishedConfig, PublishedEncoder, Told
from dualforce_model.pretrained import PRETRAINED, Weights

TOKENIZER_FOLDER = "tokenizer"  # beside text_encoder in Wan's releases; elsewhere all lies in one folder
TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_FILES = (TOKENIZER_NAME, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class Umt5Config(PublishedConfig):
    """Settings of the text encoder."""

    precision: Literal["fp32", "bf16"] = Field(
        "bf16", description="what the net computes in; Wan's pipelines take bf16, and fp16 overflows"
    )
    max_tokens: int = Field(TEXT_TOKENS, ge=2, le=TEXT_TOKENS, description="longer captions are cut to so many tokens")


class _Said(Told):
    """What config.json says of the net."""

    d_model: int = Field(ge=1, le=65_536)
    vocab_size: int = Field(ge=1, le=10_000_000)


class Umt5(PublishedEncoder):
    """Encoder half of UMT5. A caption may be any text: it is cleaned as Wan cleans prompts.

    Wan also mends mojibake where the package ftfy happens to be installed. That is left out: numbers must not depend on
    what else a machine has.
    """

    name: ClassVar[str] = "umt5"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "text"
    config_type: ClassVar[type[Umt5Config]] = Umt5Config
    weights: ClassVar[Weights | None] = PRETRAINED["umt5"]
    form: ClassVar[Form] = Form(
        "transformers",
        "UMT5EncoderModel",
        ("umt5",),
        subfolder="text_encoder",
        others=("decoder.", "lm_head."),
        also=tuple(f"{place}{name}" for place in ("", f"{TOKENIZER_FOLDER}/") for name in TOKENIZER_FILES),
    )

    def __init__(self, config: Umt5Config | None = None) -> None:
        self._config = config or Umt5Config()
        super().__init__(self._config)
        self._said = self.told(_Said, self.said)
        self._tokenizer_folder = self._find_tokenizer()
        self._tokenizer: Any = None

    @property
    def config(self) -> Umt5Config:
        """What this encoder was built with."""
        return self._config

    @property
    def num_features(self) -> int:
        """Width of a token: 4096 for umt5-xxl."""
        return self._said.d_model

    def load(self, device: str = "cpu") -> None:
        """Read tokenizer and weights to a device. Raises DamagedWeightsError."""
        if self._tokenizer is None:
            self._tokenizer = self._open_tokenizer()
        super().load(device)

    def __call__(self, captions: Sequence[str]) -> list[Float32[np.ndarray, "n e"]]:
        """Tokens of each caption, the end mark included. Alone and in a batch they agree but for rounding."""
        if not captions:
            return []
        net = self.net
        told = self._tokenizer(
            [clean_prompt(caption) for caption in captions],
            padding=True,
            truncation=True,
            max_length=self._config.max_tokens,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.device)
        with torch.inference_mode(), exact_arithmetic():
            encoded = net(input_ids=told.input_ids, attention_mask=told.attention_mask).last_hidden_state
        rows, there = encoded.float().cpu().numpy(), told.attention_mask.bool().cpu().numpy()
        return [row[mask] for row, mask in zip(rows, there, strict=True)]

    # ----------------------------------------------------------------------------------------------------- tokenizer

    def _find_tokenizer(self) -> Path:
        for folder in (self.folder, self.folder.parent / TOKENIZER_FOLDER):
            if (folder / TOKENIZER_NAME).is_file():
                return folder
        self._refuse(f"no {TOKENIZER_NAME} in it, nor in a folder {TOKENIZER_FOLDER} beside it")

    def _files(self) -> list[Path]:
        spoken = [self._tokenizer_folder / name for name in TOKENIZER_FILES]
        return super()._files() + [file for file in spoken if file.is_file()]

    def _open_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            # Unless it is forbidden, whoever is at the terminal is asked whether the folder's code may run.
            tokenizer = AutoTokenizer.from_pretrained(
                str(self._tokenizer_folder), local_files_only=True, trust_remote_code=False
            )
            last = max(tokenizer.get_vocab().values())
        except Exception as error:  # a hostile or torn folder makes the package fail in ways of its own
            self._refuse(f"tokenizer: {error}")
        if last >= self._said.vocab_size:
            self._refuse(f"the tokenizer gives tokens up to {last}, the net has {self._said.vocab_size}")
        if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
            self._refuse("the tokenizer knows no padding, or no end mark")
        return tokenizer


def clean_prompt(text: str) -> str:
    """A prompt as Wan gives it to the tokenizer: HTML's escapes undone twice, white space collapsed."""
    return " ".join(html.unescape(html.unescape(text)).split())
