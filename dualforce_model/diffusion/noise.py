"""Random numbers that depend on names, not on the order of calls or the layout of processes."""

import hashlib

import torch
from torch import Tensor


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose stream is a function of the key alone, as in (seed, epoch, sample index)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1  # torch takes 63 bits unsigned
    return torch.Generator().manual_seed(seed)


def gaussian(shape: tuple[int, ...], *key: int | str) -> Tensor:
    """Standard normal numbers [*shape] in fp32 on the CPU, equal on every machine and device for equal keys."""
    return torch.randn(shape, generator=keyed_generator(*key))
