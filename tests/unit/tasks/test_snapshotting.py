"""Snapshots as commands ask for them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dualforce_model.schema import Snapshot, encode_head, head_key, load_snapshot, read_manifest, tag_key
from dualforce_model.shards import pack_shard
from dualforce_model.storage import Storage
from tasks import snapshotting
from tasks.accounting import AcrossClips, account, fates
from tasks.duplicates import NUM_DIGITS, Twin
from tasks.extract import ExtractConfig, wanted_features
from tasks.ledger import Ledger, LedgerError
from tasks.ledger_tables import Row
from tasks.place import Place
from tasks.policy import load_policy
from tasks.records import Clip, FailureClass, Reason, Stage
from tasks.snapshot import SnapshotError, SplitConfig
from tasks.snapshotting import SnapshotConfig, build_from_ledger, candidates, collect, listing, shown

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


# --------------------------------------------------------------------------------------------------- from the ledger

EXTRACT = ExtractConfig(modalities=("structure",))
CONFIG = SnapshotConfig(split=SplitConfig(validation=0.0))
POLICY = """name: asking
drop:
  face_px: {at_least: 100, when_not_measured: drop}
  duplicate: {at_most: 0, when_not_measured: pass}
"""
LISTED = ("z", "cut", "copy", "small", "faceless", "broken", "lost", "gone", "left", "new")
PASSING = ("cut-1", "cut-2", "z")


def like(seed: int) -> str:
    """A likeness by chance."""
    return "".join(np.random.default_rng(seed).choice(list("123456789abcdef"), NUM_DIGITS))


def feature(clip_id: str) -> tuple[str, str]:
    """Key and fingerprint of a clip's feature; its crop's digest is its name."""
    return wanted_features(EXTRACT, clip_id)["structure"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A ledger with clips of all kinds, the features of those that are through, and a policy."""
    place = Place(dataset="d", home=str(tmp_path))
    (tmp_path / "policy.yaml").write_text(POLICY)
    with Ledger(place.ledger_url) as ledger:
        ledger.add_clips("d", [Clip(clip_id=name, source="x", video_id=name, location="x") for name in LISTED])
        pieces = [Clip(clip_id=f"cut-{n}", source="x", video_id="cut", location="x", parent_id="cut") for n in (1, 2)]
        ledger.add_clips("d", pieces)
        for stage, rows in stored(place).items():
            with ledger.lease("d", stage, "r") as lease:
                ledger.record(lease, rows)
        with ledger.lease("d", Stage.ACQUIRE, "r") as lease:
            stay = [Clip(clip_id=name, source="x", video_id=name, location="x") for name in LISTED if name != "left"]
            ledger.relist(lease, "x", stay)
    return place


def stored(place: Place) -> dict[Stage, list[Row]]:
    """What each stage says: `lost` has the crop of a download that has failed since, `copy` looks like `z`."""
    failed = {"state": "failed", "failure": FailureClass.CRASH, "detail": "x", "attempts": 3}
    cropped = ("z", "cut-1", "cut-2", "copy", "small", "broken", "lost", "left")
    downloads = [
        Row(clip_id=name, stage=Stage.ACQUIRE, state="done", key="k", value={"digest": f"video {name}"})
        for name in LISTED
        if name not in ("gone", "lost", "new")
    ]
    downloads += [Row(clip_id="lost", stage=Stage.ACQUIRE, key="k", **failed)]
    downloads += [Row(clip_id="gone", stage=Stage.ACQUIRE, state="impossible", key="k", reason=Reason.GONE)]
    crops = []
    for index, name in enumerate(cropped):
        scores = {"face_px": {"method": "box", "value": 50.0 if name == "small" else 200.0}}
        value = {"digest": name, "num_frames": 5, "scores": scores, "likeness": like(0 if name == "copy" else index)}
        crops.append(Row(clip_id=name, stage=Stage.CURATE, state="done", key="k", value=value))
    crops += [Row(clip_id="faceless", stage=Stage.CURATE, state="impossible", key="k", reason=Reason.NO_FACE)]
    made = [name for name in cropped if name != "broken"]
    motions = {name: {"motion": np.full((5, 3), index, np.float32)} for index, name in enumerate(made)}
    keys = {name: feature(name)[0] for name in made}
    refs = pack_shard(Storage(place.store_url), "structure", feature("z")[1], motions, keys)
    features = [
        Row(
            clip_id=name,
            stage=Stage.EXTRACT,
            feature="structure",
            state="done",
            key=keys[name],
            value={"ref": refs[name].model_dump()},
        )
        for name in made
    ]
    features += [Row(clip_id="broken", stage=Stage.EXTRACT, feature="structure", key=feature("broken")[0], **failed)]
    old = Row(clip_id="cut-1", stage=Stage.EXTRACT, feature="audio", key="of another extractor", **failed)
    return {Stage.ACQUIRE: downloads, Stage.CURATE: crops, Stage.EXTRACT: [*features, old]}


def policy_of(place: Place) -> str:
    return f"{place.home}/policy.yaml"


@pytest.fixture
def ledger(place: Place) -> Iterator[Ledger]:
    with Ledger(place.ledger_url) as opened:
        yield opened


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_a_version_holds_what_passes_and_counts_the_rest(
    place: Place, ledger: Ledger, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshotting, "AT_ONCE", at_once)
    built = build_from_ledger(place, policy_of(place), EXTRACT, CONFIG)
    assert built.written
    rows = read_manifest(Storage(place.store_url), load_snapshot(Storage(place.store_url), built.snapshot.id))
    assert [row.clip_id for row in rows] == list(PASSING)
    assert {row.media_digest for row in rows} == {"video cut", "video z"}
    counts = account(fates(ledger, "d", load_policy(policy_of(place)), EXTRACT))
    assert built.snapshot.quarantined == counts.quarantined
    assert built.snapshot.quarantined == {"duplicate": 1, "face_too_small": 1, "gone": 1, "no_face": 1}
    assert built.snapshot.failed == counts.failed == {"crash": 2}
    again = build_from_ledger(place, policy_of(place), EXTRACT, CONFIG)
    assert (again.written, again.snapshot) == (False, built.snapshot)


def test_candidates_come_in_the_order_of_the_list_without_those_that_failed_or_left(
    ledger: Ledger, place: Place
) -> None:
    across = AcrossClips(ledger, "d", load_policy(policy_of(place)))
    found = list(candidates(ledger, "d", EXTRACT, across))
    assert [candidate.clip.clip_id for candidate in found] == ["z", "copy", "small", "cut-1", "cut-2"]
    assert all(set(candidate.features) == {"structure"} for candidate in found), "another extractor's say nothing"
    assert [candidate.scores["duplicate"].value for candidate in found] == [0.0, 1.0, 0.0, 0.0, 0.0]


def test_a_build_takes_the_duplicates_it_is_given(place: Place, ledger: Ledger) -> None:
    across = AcrossClips(ledger, "d", load_policy(policy_of(place)))
    across.twins["cut-2"] = Twin("z", 0.95)
    built = build_from_ledger(place, policy_of(place), EXTRACT, CONFIG, across)
    assert (built.snapshot.num_rows, built.snapshot.quarantined["duplicate"]) == (2, 2)


def test_a_lost_shard_is_named_with_its_remedy(place: Place) -> None:
    for path in Path(place.store_url).rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(SnapshotError, match=r"gone or damaged: .*dualforce rerun --damaged --out"):
        build_from_ledger(place, policy_of(place), EXTRACT, CONFIG)


# --------------------------------------------------------------------------------------------------------------- gc


def test_gc_keeps_what_the_ledger_names_and_never_holds_its_rows_together(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what it knows of clips that left the list, whose features come back with them."""
    store = Storage(place.store_url)
    feature_key, fingerprint = feature("left")
    alone, orphan = (
        pack_shard(
            store, "structure", fingerprint, {name: {"motion": np.ones((5, 3), np.float32)}}, {name: feature_key}
        )
        for name in ("left", "nobody")
    )
    with Ledger(place.ledger_url) as ledger, ledger.lease("d", Stage.EXTRACT, "r") as lease:
        (row,) = [row for row in ledger.stream("d", Stage.EXTRACT, unlisted=True) if row.clip_id == "left"]
        ledger.record(lease, [row.model_copy(update={"value": {"ref": alone["left"].model_dump()}})])
    for key in store.list("features"):
        os.utime(f"{place.store_url}/{key}", (0, 0))  # sealed long ago
    with monkeypatch.context() as lent:
        lent.delattr(Ledger, "rows")
        found = collect(place.store_url, (place.ledger_url,), delete=True)
    assert found.keys == (orphan["nobody"].shard,)
    assert len(store.list("features")) == 2
