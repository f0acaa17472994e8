"""Files of weights made elsewhere: found, opened without running anything in them, read one tensor at a time."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dualforce_model.errors import InputError

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
INDEX_NAME = f"{WEIGHTS_NAME}.index.json"
PICKLED = (".pth", ".pt", ".bin")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SHOWN = 5  # names that an error lists; the rest are counted


class WeightsError(InputError):
    """Weights that cannot be used; the message names file, tensor and remedy."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file that is read when it is wanted."""

    name: str
    path: Path
    shape: tuple[int, ...]
    fetch: Callable[[], Tensor]

    def read(self) -> Tensor:
        """The tensor itself: finite numbers of a plain float type, or WeightsError."""
        try:
            tensor = self.fetch()
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{self.path}: {self.name} is not readable: {error}; download it again") from error
        if tensor.dtype not in DTYPES:
            raise WeightsError(
                f"{self.path}: {self.name} is {tensor.dtype}, expected a plain float type; take weights that are not "
                "quantised"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{self.path}: {self.name} holds NaN or infinity; download it again")
        return tensor


def find_files(path: Path) -> tuple[Path, ...]:
    """Files with the transformer's weights: the file itself, or what a folder (or its `transformer`) holds."""
    if path.is_file():
        return (path,)
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    if not folder.is_dir():
        raise WeightsError(f"{path}: no such file or folder; start_from.path names Wan 2.1 weights on this machine")
    if (folder / INDEX_NAME).is_file():
        return _shards(folder / INDEX_NAME)
    if (folder / WEIGHTS_NAME).is_file():
        return (folder / WEIGHTS_NAME,)
    for suffixes in ((".safetensors",), PICKLED):
        offered = sorted(file for file in folder.iterdir() if file.suffix in suffixes)
        if len(offered) == 1:
            return (offered[0],)
        if offered:
            names = listed([file.name for file in offered])
            raise WeightsError(f"{folder}: {names}, and no {INDEX_NAME} says which belong together; name one file")
    raise WeightsError(f"{folder}: no {WEIGHTS_NAME}, no {INDEX_NAME}, no other weights; name the transformer's folder")


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise WeightsError(f"{index}: not an index of shards: {error!r}; download it again") from error
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise WeightsError(f"{index}: weight_map does not name a file for every tensor; download it again")
    names = sorted(set(placed.values()))
    for name in names:
        if Path(name).name != name:
            raise WeightsError(f"{index}: names the shard {name!r}, which is not a file beside it")
        if not (index.parent / name).is_file():
            raise WeightsError(f"{index.parent}: {name} is missing, which {index.name} names; download it again")
    return tuple(index.parent / name for name in names)


def open_tensors(files: Sequence[Path], stack: ExitStack) -> dict[str, StoredTensor]:
    """Tensors of all files by name; the files stay open as long as the stack."""
    found: dict[str, StoredTensor] = {}
    for path in files:
        for each in _unpickled(path) if path.suffix in PICKLED else _mapped(path, stack):
            if each.name in found:
                raise WeightsError(f"{path}: {each.name} is also in {found[each.name].path.name}; keep one of them")
            found[each.name] = each
    return found


def _mapped(path: Path, stack: ExitStack) -> Iterator[StoredTensor]:
    try:
        file = stack.enter_context(safe_open(path, framework="pt"))
        names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not readable as safetensors: {error}; download it again") from error

    for name in names:
        yield StoredTensor(name, path, tuple(file.get_slice(name).get_shape()), partial(file.get_tensor, name))


def _unpickled(path: Path) -> Iterator[StoredTensor]:
    """Tensors of a .pth file. Nothing in it is run: only tensors and plain containers are let through."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise WeightsError(f"{path}: not readable: {error}") from error
    except Exception as error:  # a hostile or torn file makes the reader fail in ways of its own
        # Torch's own message, which advises to load such a file with its code run, goes no further.
        kind = type(error).__name__
        raise WeightsError(
            f"{path}: not readable as tensors alone ({kind}); nothing in it was run. Download it again from a source "
            "that you trust, as safetensors if there is one"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: holds more than named tensors; take the file of the weights alone")

    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_nested or tensor.device.type != "cpu":
            raise WeightsError(
                f"{path}: {name} is a {tensor.layout} tensor on {tensor.device}, expected plain numbers; take the "
                "weights as safetensors"
            )
        yield StoredTensor(str(name), path, tuple(tensor.shape), partial(state.__getitem__, name))


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
