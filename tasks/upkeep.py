"""Upkeep of a store: reading every byte of a snapshot, and removing what nothing names any more."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from dualforce_model.schema import SchemaError, Snapshot, SnapshotRow, head_key, load_snapshot, read_manifest
from dualforce_model.shards import ShardHeader, read_header, verify_shard
from dualforce_model.storage import Storage
from tasks.snapshot import canonical_id, content_digest, list_snapshots, list_tags

DAY_S = 86_400.0
SHOWN_CLIPS = 20


@dataclass(frozen=True)
class Verification:
    """What reading a whole snapshot found."""

    snapshot_id: str
    num_shards: int
    num_bytes: int
    problems: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """No problem."""
        return not self.problems


@dataclass(frozen=True)
class Garbage:
    """Store keys that nothing names. Under a dry run they are still there."""

    keys: tuple[str, ...]
    num_bytes: int
    num_kept: int
    dry_run: bool


def verify_snapshot(store: Storage, id_or_tag: str) -> Verification:
    """Read the manifest and every byte it names, shard by shard; problems come back as lines, one each.

    Raises SchemaError when there is no such snapshot or its head is damaged.
    """
    snapshot = load_snapshot(store, id_or_tag)
    try:
        rows = read_manifest(store, snapshot)
    except (OSError, SchemaError) as error:
        return Verification(snapshot.id, 0, 0, (str(error),))
    shards = sorted({ref.shard for row in rows for ref in row.features.values()})
    problems = [problem for shard in shards for problem in _shard_problems(store, shard, rows)]
    num_bytes = sum(store.size(shard) for shard in shards if store.exists(shard))
    if not problems:
        problems = _disagreements(store, snapshot, rows)
    return Verification(snapshot.id, len(shards), num_bytes, tuple(problems))


def _shard_problems(store: Storage, shard: str, rows: tuple[SnapshotRow, ...]) -> list[str]:
    """What is wrong with a shard; the first line says which clips have features in it, and what mends them."""
    clips = [row.clip_id for row in rows if any(ref.shard == shard for ref in row.features.values())]
    problems = list(verify_shard(store, shard, frozenset(clips)))
    if problems:
        more = f" and {len(clips) - SHOWN_CLIPS} more" if len(clips) > SHOWN_CLIPS else ""
        problems[0] += (
            f"; it holds {', '.join(clips[:SHOWN_CLIPS])}{more}; `dualforce rerun --damaged` makes again what the run "
            "still wants and mends its newest version; older versions that name this shard stay broken"
        )
    return problems


def _disagreements(store: Storage, snapshot: Snapshot, rows: tuple[SnapshotRow, ...]) -> list[str]:
    """What head, manifest and shards, each sound in itself, say differently."""
    problems = []
    if canonical_id(rows, snapshot.policy) != snapshot.id:
        problems.append(f"{snapshot.id}: its rows and policy hash to {canonical_id(rows, snapshot.policy)}")
    headers: dict[str, ShardHeader] = {}
    for row in rows:
        for modality, ref in row.features.items():
            header = headers.setdefault(ref.shard, read_header(store, ref.shard))
            if header.keys.get(row.clip_id) != ref.key:
                problems.append(f"{row.clip_id}: {modality} in {ref.shard} has key {header.keys.get(row.clip_id)}")
    if not problems and content_digest(store, rows) != snapshot.content:
        problems.append(f"{snapshot.id}: the arrays are not those it was built from; build it again")
    return problems


def collect_garbage(
    store: Storage, in_use: Iterable[str], *, dry_run: bool = True, older_than_s: float = DAY_S
) -> Garbage:
    """Remove shards that no snapshot, no tag and none of `in_use` names, and manifests whose build was given up.

    `in_use` are the shard keys that the ledger and unfinished runs name. What is younger than `older_than_s` stays: a
    run may have written it and not recorded it yet. A damaged head or manifest raises SchemaError and nothing goes:
    what it named cannot be known.
    """
    entries = list_snapshots(store)
    kept = set(in_use)
    for entry in entries:
        kept |= {ref.shard for row in read_manifest(store, entry.snapshot) for ref in row.features.values()}
    whole = {entry.snapshot.id for entry in entries}
    missing = {tag: target for tag, target in list_tags(store).items() if target not in whole}
    if missing:
        raise SchemaError(f"tags without their snapshot: {missing}; restore {head_key(next(iter(missing.values())))}")
    abandoned = [key for key in store.list("snapshots") if key.split("/")[1] not in whole]
    unnamed = [key for key in store.list("features") if key not in kept]
    limit = time.time() - older_than_s
    garbage = [key for key in unnamed + abandoned if store.modified_at(key) <= limit]
    num_bytes = sum(store.size(key) for key in garbage)
    if not dry_run:
        for key in garbage:
            store.delete(key)
    return Garbage(tuple(garbage), num_bytes, len(kept), dry_run)
