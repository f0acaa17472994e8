"""A version that is built again in place: whoever reads meanwhile, or after a kill, finds the rows its head names."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dualforce_model.data import SnapshotDataset
from dualforce_model.manifests import is_version, read_manifest
from dualforce_model.schema import SchemaError, Snapshot, SnapshotRow, head_key, load_snapshot, manifest_key
from dualforce_model.shards import cached_header, load_feature
from dualforce_model.storage import Storage
from tasks import snapshot
from tasks.upkeep import collect_garbage, verify_snapshot
from tests.small_store import small_features, small_snapshot

ROOT = Path(__file__).resolve().parents[3]
NUM_CLIPS = 8
NUM_WRITES = 4  # both manifests under their digests, the head, manifest.parquet


class StoppedError(Exception):
    """What a test raises in place of a write."""


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    """A version of which a shard is damaged; `build_again` has features in other shards."""
    store = Storage(str(tmp_path / "store"))
    damage(store, small_snapshot(store, NUM_CLIPS))
    return store


def damage(store: Storage, built: Snapshot) -> None:
    """Flip the last bit of the shard with the first clip's audio."""
    path = store.local_path(read_manifest(store, built)[0].features["audio"].shard)
    assert path is not None
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def build_again(store: Storage) -> Snapshot:
    return small_snapshot(store, NUM_CLIPS, per_shard=3)


def shards_of(rows: tuple[SnapshotRow, ...]) -> set[str]:
    return {ref.shard for row in rows for ref in row.features.values()}


def read_as_strangers(store: Storage, held: Snapshot, rows: tuple[SnapshotRow, ...]) -> str:
    """Read as one who loads the head now, and as one who loaded it before; the digest of the manifest named now."""
    now = load_snapshot(store, "latest")
    assert (now.id, now.content) == (held.id, held.content)
    found = read_manifest(store, now)
    assert [row.canonical() for row in found] == [row.canonical() for row in rows]
    assert read_manifest(store, held) == rows
    cached_header.cache_clear()
    np.testing.assert_array_equal(
        load_feature(store, found[-1].features["audio"])["tokens"], small_features(NUM_CLIPS - 1)["audio"]["tokens"]
    )
    assert len(SnapshotDataset(store.url(), "latest", 5)) == NUM_CLIPS
    return now.manifest_digest


def watch(monkeypatch: pytest.MonkeyPatch, look: Callable[[], None], stop_at: int | None = None) -> None:
    """Look before and after each write below `snapshots`; raise in place of one of them."""
    write, visits = Storage.write, list[str]()

    def watched(self: Storage, key: str, data: bytes, points: str = "") -> None:
        if not key.startswith("snapshots/"):
            return write(self, key, data, points)
        look()
        if len(visits) == stop_at:
            raise StoppedError(key)
        visits.append(key)
        write(self, key, data, points)
        look()

    monkeypatch.setattr(Storage, "write", watched)


def test_whoever_reads_between_two_writes_finds_what_the_head_names(
    store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = load_snapshot(store, "latest")
    rows, named = read_manifest(store, held), list[str]()
    with monkeypatch.context() as lent:
        watch(lent, lambda: named.append(read_as_strangers(store, held, rows)))
        built = build_again(store)
    before, after = 5, 3  # looks around four writes, of which the head is the third
    assert named == [held.manifest_digest] * before + [built.manifest_digest] * after
    assert built == load_snapshot(store, "latest")
    assert rows[0].features["audio"].shard not in shards_of(read_manifest(store, built)), "the damaged one"
    assert verify_snapshot(store, "latest").sound


@pytest.mark.parametrize("stop_at", range(NUM_WRITES))
def test_stopped_before_any_write_the_version_is_whole_and_building_again_ends_alike(
    store: Storage, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    held = load_snapshot(store, "latest")
    rows = read_manifest(store, held)
    with monkeypatch.context() as lent:
        watch(lent, lambda: None, stop_at)
        with pytest.raises(StoppedError):
            build_again(store)
    read_as_strangers(store, held, rows)
    assert collect_garbage(store, [], dry_run=False).keys == ()
    assert_ends_alike(store, held)


def assert_ends_alike(store: Storage, held: Snapshot) -> None:
    """Built once more, the version is sound, and stays so when what nothing names is gone."""
    built = build_again(store)
    assert (built.id, built.content) == (held.id, held.content)
    assert verify_snapshot(store, "latest").sound
    collect_garbage(store, [], dry_run=False, older_than_s=-5.0)
    cached_header.cache_clear()
    assert verify_snapshot(store, "latest").sound
    assert set(store.list("features")) == shards_of(read_manifest(store, built))
    assert sum(is_version(key) for key in store.list("snapshots")) == 1


def test_a_version_that_another_build_finished_meanwhile_is_replaced_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was none when this build looked; the other's readers are not left without their rows."""
    store, others = Storage(str(tmp_path / "new")), list[tuple[Snapshot, tuple[SnapshotRow, ...]]]()

    def overtaken(held: Storage, name: str) -> Snapshot:
        monkeypatch.setattr(snapshot, "load_snapshot", load_snapshot)
        other = build_again(held)
        others.append((other, read_manifest(held, other)))
        watch(monkeypatch, lambda: named.append(read_as_strangers(store, *others[0])))
        raise SchemaError("there was none")

    named = list[str]()
    monkeypatch.setattr(snapshot, "load_snapshot", overtaken)
    built = small_snapshot(store, NUM_CLIPS)
    assert len(named) == 2 * NUM_WRITES
    assert built == load_snapshot(store, "latest") != others[0][0]
    assert verify_snapshot(store, "latest").sound


@pytest.mark.parametrize("key_of", [head_key, manifest_key])
def test_what_nobody_can_read_any_more_is_written_over(store: Storage, key_of: Callable[[str], str]) -> None:
    held = load_snapshot(store, "latest")
    store.write(key_of(held.id), b"damaged")
    built = build_again(store)
    assert (built.id, built.content) == (held.id, held.content)
    assert verify_snapshot(store, "latest").sound
    assert not any(is_version(key) for key in store.list("snapshots")), "damaged bytes are not kept under a digest"


BUILD = """
import sys
from dualforce_model.storage import Storage
from tests.small_store import small_snapshot
small_snapshot(Storage(sys.argv[1]), int(sys.argv[2]), per_shard=3)
"""


@pytest.mark.parametrize(
    "point", ["snapshot.before_manifest", "pack.before_head", "pack.after_head", "pack.after_manifest"]
)
def test_killed_anywhere_the_version_is_whole_and_building_again_ends_alike(store: Storage, point: str) -> None:
    held = load_snapshot(store, "latest")
    rows = read_manifest(store, held)
    command = [sys.executable, "-c", BUILD, store.url(), str(NUM_CLIPS)]
    environment = {**os.environ, "DUALFORCE_KILL_AT": point}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    read_as_strangers(store, held, rows)
    assert_ends_alike(store, held)
