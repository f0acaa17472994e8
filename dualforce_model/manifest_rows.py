"""Rows of a manifest for whoever keeps all of them: columns, half a kilobyte a clip, not records of seven and a half.

Every process of a training holds the rows of its split for as long as it runs, and so do the loading processes that it
forks. Columns are a few large buffers: reading one changes no page, so forked processes share them.
"""

from collections.abc import Sequence
from typing import Self, overload

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, Shaped

from dualforce_model.schema import SnapshotRow, Split, manifest_table, row_of

REPEATED = ("source", "identity", "licence", "split", "fingerprint", "shard")  # columns with few different values


class ManifestRows(Sequence[SnapshotRow]):
    """The rows of `schema.decode_manifest`; each is made, and checked, when it is asked for. Picklable."""

    def __init__(self, columns: dict[str, pa.Array]) -> None:
        self._columns = columns

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """All rows of an encoded manifest."""
        table = manifest_table(data)
        return cls({name: _compact(name, table.column(name)) for name in table.column_names})

    def __len__(self) -> int:
        return len(self._columns["clip_id"])

    @overload
    def __getitem__(self, place: int) -> SnapshotRow: ...

    @overload
    def __getitem__(self, place: slice) -> Self: ...

    def __getitem__(self, place: int | slice) -> SnapshotRow | Self:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        return row_of({name: column[place].as_py() for name, column in self._columns.items()})

    def take(self, places: Int64[np.ndarray, " n"]) -> Self:
        """The rows at these places, in this order."""
        return type(self)({name: column.take(pa.array(places)) for name, column in self._columns.items()})

    def of_split(self, split: Split) -> Self:
        """The rows of one split, in order."""
        column = self._columns["split"]
        (there,) = np.nonzero(np.array(column.dictionary.to_pylist()) == split)
        return self.take(np.flatnonzero(np.isin(column.indices.to_numpy(), there)))

    def values(self, name: str) -> Shaped[np.ndarray, " n"]:
        """One column, by the field's name; a number has its own type, all else is an object."""
        found: np.ndarray = self._columns[name].to_numpy(zero_copy_only=False)
        return found

    @property
    def num_bytes(self) -> int:
        """Bytes of the columns."""
        return sum(column.nbytes for column in self._columns.values())


def _compact(name: str, column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, whatever row groups it was written in; where values repeat, each is kept once."""
    parts = column.combine_chunks()
    whole = pa.concat_arrays(parts.chunks) if isinstance(parts, pa.ChunkedArray) else parts
    return whole.dictionary_encode() if name.rpartition(".")[2] in REPEATED else whole
