"""Packing: the features of a snapshot into few large shards in clip order, after many small seals.

Neither the id nor the content of a snapshot knows shards, so both stay. The new shards come first, then manifest and
head (`dualforce_model/manifests.py`), then the ledger; the old shards are left for `gc`, which spares them for another
day, since a training may read them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.manifests import replace_manifest, restore_manifest
from dualforce_model.schema import FeatureRef, Snapshot, SnapshotRow, load_snapshot
from dualforce_model.shards import cached_header, load_feature, pack_shard, specs_in, tensor_entry
from dualforce_model.storage import MissingKeyError, Storage
from tasks.bar import bar
from tasks.leases import Lease, LeaseHeld
from tasks.ledger import Ledger, Row
from tasks.records import Stage
from tasks.snapshot import SnapshotError, content_digest

SHARD_BYTES = 256 * 2**20
SHARD_CLIPS = 4096  # of small features: who reads one clip parses the header of all
ROWS_AT_ONCE = 2000  # of a ledger: all rows of a large data set are gigabytes

Moved = dict[tuple[str, str, str], FeatureRef]  # (clip id, modality, feature key) -> where it lies now


@dataclass(frozen=True)
class PackedSnapshot:
    """What packing did. `changed` is false where all lay as it should."""

    snapshot: Snapshot
    rows: tuple[SnapshotRow, ...]
    shards_before: int
    shards_after: int
    changed: bool


class Packing(Frozen):
    """The same as a command tells it."""

    snapshot: str
    shards_before: int
    shards_after: int
    changed: bool
    ledger_rows: int = Field(0, description="rows of ledgers that name the new shards now")
    ledgers_left: tuple[str, ...] = Field((), description="why a ledger still names the old shards")

    def text(self) -> str:
        """For people."""
        done = f"{self.shards_before} shards -> {self.shards_after}" if self.changed else "nothing to pack"
        head = f"{self.snapshot}: {done}; {self.ledger_rows} ledger rows point to the new shards"
        old = ("the old shards stay until `dualforce snapshots gc` finds them unnamed, a day from now at the earliest",)
        return "\n".join([head, *self.ledgers_left, *(old if self.changed else ())])


def pack(store: str, name: str, ledgers: Sequence[str], shard_bytes: int = SHARD_BYTES) -> Packing:
    """Pack a snapshot (tag or id), then tell these ledgers, except those that another run writes just now."""
    held = Storage(store).require()
    snapshot = load_snapshot(held, name)
    with bar("pack", snapshot.num_rows * len(snapshot.modalities), "feature") as progress:
        packed = pack_snapshot(held, snapshot.id, shard_bytes, progress.update)
    moved: Moved = {
        (row.clip_id, modality, ref.key): ref for row in packed.rows for modality, ref in row.features.items()
    }
    told, left = 0, list[str]()
    for url in ledgers:
        with Ledger(url, missing="refuse") as ledger:
            for dataset in ledger.datasets():
                try:
                    told += _tell(ledger, dataset, held, moved, f"pack-{packed.snapshot.id}")
                except LeaseHeld as busy:
                    left.append(f"{ledger} was left as it is: {busy}. The same command then tells it")
    return Packing(
        snapshot=packed.snapshot.id,
        shards_before=packed.shards_before,
        shards_after=packed.shards_after,
        changed=packed.changed,
        ledger_rows=told,
        ledgers_left=tuple(left),
    )


def pack_snapshot(
    store: Storage,
    id_or_tag: str,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], object] | None = None,
) -> PackedSnapshot:
    """Rewrite the features of a snapshot into shards of about `shard_bytes`, clip by clip; the same again does nothing.

    No shard gets more than SHARD_CLIPS clips. Every byte that is moved is checked. Raises DamagedShardError, and
    changes nothing, where one is damaged; SnapshotError if the arrays are not those that the snapshot was built from.
    `progress` gets numbers of features.
    """
    snapshot = load_snapshot(store, id_or_tag)
    rows = restore_manifest(store, snapshot)
    refs: dict[str, dict[str, FeatureRef]] = {row.clip_id: {} for row in rows}
    for modality in sorted(snapshot.modalities):
        for group in _groups(store, [row.features[modality] for row in rows], shard_bytes):
            for clip_id, ref in _gathered(store, group).items():
                refs[clip_id][modality] = ref
            if progress is not None:
                progress(len(group))
    packed = tuple(row.model_copy(update={"features": dict(sorted(refs[row.clip_id].items()))}) for row in rows)
    before, after = (len({ref.shard for row in some for ref in row.features.values()}) for some in (rows, packed))
    if packed == rows:
        return PackedSnapshot(snapshot, rows, before, after, changed=False)
    if content_digest(store, packed) != snapshot.content:
        raise SnapshotError(f"{snapshot.id}: the arrays are not those it was built from; build it again, then pack it")
    return PackedSnapshot(replace_manifest(store, snapshot, packed), packed, before, after, changed=True)


def _groups(store: Storage, refs: Sequence[FeatureRef], shard_bytes: int) -> Iterator[list[FeatureRef]]:
    """Neighbours that fill a shard."""
    group, size = list[FeatureRef](), 0
    for ref in refs:
        entries = (tensor_entry(store, ref, spec.name) for spec in specs_in(store, ref))
        num_bytes = sum(entry.row_bytes * entry.shape[0] for entry in entries)
        if group and (size + num_bytes > shard_bytes or len(group) == SHARD_CLIPS):
            yield group
            group, size = [], 0
        group.append(ref)
        size += num_bytes
    if group:
        yield group


def _gathered(store: Storage, group: Sequence[FeatureRef]) -> dict[str, FeatureRef]:
    """The group as one shard, by clip id; a shard that holds just these stays."""
    first, keys = group[0], {ref.clip_id: ref.key for ref in group}
    if {ref.shard for ref in group} == {first.shard} and cached_header(store.url(), first.shard).keys == keys:
        return {ref.clip_id: ref for ref in group}
    features = {ref.clip_id: load_feature(store, ref) for ref in group}
    return pack_shard(store, first.modality, first.fingerprint, features, keys)


# --------------------------------------------------------------------------------------------------------- the ledger


def _tell(ledger: Ledger, dataset: str, store: Storage, moved: Moved, run_id: str) -> int:
    """Point a ledger's rows to the new shards, under the lease that extract writes with; how many there were.

    Killed on the way it has told some: the same command tells the others.
    """
    with ledger.lease(dataset, Stage.EXTRACT, run_id) as lease:
        return _record(ledger, lease, store, moved)


def _record(ledger: Ledger, lease: Lease, store: Storage, moved: Moved) -> int:
    changed, told = _changed(ledger, lease.dataset, store, moved), 0
    while some := list(islice(changed, ROWS_AT_ONCE)):
        ledger.record(lease, some)
        told += len(some)
    return told


def _changed(ledger: Ledger, dataset: str, store: Storage, moved: Moved) -> Iterator[Row]:
    """Rows as they are to be, one at a time; also of clips that left the list, which gc asks about."""
    for row in ledger.stream(dataset, Stage.EXTRACT, "done", unlisted=True):
        old, new = FeatureRef.model_validate(row.value["ref"]), moved.get((row.clip_id, row.feature, row.key))
        if new is not None and old.shard != new.shard and _same_arrays(store, old, new):
            yield row.model_copy(update={"value": {**row.value, "ref": new.model_dump(mode="json")}})


def _same_arrays(store: Storage, old: FeatureRef, new: FeatureRef) -> bool:
    """Whether two shards say that they hold the same bytes: what was made again may differ in the last bit."""

    def said(ref: FeatureRef) -> dict[str, str]:
        return {spec.name: tensor_entry(store, ref, spec.name).sha256 for spec in specs_in(store, ref)}

    try:
        return said(old) == said(new)
    except MissingKeyError:  # the old shard is gone; the new one has what was made under the same key
        return True
