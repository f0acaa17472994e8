"""Exports: a snapshot as plain files for other tools. A safetensors file a clip, or a data set for Hugging Face.

An export is filled beside its folder and renamed at the end; the same command after a kill goes on where it stopped.
Arrays leave as they are stored. In Parquet each is a binary column beside its shape: typed lists of half-precision
numbers take six times as long to load, a thousand times where a reader makes Python numbers of them, and many readers
know no half precision at all.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from safetensors.numpy import save

from dualforce_model.config import Frozen, canonical_json
from dualforce_model.errors import InputError
from dualforce_model.manifests import read_manifest
from dualforce_model.schema import SPLITS, Feature, FeatureRef, Snapshot, SnapshotRow, Split, load_snapshot, specs_among
from dualforce_model.shards import load_feature, specs_in, tensor_entry
from dualforce_model.storage import Storage, atomic_path, resumable_folder, write_bytes, write_json, write_text
from tasks.bar import bar
from tasks.export_card import clips_card, huggingface_card

Form = Literal["clips", "huggingface"]
FILE_BYTES = 512 * 2**20  # of arrays in a Parquet file
GROUP_BYTES = 64 * 2**20  # of arrays in a row group, the least that a reader of Parquet takes
BEGUN = "export.json"


class Exported(Frozen):
    """What an export holds."""

    snapshot: str
    form: Form
    folder: str
    clips: int
    files: int
    num_bytes: int = Field(description="of the files with arrays")

    def text(self) -> str:
        """For people."""
        return (
            f"{self.snapshot}: {self.clips} clips in {self.files} files, {self.num_bytes / 1e6:.1f} MB, {self.folder}"
        )


def export(
    store: str, name: str, to: Path, form: Form, split: Split | None = None, file_bytes: int = FILE_BYTES
) -> Exported:
    """Write a snapshot (tag or id), or one split of it, into a folder that is not there yet.

    Every byte that is read is checked. Raises InputError if the folder is there, or another export was begun there.
    """
    held = Storage(store).require()
    snapshot = load_snapshot(held, name)
    rows = [row for row in read_manifest(held, snapshot) if split in (None, row.split)]
    if not rows:
        raise InputError(f"snapshot {snapshot.id} has no clip in the split {split}; it has {snapshot.splits}")
    begun = {"snapshot": snapshot.id, "content": snapshot.content, "form": form, "split": split, "bytes": file_bytes}
    with resumable_folder(to) as folder:
        _same_export(folder, begun)
        with bar("export", len(rows), "clip") as progress:
            if form == "clips":
                files = _write_clips(held, snapshot, rows, folder, progress.update)
            else:
                files = _write_huggingface(held, snapshot, rows, folder, file_bytes, progress.update)
        num_bytes = sum((folder / file).stat().st_size for file in files)
    return Exported(
        snapshot=snapshot.id, form=form, folder=str(to), clips=len(rows), files=len(files), num_bytes=num_bytes
    )


def _same_export(folder: Path, begun: dict[str, Any]) -> None:
    """Go on with what was begun here, if it is the same; note what is begun otherwise."""
    note = folder / BEGUN
    if not note.exists():
        write_json(note, begun)
    elif (found := json.loads(note.read_text(encoding="utf-8"))) != begun:
        raise InputError(f"{folder} holds another export that was not finished: {found}; finish or remove it")


def arrays_of(store: Storage, row: SnapshotRow) -> Iterator[tuple[str, Feature]]:
    """Arrays of a clip by modality, checked."""
    for modality, ref in sorted(row.features.items()):
        yield modality, load_feature(store, ref)


def facts_of(row: SnapshotRow) -> dict[str, Any]:
    """What the manifest says of a clip, less where its features lie in this store."""
    facts = row.model_dump(mode="json", exclude={"features"})
    return facts | {"feature_keys": {name: ref.key for name, ref in sorted(row.features.items())}}


# -------------------------------------------------------------------------------------------------- a file a clip


def _write_clips(
    store: Storage, snapshot: Snapshot, rows: Sequence[SnapshotRow], folder: Path, progress: Callable[[int], object]
) -> list[str]:
    lines, files = list[str](), list[str]()
    for row in rows:
        file = f"clips/{row.clip_id}.safetensors"
        if not (folder / file).exists():
            write_bytes(folder / file, _clip_bytes(store, snapshot, row))
        with open(folder / file, "rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        lines.append(canonical_json(facts_of(row) | {"file": file, "sha256": digest}))
        files.append(file)
        progress(1)
    write_text(folder / "metadata.jsonl", "\n".join(lines) + "\n")
    write_json(folder / "snapshot.json", snapshot.model_dump(mode="json"))
    write_text(folder / "README.md", clips_card(snapshot, rows))
    return files


def _clip_bytes(store: Storage, snapshot: Snapshot, row: SnapshotRow) -> bytes:
    """A safetensors file with the arrays '<modality>.<array>', and where they come from in its metadata."""
    arrays = {f"{name}.{key}": array for name, feature in arrays_of(store, row) for key, array in feature.items()}
    facts = {"snapshot": snapshot.id, "clip_id": row.clip_id, "licence": row.licence, "split": row.split}
    return bytes(save(arrays, {"clip": canonical_json(facts)}))  # of several entries the order would be by chance


# --------------------------------------------------------------------------------------------------- Hugging Face


def _write_huggingface(
    store: Storage,
    snapshot: Snapshot,
    rows: Sequence[SnapshotRow],
    folder: Path,
    file_bytes: int,
    progress: Callable[[int], object],
) -> list[str]:
    files = list[str]()
    schema = _schema(snapshot, rows)
    for split in SPLITS:
        parts = list(_filled([row for row in rows if row.split == split], store, file_bytes))
        for number, part in enumerate(parts):
            file = f"data/{split}-{number:05d}-of-{len(parts):05d}.parquet"
            if (folder / file).exists():
                progress(len(part))
            else:
                _write_parquet(store, part, folder / file, schema, progress)
            files.append(file)
    write_json(folder / "snapshot.json", snapshot.model_dump(mode="json"))
    write_text(folder / "README.md", huggingface_card(snapshot, rows))
    return files


def _filled(rows: Sequence[SnapshotRow], store: Storage, num_bytes: int) -> Iterator[list[SnapshotRow]]:
    """Neighbours whose arrays are about so many bytes together, by what the shards' headers say."""
    part, size = list[SnapshotRow](), 0
    for row in rows:
        more = sum(_num_bytes(store, ref) for ref in row.features.values())
        if part and size + more > num_bytes:
            yield part
            part, size = [], 0
        part.append(row)
        size += more
    if part:
        yield part


def _num_bytes(store: Storage, ref: FeatureRef) -> int:
    entries = (tensor_entry(store, ref, spec.name) for spec in specs_in(store, ref))
    return sum(entry.row_bytes * entry.shape[0] for entry in entries)


def column(modality: str, array: str) -> str:
    """Name of an array's column: a dot would be read as a nested field."""
    return f"{modality}_{array}"


def _schema(snapshot: Snapshot, rows: Sequence[SnapshotRow]) -> pa.Schema:
    """Columns of facts, then two per array; an array's field says its type."""
    known: dict[Any, pa.DataType] = {int: pa.int32(), float: pa.float64(), float | None: pa.float64()}
    facts = {name: field.annotation for name, field in SnapshotRow.model_fields.items() if name != "features"}
    fields = [pa.field(name, known.get(annotation, pa.string())) for name, annotation in facts.items()]
    for modality in sorted(rows[0].features):
        for spec in specs_among(modality, snapshot.modalities[modality].tensors):
            told = {"dtype": spec.dtype, "order": "C, little-endian"}
            fields.append(pa.field(column(modality, spec.name), pa.binary(), metadata=told))
            fields.append(pa.field(f"{column(modality, spec.name)}_shape", pa.list_(pa.int32())))
    return pa.schema(fields)


def _write_parquet(
    store: Storage, rows: Sequence[SnapshotRow], path: Path, schema: pa.Schema, progress: Callable[[int], object]
) -> None:
    """A file of row groups; arrays are neither compressed, which gains nothing, nor counted in dictionaries."""
    arrays = [field.name for field in schema if pa.types.is_binary(field.type)]
    plain = [field.name for field in schema if not pa.types.is_binary(field.type)]
    leaves = {name: f"{name}.list.element" if name.endswith("_shape") else name for name in plain}
    settings: dict[str, Any] = {
        "compression": {**dict.fromkeys(arrays, "none"), **dict.fromkeys(leaves.values(), "zstd")},
        "use_dictionary": list(leaves.values()),
        "write_statistics": [name for name in plain if not name.endswith("_shape")],
        "write_page_checksum": True,
    }
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, **settings) as writer:
        for group in _filled(rows, store, GROUP_BYTES):
            records = [_record(store, row, schema) for row in group]
            writer.write_table(pa.Table.from_pylist(records, schema=schema), row_group_size=len(records))
            progress(len(group))


def _record(store: Storage, row: SnapshotRow, schema: pa.Schema) -> dict[str, Any]:
    record = row.model_dump(mode="json", exclude={"features"})
    for modality, feature in arrays_of(store, row):
        for name, array in feature.items():
            stored = array.astype(array.dtype.newbyteorder("<"), copy=False)
            record[column(modality, name)] = stored.tobytes()
            record[f"{column(modality, name)}_shape"] = list(array.shape)
    assert set(record) == set(schema.names), "the clips of a snapshot have the same arrays"
    return record
