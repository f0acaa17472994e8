"""Upkeep of a store: reading every byte of a snapshot, and removing what nothing names any more."""

import json
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dualforce_model import schema
from dualforce_model.errors import InputError
from dualforce_model.manifests import is_version, read_manifest, read_version, version_key
from dualforce_model.schema import SchemaError, Snapshot, SnapshotRow, head_key, load_snapshot, resolve_snapshot
from dualforce_model.shards import read_header, verify_shard
from dualforce_model.storage import MissingKeyError, Storage
from dualforce_model.text_features import FOLDER
from tasks.snapshot import canonical_id, content_digest, encode_tag, list_snapshots, list_tags
from tasks.text_notes import FAILED, REFUSED
from tasks.texts import keys_in, text_problems

DAY_S = 86_400.0
NOTES_S = 30 * DAY_S
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
    """Read head, tags, manifests and every byte they name, shard by shard; problems come back as lines, one each.

    Raises SchemaError when there is no such snapshot or its head is damaged.
    """
    snapshot = load_snapshot(store, id_or_tag)
    spelled = [*_spelling(store, snapshot), *_tag_problems(store), *_version_problems(store, snapshot)]
    try:
        rows = schema.read_manifest(store, snapshot)
    except (OSError, SchemaError) as error:
        return Verification(snapshot.id, 0, 0, (*spelled, str(error)))
    clips = _clips_by_shard(rows)
    problems = [problem for shard in sorted(clips) for problem in _shard_problems(store, shard, clips[shard])]
    problems += text_problems(store, rows)
    num_bytes = sum(store.size(key) for key in _named(rows) if store.exists(key))
    if not problems:
        problems = _disagreements(store, snapshot, rows)
    return Verification(snapshot.id, len(clips), num_bytes, (*spelled, *problems))


def _spelling(store: Storage, snapshot: Snapshot) -> Iterator[str]:
    """A head whose content is right and whose bytes are not: a space turned into a tab, a digit that rounds alike."""
    data = store.read(head_key(snapshot.id))
    if data != (json.dumps(json.loads(data), indent=2, sort_keys=True) + "\n").encode():
        yield f"{store.url(head_key(snapshot.id))}: its bytes are not as they were written; build the snapshot again"


def _tag_problems(store: Storage) -> Iterator[str]:
    """Tags that are damaged: whether they named this snapshot cannot be known."""
    for key in store.list("tags"):
        tag = key.removeprefix("tags/").removesuffix(".json")
        try:
            named = resolve_snapshot(store, tag)
            if store.read(key) != encode_tag(named):
                yield f"{store.url(key)}: its bytes are not as they were written; set the tag again"
            elif not store.exists(head_key(named)):
                yield f"{store.url(key)}: it names {named}, which is not there; set the tag again"
        except InputError as error:
            yield f"tag {tag}: {error}"


def _version_problems(store: Storage, snapshot: Snapshot) -> Iterator[str]:
    """Manifests under their digests whose bytes are others."""
    for key in store.list(f"snapshots/{snapshot.id}"):
        if is_version(key):
            try:
                read_version(store, key)
            except MissingKeyError:
                continue  # collected since the list was made
            except SchemaError as error:
                yield str(error)


def _shard_problems(store: Storage, shard: str, clips: Sequence[str]) -> list[str]:
    """What is wrong with a shard; the first line says which clips have features in it, and what mends them."""
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
    expected: dict[str, list[tuple[str, str, str]]] = {}  # by shard: the headers of all would be gigabytes
    for row in rows:
        for modality, ref in row.features.items():
            expected.setdefault(ref.shard, []).append((row.clip_id, modality, ref.key))
    for shard, features in sorted(expected.items()):
        keys = read_header(store, shard).keys
        for clip_id, modality, key in features:
            if keys.get(clip_id) != key:
                problems.append(f"{clip_id}: {modality} in {shard} has key {keys.get(clip_id)}")
    if not problems and content_digest(store, rows) != snapshot.content:
        problems.append(f"{snapshot.id}: the arrays are not those it was built from; build it again")
    return problems


def collect_garbage(
    store: Storage,
    in_use: Iterable[str],
    captions: Collection[str] = (),
    *,
    dry_run: bool = True,
    older_than_s: float = DAY_S,
) -> Garbage:
    """Remove shards that no snapshot, no tag and none of `in_use` names, texts that none of these and of `captions`
    names, manifests of builds given up, and notes that nobody asks for.

    `in_use` are the shard keys that the ledger and unfinished runs name, `captions` the digests of the ledger's
    captions. Whether somebody asks for a note is not known for certain: it stays for a month. What is younger than
    `older_than_s` stays: a run may have written it and not recorded it yet. So do shards of a manifest that was
    replaced since: a training may read them. A damaged head or manifest raises SchemaError and nothing goes: what it
    named cannot be known.
    """
    # In this order: what is made meanwhile is named by what is read later, or too young to go.
    limit, features = time.time() - older_than_s, store.list("features") + store.list(FOLDER)
    notes = [key for kind in (REFUSED, FAILED) for key in store.list(kind)]
    versions = _versions(store)
    kept = set(in_use) | {key for key in features if key.startswith(f"{FOLDER}/") and _digest_in(key) in captions}
    for snapshot in versions:
        kept |= _named(read_manifest(store, snapshot))
    abandoned, still_read = _left_behind(store, versions, limit)
    kept |= still_read
    unnamed = [key for key in features if key not in kept]
    unnamed += _idle_notes(store, notes, kept, captions)
    sizes = _removed(store, unnamed + abandoned, limit, dry_run)
    return Garbage(tuple(sizes), sum(sizes.values()), len(kept), dry_run)


def _versions(store: Storage) -> list[Snapshot]:
    """Heads of all versions; raises SchemaError where one is damaged, or a tag's is not there."""
    tags = list_tags(store)
    versions = [entry.snapshot for entry in list_snapshots(store)]
    whole = {snapshot.id for snapshot in versions}
    missing = {tag: target for tag, target in tags.items() if target not in whole}
    if missing:
        raise SchemaError(f"tags without their snapshot: {missing}; restore {head_key(next(iter(missing.values())))}")
    return versions


def _left_behind(store: Storage, versions: Sequence[Snapshot], limit: float) -> tuple[list[str], set[str]]:
    """Files of builds given up and manifests replaced before `limit`; and what those replaced since then name."""
    whole = {snapshot.id for snapshot in versions}
    current = {version_key(snapshot.id, snapshot.manifest_digest) for snapshot in versions}
    abandoned, still_read = list[str](), set[str]()
    for key in store.list("snapshots"):
        if key.split("/")[1] not in whole:
            abandoned.append(key)
        elif is_version(key) and key not in current:
            with suppress(MissingKeyError):  # another collector was faster
                if store.modified_at(key) <= limit:
                    abandoned.append(key)
                else:
                    still_read |= _named(read_version(store, key))
    return abandoned, still_read


def _removed(store: Storage, keys: Iterable[str], limit: float, dry_run: bool) -> dict[str, int]:
    """Bytes by key of what is gone, or would be: what nobody wrote since `limit`."""
    sizes: dict[str, int] = {}
    for key in keys:
        with suppress(MissingKeyError):
            if store.modified_at(key) <= limit:
                size = store.size(key)
                if dry_run or store.delete_unless_newer(key, limit):  # a writer may have come by since
                    sizes[key] = size
    return sizes


def _idle_notes(store: Storage, notes: Iterable[str], kept: Iterable[str], captions: Collection[str]) -> Iterator[str]:
    """Notes older than a month of captions that neither `captions` nor a text that is kept has.

    Prompts, and captions of data sets whose ledger was not given, are not known here: hence the month. A note that is
    missed costs another attempt at its caption, no more.
    """
    asked = {_digest_in(key) for key in kept if key.startswith(f"{FOLDER}/")} | set(captions)
    limit = time.time() - NOTES_S
    for key in notes:
        with suppress(MissingKeyError):
            if _digest_in(key) not in asked and store.modified_at(key) <= limit:
                yield key


def _digest_in(key: str) -> str:
    """Digest of the caption of a text or note."""
    return key.rpartition("/")[2].partition(".")[0]


def _clips_by_shard(rows: Iterable[SnapshotRow]) -> dict[str, list[str]]:
    """Ids of the clips that have features in a shard, in the order of the rows."""
    clips: dict[str, list[str]] = {}
    for row in rows:
        for shard in {ref.shard for ref in row.features.values()}:
            clips.setdefault(shard, []).append(row.clip_id)
    return clips


def _shards_of(rows: Iterable[SnapshotRow]) -> set[str]:
    return {ref.shard for row in rows for ref in row.features.values()}


def _named(rows: Sequence[SnapshotRow]) -> set[str]:
    """Store keys of all shards and texts."""
    return _shards_of(rows) | keys_in(rows)
