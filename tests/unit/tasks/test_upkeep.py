"""A flipped byte anywhere in a store is found, and never becomes a sample; gc spares what is being written."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualforce_model import schema
from dualforce_model.errors import InputError
from dualforce_model.manifests import is_version, read_manifest
from dualforce_model.schema import Feature, Snapshot, SnapshotRow, load_snapshot, tag_key
from dualforce_model.shards import cached_header, load_feature, pack_shard
from dualforce_model.storage import Storage, StorageError
from tasks.packing import pack_snapshot
from tasks.upkeep import collect_garbage, verify_snapshot
from tests.small_store import small_features, small_refs, small_snapshot

Read = dict[str, dict[str, Feature]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Everything a store has: shards, manifest, head, tag, and manifests under their digests."""
    store = Storage(str(tmp_path_factory.mktemp("flips") / "store"))
    small_snapshot(store, count=3)
    pack_snapshot(store, "latest")
    collect_garbage(store, [], dry_run=False, older_than_s=0.0)
    assert verify_snapshot(store, "latest").sound
    return store


def read_all(store: Storage) -> Read:
    """As a reader that has just been started."""
    cached_header.cache_clear()
    rows = read_manifest(store, load_snapshot(store, "latest"))
    return {row.clip_id: {name: load_feature(store, ref) for name, ref in row.features.items()} for row in rows}


def same(one: Read, other: Read) -> bool:
    if one.keys() != other.keys():
        return False
    return all(
        np.array_equal(array, other[clip][name][key])
        for clip, features in one.items()
        for name, feature in features.items()
        for key, array in feature.items()
    )


def check_flip(store: Storage, key: str, position: int, mask: int, good: Read) -> None:
    """Verify finds the byte; a reader refuses, or reads the very same (a space that became a tab)."""
    path = store.local_path(key)
    assert path is not None
    data = path.read_bytes()
    path.write_bytes(data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :])
    where = f"byte {position} of {len(data)} of {key}, {mask:#x}"
    try:
        with suppress(InputError, StorageError):  # the tag or the head is what is damaged, and the message says so
            assert not verify_snapshot(store, "latest").sound, where
        try:
            assert same(read_all(store), good), f"{where}: read as if nothing were"
        except (InputError, StorageError):
            assert not is_version(key), f"{where}: nobody reads it while manifest.parquet is sound"
    finally:
        path.write_bytes(data)


@settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_byte_anywhere_is_found(store: Storage, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(store.list()))
    position = data.draw(st.integers(0, store.size(key) - 1))
    check_flip(store, key, position, data.draw(st.integers(1, 255)), read_all(store))


def test_the_flips_reach_every_kind_of_file(store: Storage) -> None:
    kinds = {key.split("/")[0] + key[key.rindex(".") :] for key in store.list()}
    assert kinds == {"features.safetensors", "snapshots.parquet", "snapshots.json", "tags.json"}
    assert sum(is_version(key) for key in store.list()) == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_byte_is_found(store: Storage) -> None:
    """Each byte of headers, heads and tags, every fifth of arrays and manifests; in turn with another bit."""
    good = read_all(store)
    for key in store.list():
        size = store.size(key)
        if key.endswith(".json"):
            first = size
        else:
            first = 8 + int.from_bytes(store.read_range(key, 0, 8), "little") if key.startswith("features/") else 0
        for position in (*range(first), *range(first, size, 5)):
            check_flip(store, key, position, 1 << (position % 8), good)
    assert verify_snapshot(store, "latest").sound


def test_a_space_that_became_a_tab_is_found_too(store: Storage) -> None:
    """The one kind of flip that changes no meaning: in the head and in the tag."""
    good = read_all(store)
    snapshot = load_snapshot(store, "latest")
    for key in (f"snapshots/{snapshot.id}/head.json", tag_key("latest")):
        check_flip(store, key, store.read(key).index(b" "), ord(" ") ^ ord("\t"), good)
        assert verify_snapshot(store, "latest").sound


def test_a_tag_that_names_nothing_is_told(store: Storage) -> None:
    snapshot = load_snapshot(store, "latest")
    store.write(tag_key("lost"), b'{"snapshot": "0123456789abcdef"}\n')
    (problem,) = verify_snapshot(store, snapshot.id).problems
    assert "names 0123456789abcdef, which is not there" in problem
    store.delete(tag_key("lost"))


class Counted(tuple[SnapshotRow, ...]):
    """Rows that count how often somebody goes through them."""

    passes = 0

    def __iter__(self) -> Iterator[SnapshotRow]:
        Counted.passes += 1
        return super().__iter__()


def test_verify_goes_through_the_rows_as_often_for_many_shards_as_for_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each shard would be hours for the clips and shards of a large data set."""
    read, found = schema.read_manifest, list[tuple[int, int]]()

    def counted(held: Storage, snapshot: Snapshot) -> Counted:
        return Counted(read(held, snapshot))

    monkeypatch.setattr(schema, "read_manifest", counted)
    for per_shard in (1, 8):
        store = Storage(str(tmp_path / str(per_shard)))
        small_snapshot(store, 8, per_shard)
        monkeypatch.setattr(Counted, "passes", 0)
        verified = verify_snapshot(store, "latest")
        assert verified.sound
        found.append((verified.num_shards, Counted.passes))
    (many, often), (few, seldom) = found
    assert (many, few) == (24, 3)
    assert often == seldom > 0


def test_a_damaged_shard_is_told_with_its_clips_and_no_others(tmp_path: Path) -> None:
    store = Storage(str(tmp_path))
    rows = read_manifest(store, small_snapshot(store, count=6))
    shard = rows[2].features["audio"].shard
    store.write(shard, store.read(shard)[:-1])
    cut, *_ = verify_snapshot(store, "latest").problems
    assert "; it holds c2, c3; `dualforce rerun --damaged`" in cut


# --------------------------------------------------------------------------------------------------------------- gc


def test_gc_spares_a_shard_that_was_written_again_while_it_looked(tmp_path: Path) -> None:
    """The same features give the same name: an old orphan may be tomorrow's feature, just written and not yet named."""
    store = Storage(str(tmp_path))
    ref = small_refs(store, ["c1"])["c1"]["audio"]
    path = store.local_path(ref.shard)
    assert path is not None
    os.utime(path, (0, 0))
    limit = time.time() - 3600
    assert collect_garbage(store, [], older_than_s=3600).keys == (ref.shard,)
    pack_shard(store, "audio", "fp", {"c1": small_features(1)["audio"]}, {"c1": "k-c1"})
    assert store.delete_unless_newer(ref.shard, limit) is False
    assert store.list("features/audio") == [ref.shard]
    os.utime(path, (0, 0))
    assert store.delete_unless_newer(ref.shard, limit) is True
    assert store.list("features/audio") == []
    assert os.listdir(path.parent) == []
