"""The on-disk contract, owned by its reader: what a feature is, what a snapshot is, how a snapshot is read.

A feature is one modality of one clip: a few named arrays, time first. Features of many clips lie in shards
(`dualforce_model/shards.py`); a snapshot names features, splits and weights, and never changes:

    features/<modality>/<fingerprint>/<hash>.safetensors
    snapshots/<id>/manifest.parquet     one row per clip, sorted by clip id
    snapshots/<id>/manifest-<digest>.parquet   the same while `pack` replaces it (dualforce_model/manifests.py)
    snapshots/<id>/head.json            written last: a snapshot without it does not exist
    tags/<tag>.json                     a name that points to an id
    text/<fingerprint>/<digest>.safetensors   of a caption, which clips share (dualforce_model/text_features.py)
"""

import hashlib
import io
import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from dualforce_model import clock
from dualforce_model.captions import TEXT_NAME
from dualforce_model.clock import ArrayT
from dualforce_model.config import Frozen, digest
from dualforce_model.errors import InputError
from dualforce_model.layout import STD_FLOOR, Layout
from dualforce_model.storage import MissingKeyError, Storage, check_key

Feature = dict[str, np.ndarray]
Rows = Literal["steps", "frames", "tokens", "references"]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

NAME = r"^[a-z][a-z0-9_]{0,39}$"
TAG = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
CLIP_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$"
SNAPSHOT_ID = r"^[0-9a-f]{16}$"
ID_BEGINNING = r"[0-9a-f]{4,15}"


class SchemaError(InputError):
    """Stored or offered data break the contract; the message names clip, tensor or file, and the remedy."""


# ------------------------------------------------------------------------------------------------------- features


class TensorSpec(Frozen):
    """One array of a feature: its rows follow the clock, its other dimensions are the extractor's."""

    name: str = Field(pattern=NAME)
    dtype: Literal["float16", "float32", "int32"]
    num_dims: int = Field(ge=1, le=6, description="dimensions, rows included")
    rows: Rows = Field(description="what the leading dimension counts")
    statistics: bool = Field(True, description="whether a snapshot gives mean and std of dimension 1")
    optional: bool = Field(False, description="whether a feature may lack it; all clips of a snapshot have it, or none")


MODALITIES: dict[str, tuple[TensorSpec, ...]] = {
    "video": (
        TensorSpec(name="latents", dtype="float16", num_dims=4, rows="steps"),
        TensorSpec(name="references", dtype="float16", num_dims=4, rows="references", statistics=False),
        TensorSpec(name="reference_frames", dtype="int32", num_dims=1, rows="references", statistics=False),
    ),
    "structure": (
        TensorSpec(name="motion", dtype="float32", num_dims=2, rows="frames"),
        TensorSpec(name="canonical", dtype="float32", num_dims=2, rows="frames", optional=True),  # key points at rest
        # The same of the pictures that may stand as step 0, each measured alone, as at generation. Data sets made
        # before there was that have none, and rows of the clip stand there.
        TensorSpec(
            name="reference_motion", dtype="float32", num_dims=2, rows="references", statistics=False, optional=True
        ),
        TensorSpec(
            name="reference_canonical", dtype="float32", num_dims=2, rows="references", statistics=False, optional=True
        ),
        TensorSpec(
            name="reference_frames", dtype="int32", num_dims=1, rows="references", statistics=False, optional=True
        ),
    ),
    "audio": (TensorSpec(name="tokens", dtype="float16", num_dims=2, rows="tokens"),),
    "flame": (
        TensorSpec(name="parameters", dtype="float32", num_dims=2, rows="frames"),  # dualforce_model/flame.py
        TensorSpec(name="eyelids", dtype="float32", num_dims=2, rows="frames", optional=True),  # 0 open, 1 shut
    ),
    "reference": (  # what a picture encoder (DINOv2, CLIP) says of the pictures that may stand as step 0
        TensorSpec(name="features", dtype="float16", num_dims=3, rows="references", statistics=False),
        TensorSpec(name="frames", dtype="int32", num_dims=1, rows="references", statistics=False),
    ),
}


def specs_of(modality: str) -> tuple[TensorSpec, ...]:
    """Arrays of a modality; raises SchemaError for an unknown one."""
    if modality not in MODALITIES:
        raise SchemaError(f"modality {modality!r} is unknown; known are {', '.join(MODALITIES)}")
    return MODALITIES[modality]


def specs_among(modality: str, names: Collection[str]) -> tuple[TensorSpec, ...]:
    """Arrays of a modality whose feature holds these: all that it must have, and the optional ones that are there."""
    return tuple(spec for spec in specs_of(modality) if not spec.optional or spec.name in names)


def num_rows(rows: Rows, num_frames: int) -> int | None:
    """Rows of an array of a clip of T frames; None where the clock does not say (references)."""
    if rows == "steps":
        return clock.num_steps(num_frames)
    if rows == "tokens":
        return clock.num_audio_tokens(num_frames)
    return num_frames if rows == "frames" else None


def check_feature(modality: str, clip_id: str, feature: Mapping[str, np.ndarray]) -> None:
    """Raise SchemaError unless the arrays are those of the modality, finite and of the stated types."""
    specs = specs_among(modality, feature)
    names = [spec.name for spec in specs]
    if sorted(feature) != sorted(names):
        optional = sorted({spec.name for spec in specs_of(modality)} - set(names))
        also = f" and, where the extractor makes it, {', '.join(optional)}" if optional else ""
        raise SchemaError(f"{clip_id}: {modality} has arrays {sorted(feature)}, expected {sorted(names)}{also}")
    for spec in specs:
        array = feature[spec.name]
        if array.dtype != np.dtype(spec.dtype) or array.ndim != spec.num_dims or array.size == 0:
            raise SchemaError(
                f"{clip_id}: {modality}/{spec.name} is {array.dtype} {list(array.shape)}, "
                f"expected {spec.dtype} with {spec.num_dims} dimensions, none of them empty"
            )
        if not np.isfinite(array).all():
            raise SchemaError(f"{clip_id}: {modality}/{spec.name} holds NaN or infinity; the extractor is at fault")
    if modality == "structure":
        _check_alone(clip_id, feature)
    counted = {feature[spec.name].shape[0] for spec in specs if spec.rows == "references"}
    if len(counted) > 1:
        raise SchemaError(f"{clip_id}: {modality} has reference arrays of {sorted(counted)} rows, expected one number")


def _check_alone(clip_id: str, feature: Mapping[str, np.ndarray]) -> None:
    """What structure has of pictures alone, where it has any, is all that it has of every frame, and which they are."""
    found = sorted(name for name in feature if name.startswith("reference_"))
    whole = sorted(f"reference_{name}" for name in ("frames", "motion", "canonical") if name in {*feature, "frames"})
    if found and found != whole:
        raise SchemaError(f"{clip_id}: structure has {found}, expected {whole} or none")


def check_shapes(modality: str, clip_id: str, num_frames: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise SchemaError unless every array has the rows that the clock gives a clip of T frames."""
    for spec in specs_among(modality, shapes):
        expected = num_rows(spec.rows, num_frames)
        if expected is not None and shapes[spec.name][0] != expected:
            raise SchemaError(
                f"{clip_id}: {modality}/{spec.name} has {shapes[spec.name][0]} rows, but {num_frames} frames "
                f"make {expected} {spec.rows}; extract the clip again"
            )


class FeatureRef(Frozen):
    """Where one modality of one clip lies. Type and shape are in the shard's header."""

    modality: str = Field(pattern=NAME)
    fingerprint: str = Field(pattern=r"^[A-Za-z0-9_-]{1,80}$", description="extractor, version, weights and config")
    key: str = Field(min_length=1, max_length=200, description="what it was made from; changes when that changes")
    shard: str = Field(description="store key of the shard")
    clip_id: str = Field(pattern=CLIP_ID)

    @field_validator("shard")
    @classmethod
    def _plain(cls, shard: str) -> str:
        return check_key(shard)


# ------------------------------------------------------------------------------------------------------ snapshots


class TensorStatistics(Frozen):
    """Mean and standard deviation of each entry of one dimension of an array, over the training split."""

    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[float, ...] = Field(min_length=1)
    floor: float = Field(STD_FLOOR, gt=0.0, le=1.0, description="least deviation that an entry is divided by")

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations; expected one of each per entry")
        return self

    def standardise(self, x: ArrayT, axis: int = 1) -> ArrayT:
        """Same shape, mean 0 and deviation 1 per entry of `axis` (the deviation is floored). Arrays and tensors."""
        mean, std = self._along(x, axis)
        y: ArrayT = (x - mean) / std
        return y

    def standardise_in_place(self, x: ArrayT, axis: int = 1) -> None:
        """What `standardise` gives, to the bit, written over `x`: a window of latents is megabytes."""
        mean, std = self._along(x, axis)
        x -= mean
        x /= std

    def restore(self, x: ArrayT, axis: int = 1) -> ArrayT:
        """Inverse of `standardise`."""
        mean, std = self._along(x, axis)
        y: ArrayT = x * std + mean
        return y

    def _along(self, x: ArrayT, axis: int) -> tuple[ArrayT, ArrayT]:
        if x.shape[axis] != len(self.mean):
            raise SchemaError(f"axis {axis} of {list(x.shape)} does not fit statistics of {len(self.mean)} entries")
        shape = [1] * x.ndim
        shape[axis] = -1
        floored = [max(value, self.floor) for value in self.std]
        if isinstance(x, Tensor):
            return x.new_tensor(self.mean).reshape(shape), x.new_tensor(floored).reshape(shape)
        return np.asarray(self.mean, x.dtype).reshape(shape), np.asarray(floored, x.dtype).reshape(shape)


class SnapshotRow(Frozen):
    """One clip of a snapshot."""

    clip_id: str = Field(pattern=CLIP_ID)
    source: str
    video_id: str
    identity: str | None
    licence: str
    span_start_s: float
    span_end_s: float | None
    media_digest: str
    num_frames: int = Field(ge=1)
    split: Split
    weight: float = Field(gt=0.0, le=1.0, description="how often it is drawn in training, relative to others")
    features: dict[str, FeatureRef]
    text: str | None = Field(None, pattern=TEXT_NAME, description="name of its text features; none: it has none")

    def canonical(self) -> dict[str, Any]:
        """What the id of a snapshot is made of: no shard, offset, time, host or path."""
        return {
            "clip_id": self.clip_id,
            "span": [self.span_start_s, self.span_end_s],
            "media_digest": self.media_digest,
            "features": {name: ref.key for name, ref in sorted(self.features.items())},
            "split": self.split,
            "weight": self.weight,
            **({} if self.text is None else {"text": self.text}),  # or snapshots without text would change their ids
        }


class ModalityInfo(Frozen):
    """What all clips of a snapshot share in one modality."""

    fingerprint: str
    tensors: dict[str, tuple[int, ...]] = Field(description="array name -> its shape without the rows")
    encoder: str = Field("", description="fingerprint of the encoder that pipelines have to use; empty: unknown")
    layout: Layout | None = Field(None, description="what each entry of a row is; null: the encoder's config says it")


class Snapshot(Frozen):
    """Head of an immutable version of a data set."""

    format: Literal[1] = 1
    id: str = Field(pattern=SNAPSHOT_ID, description="hash of the canonical rows and the policy")
    content: str = Field(description="digest over the bytes of all arrays, whatever shards they lie in")
    dataset: str
    policy: dict[str, Any]
    modalities: dict[str, ModalityInfo]
    text: ModalityInfo | None = Field(None, description="what all text features share; null: the clips have none")
    statistics: dict[str, TensorStatistics] = Field(description="'<modality>.<array>' -> per entry of dimension 1")
    num_rows: int = Field(ge=1)
    num_frames: int = Field(ge=1)
    splits: dict[str, int] = Field(description="split -> clips")
    quarantined: dict[str, int] = Field(description="reason -> clips left out")
    failed: dict[str, int] = Field(description="failure class -> clips left out")
    parent: str | None = Field(None, description="what the tag named before; not part of the id")
    created_at: str = Field(description="UTC; not part of the id")
    manifest_digest: str = Field(description="SHA-256 of manifest.parquet")


def head_key(snapshot_id: str) -> str:
    """Store key of a snapshot's head."""
    return f"snapshots/{snapshot_id}/head.json"


def manifest_key(snapshot_id: str) -> str:
    """Store key of a snapshot's manifest."""
    return f"snapshots/{snapshot_id}/manifest.parquet"


def tag_key(tag: str) -> str:
    """Store key of a tag; raises InputError for a name that is not one."""
    if not re.fullmatch(TAG, tag) or re.fullmatch(SNAPSHOT_ID, tag):
        raise InputError(f"tag {tag!r}: expected letters, digits, '.', '_' and '-', at most 80, and not an id's form")
    return f"tags/{tag}.json"


def encode_head(snapshot: Snapshot) -> bytes:
    """JSON of a head with a checksum over itself."""
    body = snapshot.model_dump(mode="json")
    return (json.dumps({"checksum": digest(body), "snapshot": body}, indent=2, sort_keys=True) + "\n").encode()


def decode_head(data: bytes, where: str) -> Snapshot:
    """Inverse of `encode_head`; raises SchemaError when the bytes are damaged or of another format."""
    try:
        document = json.loads(data)
        if document["checksum"] != digest(document["snapshot"]):
            raise SchemaError(f"{where}: the checksum does not match its content; restore it or build again")
        return Snapshot.model_validate(document["snapshot"])
    except SchemaError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # NaN, half a character, a thousand brackets
        raise SchemaError(f"{where}: not a snapshot head of format 1: {error}; restore it or build again") from error


def resolve_snapshot(store: Storage, id_or_tag: str) -> str:
    """Id that a tag, an id or a unique beginning of one stands for; raises SchemaError naming what there is."""
    if re.fullmatch(SNAPSHOT_ID, id_or_tag):
        return id_or_tag
    key = tag_key(id_or_tag)
    if re.fullmatch(ID_BEGINNING, id_or_tag) and not store.exists(key):
        return _begun(store, id_or_tag)
    try:
        return str(json.loads(store.read(key))["snapshot"])
    except MissingKeyError as error:
        known = [name.removeprefix("tags/").removesuffix(".json") for name in store.list("tags")]
        raise SchemaError(f"no tag {id_or_tag!r} in {store.url()}; there are: {', '.join(known) or 'none'}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise SchemaError(f"{store.url(key)}: not a tag file: {error}; set the tag again") from error


def _begun(store: Storage, beginning: str) -> str:
    """The one id that begins so."""
    ids = sorted({key.split("/")[1] for key in store.list("snapshots") if key.endswith("/head.json")})
    found = [one for one in ids if one.startswith(beginning)]
    if len(found) != 1:
        many = f"{len(found)} snapshots begin with {beginning!r}" if found else f"no tag and no snapshot {beginning!r}"
        raise SchemaError(f"{many} in {store.url()}; there are: {', '.join(found or ids) or 'none'}")
    return found[0]


def load_snapshot(store: Storage, id_or_tag: str) -> Snapshot:
    """Head of a snapshot by id or tag."""
    snapshot_id = resolve_snapshot(store, id_or_tag)
    key = head_key(snapshot_id)
    try:
        snapshot = decode_head(store.read(key), store.url(key))
    except MissingKeyError as error:
        raise SchemaError(f"no snapshot {id_or_tag!r} in {store.url()}; `snapshots list` names those there") from error
    if snapshot.id != snapshot_id:
        raise SchemaError(f"{store.url(key)}: it is the head of another snapshot, {snapshot.id}; restore it")
    return snapshot


def read_manifest(store: Storage, snapshot: Snapshot) -> tuple[SnapshotRow, ...]:
    """Rows of a snapshot, sorted by clip id; raises SchemaError when the file is not the one the head names."""
    return decode_manifest(manifest_bytes(store, snapshot))


def manifest_bytes(store: Storage, snapshot: Snapshot) -> bytes:
    """What `read_manifest` decodes, proven by the head."""
    key = manifest_key(snapshot.id)
    data = store.read(key)
    if hashlib.sha256(data).hexdigest() != snapshot.manifest_digest:
        raise SchemaError(f"{store.url(key)}: its bytes are not those the head names; restore it or build again")
    return data


def encode_manifest(rows: tuple[SnapshotRow, ...]) -> bytes:
    """Parquet, one flat column per field and three per modality (key, fingerprint, shard); of text if there is some."""
    plain, apart = [], {"features"} | ({"text"} if all(row.text is None for row in rows) else set())
    for row in rows:
        record = row.model_dump(exclude=apart)
        for name, ref in sorted(row.features.items()):
            record |= {f"{name}.{field}": getattr(ref, field) for field in ("key", "fingerprint", "shard")}
        plain.append(record)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(plain), sink, compression="zstd")
    return sink.getvalue()


def decode_manifest(data: bytes) -> tuple[SnapshotRow, ...]:
    """Inverse of `encode_manifest`."""
    return tuple(map(row_of, manifest_table(data).to_pylist()))


def manifest_table(data: bytes) -> pa.Table:
    """Columns. One thread, no read-ahead: a command that ends while Arrow's threads wind down is at times aborted."""
    return pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)


def row_of(record: Mapping[str, Any]) -> SnapshotRow:
    """The row that a manifest's columns say, value by value."""
    plain, features = dict(record), {}
    for name in [name.removesuffix(".shard") for name in record if name.endswith(".shard")]:
        found = {field: plain.pop(f"{name}.{field}") for field in ("key", "fingerprint", "shard")}
        features[name] = FeatureRef(modality=name, clip_id=record["clip_id"], **found)
    return SnapshotRow(**plain, features=features)
