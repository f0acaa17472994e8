"""Weight files of a component as their headers tell: which tensors, where, of what shape and kind; nothing is loaded.

A component's folder holds one `*.safetensors`, or shards and an index that names the shard of every tensor. What is
wrong is collected as problems that name file and tensor, so that one run tells everything.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from dualforce_model.config import Frozen

INDEX = ".safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8,
}  # fmt: skip


class Problem(Frozen):
    """Something that keeps a checkpoint from working."""

    file: str = Field(description="path inside the checkpoint")
    subject: str = Field("", description="tensor or field; empty when the whole file is meant")
    message: str = Field(description="what was found, what was expected")

    def __str__(self) -> str:
        where = f"{self.file}: {self.subject}" if self.subject else self.file
        return f"{where}: {self.message}"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * WIDTHS[self.dtype]


@dataclass(frozen=True)
class Weights:
    """All tensors of a component, by name, and its files."""

    tensors: dict[str, StoredTensor]
    files: tuple[Path, ...]
    table: str = ""  # the file that says which tensors there are
    unread: frozenset[str] = frozenset()  # named by an index, in shards that are not there or not readable

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())


def read_weights(folder: Path, problems: list[Problem]) -> Weights:
    """Headers of a component's files. What is wrong is added to `problems`; what is right is returned."""
    indexes = sorted(folder.glob(f"*{INDEX}"))
    singles = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if len(indexes) == 1:
        return _sharded(indexes[0], singles, problems)
    if not indexes and len(singles) == 1:
        tensors = {tensor.name: tensor for tensor in read_header(singles[0], problems)}
        return Weights(tensors, tuple(singles), singles[0].name)
    found = [path.name for path in (*indexes, *singles)] or "none"
    message = f"expected one .safetensors file, or shards with one index; found {found}"
    problems.append(Problem(file=f"{folder.name}/", message=message))
    return Weights({}, ())


def _sharded(index: Path, present: list[Path], problems: list[Problem]) -> Weights:
    """The tensors that an index names, each out of the shard that it names."""
    place = _place(index)
    weight_map = read_json(index, problems).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        problems.append(Problem(file=place, subject="weight_map", message="expected a mapping of tensors to files"))
        return Weights({}, ())
    tensors: dict[str, StoredTensor] = {}
    unread: set[str] = set()
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if Path(shard).name != shard:
            problems.append(Problem(file=place, subject=shard, message="a shard's name may not leave its folder"))
            continue
        path = index.parent / shard
        wanted = {name for name, file in weight_map.items() if file == shard}
        if not path.is_file():
            example = f"with {len(wanted)} tensors, {min(wanted)} the first"
            problems.append(Problem(file=_place(path), message=f"missing; {place} names it, {example}"))
            unread |= wanted
            continue
        held = {tensor.name: tensor for tensor in read_header(path, problems)}
        if not held:
            unread |= wanted
        for name in sorted(wanted ^ held.keys()) if held else ():
            message = f"{place} places it here, but it is not" if name in wanted else f"here, but not in {place}"
            problems.append(Problem(file=_place(path), subject=name, message=message))
        tensors |= held
    for path in present:
        if path.name not in shards:
            problems.append(Problem(file=_place(path), message=f"not named by {place}; which of them is meant?"))
    return Weights(tensors, tuple(index.parent / shard for shard in shards), index.name, frozenset(unread))


def read_header(path: Path, problems: list[Problem]) -> list[StoredTensor]:
    """Tensors that a safetensors file should hold; what keeps it from holding them is added to `problems`."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8)) if size >= 8 else (size,)
        if length > min(MAX_HEADER_BYTES, size - 8):
            message = f"truncated, or no safetensors: {size} bytes do not hold its header"
            problems.append(Problem(file=_place(path), subject="header", message=message))
            return []
        text = file.read(length)
    try:
        entries = _entries(path, json.loads(text))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        problems.append(Problem(file=_place(path), subject="header", message=f"damaged: {error}"))
        return []
    start = 8 + length
    cut = [(end, tensor.name) for end, tensor in entries if start + end > size]
    if cut:
        end, name = cut[0]
        message = f"truncated: it ends at byte {start + end}, the file at {size}; {len(cut) - 1} tensors after it too"
        problems.append(Problem(file=_place(path), subject=name, message=message))
    elif start + (entries[-1][0] if entries else 0) != size:
        message = f"{size} bytes, but its tensors end at {start + (entries[-1][0] if entries else 0)}"
        problems.append(Problem(file=_place(path), message=message))
    return [tensor for _, tensor in entries]


def _entries(path: Path, header: Any) -> list[tuple[int, StoredTensor]]:
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
        spans.append((begin, end, StoredTensor(name, path, entry["dtype"], shape)))
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


def read_json(path: Path, problems: list[Problem]) -> dict[str, Any]:
    """A JSON object; an empty one, and a problem, when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(Problem(file=_place(path), message="missing"))
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(Problem(file=_place(path), message=f"not readable as JSON: {error}"))
        return {}
    if not isinstance(value, dict):
        problems.append(Problem(file=_place(path), message=f"expected an object, found {type(value).__name__}"))
        return {}
    return value


def _place(path: Path) -> str:
    """Component and file, as problems name them."""
    return f"{path.parent.name}/{path.name}"
