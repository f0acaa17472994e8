"""Packing: other shards, the same snapshot, whatever happens on the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dualforce_model.data import SnapshotDataset
from dualforce_model.manifests import read_manifest, replace_manifest
from dualforce_model.schema import Snapshot, head_key, load_snapshot, manifest_key
from dualforce_model.shards import DamagedShardError, cached_header, pack_shard, read_header
from dualforce_model.storage import Storage
from tasks import packing, snapshot
from tasks.leases import Lease
from tasks.ledger import Ledger
from tasks.ledger_tables import Row
from tasks.packing import pack, pack_snapshot
from tasks.records import Clip, Stage
from tasks.snapshot import SnapshotError
from tasks.upkeep import collect_garbage, verify_snapshot
from tests.small_store import MODALITIES, small_candidates, small_features, small_refs, small_snapshot

ROOT = Path(__file__).resolve().parents[3]
NUM_CLIPS = 8


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def shards_of(store: Storage, name: str = "latest") -> set[str]:
    return {ref.shard for row in read_manifest(store, load_snapshot(store, name)) for ref in row.features.values()}


def assert_same_windows(store: Storage, before: SnapshotDataset) -> None:
    cached_header.cache_clear()
    after = SnapshotDataset(store.url(), "latest", 5)
    for index in range(len(before)):
        for name, array in before[3, index].items():
            np.testing.assert_array_equal(after[3, index][name], array, err_msg=name)


def test_few_large_shards_in_clip_order_and_the_same_snapshot(store: Storage) -> None:
    built = small_snapshot(store)
    before = SnapshotDataset(store.url(), "latest", 5, in_memory=True)
    counted = list[int]()
    packed = pack_snapshot(store, "latest", progress=counted.append)
    assert (packed.shards_before, packed.shards_after, packed.changed) == (12, 3, True)
    assert sum(counted) == NUM_CLIPS * len(MODALITIES)
    now = load_snapshot(store, "latest")
    assert now.manifest_digest != built.manifest_digest
    assert now == built.model_copy(update={"manifest_digest": now.manifest_digest})
    for shard in shards_of(store):
        assert list(read_header(store, shard).keys) == [f"c{index}" for index in range(NUM_CLIPS)]
    assert verify_snapshot(store, "latest").sound
    assert_same_windows(store, before)


def test_a_shard_is_as_large_as_asked_and_packing_again_writes_nothing(store: Storage) -> None:
    small_snapshot(store)
    three = 3 * small_features(0)["audio"]["tokens"].nbytes
    packed = pack_snapshot(store, "latest", three)
    refs = [ref for row in packed.rows for ref in row.features.values()]
    assert [len({ref.shard for ref in refs if ref.modality == name}) for name in MODALITIES] == [3, 2, 2]
    before = {key: store.modified_at(key) for key in store.list()}
    again = pack_snapshot(store, "latest", three)
    assert (again.changed, again.rows) == (False, packed.rows)
    assert {key: store.modified_at(key) for key in store.list()} == before
    larger = pack_snapshot(store, "latest")
    assert (larger.shards_before, larger.shards_after) == (7, 3)


def test_building_again_finds_the_packed_version(store: Storage) -> None:
    small_snapshot(store)
    packed = pack_snapshot(store, "latest")
    assert small_snapshot(store) == packed.snapshot
    assert len(shards_of(store)) == 3
    assert verify_snapshot(store, "latest").sound


def test_old_shards_stay_a_day_for_those_who_read_them_then_gc_takes_them(store: Storage) -> None:
    small_snapshot(store)
    old, reading = shards_of(store), SnapshotDataset(store.url(), "latest", 5)
    for key in old:
        path = store.local_path(key)
        assert path is not None
        os.utime(path, (0, 0))  # sealed long ago
    pack_snapshot(store, "latest")
    assert collect_garbage(store, [], dry_run=False).keys == ()
    cached_header.cache_clear()
    reading[0, 0]
    gone = collect_garbage(store, [], dry_run=False, older_than_s=0.0).keys
    assert old <= set(gone)
    assert len(gone) == len(old) + 1, "and the manifest that named them"
    cached_header.cache_clear()
    assert verify_snapshot(store, "latest").sound
    assert collect_garbage(store, [], older_than_s=0.0).keys == ()


def test_damage_is_found_before_anything_is_changed(store: Storage) -> None:
    built = small_snapshot(store)
    before = store.read(manifest_key(built.id)), store.read(head_key(built.id))
    shard = sorted(shards_of(store))[0]
    path = store.local_path(shard)
    assert path is not None
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamagedShardError, match="damaged"):
        pack_snapshot(store, "latest")
    assert (store.read(manifest_key(built.id)), store.read(head_key(built.id))) == before


def test_arrays_that_are_not_the_snapshot_s_are_not_packed(store: Storage) -> None:
    """Sound in themselves, under the right keys: only the content digest of the snapshot knows better."""
    built = small_snapshot(store)
    rows = read_manifest(store, built)
    other = pack_shard(store, "audio", "fp", {"c0": small_features(77)["audio"]}, {"c0": "k-c0"})["c0"]
    features = {**rows[0].features, "audio": other}
    replace_manifest(store, built, (rows[0].model_copy(update={"features": features}), *rows[1:]))
    with pytest.raises(SnapshotError, match="not those it was built from"):
        pack_snapshot(store, "latest")


def test_a_shard_holds_so_many_clips_at_most(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    small_snapshot(store)
    monkeypatch.setattr(packing, "SHARD_CLIPS", 3)
    assert pack_snapshot(store, "latest").shards_after == 3 * len(MODALITIES)
    assert sorted({len(read_header(store, shard).keys) for shard in shards_of(store)}) == [2, 3]
    assert pack_snapshot(store, "latest").changed is False


@pytest.mark.parametrize("slow", [packing, snapshot])
def test_whoever_loaded_the_head_before_a_pack_ended_leaves_what_it_wrote(
    store: Storage, monkeypatch: pytest.MonkeyPatch, slow: ModuleType
) -> None:
    """Pack beside pack, build beside pack: the fast one ends between the slow one's look at head and manifest."""
    built = small_snapshot(store)

    def overtaken(held: Storage, name: str) -> Snapshot:
        found = load_snapshot(held, name)
        monkeypatch.setattr(slow, "load_snapshot", load_snapshot)
        pack_snapshot(held, name)
        return found

    monkeypatch.setattr(slow, "load_snapshot", overtaken)
    if slow is packing:
        assert pack_snapshot(store, "latest", 1).snapshot.id == built.id
        assert len(shards_of(store)) == NUM_CLIPS * len(MODALITIES)
    else:
        assert small_snapshot(store).id == built.id
        assert len(shards_of(store)) == len(MODALITIES)
    assert verify_snapshot(store, "latest").problems == ()


def test_damage_met_by_a_pack_that_was_overtaken_writes_no_old_manifest(
    store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes no further than its look at the manifest: what the other wrote stays."""
    small_snapshot(store)
    shard = sorted(shards_of(store))[0]

    def overtaken(held: Storage, name: str) -> Snapshot:
        found = load_snapshot(held, name)
        monkeypatch.setattr(packing, "load_snapshot", load_snapshot)
        pack_snapshot(held, name)
        store.write(shard, store.read(shard)[:-1] + b"\x7f")
        return found

    monkeypatch.setattr(packing, "load_snapshot", overtaken)
    with pytest.raises(DamagedShardError, match="damaged"):
        pack_snapshot(store, "latest")
    assert verify_snapshot(store, "latest").problems == ()


# ------------------------------------------------------------------------------------------------------------ kills

PACK = """
import sys
from dualforce_model.storage import Storage
from tasks.packing import pack_snapshot
pack_snapshot(Storage(sys.argv[1]), "latest")
"""
POINTS = [
    "shard.before_rename:2",
    "shard.after_rename:2",
    "pack.before_head",
    "pack.after_head",
    "pack.after_manifest",
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_the_snapshot_is_whole_and_packing_again_ends_alike(store: Storage, point: str) -> None:
    built = small_snapshot(store)
    before = SnapshotDataset(store.url(), "latest", 5, in_memory=True)
    command = [sys.executable, "-c", PACK, store.url()]
    environment = {**os.environ, "DUALFORCE_KILL_AT": point}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    snapshot = load_snapshot(store, "latest")
    rows = read_manifest(store, snapshot)
    assert (snapshot.id, [row.clip_id for row in rows]) == (built.id, [f"c{index}" for index in range(NUM_CLIPS)])
    assert all(store.exists(shard) for shard in shards_of(store))
    assert collect_garbage(store, [], dry_run=False).keys == ()
    packed = pack_snapshot(store, "latest")
    assert (packed.shards_after, packed.snapshot.id) == (3, built.id)
    assert verify_snapshot(store, "latest").sound
    assert_same_windows(store, before)
    collect_garbage(store, [], dry_run=False, older_than_s=0.0)
    assert_same_windows(store, before)


# ------------------------------------------------------------------------------------------------------- the ledger


@pytest.fixture
def ledger_url(store: Storage, tmp_path: Path) -> str:
    """A ledger of the snapshot's features, and of one that no snapshot has."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    offered = small_candidates(store)
    small_snapshot(store)
    other = small_refs(store, ["c90"])
    with Ledger(url) as ledger:
        clips = [candidate.clip for candidate in offered]
        ledger.add_clips("set", [*clips, Clip(clip_id="c90", source="s", video_id="c90", location="x")])
        refs = {candidate.clip.clip_id: candidate.features for candidate in offered} | other
        rows = [
            Row(
                clip_id=clip_id,
                stage=Stage.EXTRACT,
                feature=modality,
                state="done",
                key=ref.key,
                value={"ref": ref.model_dump(mode="json"), "part": f"{modality}/{clip_id}"},
                attempts=1,
                run_id="extract",
            )
            for clip_id, features in refs.items()
            for modality, ref in features.items()
        ]
        with ledger.lease("set", Stage.EXTRACT, "extract") as lease:
            ledger.record(lease, rows)
    return url


def named(url: str) -> dict[tuple[str, str], str]:
    with Ledger(url) as ledger:
        return {(row.clip_id, row.feature): row.value["ref"]["shard"] for row in ledger.rows("set", Stage.EXTRACT)}


def test_the_ledger_names_the_new_shards(store: Storage, ledger_url: str) -> None:
    before = named(ledger_url)
    found = pack(store.url(), "latest", [ledger_url])
    assert (found.ledger_rows, found.ledgers_left) == (NUM_CLIPS * 3, ())
    after = named(ledger_url)
    assert {shard for (clip, _), shard in after.items() if clip != "c90"} == shards_of(store)
    assert {key: shard for key, shard in after.items() if key[0] == "c90"} == {
        key: shard for key, shard in before.items() if key[0] == "c90"
    }
    with Ledger(ledger_url) as ledger:
        row = ledger.rows("set", Stage.EXTRACT)[0]
        assert (row.run_id, row.attempts, row.value["part"]) == ("extract", 1, "audio/c0")
    again = pack(store.url(), "latest", [ledger_url])
    assert (again.changed, again.ledger_rows) == (False, 0)
    assert "nothing to pack" in again.text()


def test_a_ledger_that_a_run_writes_is_left_and_told_by_the_same_command_later(store: Storage, ledger_url: str) -> None:
    before = named(ledger_url)
    with Ledger(ledger_url) as ledger, ledger.lease("set", Stage.EXTRACT, "a-run"):
        found = pack(store.url(), "latest", [ledger_url])
    assert (found.changed, found.ledger_rows) == (True, 0)
    assert "run a-run" in found.ledgers_left[0]
    assert found.ledgers_left[0] in found.text()
    assert named(ledger_url) == before
    in_use = set(before.values())
    assert not in_use & set(collect_garbage(store, in_use, older_than_s=0.0).keys)
    later = pack(store.url(), "latest", [ledger_url])
    assert (later.changed, later.ledger_rows) == (False, NUM_CLIPS * 3)


def test_a_feature_that_was_made_again_keeps_its_place_in_the_ledger(store: Storage, ledger_url: str) -> None:
    """Under the same key, but with other bytes: the ledger's newest is not swapped for the snapshot's."""
    made = pack_shard(store, "audio", "fp", {"c3": small_features(77)["audio"]}, {"c3": "k-c3"})["c3"]
    with Ledger(ledger_url) as ledger, ledger.lease("set", Stage.EXTRACT, "healing") as lease:
        (row,) = [row for row in ledger.rows_of("set", Stage.EXTRACT, ["c3"]) if row.feature == "audio"]
        ledger.record(lease, [row.model_copy(update={"value": {**row.value, "ref": made.model_dump(mode="json")}})])
    assert pack(store.url(), "latest", [ledger_url]).ledger_rows == NUM_CLIPS * 3 - 1
    assert named(ledger_url)["c3", "audio"] == made.shard


def test_rows_of_a_ledger_are_never_held_together(
    store: Storage, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "ROWS_AT_ONCE", 5)
    recorded = list[int]()
    record = Ledger.record

    def counted(self: Ledger, lease: Lease, rows: list[Row]) -> None:
        recorded.append(len(rows))
        record(self, lease, rows)

    monkeypatch.setattr(Ledger, "record", counted)
    with monkeypatch.context() as lent:
        lent.delattr(Ledger, "rows")
        assert pack(store.url(), "latest", [ledger_url]).ledger_rows == NUM_CLIPS * 3
    assert recorded == [5, 5, 5, 5, 4]
    assert {shard for (clip, _), shard in named(ledger_url).items() if clip != "c90"} == shards_of(store)


def test_clips_that_left_the_list_are_told_as_well(store: Storage, ledger_url: str) -> None:
    """Garbage collection asks about them too: their rows would keep the old shards."""
    with Ledger(ledger_url) as ledger:
        kept = [clip for clip in ledger.clips("set") if clip.clip_id != "c0"]
        with ledger.lease("set", Stage.ACQUIRE, "r") as lease:
            assert ledger.relist(lease, "s", kept).left == 1
    assert pack(store.url(), "latest", [ledger_url]).ledger_rows == NUM_CLIPS * 3
    with Ledger(ledger_url) as ledger:
        rows = ledger.rows("set", Stage.EXTRACT, unlisted=True)
    assert {row.value["ref"]["shard"] for row in rows if row.clip_id == "c0"} <= shards_of(store)
