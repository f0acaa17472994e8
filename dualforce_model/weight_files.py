"""Files of weights made elsewhere: indexes of shards, headers, tensors. Nothing in a file is ever run.

Whoever reads says, by a `Report`, what happens to what is wrong: `refuse` raises at the first, a list collects them
all. A report that returns lets the reading go on with what is right.
"""

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dualforce_model.errors import InputError
from dualforce_model.pretrained.trust import LEGACY, ZIPPED, check_vouched

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
INDEX_SUFFIX = ".index.json"
INDEX_NAME = f"{WEIGHTS_NAME}{INDEX_SUFFIX}"
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "U16": 2, "U32": 4, "U64": 8,
    "C64": 8,
}  # fmt: skip
OF_TORCH = (".pth", ".pt", ".bin")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SHOWN = 5  # names that an error lists; the rest are counted
Report = Callable[[Path, str, str], None]  # file, its tensor or field ("": the whole file), what is wrong with it


class WeightsError(InputError):
    """Weights that cannot be used; the message names file, tensor and remedy."""


def refuse(path: Path, subject: str, message: str) -> NoReturn:
    """The report of whoever needs a file whole: WeightsError at the first thing that is wrong."""
    where = f"{path}: {subject}" if subject else str(path)
    raise WeightsError(f"{where}: {message}; download it again")


def told_as(what: str, report: Report) -> Report:
    """A report whose messages start with what the file was taken for."""

    def tell(path: Path, subject: str, message: str) -> None:
        report(path, "", f"{what}: {subject}: {message}" if subject else f"{what}: {message}")

    return tell


# ------------------------------------------------------------------------------------------- as JSON and headers tell


@dataclass(frozen=True)
class Entry:
    """A tensor as a header lists it."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * WIDTHS[self.dtype]


def read_json(path: Path, report: Report) -> dict[str, Any] | None:
    """A JSON object; None after a report when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        report(path, "", "missing")
        return None
    except (OSError, ValueError, RecursionError) as error:
        report(path, "", f"not readable as JSON: {error}")
        return None
    if not isinstance(value, dict):
        report(path, "", f"expected an object, found {type(value).__name__}")
        return None
    return value


def read_index(index: Path, report: Report) -> dict[str, set[str]]:
    """Shards that an index names, sorted, each with its tensors. Names that leave the index's folder are left out."""
    told = read_json(index, told_as("not an index of shards", report))
    if told is None:
        return {}
    weight_map = told.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        report(index, "", "weight_map does not name a file for every tensor; expected a mapping of tensors to files")
        return {}
    shards: dict[str, set[str]] = {}
    for name, shard in sorted(weight_map.items(), key=lambda item: item[1]):
        shards.setdefault(shard, set()).add(name)
    for shard in [shard for shard in shards if Path(shard).name != shard]:
        report(index, shard, "not a file beside it: a shard's name may not leave its folder")
        del shards[shard]
    return shards


def read_header(path: Path, report: Report) -> list[Entry]:
    """Tensors that a safetensors file should hold, in its order; what keeps it from holding them is reported."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8)) if size >= 8 else (size,)
            whole = length <= min(MAX_HEADER_BYTES, size - 8)
            text = file.read(length) if whole else b""
    except OSError as error:
        report(path, "", f"not readable: {error}")
        return []
    if not whole:
        report(path, "header", f"truncated, or no safetensors: {size} bytes do not hold its header")
        return []
    try:
        entries = _entries(path, json.loads(text))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        report(path, "header", f"damaged: {error}")
        return []
    start = 8 + length
    cut = [(end, entry.name) for end, entry in entries if start + end > size]
    if cut:
        end, name = cut[0]
        more = f"{len(cut) - 1} tensors after it too"
        report(path, name, f"truncated: it ends at byte {start + end}, the file at {size}; {more}")
    elif start + (entries[-1][0] if entries else 0) != size:
        report(path, "", f"{size} bytes, but its tensors end at {start + (entries[-1][0] if entries else 0)}")
    return [entry for _, entry in entries]


def _entries(path: Path, header: Any) -> list[tuple[int, Entry]]:
    """Tensors in the order of the file, each with its end. Raises ValueError for what cannot be."""
    if not isinstance(header, dict):
        raise ValueError("not a mapping")
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        if not whole or entry["dtype"] not in WIDTHS:
            raise ValueError(f"{name}: {entry['dtype']} {list(shape)} at {begin} cannot be")
        spans.append((begin, end, Entry(name, path, entry["dtype"], shape)))
    spans.sort(key=lambda span: span[:2])
    reached = 0
    for begin, end, tensor in spans:
        if begin != reached or end - begin != tensor.num_bytes:
            kind = f"{tensor.dtype} {list(tensor.shape)}"
            raise ValueError(
                f"{tensor.name}: {kind} at {begin} to {end}, expected {tensor.num_bytes} bytes at {reached}"
            )
        reached = end
    return [(end, tensor) for _, end, tensor in spans]


# ------------------------------------------------------------------------------------------------- tensors themselves


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
    for suffixes in ((".safetensors",), OF_TORCH):
        offered = sorted(file for file in folder.iterdir() if file.suffix in suffixes)
        if len(offered) == 1:
            return (offered[0],)
        if offered:
            names = listed([file.name for file in offered])
            raise WeightsError(f"{folder}: {names}, and no {INDEX_NAME} says which belong together; name one file")
    raise WeightsError(f"{folder}: no {WEIGHTS_NAME}, no {INDEX_NAME}, no other weights; name the transformer's folder")


def _shards(index: Path) -> tuple[Path, ...]:
    shards = read_index(index, refuse)
    for name in shards:
        if not (index.parent / name).is_file():
            raise WeightsError(f"{index.parent}: {name} is missing, which {index.name} names; download it again")
    return tuple(index.parent / name for name in shards)


def open_tensors(files: Sequence[Path], stack: ExitStack) -> dict[str, StoredTensor]:
    """Tensors of all files by name; the files stay open as long as the stack."""
    found: dict[str, StoredTensor] = {}
    for path in files:
        for each in _unpickled(path) if _is_pickled(path) else _mapped(path, stack):
            if each.name in found:
                raise WeightsError(f"{path}: {each.name} is also in {found[each.name].path.name}; keep one of them")
            found[each.name] = each
    return found


def _is_pickled(path: Path) -> bool:
    """By its name, or by how it begins: as the length of a header of safetensors these bytes would mean 67 MB."""
    return path.suffix in OF_TORCH or _beginning(path) in (ZIPPED, LEGACY)


def _beginning(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(len(ZIPPED))
    except OSError as error:
        raise WeightsError(f"{path}: not readable: {error}") from error


def _mapped(path: Path, stack: ExitStack) -> Iterator[StoredTensor]:
    entries = read_header(path, told_as("not readable as safetensors", refuse))
    try:
        file = stack.enter_context(safe_open(path, framework="pt"))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not readable as safetensors: {error}; download it again") from error

    for entry in entries:
        yield StoredTensor(entry.name, path, entry.shape, partial(file.get_tensor, entry.name))


def _unpickled(path: Path) -> Iterator[StoredTensor]:
    """Tensors of a .pth file that somebody vouches for. Nothing in it is run: only tensors and plain containers are let
    through.
    """
    mapped = _beginning(path) == ZIPPED  # torch maps no others
    check_vouched([path])
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
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
