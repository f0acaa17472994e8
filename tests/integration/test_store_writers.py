"""Many processes at one store at once: sealing, building, tagging, packing, collecting, reading."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dualforce_model.keys import is_temporary
from dualforce_model.manifests import read_manifest
from dualforce_model.schema import load_snapshot
from dualforce_model.shards import cached_header, load_feature, read_header
from dualforce_model.storage import Storage
from tasks.packing import pack_snapshot
from tasks.snapshot import list_snapshots, list_tags, tag_snapshot
from tasks.upkeep import collect_garbage, verify_snapshot
from tests.small_store import MODALITIES, small_features, small_refs, small_snapshot

pytestmark = pytest.mark.usefixtures("forkable")

ROUNDS = 12
GRACE_S = 600.0  # a young shard may be one that its writer has not named yet


def together(folder: Path, *works: Callable[[], None]) -> None:
    """Run every work in a process of its own, all started at once; the first that raises is told."""
    context = multiprocessing.get_context("fork")
    barrier, failures = context.Barrier(len(works)), context.SimpleQueue()

    def run(work: Callable[[], None]) -> None:
        cached_header.cache_clear()
        barrier.wait(60)
        try:
            work()
        except BaseException:
            failures.put(traceback.format_exc())
            os._exit(1)

    processes = [context.Process(target=run, args=(work,)) for work in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert failures.empty(), failures.get()
    assert [process.exitcode for process in processes] == [0] * len(works)
    assert not [path for path in folder.rglob("*") if is_temporary(path.name)]


def test_sealing_the_same_and_other_shards_at_once(tmp_path: Path) -> None:
    store = Storage(str(tmp_path))

    def seal(first: int) -> Callable[[], None]:
        def work() -> None:
            small_refs(store, [f"c{number}" for number in range(first, first + 6)])

        return work

    together(tmp_path, seal(0), seal(0), seal(2), seal(6))
    shards = store.list("features")
    assert len(shards) == 6 * len(MODALITIES)  # c0+c1 ... c10+c11, once each
    clips = {clip for shard in shards for clip in read_header(store, shard).keys}
    assert clips == {f"c{number}" for number in range(12)}


def test_building_tagging_packing_collecting_and_reading_at_once(tmp_path: Path) -> None:
    store = Storage(str(tmp_path))
    first = small_snapshot(store)
    expected = small_features(3)

    def build(count: int) -> Callable[[], None]:
        def work() -> None:
            for number in range(ROUNDS):
                small_snapshot(store, count=count + number % 3)

        return work

    def tag() -> None:
        for number in range(4 * ROUNDS):
            tag_snapshot(store, first.id, f"mine-{number % 3}")

    def pack(shard_bytes: int) -> Callable[[], None]:
        def work() -> None:
            for _ in range(ROUNDS):
                pack_snapshot(store, first.id, shard_bytes)
                pack_snapshot(store, "latest", shard_bytes)

        return work

    def collect() -> None:
        for _ in range(2 * ROUNDS):
            found = collect_garbage(store, [], dry_run=False, older_than_s=GRACE_S)
            assert found.keys == (), found.keys

    def read() -> None:
        for _ in range(2 * ROUNDS):
            cached_header.cache_clear()
            (row,) = [row for row in read_manifest(store, load_snapshot(store, "latest")) if row.clip_id == "c3"]
            for modality, ref in row.features.items():
                for name, array in load_feature(store, ref).items():
                    np.testing.assert_array_equal(array, expected[modality][name])

    together(tmp_path, build(6), build(7), tag, pack(2000), pack(1 << 20), collect, read)
    cached_header.cache_clear()
    entries = list_snapshots(store)
    assert len(entries) == 4  # of 6, 7, 8 and 9 clips
    for entry in entries:
        assert verify_snapshot(store, entry.snapshot.id).sound, entry.snapshot.id
    assert set(list_tags(store)) == {"latest", "mine-0", "mine-1", "mine-2"}
    collect_garbage(store, [], dry_run=False, older_than_s=-5.0)
    cached_header.cache_clear()
    assert all(verify_snapshot(store, entry.snapshot.id).sound for entry in entries)


def test_building_again_in_place_beside_readers_and_a_collector(tmp_path: Path) -> None:
    """Each time a shard is damaged that the version names and its features are made again in others."""
    store, done = Storage(str(tmp_path)), tmp_path / "done"
    first, expected = small_snapshot(store), small_features(3)

    def build() -> None:
        try:
            for number in range(2 * ROUNDS):
                damaged = read_manifest(store, load_snapshot(store, first.id))[0].features["audio"].shard
                store.write(damaged, store.read(damaged)[:-1])
                built = small_snapshot(store, per_shard=3 - number % 2)
                assert read_manifest(store, built)[0].features["audio"].shard != damaged
        finally:
            done.write_text("")

    def read() -> None:
        while not done.exists():
            cached_header.cache_clear()
            rows = read_manifest(store, load_snapshot(store, "latest"))
            assert [row.clip_id for row in rows] == [f"c{number}" for number in range(first.num_rows)]
            for name, array in load_feature(store, rows[3].features["video"]).items():
                np.testing.assert_array_equal(array, expected["video"][name])

    def collect() -> None:
        while not done.exists():
            assert collect_garbage(store, [], dry_run=False, older_than_s=GRACE_S).keys == ()

    together(tmp_path, build, read, read, collect)
    cached_header.cache_clear()
    assert verify_snapshot(store, first.id).sound


def test_a_shard_that_no_ledger_names_yet_outlives_a_collector_beside_its_writer(tmp_path: Path) -> None:
    """The writer seals, waits as a ledger would, and builds from what it sealed: all of it is still there."""
    store = Storage(str(tmp_path))
    done = tmp_path / "done"

    def write() -> None:
        for number in range(10, 10 + 2 * ROUNDS):
            refs = small_refs(store, [f"c{number}"])[f"c{number}"]
            assert all(store.exists(ref.shard) for ref in refs.values())
        small_snapshot(store, count=4, per_shard=1)
        done.write_text("")

    def collect() -> None:
        while not done.exists():
            collect_garbage(store, [], dry_run=False, older_than_s=GRACE_S)

    together(tmp_path, write, collect, collect)
    done.unlink()
    assert len(store.list("features")) == (2 * ROUNDS + 4) * len(MODALITIES)
    assert verify_snapshot(store, "latest").sound


def test_two_collectors_do_not_trip_over_each_other(tmp_path: Path) -> None:
    store = Storage(str(tmp_path))
    kept = small_snapshot(store)
    small_refs(store, [f"c{number}" for number in range(20, 60)], per_shard=1)

    def collect() -> None:
        collect_garbage(store, [], dry_run=False, older_than_s=-5.0)

    together(tmp_path, collect, collect, collect)
    assert len(store.list("features")) == 12
    cached_header.cache_clear()
    assert verify_snapshot(store, kept.id).sound


@pytest.fixture(autouse=True)
def forgotten() -> None:
    cached_header.cache_clear()
