"""`dualforce snapshots` beside a damaged head."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dualforce_model.schema import Snapshot, encode_head, head_key, tag_key
from dualforce_model.storage import Storage
from flows.cli import _failure, _register, cli
from flows.terminal import PROBLEMS
from tasks.ledger import Ledger
from tests.small_store import small_snapshot

_register()
SOUND, BAD = "0" * 16, "1" * 16


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    """A sound version, and a tag for one that is not there yet."""
    counts = {"num_rows": 1, "num_frames": 5, "splits": {"train": 1}, "quarantined": {}, "failed": {}}
    facts = {"content": "c", "dataset": "set", "policy": {}, "modalities": {}, "statistics": {}}
    made = {"id": SOUND, "created_at": "2026-01-01", "manifest_digest": "d"}
    store = Storage(str(tmp_path / "store"))
    store.write(head_key(SOUND), encode_head(Snapshot.model_validate(counts | facts | made)))
    store.write(tag_key("paper"), json.dumps({"snapshot": BAD}).encode())
    return store


def ask(store: Storage, *words: str) -> tuple[Result, int]:
    result = CliRunner().invoke(cli, ["snapshots", *words, "--store", store.url()])
    finish = None if result.exception is None else _failure(result.exception)
    assert result.exception is None or finish is not None, result.exception
    return result, finish.code if finish else 0


def test_the_list_has_what_is_sound_names_what_is_not_and_ends_with_6(store: Storage) -> None:
    assert ask(store, "list")[1] == 0
    store.write(head_key(BAD), b"")
    said, code = ask(store, "list")
    sound, damaged = said.stdout.splitlines()
    assert (code, sound[:16]) == (PROBLEMS, SOUND)
    assert damaged.startswith(f"{BAD} (paper)  damaged: {store.url(head_key(BAD))}: not a snapshot head")


def test_so_does_its_json(store: Storage) -> None:
    store.write(head_key(BAD), b"")
    said, code = ask(store, "list", "--json")
    document = json.loads(said.stdout)
    assert code == PROBLEMS
    assert [view["snapshot"]["id"] for view in document["snapshots"]] == [SOUND]
    (damaged,) = document["damaged"]
    assert (damaged["id"], damaged["tags"]) == (BAD, ["paper"])
    assert "not a snapshot head" in damaged["reason"]
    assert ask(store, "show", SOUND)[1] == 0


# ------------------------------------------------------------------------------------------------ packing, exporting


def test_pack_says_what_it_did_and_what_it_left(tmp_path: Path) -> None:
    store = Storage(str(tmp_path / "store"))
    snapshot = small_snapshot(store, count=4)
    refused = CliRunner().invoke(cli, ["snapshots", "pack", "latest", "--store", store.url()])
    assert refused.exit_code == 2
    assert "give --no-ledger" in refused.stderr
    said, code = ask(store, "pack", "latest", "--no-ledger")
    assert code == 0
    assert said.stdout.startswith(f"{snapshot.id}: 6 shards -> 3; 0 ledger rows")
    with Ledger(f"sqlite:///{tmp_path}/ledger.db"):
        said, code = ask(store, "pack", "latest", "--json")
    assert (code, json.loads(said.stdout)["changed"]) == (0, False)
    assert ask(store, "verify", "latest")[1] == 0


def test_export_makes_a_folder_once(tmp_path: Path) -> None:
    store = Storage(str(tmp_path / "store"))
    snapshot = small_snapshot(store, count=4)
    for form in ("clips", "huggingface"):
        words = ("export", snapshot.id[:6], "--to", str(tmp_path / form), "--form", form, "--json")
        said, code = ask(store, *words)
        assert code == 0
        assert json.loads(said.stdout)["clips"] == 4
        assert (tmp_path / form / "README.md").is_file()
        assert ask(store, *words)[1] == 2
