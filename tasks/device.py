"""Where encoders run, as a worker finds it on its machine."""

from collections.abc import Iterable
from typing import Literal

import torch

from dualforce_model.encoders import NO_WEIGHTS

DeviceChoice = Literal["auto", "cpu", "cuda"]


def device_for(chosen: DeviceChoice, weights_digests: Iterable[str]) -> str:
    """The device of encoders with these weights; where none has any a GPU is of no use, and left to others."""
    if chosen != "auto" or all(each == NO_WEIGHTS for each in weights_digests):
        return "cpu" if chosen == "auto" else chosen
    return "cuda" if torch.cuda.is_available() else "cpu"
