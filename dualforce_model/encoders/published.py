"""Published weights into a net whose tensors have the published names. Nothing in a file is ever run."""

import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from dualforce_model.weight_files import StoredTensor, WeightsError, listed, open_tensors

COUNTERS = ".num_batches_tracked"  # of training; some copies of a file lack them
CONSTANTS = "constants.pkl"  # only a TorchScript holds it


def fill(net: nn.Module, path: Path, what: str, prefix: str = "") -> None:
    """Copy every tensor of a file to where its name says. Messages call the net `what`.

    With a prefix, names that begin so are the net's, without it; the others belong to other nets of the same file.
    Raises WeightsError naming what is missing, has no place or another shape, is no number, or is no weights at all.
    """
    if is_script(path):
        raise WeightsError(
            f"{path}: a TorchScript, which is a program and no list of weights; expected the state dict of {what} "
            "(a file of torch or safetensors)"
        )
    with ExitStack() as stack:
        place(net, open_tensors((path,), stack), path, what, prefix)


def place(net: nn.Module, tensors: Mapping[str, StoredTensor], path: Path, what: str, prefix: str = "") -> None:
    """What `fill` does, with tensors that somebody has opened."""
    wanted = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith(COUNTERS)}
    stored = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    missing = [name for name in wanted if name not in stored]
    if missing:
        names = listed([f"{prefix}{name}" for name in missing])
        raise WeightsError(f"{path}: no {names}; expected the {len(wanted)} weights of {what}")
    unknown = [name for name in stored if name not in wanted and not name.endswith(COUNTERS)]
    if unknown:
        raise WeightsError(f"{path}: {listed(unknown)} has no place in {what}; take the file of its weights")
    with torch.no_grad():
        for name, tensor in wanted.items():
            if stored[name].shape != tuple(tensor.shape):
                found = list(stored[name].shape)
                raise WeightsError(f"{path}: {name} is {found}, expected {list(tensor.shape)} of {what}")
            tensor.copy_(stored[name].read())


def is_script(path: Path) -> bool:
    """Whether a file is a TorchScript, told by its table of contents. What cannot be read is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == CONSTANTS for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False  # no archive: whoever reads it next says what it is
