"""What the towers are told in words: embeddings out of a file, or out of the checkpoint's own text encoder.

Without either, both branches get zeros, which is what upstream fills prompts up with: guidance then does nothing.
Legend: l tokens, e width.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dualforce_model.errors import InputError
from dualforce_model.mova.checkpoint import MovaCheckpoint

PROMPT_TOKENS = 512  # the release fills every prompt up to this length, with zeros, and attends to them


@dataclass(frozen=True)
class Prompts:
    """Embeddings of the prompt and of what to stay away from."""

    positive: Float[Tensor, "1 l e"]
    negative: Float[Tensor, "1 l e"]

    @classmethod
    def none(cls, width: int) -> "Prompts":
        """Nothing said. One zero token acts like any number of them."""
        return cls(torch.zeros(1, 1, width), torch.zeros(1, 1, width))

    @classmethod
    def read(cls, path: Path, width: int) -> "Prompts":
        """Tensors `positive` and `negative` [l, e] of a safetensors file. Raises InputError."""
        try:
            held = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not readable as safetensors: {error}") from error
        for name in ("positive", "negative"):
            shape = tuple(held[name].shape) if name in held else None
            if shape is None or len(shape) != 2 or shape[1] != width:
                raise InputError(f"{path}: {name} is {shape}; expected prompt embeddings of shape [tokens, {width}]")
        return cls(held["positive"][None].float(), held["negative"][None].float())


def require_package() -> None:
    """Raises InputError when `transformers`, which runs the text encoder, is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError(
            "prompts as text need the package transformers, which is not installed; "
            "install it (the extra lora brings it), or give prompt embeddings in a file"
        )


def encode(checkpoint: MovaCheckpoint, prompt: str, negative: str, device: torch.device) -> Prompts:
    """Embeddings of two texts by the checkpoint's UMT5. Raises InputError when `transformers` is not installed."""
    require_package()
    from transformers import AutoTokenizer, UMT5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.root / "tokenizer", local_files_only=True)
    folder = checkpoint.root / "text_encoder"
    encoder = UMT5EncoderModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).to(device).eval()
    told = tokenizer(
        [prompt, negative], padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt"
    ).to(device)
    with torch.no_grad():
        embedded = encoder(told.input_ids, told.attention_mask).last_hidden_state
    embedded = (embedded * told.attention_mask[..., None]).float().cpu()
    return Prompts(embedded[:1], embedded[1:])
