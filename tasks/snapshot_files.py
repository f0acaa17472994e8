"""A snapshot's two files: the manifest, and the head that is written last. A version is built again in place, too."""

import hashlib

from dualforce_model import faults
from dualforce_model.manifests import replace_manifest, restore_manifest
from dualforce_model.schema import (
    SchemaError,
    Snapshot,
    SnapshotRow,
    encode_head,
    encode_manifest,
    head_key,
    load_snapshot,
    manifest_key,
)
from dualforce_model.storage import MissingKeyError, Storage


def write_snapshot(store: Storage, snapshot: Snapshot, rows: tuple[SnapshotRow, ...]) -> Snapshot:
    """Write these rows and this head; the head as it is in the store then. It names the manifest, whatever
    `snapshot` says.

    A version under the same id that can be read is replaced as `pack` replaces it, so that it can be read all the
    while: it may be there because a feature was made again, or because another build was faster.
    """
    faults.point("snapshot.before_manifest")
    if _is_readable(store, snapshot.id):
        return replace_manifest(store, snapshot, rows)
    manifest = encode_manifest(rows)
    head = snapshot.model_copy(update={"manifest_digest": hashlib.sha256(manifest).hexdigest()})
    store.write(manifest_key(head.id), manifest)
    faults.point("snapshot.before_head")
    store.write(head_key(head.id), encode_head(head))
    faults.point("snapshot.after_head")
    return head


def _is_readable(store: Storage, snapshot_id: str) -> bool:
    """Whether there is a head with its rows; afterwards these are in manifest.parquet."""
    try:
        restore_manifest(store, load_snapshot(store, snapshot_id))
    except (SchemaError, MissingKeyError):
        return False
    return True
