"""Shards: features of many clips in one safetensors file that any tool can open and no one can damage unseen.

    8 bytes little-endian header length | JSON header | arrays, one after the other

Tensor names are "<clip id>/<array>". Bytes are deterministic: arrays are ordered by item size (largest first, so that
all are aligned), then name. The header's metadata hold, per array, a SHA-256 and one crc32c per block of leading rows,
8 or as many as BLOCK_BYTES hold; the file's name is the hash of the header. So the name proves the header, the header
proves every block, and a reader checks exactly the blocks it reads, by positioned reads (or range requests) that need
no open file.
"""

import hashlib
import os
import re
import struct
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from threading import Lock
from typing import NamedTuple

import google_crc32c
import numpy as np
from jaxtyping import UInt8

from dualforce_model.config import canonical_json
from dualforce_model.schema import Feature, FeatureRef, SchemaError, TensorSpec, check_feature, specs_among, specs_of
from dualforce_model.shard_headers import BLOCK_ROWS, DTYPES, FORMATS, ShardHeader, TensorEntry, parse_header
from dualforce_model.storage import ByteRange, CutShortError, MissingKeyError, Storage

BLOCK_BYTES = 64 << 10  # a window that begins inside a block reads all of it: large rows are blocks of their own
MAX_HEADER_BYTES = 128 << 20
CACHE_BYTES = 512 << 20  # of parsed headers: to parse one takes 1 to 100 ms, and a data set has thousands
_CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
_NAME = re.compile(r"^features/(?P<modality>[^/]+)/(?P<fingerprint>[^/]+)/(?P<hash>[0-9a-f]{32})\.safetensors$")


class DamagedShardError(SchemaError):
    """Bytes of a shard are not those that were written; the message names file, clip and rows."""


# -------------------------------------------------------------------------------------------------------- writing


def pack_shard(
    store: Storage, modality: str, fingerprint: str, features: Mapping[str, Feature], keys: Mapping[str, str]
) -> dict[str, FeatureRef]:
    """Write the features of these clips as one shard and return where each lies.

    `features` and `keys` are by clip id. Equal features give equal bytes and an equal name, in whatever order they
    come; writing again what is already there heals it if it was damaged. Raises
    SchemaError for arrays that break the contract.
    """
    if not features or set(features) != set(keys):
        raise SchemaError(f"a {modality} shard needs clips with one key each; found {len(features)} and {len(keys)}")
    for clip_id, feature in features.items():
        check_feature(modality, clip_id, feature)
    arrays = {f"{clip}/{name}": array for clip, feature in features.items() for name, array in feature.items()}
    header, payload = _encode(modality, fingerprint, arrays, keys)
    shard = f"features/{modality}/{fingerprint}/{_header_hash(header)}.safetensors"
    refs = {
        clip: FeatureRef(modality=modality, fingerprint=fingerprint, key=keys[clip], shard=shard, clip_id=clip)
        for clip in sorted(features)
    }
    store.write(shard, header + payload, points="shard")
    return refs


def _encode(
    modality: str, fingerprint: str, arrays: Mapping[str, np.ndarray], keys: Mapping[str, str]
) -> tuple[bytes, bytes]:
    """Header (with its length) and payload."""
    document: dict[str, object] = {}
    sums: dict[str, dict[str, str | int]] = {}
    pieces: list[bytes] = []
    offset = 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        array = arrays[name]
        data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        row_bytes = len(data) // array.shape[0]
        rows = min(max(BLOCK_BYTES // row_bytes, 1), BLOCK_ROWS)
        sums[name] = {"sha256": hashlib.sha256(data).hexdigest(), "crc32c": _block_sums(data, rows * row_bytes).hex()}
        if rows != BLOCK_ROWS:
            sums[name]["rows"] = rows
        span = [offset, offset + len(data)]
        document[name] = {"dtype": _CODES[array.dtype], "shape": list(array.shape), "data_offsets": span}
        pieces.append(data)
        offset += len(data)
    document["__metadata__"] = {
        "format": FORMATS[any("rows" in each for each in sums.values())],
        "modality": modality,
        "fingerprint": fingerprint,
        "keys": canonical_json(dict(keys)),
        "sums": canonical_json(sums),
    }
    text = canonical_json(document).encode()
    text += b" " * (-len(text) % 8)  # safetensors readers want the payload aligned
    return len(text).to_bytes(8, "little") + text, b"".join(pieces)


def _block_sums(data: bytes | UInt8[np.ndarray, " n"], block_bytes: int) -> bytes:
    """crc32c of each block, 4 bytes each."""
    if isinstance(data, np.ndarray):
        data = data.view()
        data.flags.writeable = False  # the library takes nothing else
    sums = [google_crc32c.value(data[at : at + block_bytes]) for at in range(0, len(data), block_bytes)]
    return struct.pack(f">{len(sums)}I", *sums)


def _header_hash(header: bytes) -> str:
    return hashlib.sha256(header).hexdigest()[:32]


# -------------------------------------------------------------------------------------------------------- reading


class Wanted(NamedTuple):
    """Leading rows start..stop of one array of a feature; all by default."""

    ref: FeatureRef
    name: str
    start: int | None = None
    stop: int | None = None


def read_feature(
    store: Storage, ref: FeatureRef, name: str, start: int | None = None, stop: int | None = None
) -> np.ndarray:
    """Wanted start..stop of one array, as `read_rows` reads them."""
    return read_rows(store, [Wanted(ref, name, start, stop)])[0]


def read_rows(store: Storage, asked: Sequence[Wanted]) -> list[np.ndarray]:
    """Wanted of some arrays, each read as one range and checked block by block; they may be written to.

    Asked for together they cost less: a file is opened once, an object store is asked for all of them at once.
    Raises IndexError for rows that are not there (nothing is clipped), DamagedShardError for wrong bytes.
    """
    spans = [_span(store, rows) for rows in asked]
    found = store.read_ranges([ByteRange(rows.ref.shard, *span.place) for rows, span in zip(asked, spans, strict=True)])
    return [_proven(store, *each) for each in zip(asked, spans, found, strict=True)]


class _Span(NamedTuple):
    """Whole blocks of an array around rows first..last: rows low..high."""

    entry: TensorEntry
    first: int
    last: int
    low: int
    high: int

    @property
    def place(self) -> tuple[int, int]:
        """Where they lie in their file, and how many bytes they are."""
        row_bytes = self.entry.row_bytes
        return self.entry.start + self.low * row_bytes, (self.high - self.low) * row_bytes


def _span(store: Storage, rows: Wanted) -> _Span:
    ref, name, start, stop = rows
    entry = tensor_entry(store, ref, name)
    length, block = entry.shape[0], entry.block_rows
    first, last = 0 if start is None else start, length if stop is None else stop
    if not 0 <= first <= last <= length:
        raise IndexError(f"{ref.clip_id}: rows {first}..{last} of {ref.modality}/{name}, which has {length}")
    return _Span(entry, first, last, first // block * block, min(-(-last // block) * block, length))


def _proven(store: Storage, rows: Wanted, span: _Span, data: UInt8[np.ndarray, " n"]) -> np.ndarray:
    """The rows out of their blocks, once every block hashes to what it must."""
    entry, first, last, low, high = span
    wanted = entry.crc32c[low // entry.block_rows * 4 :]
    found = _block_sums(data, entry.block_bytes)
    if found != wanted[: len(found)]:
        raise DamagedShardError(
            f"{store.url(rows.ref.shard)}: rows {low}..{high} of {rows.ref.clip_id}/{rows.name} are damaged (crc32c); "
            "`dualforce rerun --damaged` makes the clip again"
        )
    read: np.ndarray = data.view(entry.dtype).reshape(high - low, *entry.shape[1:])
    part: np.ndarray = read[first - low : last - low]
    return part if 2 * len(part) >= len(read) else part.copy()  # a few rows do not hold on to many


def is_sound(store: Storage, ref: FeatureRef) -> bool:
    """Whether every block of a feature is there as it was written. A store out of reach raises StorageError."""
    try:
        _header_text(store, ref.shard)  # the remembered header may be of better days
        load_feature(store, ref)
    except (SchemaError, MissingKeyError, CutShortError):
        return False
    return True


def load_feature(store: Storage, ref: FeatureRef) -> Feature:
    """All arrays of one modality of one clip."""
    return {spec.name: read_feature(store, ref, spec.name) for spec in specs_in(store, ref)}


def specs_in(store: Storage, ref: FeatureRef) -> tuple[TensorSpec, ...]:
    """Arrays that a feature must have, and of the optional ones those that its shard holds."""
    tensors = cached_header(store.url(), ref.shard).tensors
    held = [spec.name for spec in specs_of(ref.modality) if f"{ref.clip_id}/{spec.name}" in tensors]
    return specs_among(ref.modality, held)


def tensor_entry(store: Storage, ref: FeatureRef, name: str) -> TensorEntry:
    """Header entry of one array of one clip: its type, shape and place."""
    entry = cached_header(store.url(), ref.shard).tensors.get(f"{ref.clip_id}/{name}")
    if entry is None:
        raise SchemaError(f"{store.url(ref.shard)}: no array {name!r} of clip {ref.clip_id}; extract the clip again")
    return entry


class HeaderCache:
    """`read_header`, remembered: a shard's name is the hash of its header, so it cannot change.

    Those used last stay, up to `most_bytes` of memory. For several threads; a fork takes along what is known.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._num_bytes = most_bytes, 0
        self._known: OrderedDict[tuple[str, str], ShardHeader] = OrderedDict()  # used last comes last
        self._lock = Lock()
        # No thread is half-way through a change when a process forks.
        os.register_at_fork(
            before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._lock.release
        )

    def __call__(self, store_url: str, shard: str) -> ShardHeader:
        key = store_url, shard
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        text = _header_text(Storage(store_url), shard)
        header = parse_header(text, payload_start=8 + len(text))
        with self._lock:
            if key not in self._known:  # another thread may have been faster
                self._known[key] = header
                self._num_bytes += header.num_bytes
            while self._num_bytes > self._most_bytes and len(self._known) > 1:
                self._num_bytes -= self._known.popitem(last=False)[1].num_bytes
        return header

    def cache_clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._known.clear()
            self._num_bytes = 0


cached_header = HeaderCache(CACHE_BYTES)


def read_header(store: Storage, shard: str) -> ShardHeader:
    """Read and prove the header of a shard; raises DamagedShardError when it is not the one its name tells."""
    text = _header_text(store, shard)
    return parse_header(text, payload_start=8 + len(text))


def _header_text(store: Storage, shard: str) -> bytes:
    """The header's JSON, proven by the shard's name."""
    named = _NAME.fullmatch(shard)
    if named is None:
        raise SchemaError(f"{shard!r} is not a shard's key (features/<modality>/<fingerprint>/<hash>.safetensors)")
    where = store.url(shard)
    prefix = store.read_range(shard, 0, 8)
    length = int.from_bytes(prefix, "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, store.size(shard) - 8):
        raise DamagedShardError(f"{where}: a header of {length} bytes cannot be; the file is damaged")
    text = store.read_range(shard, 8, length)
    if _header_hash(prefix + text) != named["hash"]:
        raise DamagedShardError(f"{where}: the header is damaged (its hash is not the file's name)")
    return text


# ------------------------------------------------------------------------------------------------------- verifying


def verify_shard(store: Storage, shard: str, clip_ids: Collection[str] | None = None) -> Iterator[str]:
    """Read every byte of a shard, or of these clips' arrays in it; yield one line per problem."""
    try:
        header = read_header(store, shard)
    except (OSError, SchemaError) as error:
        yield str(error)
        return
    end = 8
    for name, entry in header.tensors.items():
        size = entry.row_bytes * entry.shape[0]
        end = max(end, entry.start + size)
        if clip_ids is not None and name.partition("/")[0] not in clip_ids:
            continue
        try:
            (data,) = store.read_ranges([ByteRange(shard, entry.start, size)])
        except OSError as error:
            yield str(error)
            continue
        if _block_sums(data, entry.block_bytes) != entry.crc32c:
            yield f"{store.url(shard)}: {name} is damaged (crc32c)"
        elif hashlib.sha256(data.data).hexdigest() != entry.sha256:
            yield f"{store.url(shard)}: {name} is damaged (SHA-256)"
    if store.size(shard) != end:
        yield f"{store.url(shard)}: {store.size(shard)} bytes, expected {end}; something was added to the file"
