"""A manifest that is replaced: every reader finds the rows that its head names."""

import hashlib
from pathlib import Path

import pytest

from dualforce_model import schema
from dualforce_model.manifests import (
    is_version,
    read_manifest,
    read_version,
    replace_manifest,
    restore_manifest,
    version_key,
)
from dualforce_model.schema import SchemaError, Snapshot, SnapshotRow, encode_head, head_key, manifest_key
from dualforce_model.storage import MissingKeyError, Storage
from tests.small_store import small_snapshot


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def snapshot(store: Storage) -> Snapshot:
    return small_snapshot(store, count=3)


def moved(rows: tuple[SnapshotRow, ...]) -> tuple[SnapshotRow, ...]:
    """The same rows, pointing elsewhere."""
    elsewhere = f"features/audio/fp/{'0' * 32}.safetensors"
    features = {**rows[0].features, "audio": rows[0].features["audio"].model_copy(update={"shard": elsewhere})}
    return (rows[0].model_copy(update={"features": features}), *rows[1:])


def test_who_holds_the_old_head_reads_the_old_rows_and_the_new_head_the_new(store: Storage, snapshot: Snapshot) -> None:
    before = read_manifest(store, snapshot)
    replaced = replace_manifest(store, snapshot, moved(before))
    assert replaced == schema.load_snapshot(store, snapshot.id)
    assert schema.read_manifest(store, replaced) == read_manifest(store, replaced) == moved(before)
    with pytest.raises(SchemaError, match="not those the head names"):
        schema.read_manifest(store, snapshot)
    assert read_manifest(store, snapshot) == before
    versions = [key for key in store.list("snapshots") if is_version(key)]
    assert versions == sorted(version_key(snapshot.id, each.manifest_digest) for each in (snapshot, replaced))


def test_a_head_without_its_manifest_is_restored_from_the_version(store: Storage, snapshot: Snapshot) -> None:
    rows = read_manifest(store, snapshot)
    replaced = replace_manifest(store, snapshot, moved(rows))
    good = store.read(manifest_key(snapshot.id))
    store.write(manifest_key(snapshot.id), b"another writer's")
    assert restore_manifest(store, replaced) == moved(rows)
    assert store.read(manifest_key(snapshot.id)) == good
    store.delete(manifest_key(snapshot.id))
    assert read_manifest(store, replaced) == moved(rows)


def test_the_last_head_decides_whatever_manifest_came_last(store: Storage, snapshot: Snapshot) -> None:
    """One packer writes its head between head and manifest of the other: the one that ends last mends it."""
    rows = read_manifest(store, snapshot)
    first = replace_manifest(store, snapshot, moved(rows))
    replace_manifest(store, snapshot, rows)
    store.write(head_key(snapshot.id), encode_head(first))
    assert replace_manifest(store, first, moved(rows)) == first
    assert schema.read_manifest(store, schema.load_snapshot(store, snapshot.id)) == moved(rows)


def test_damage_without_a_version_stays_an_error(store: Storage, snapshot: Snapshot) -> None:
    store.write(manifest_key(snapshot.id), b"damaged")
    with pytest.raises(SchemaError, match="not those the head names"):
        read_manifest(store, snapshot)
    store.delete(manifest_key(snapshot.id))
    with pytest.raises(MissingKeyError):
        restore_manifest(store, snapshot)


def test_a_version_must_be_what_its_name_tells(store: Storage, snapshot: Snapshot) -> None:
    data = store.read(manifest_key(snapshot.id))
    key = version_key(snapshot.id, hashlib.sha256(data).hexdigest())
    store.write(key, data[:-1])
    with pytest.raises(SchemaError, match="not those its name tells"):
        read_version(store, key)


def test_who_holds_an_old_head_restores_nothing_over_a_newer_one(store: Storage, snapshot: Snapshot) -> None:
    rows = read_manifest(store, snapshot)
    replaced = replace_manifest(store, snapshot, moved(rows))
    assert restore_manifest(store, snapshot) == rows
    assert schema.read_manifest(store, replaced) == moved(rows)


def test_a_head_that_comes_between_look_and_write_decides(
    store: Storage, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_manifest(store, snapshot)
    replaced = replace_manifest(store, snapshot, moved(rows))
    store.write(head_key(snapshot.id), encode_head(snapshot))  # of a packer that was slower
    write = Storage.write

    def overtaken(self: Storage, key: str, data: bytes, points: str = "") -> None:
        monkeypatch.setattr(Storage, "write", write)
        self.write(head_key(snapshot.id), encode_head(replaced))
        write(self, key, data, points)

    monkeypatch.setattr(Storage, "write", overtaken)
    assert restore_manifest(store, snapshot) == rows
    assert schema.read_manifest(store, schema.load_snapshot(store, snapshot.id)) == moved(rows)
