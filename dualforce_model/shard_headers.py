"""The header of a shard, kept small: a training remembers those of all its clips, in every process.

Names and numbers lie one after the other in a few buffers, half of what the header's text takes; an entry is made when
it is asked for. Reading buffers changes no page, so forked processes share them.
"""

import json
import struct
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dualforce_model.schema import SchemaError

FORMATS = ("dualforce.shard/1", "dualforce.shard/2")  # all blocks have 8 rows; some have fewer
BLOCK_ROWS = 8
DTYPES = {"F16": "<f2", "F32": "<f4", "I32": "<i4"}
_KNOWN = tuple(np.dtype(dtype) for dtype in DTYPES.values())
_CODE = {code: place for place, code in enumerate(DTYPES)}
_SHA_BYTES = 32
# Of an array: its type, bytes from the start of the file, rows of a block, and where its shape and its sums lie.
_RECORD = struct.Struct("<BqIIBII")
_OBJECTS_BYTES = 1400  # of the objects around a header's arrays, measured
_Value = TypeVar("_Value")


class TensorEntry(NamedTuple):
    """Where an array lies in its file and what its blocks must hash to."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file
    sha256: str
    crc32c: bytes  # 4 bytes, big-endian, per block
    block_rows: int
    row_bytes: int  # of one leading row

    @property
    def block_bytes(self) -> int:
        """Bytes of one block; the last may be shorter."""
        return self.block_rows * self.row_bytes


class _Named(Mapping[str, _Value]):
    """Values by name, found by halving the sorted names."""

    def __init__(self, names: Sequence[str]) -> None:
        """`names` are sorted."""
        self._names = np.array([name.encode() for name in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return (name.decode() for name in self._names.tolist())

    def __getitem__(self, name: str) -> _Value:
        wanted = name.encode()
        place = int(self._names.searchsorted(wanted))
        if place == len(self._names) or self._names[place] != wanted:
            raise KeyError(name)
        return self._at(place)

    @abstractmethod
    def _at(self, place: int) -> _Value:
        """The value of the name at a place."""

    @property
    def num_bytes(self) -> int:
        """Bytes kept, the objects around them left out."""
        return self._names.nbytes


class Keys(_Named[str]):
    """Feature keys by clip id."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        super().__init__(sorted(keys))
        self._keys = np.array([keys[name].encode() for name in sorted(keys)], dtype=np.bytes_)

    def _at(self, place: int) -> str:
        return bytes(self._keys[place]).decode()

    @property
    def num_bytes(self) -> int:
        """Bytes kept."""
        return super().num_bytes + self._keys.nbytes


class Entries(_Named[TensorEntry]):
    """Arrays by "<clip id>/<array>"."""

    def __init__(
        self, items: Mapping[str, Mapping[str, Any]], sums: Mapping[str, Mapping[str, Any]], payload_start: int
    ) -> None:
        names = sorted(items)
        super().__init__(names)
        self._shas = b"".join(bytes.fromhex(sums[name]["sha256"]) for name in names)
        if len(self._shas) != _SHA_BYTES * len(names):
            raise SchemaError("a SHA-256 of another length in a shard's header; extract its clips again")
        records, shapes, crcs = bytearray(), bytearray(), bytearray()
        for name in names:
            item, crc, rows = items[name], bytes.fromhex(sums[name]["crc32c"]), sums[name].get("rows", BLOCK_ROWS)
            code, shape, start = _CODE[item["dtype"]], item["shape"], payload_start + item["data_offsets"][0]
            records += _RECORD.pack(code, start, rows, len(shapes), len(shape), len(crcs), len(crc))
            shapes += struct.pack(f"<{len(shape)}q", *shape)
            crcs += crc
        self._records, self._shapes, self._crcs = bytes(records), bytes(shapes), bytes(crcs)

    def _at(self, place: int) -> TensorEntry:
        code, start, rows, shape_at, num_dims, crc_at, crc_bytes = _RECORD.unpack_from(
            self._records, _RECORD.size * place
        )
        dtype, shape = _KNOWN[code], struct.unpack_from(f"<{num_dims}q", self._shapes, shape_at)
        return TensorEntry(
            dtype=dtype,
            shape=shape,
            start=start,
            sha256=self._shas[_SHA_BYTES * place : _SHA_BYTES * (place + 1)].hex(),
            crc32c=self._crcs[crc_at : crc_at + crc_bytes],
            block_rows=rows,
            row_bytes=dtype.itemsize * prod(shape[1:]),
        )

    @property
    def num_bytes(self) -> int:
        """Bytes kept."""
        return super().num_bytes + sum(map(len, (self._shas, self._records, self._shapes, self._crcs)))


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """Parsed header: arrays by "<clip id>/<array>", feature keys by clip id."""

    modality: str
    fingerprint: str
    keys: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]
    num_bytes: int  # that it takes in memory


def parse_header(text: bytes, payload_start: int) -> ShardHeader:
    """Turn the JSON of a proven header into entries."""
    document = json.loads(text)
    metadata = document.pop("__metadata__")
    if metadata["format"] not in FORMATS:
        known = " or ".join(FORMATS)
        raise SchemaError(f"shard format {metadata['format']!r}, expected {known}; use the release that wrote it")
    keys = Keys(json.loads(metadata["keys"]))
    tensors = Entries(document, json.loads(metadata["sums"]), payload_start)
    num_bytes = keys.num_bytes + tensors.num_bytes + _OBJECTS_BYTES
    return ShardHeader(metadata["modality"], metadata["fingerprint"], keys, tensors, num_bytes)
