"""Files of several nets at once, as training loops of their time left them. Nothing in a file is ever run.

`deca_model.tar` is a dictionary of state dicts and of what the training counted; EMOCA's `.ckpt` has its state dict
among a trainer's objects, which are classes of other packages: most of these files are refused for that, and the
message says how whoever holds one gets the tensors out.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualforce_model.encoders.published import is_script
from dualforce_model.pretrained.trust import LEGACY, ZIPPED, check_vouched
from dualforce_model.weight_files import StoredTensor, WeightsError, open_tensors

MAX_DEPTH = 3  # of dictionaries in dictionaries: state dict, net
REMEDY = (
    "where its own project is installed, save the tensors alone: "
    "safetensors.torch.save_file(state_dict, path), with the names they have in the file"
)


def published_tensors(path: Path, stack: ExitStack) -> dict[str, StoredTensor]:
    """Tensors of a file by the keys that lead to them, joined by dots. What is no tensor is left out.

    Raises WeightsError for a TorchScript, and for what cannot be read without running something, and
    UntrustedWeightsError for a pickled file that nobody vouches for.
    """
    if is_script(path):
        raise WeightsError(f"{path}: a TorchScript, which is a program and no list of weights; {REMEDY}")
    try:
        with open(path, "rb") as file:
            beginning = file.read(len(ZIPPED))
    except OSError as error:
        raise WeightsError(f"{path}: not readable: {error}") from error
    if beginning not in (ZIPPED, LEGACY):
        return open_tensors((path,), stack)
    check_vouched([path])
    found: dict[str, StoredTensor] = {}
    for name, tensor in _named("", _unpickled(path, mapped=beginning == ZIPPED), MAX_DEPTH):
        if name in found:
            raise WeightsError(f"{path}: two ways lead to {name}; take the file as it was published")
        found[name] = StoredTensor(name, path, tuple(tensor.shape), partial(_plain, path, name, tensor))
    return found


def _unpickled(path: Path, mapped: bool) -> Mapping[Any, Any]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise WeightsError(f"{path}: not readable: {error}") from error
    except Exception as error:  # a hostile or torn file makes the reader fail in ways of its own
        # Torch's own message, which advises to load such a file with its code run, goes no further.
        kind = type(error).__name__
        raise WeightsError(
            f"{path}: not readable as tensors and plain containers ({kind}); nothing in it was run. It is damaged, or "
            f"holds objects of a training program: {REMEDY}"
        ) from None
    if not isinstance(held, dict):
        raise WeightsError(f"{path}: holds a {type(held).__name__}, expected a dictionary of tensors; {REMEDY}")
    return held


def _named(prefix: str, held: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, Tensor]]:
    for key, value in held.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict) and depth > 1:
            yield from _named(f"{prefix}{key}.", value, depth - 1)


def _plain(path: Path, name: str, tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.device.type != "cpu":
        raise WeightsError(f"{path}: {name} is a {tensor.layout} tensor on {tensor.device}, expected plain numbers")
    return tensor
