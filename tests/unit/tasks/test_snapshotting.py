"""Snapshots as commands ask for them."""

import json
from pathlib import Path

import pytest

from dualforce_model.schema import Snapshot, encode_head, head_key, tag_key
from dualforce_model.storage import Storage
from tasks.ledger import LedgerError
from tasks.snapshotting import collect, listing, shown

OLDER, BAD, NEWER = "0" * 16, "1" * 16, "2" * 16
DAMAGE = {
    "empty": b"",
    "cut short": b'{"checksum": "ab',
    "not text": b"\xff\xfe",
    "another document": b"[]",
    "no checksum": b"{}",
    "wrong checksum": b'{"checksum": "0", "snapshot": {}}',
    "no number": b'{"checksum": "0", "snapshot": NaN}',
    "half a character": b'{"checksum": "0", "snapshot": "\\ud800"}',
    "deep": b"[" * 200_000,
    "a huge number": b'{"checksum": "0", "snapshot": ' + b"9" * 10_000 + b"}",
}


def head(snapshot_id: str, created_at: str) -> bytes:
    counts = {"num_rows": 1, "num_frames": 5, "splits": {"train": 1}, "quarantined": {}, "failed": {}}
    facts = {"content": "c", "dataset": "set", "policy": {}, "modalities": {}, "statistics": {}}
    made = {"id": snapshot_id, "created_at": created_at, "manifest_digest": "d"}
    return encode_head(Snapshot.model_validate(counts | facts | made))


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    """Two sound versions and a place for a damaged one that a tag names."""
    store = Storage(str(tmp_path / "store"))
    store.write(head_key(OLDER), head(OLDER, "2026-01-01"))
    store.write(head_key(NEWER), head(NEWER, "2026-02-01"))
    store.write(tag_key("latest"), json.dumps({"snapshot": NEWER}).encode())
    store.write(tag_key("paper"), json.dumps({"snapshot": BAD}).encode())
    return store


def test_what_a_ledger_that_is_not_there_names_cannot_be_known(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(LedgerError, match="there is none; check the URL"):
        collect(str(tmp_path / "store"), (f"sqlite:///{tmp_path}/mistyped.db",), delete=True)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_head_hides_no_other_version(store: Storage, content: bytes) -> None:
    store.write(head_key(BAD), content)
    found = listing(store.url())
    assert [view.snapshot.id for view in found.snapshots] == [NEWER, OLDER]
    assert [view.tags for view in found.snapshots] == [("latest",), ()]
    (damaged,) = found.damaged
    assert (damaged.id, damaged.tags) == (BAD, ("paper",))
    assert damaged.reason.startswith(store.url(head_key(BAD)))
    assert "restore it or build again" in damaged.reason
    assert shown(store.url(), "latest").tags == ("latest",)


def test_the_head_of_another_version_is_damage_too(store: Storage) -> None:
    store.write(head_key(BAD), head(OLDER, "2026-01-01"))
    store.write(head_key("latest"), b"{}")  # a folder that is named like a tag is not what the tag names
    damaged = {version.id: version.reason for version in listing(store.url()).damaged}
    assert f"the head of another snapshot, {OLDER}" in damaged[BAD]
    assert "16 hex digits" in damaged["latest"]
