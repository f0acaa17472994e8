"""Manifests that are replaced while others read: what a snapshot is stays, where its features lie may change.

    snapshots/<id>/manifest-<digest>.parquet    a manifest under its own digest

The head is the one place that decides: it names a digest. Whoever replaces a manifest first puts the old one and the
new one under their digests, then the head, then manifest.parquet. So a reader finds the rows that its head names,
whatever it meets on the way, and a writer that was killed leaves either version whole.
"""

import hashlib

from dualforce_model import faults, schema
from dualforce_model.manifest_rows import ManifestRows
from dualforce_model.schema import SchemaError, Snapshot, SnapshotRow, decode_manifest, encode_head, encode_manifest
from dualforce_model.storage import MissingKeyError, Storage

VERSION_DIGITS = 32


def version_key(snapshot_id: str, manifest_digest: str) -> str:
    """Store key of a manifest under its digest."""
    return f"snapshots/{snapshot_id}/manifest-{manifest_digest[:VERSION_DIGITS]}.parquet"


def is_version(key: str) -> bool:
    """Whether a store key is that of a manifest under its digest."""
    return key.startswith("snapshots/") and key.rpartition("/")[2].startswith("manifest-")


def read_manifest(store: Storage, snapshot: Snapshot) -> tuple[SnapshotRow, ...]:
    """Rows of a snapshot, sorted by clip id, also while another process replaces its manifest.

    Raises SchemaError or MissingKeyError when no file holds the bytes that the head names.
    """
    return decode_manifest(_bytes(store, snapshot))


def open_manifest(store: Storage, snapshot: Snapshot) -> ManifestRows:
    """The rows of `read_manifest`, each made when it is asked for: for whoever keeps them."""
    return ManifestRows.decode(_bytes(store, snapshot))


def _bytes(store: Storage, snapshot: Snapshot) -> bytes:
    """A manifest's bytes as the head names them, from whichever file holds them."""
    try:
        return schema.manifest_bytes(store, snapshot)
    except (SchemaError, MissingKeyError):
        key = version_key(snapshot.id, snapshot.manifest_digest)
        if not store.exists(key):
            raise
        return _version_bytes(store, key)


def read_version(store: Storage, key: str) -> tuple[SnapshotRow, ...]:
    """Rows of a manifest under its digest; raises SchemaError when the bytes are others."""
    return decode_manifest(_version_bytes(store, key))


def _version_bytes(store: Storage, key: str) -> bytes:
    data = store.read(key)
    if version_key(key.split("/")[1], hashlib.sha256(data).hexdigest()) != key:
        raise SchemaError(f"{store.url(key)}: its bytes are not those its name tells; restore it or build again")
    return data


def restore_manifest(store: Storage, snapshot: Snapshot) -> tuple[SnapshotRow, ...]:
    """Rows of a snapshot; manifest.parquet is put back where it is not what the head names but its version is there.

    Where the head names another by now, that of the caller is old: its rows are told, and nothing is written.
    """
    try:
        return schema.read_manifest(store, snapshot)
    except (SchemaError, MissingKeyError):
        rows = read_manifest(store, snapshot)
        if _is_head(store, snapshot):
            data = store.read(version_key(snapshot.id, snapshot.manifest_digest))
            store.write(schema.manifest_key(snapshot.id), data)
            if not _is_head(store, snapshot):  # another came between look and write
                restore_manifest(store, schema.load_snapshot(store, snapshot.id))
        return rows


def _is_head(store: Storage, snapshot: Snapshot) -> bool:
    """Whether the head in the store names this manifest still."""
    return schema.load_snapshot(store, snapshot.id).manifest_digest == snapshot.manifest_digest


def replace_manifest(store: Storage, snapshot: Snapshot, rows: tuple[SnapshotRow, ...]) -> Snapshot:
    """Give a snapshot other places of the same features; its head as it is now. Killed anywhere it stays readable.

    Of several that do this at once, the last to write the head decides.
    """
    before, after = store.read(schema.manifest_key(snapshot.id)), encode_manifest(rows)
    replaced = snapshot.model_copy(update={"manifest_digest": hashlib.sha256(after).hexdigest()})
    for data in (before, after):
        store.write(version_key(snapshot.id, hashlib.sha256(data).hexdigest()), data)
    faults.point("pack.before_head")
    store.write(schema.head_key(snapshot.id), encode_head(replaced))
    faults.point("pack.after_head")
    store.write(schema.manifest_key(snapshot.id), after)
    faults.point("pack.after_manifest")
    decided = schema.load_snapshot(store, snapshot.id)
    restore_manifest(store, decided)  # another may have come between head and manifest
    return decided
