"""Weight files of a component: one `*.safetensors`, or shards and an index that names the shard of every tensor.

Headers alone are read. What is wrong is collected as problems that name file and tensor, so that one run tells
everything.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.weight_files import INDEX_SUFFIX, Entry, Report, read_header, read_index

INDEX = f".safetensors{INDEX_SUFFIX}"


class Problem(Frozen):
    """Something that keeps a checkpoint from working."""

    file: str = Field(description="path inside the checkpoint")
    subject: str = Field("", description="tensor or field; empty when the whole file is meant")
    message: str = Field(description="what was found, what was expected")

    def __str__(self) -> str:
        where = f"{self.file}: {self.subject}" if self.subject else self.file
        return f"{where}: {self.message}"


@dataclass(frozen=True)
class Weights:
    """All tensors of a component, by name, and its files."""

    tensors: dict[str, Entry]
    files: tuple[Path, ...]
    table: str = ""  # the file that says which tensors there are
    unread: frozenset[str] = frozenset()  # named by an index, in shards that are not there or not readable

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())


def into(problems: list[Problem], root: Path) -> Report:
    """A report that adds to `problems`, files named as they lie in the checkpoint at `root`."""

    def add(path: Path, subject: str, message: str) -> None:
        folder = path.parent == root and not path.suffix
        file = path.relative_to(root).as_posix() + ("/" if folder else "")
        problems.append(Problem(file=file, subject=subject, message=message))

    return add


def read_weights(folder: Path, report: Report) -> Weights:
    """Headers of a component's files. What is wrong is reported; what is right is returned."""
    indexes = sorted(folder.glob(f"*{INDEX}"))
    singles = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if len(indexes) == 1:
        return _sharded(indexes[0], singles, report)
    if not indexes and len(singles) == 1:
        tensors = {tensor.name: tensor for tensor in read_header(singles[0], report)}
        return Weights(tensors, tuple(singles), singles[0].name)
    found = [path.name for path in (*indexes, *singles)] or "none"
    report(folder, "", f"expected one .safetensors file, or shards with one index; found {found}")
    return Weights({}, ())


def _sharded(index: Path, present: list[Path], report: Report) -> Weights:
    """The tensors that an index names, each out of the shard that it names."""
    place = f"{index.parent.name}/{index.name}"
    tensors: dict[str, Entry] = {}
    unread: set[str] = set()
    shards = read_index(index, report)
    for shard, wanted in shards.items():
        path = index.parent / shard
        if not path.is_file():
            report(path, "", f"missing; {place} names it, with {len(wanted)} tensors, {min(wanted)} the first")
            unread |= wanted
            continue
        held = {tensor.name: tensor for tensor in read_header(path, report)}
        if not held:
            unread |= wanted
        for name in sorted(wanted ^ held.keys()) if held else ():
            message = f"{place} places it here, but it is not" if name in wanted else f"here, but not in {place}"
            report(path, name, message)
        tensors |= held
    for path in present:
        if shards and path.name not in shards:
            report(path, "", f"not named by {place}; which of them is meant?")
    return Weights(tensors, tuple(index.parent / shard for shard in shards), index.name, frozenset(unread))
