"""Snapshots: the same input gives the same id, whatever happened on the way, and nothing else does."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.layout import Layout, Part
from dualforce_model.schema import (
    Feature,
    FeatureRef,
    SchemaError,
    head_key,
    load_snapshot,
    manifest_key,
    read_manifest,
    tag_key,
)
from dualforce_model.shards import cached_header, load_feature, pack_shard
from dualforce_model.storage import Storage
from tasks.policy import AtLeast, DropRules, LighterAbove, Policy, WeightRules
from tasks.records import Clip, Score, Span
from tasks.snapshot import (
    SnapshotCandidate,
    SnapshotError,
    SplitConfig,
    assign_split,
    build_snapshot,
    decide,
    diff_snapshots,
    list_snapshots,
    list_tags,
    rows_id,
    tag_snapshot,
)
from tasks.snapshotting import SnapshotView
from tasks.statistics import tensor_statistics
from tasks.upkeep import collect_garbage, verify_snapshot

POLICY = Policy(
    name="test",
    drop=DropRules(face_px=AtLeast(at_least=100, when_not_measured="drop")),
    weigh=WeightRules(yaw_deg=LighterAbove(at_most=45, when_not_measured="pass", weight=0.5)),
)
NUM_FRAMES = 17
NO_HOLD_OUT = SplitConfig(validation=0.0)
# Of one clip's structure, as it was before features could have optional arrays.
CONTENT_BEFORE = "a04485456a4768d70374d15e8b95e0afa7471c58e7be283db4640e46a6a69c11"


def motion(seed: int) -> Feature:
    return {"motion": np.random.default_rng(seed).standard_normal((NUM_FRAMES, 3)).astype(np.float32)}


def tokens(seed: int) -> Feature:
    return {"tokens": np.random.default_rng(seed).standard_normal((2 * NUM_FRAMES, 4)).astype(np.float16)}


def pack_all(store: Storage, clips: Iterable[str], per_shard: int = 3) -> dict[str, dict[str, FeatureRef]]:
    names = list(clips)
    refs: dict[str, dict[str, FeatureRef]] = {name: {} for name in names}
    for start in range(0, len(names), per_shard):
        part = names[start : start + per_shard]
        for modality, make in (("structure", motion), ("audio", tokens)):
            features = {name: make(int(name[1:])) for name in part}
            keys = {name: f"{modality}-key-{name}" for name in part}
            for name, ref in pack_shard(store, modality, f"{modality}-fp", features, keys).items():
                refs[name][modality] = ref
    return refs


def candidate(name: str, refs: dict[str, FeatureRef], face_px: float = 200.0, yaw: float = 0.0) -> SnapshotCandidate:
    clip = Clip(
        clip_id=name,
        source="test",
        video_id=f"v{int(name[1:]) // 2}",
        location=f"http://127.0.0.1:1/{name}.mp4",
        span=Span(start_s=1.0, end_s=2.0),
        identity=f"speaker-{int(name[1:]) % 5}",
    )
    scores = {"face_px": Score(method="box", value=face_px), "yaw_deg": Score(method="pose", value=yaw)}
    return SnapshotCandidate(clip=clip, media_digest="d" * 64, num_frames=NUM_FRAMES, scores=scores, features=refs)


def candidates(store: Storage, count: int = 8, per_shard: int = 3) -> list[SnapshotCandidate]:
    names = [f"c{index:02d}" for index in range(count)]
    refs = pack_all(store, names, per_shard)
    return [candidate(name, refs[name], yaw=60.0 if name == "c01" else 0.0) for name in names]


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def test_the_same_input_gives_the_same_id_and_writes_nothing(store: Storage) -> None:
    offered = candidates(store)
    first = build_snapshot(store, offered, POLICY, "set", tag="latest", split=NO_HOLD_OUT)
    assert first.written
    before = {key: (store.read(key), store.modified_at(key)) for key in store.list()}
    second = build_snapshot(store, reversed(offered), POLICY, "set", tag="latest", split=NO_HOLD_OUT)
    assert not second.written
    assert second.snapshot == first.snapshot
    assert {key: (store.read(key), store.modified_at(key)) for key in store.list()} == before


def test_neither_shards_nor_hosts_nor_order_enter_the_id_or_the_content(tmp_path: Path) -> None:
    one, two = Storage(str(tmp_path / "one")), Storage(f"memory://{tmp_path}/two")
    first = build_snapshot(one, candidates(one, per_shard=3), POLICY, "set").snapshot
    moved = [
        item.model_copy(update={"clip": item.clip.model_copy(update={"location": "https://elsewhere/x"})})
        for item in candidates(two, per_shard=8)
    ]
    second = build_snapshot(two, moved[::-1], POLICY, "set").snapshot
    assert (second.id, second.content, second.statistics) == (first.id, first.content, first.statistics)


def test_what_the_data_are_enters_the_id(store: Storage) -> None:
    offered = candidates(store)
    rows, _ = decide(offered, POLICY, NO_HOLD_OUT)
    known = rows_id(rows, POLICY)
    row = rows[0]
    ref = row.features["audio"].model_copy(update={"key": "other"})
    others = [
        row.model_copy(update={"media_digest": "e" * 64}),
        row.model_copy(update={"span_end_s": 3.0}),
        row.model_copy(update={"split": "test"}),
        row.model_copy(update={"weight": 0.25}),
        row.model_copy(update={"features": {**row.features, "audio": ref}}),
    ]
    ids = {rows_id((other, *rows[1:]), POLICY) for other in others}
    stricter = POLICY.model_copy(update={"name": "other"})
    ids |= {known, rows_id(rows, stricter), rows_id(rows[1:], POLICY)}
    assert len(ids) == 8


def test_a_snapshot_says_what_it_holds_and_what_it_left_out(store: Storage) -> None:
    offered = candidates(store)
    small = candidate("c90", {}, face_px=50.0)
    built = build_snapshot(
        store, [*offered, small], POLICY, "set", quarantined={"gone": 2, "face_too_small": 1}, failed={"network": 1}
    )
    snapshot = load_snapshot(store, built.snapshot.id)
    assert snapshot == built.snapshot
    assert snapshot.quarantined == {"face_too_small": 2, "gone": 2}
    assert snapshot.failed == {"network": 1}
    assert (snapshot.num_rows, snapshot.num_frames, sum(snapshot.splits.values())) == (8, 8 * NUM_FRAMES, 8)
    assert snapshot.modalities["structure"].tensors == {"motion": (3,)}
    assert Policy.model_validate(snapshot.policy) == POLICY
    rows = read_manifest(store, snapshot)
    assert [row.clip_id for row in rows] == [f"c{index:02d}" for index in range(8)]
    assert {row.clip_id: row.weight for row in rows}["c01"] == 0.5
    assert "127.0.0.1" not in str(store.read(manifest_key(snapshot.id)))


def test_statistics_are_those_of_the_training_split(store: Storage) -> None:
    snapshot = build_snapshot(store, candidates(store, 20), POLICY, "set", split=SplitConfig(validation=0.4)).snapshot
    rows = [row for row in read_manifest(store, snapshot) if row.split == "train"]
    assert 0 < len(rows) < 20
    stacked = np.concatenate([load_feature(store, row.features["structure"])["motion"] for row in rows]).astype(float)
    found = snapshot.statistics["structure.motion"]
    np.testing.assert_allclose(found.mean, stacked.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, stacked.std(0), rtol=1e-12)


LAYOUT = Layout(
    name="lp3",
    version=2,
    parts=(Part(name="exp", start=0, stop=3, unit="net units", source="test", at_rest=(2,)),),
    std_floor=0.25,
)


def restful(store: Storage, clips: Iterable[str], at_rest: Iterable[str]) -> list[SnapshotCandidate]:
    """Candidates with structure alone, some of them with key points at rest."""
    made = {name: motion(int(name[1:])) for name in clips}
    for name in at_rest:
        made[name]["canonical"] = np.full((NUM_FRAMES, 4), int(name[1:]), np.float32)
    refs = pack_shard(store, "structure", "fp", made, {name: "key" for name in made})
    return [candidate(name, {"structure": refs[name]}) for name in made]


def test_a_layout_is_recorded_and_says_the_floor_of_its_statistics(store: Storage) -> None:
    names = ("c01", "c02", "c03")
    offered = restful(store, names, names)
    built = build_snapshot(store, offered, POLICY, "set", split=NO_HOLD_OUT, layouts={"structure": LAYOUT})
    found = load_snapshot(store, built.snapshot.id)
    assert found.modalities["structure"].layout == LAYOUT
    assert found.modalities["structure"].tensors == {"motion": (3,), "canonical": (4,)}
    assert {name: each.floor for name, each in found.statistics.items()} == {
        "structure.motion": 0.25,
        "structure.canonical": 0.25,
    }
    assert found.statistics["structure.canonical"].mean == pytest.approx((2.0,) * 4)
    assert "structure: canonical [4], motion [3] by fp, layout lp3 version 2" in SnapshotView(snapshot=found).text()
    plain = build_snapshot(store, candidates(store), POLICY, "set").snapshot
    assert {each.floor for each in plain.statistics.values()} == {1e-3}
    assert "layout" not in SnapshotView(snapshot=plain).text()


def test_a_layout_of_another_width_is_refused(store: Storage) -> None:
    wider = LAYOUT.model_copy(update={"parts": (LAYOUT.parts[0].model_copy(update={"stop": 4}),)})
    with pytest.raises(SnapshotError, match=r"c01: rows of structure/motion are \[3\] wide, those of layout lp3 4"):
        build_snapshot(store, restful(store, ["c01"], []), POLICY, "set", layouts={"structure": wider})


def test_key_points_at_rest_of_some_clips_alone_are_refused(store: Storage) -> None:
    with pytest.raises(SnapshotError, match=r"c02: its structure .* is not like that of c01"):
        build_snapshot(store, restful(store, ["c01", "c02"], ["c02"]), POLICY, "set", split=NO_HOLD_OUT)


def test_key_points_at_rest_are_part_of_the_content_and_what_has_none_stays_the_same(tmp_path: Path) -> None:
    contents = []
    for folder, at_rest in (("none", ()), ("all", ("c01",))):
        held = Storage(str(tmp_path / folder))
        contents.append(
            build_snapshot(held, restful(held, ["c01"], at_rest), POLICY, "set", split=NO_HOLD_OUT).snapshot
        )
    assert contents[0].id == contents[1].id  # the feature keys are what tells them apart, and here are equal
    assert contents[0].content != contents[1].content
    assert contents[0].content == CONTENT_BEFORE


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**31))
def test_streamed_statistics_equal_those_of_the_whole(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = [(1e3 + rng.standard_normal((n, 3, 2, 2))).astype(np.float32) for n in lengths]
    whole = np.concatenate(arrays).astype(np.float64)
    found = tensor_statistics(iter(arrays))
    np.testing.assert_allclose(found.mean, whole.mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(found.std, whole.std((0, 2, 3)), rtol=1e-9)


@given(st.integers(0, 400), st.floats(0, 0.4), st.floats(0, 0.4))
def test_splits_follow_the_group_and_move_only_when_the_shares_move(index: int, validation: float, test: float) -> None:
    one = candidate(f"c{index}", {}).clip
    same_speaker = candidate(f"c{index + 5}", {}).clip
    config = SplitConfig(validation=validation, test=test)
    split = assign_split(one, config)
    assert split == assign_split(same_speaker, config)
    if split == "test":
        assert assign_split(one, SplitConfig(validation=validation, test=test + 0.1)) == "test"


def test_shares_are_met_roughly() -> None:
    clips = [candidate(f"c{index}", {}).clip.model_copy(update={"identity": f"p{index}"}) for index in range(2000)]
    config = SplitConfig(validation=0.2, test=0.1)
    found = [assign_split(clip, config) for clip in clips]
    assert 0.17 < found.count("validation") / 2000 < 0.23
    assert 0.08 < found.count("test") / 2000 < 0.12


def test_tags_name_versions_and_remember_the_one_before(store: Storage) -> None:
    offered = candidates(store)
    first = build_snapshot(store, offered[:6], POLICY, "set", tag="latest").snapshot
    second = build_snapshot(store, offered, POLICY, "set", tag="latest").snapshot
    assert first.parent is None
    assert second.parent == first.id
    assert load_snapshot(store, "latest") == second
    tag_snapshot(store, first.id, "paper-table-2")
    assert list_tags(store) == {"latest": second.id, "paper-table-2": first.id}
    entries = list_snapshots(store)
    assert {entry.snapshot.id: entry.tags for entry in entries} == {
        first.id: ("paper-table-2",),
        second.id: ("latest",),
    }
    for bad in ("", "../x", "a b", "x" * 81, "0123456789abcdef"):
        with pytest.raises(ValueError, match="tag"):
            tag_snapshot(store, first.id, bad)
    with pytest.raises(SchemaError, match="there are: latest, paper-table-2"):
        load_snapshot(store, "nightly")
    with pytest.raises(SchemaError, match="no snapshot"):
        tag_snapshot(store, "0" * 16, "lost")


def test_diff_names_clips_and_fields(store: Storage) -> None:
    offered = candidates(store)
    old = build_snapshot(store, offered[:6], POLICY, "set").snapshot
    turned = offered[0].model_copy(update={"scores": {**offered[0].scores, "yaw_deg": Score(method="m", value=80.0)}})
    new = build_snapshot(store, [turned, *offered[2:]], POLICY, "set").snapshot
    found = diff_snapshots(store, old.id, new.id)
    assert (found.added, found.removed, found.changed) == (("c06", "c07"), ("c01",), {"c00": ("weight",)})
    assert not found.policy_changed


def test_builds_that_cannot_be_right_are_refused(store: Storage) -> None:
    offered = candidates(store)
    with pytest.raises(SnapshotError, match="no clip passes"):
        build_snapshot(store, [candidate("c00", {}, face_px=1.0)], POLICY, "set")
    with pytest.raises(SnapshotError, match="c00: offered twice"):
        build_snapshot(store, [*offered, offered[0]], POLICY, "set")
    with pytest.raises(SnapshotError, match="c00: it passes the policy but has no features"):
        build_snapshot(store, [candidate("c00", {})], POLICY, "set")
    only_audio = candidate("c07", {"audio": offered[7].features["audio"]})
    with pytest.raises(SnapshotError, match="c07 has"):
        build_snapshot(store, [*offered[:7], only_audio], POLICY, "set")
    shifted = offered[3].model_copy(update={"num_frames": 21})
    with pytest.raises(SchemaError, match=r"c03: .* rows, but 21 frames"):
        build_snapshot(store, [*offered[:3], shifted], POLICY, "set")
    other = pack_shard(store, "audio", "newer-fp", {"c03": tokens(3)}, {"c03": "k"})["c03"]
    mixed = candidate("c03", {**offered[3].features, "audio": other})
    with pytest.raises(SnapshotError, match=r"c03: its audio .* one extractor"):
        build_snapshot(store, [*offered[:3], mixed], POLICY, "set")
    stale = offered[0].features["audio"].model_copy(update={"key": "newer"})
    with pytest.raises(SnapshotError, match="c00: its audio was made from"):
        build_snapshot(store, [candidate("c00", {**offered[0].features, "audio": stale})], POLICY, "set")
    with pytest.raises(SnapshotError, match="held out"):
        build_snapshot(store, offered[:1], POLICY, "set", split=SplitConfig(validation=0.9, test=0.9))
    assert list_snapshots(store) == ()


BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_snapshot as here
from dualforce_model.storage import Storage
store = Storage(sys.argv[1])
print(here.build_snapshot(store, here.candidates(store), here.POLICY, "set", tag="latest").snapshot.id)
"""
POINTS = [
    "shard.before_rename:2",
    "shard.after_rename:3",
    "snapshot.before_manifest",
    "snapshot.before_head",
    "snapshot.after_head",
]


def build_in_a_process(folder: Path, kill_at: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DUALFORCE_KILL_AT": kill_at or "none"}
    command = [sys.executable, "-c", BUILD, str(folder), str(Path(__file__).parent)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_the_second_run_gives_the_same_id(tmp_path: Path, store: Storage, point: str) -> None:
    expected = build_snapshot(store, candidates(store), POLICY, "set").snapshot
    folder = tmp_path / "killed"
    assert build_in_a_process(folder, point).returncode == -signal.SIGKILL
    killed = Storage(str(folder))
    assert [entry.snapshot.id for entry in list_snapshots(killed)] == ([expected.id] if "after_head" in point else [])
    assert list_tags(killed) == {}
    built = build_snapshot(killed, candidates(killed), POLICY, "set", tag="latest")
    assert built.written is ("after_head" not in point)
    assert (built.snapshot.id, built.snapshot.content) == (expected.id, expected.content)
    assert verify_snapshot(killed, "latest").sound


def test_verify_reads_everything_and_building_again_heals(store: Storage) -> None:
    offered = candidates(store)
    snapshot = build_snapshot(store, offered, POLICY, "set").snapshot
    found = verify_snapshot(store, snapshot.id)
    assert found.sound
    assert (found.num_shards, found.num_bytes) == (6, sum(store.size(key) for key in store.list("features")))
    shard = offered[4].features["audio"].shard
    path = store.local_path(shard)
    assert path is not None
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert len(verify_snapshot(store, snapshot.id).problems) == 1
    path.unlink()
    assert shard in verify_snapshot(store, snapshot.id).problems[0]
    assert build_snapshot(store, candidates(store), POLICY, "set").written is False  # packing again restored the shard
    assert verify_snapshot(store, snapshot.id).sound


@pytest.mark.parametrize("key_of", [head_key, manifest_key])
def test_a_flipped_bit_in_head_or_manifest_is_found_and_healed(store: Storage, key_of: object) -> None:
    assert callable(key_of)
    offered = candidates(store)
    snapshot = build_snapshot(store, offered, POLICY, "set", tag="latest").snapshot
    good = store.read(key_of(snapshot.id))
    for position in range(0, len(good), 97):
        store.write(key_of(snapshot.id), good[:position] + bytes([good[position] ^ 2]) + good[position + 1 :])
        try:
            problems = verify_snapshot(store, "latest").problems
        except SchemaError as error:
            problems = (str(error),)
        assert problems, f"byte {position}"
        with pytest.raises(SchemaError):
            collect_garbage(store, [], dry_run=False, older_than_s=0.0)
    assert build_snapshot(store, offered, POLICY, "set").written
    assert verify_snapshot(store, "latest").sound


def test_verify_finds_arrays_that_were_swapped_for_others(store: Storage) -> None:
    """Every checksum holds, but the head and the manifest no longer belong together."""
    offered = candidates(store)
    one = build_snapshot(store, offered[:6], POLICY, "set").snapshot
    two = build_snapshot(store, offered, POLICY, "set").snapshot
    store.write(head_key(one.id), store.read(head_key(two.id)))
    store.write(manifest_key(one.id), store.read(manifest_key(two.id)))
    with pytest.raises(SchemaError, match="another snapshot"):
        load_snapshot(store, one.id)


def test_garbage_is_what_nothing_names(store: Storage) -> None:
    offered = candidates(store)
    kept = build_snapshot(store, offered[:6], POLICY, "set").snapshot
    in_ledger = pack_all(store, ["c50"])["c50"]
    orphan = pack_all(store, ["c60"])["c60"]
    store.write("snapshots/" + "0" * 16 + "/manifest.parquet", b"given up before its head")
    in_use = [ref.shard for ref in in_ledger.values()]
    garbage = {
        *(ref.shard for ref in orphan.values()),
        *(ref.shard for item in offered[6:] for ref in item.features.values()),
        "snapshots/" + "0" * 16 + "/manifest.parquet",
    }
    assert collect_garbage(store, in_use).keys == ()  # all of it is younger than a day
    dry = collect_garbage(store, in_use, older_than_s=0.0)
    assert (set(dry.keys), dry.dry_run) == (garbage, True)
    assert all(store.exists(key) for key in garbage)
    done = collect_garbage(store, in_use, dry_run=False, older_than_s=0.0)
    assert (done.keys, done.num_bytes) == (dry.keys, dry.num_bytes)
    assert not any(store.exists(key) for key in garbage)
    cached_header.cache_clear()
    assert verify_snapshot(store, kept.id).sound
    assert collect_garbage(store, in_use, older_than_s=0.0).keys == ()


def test_garbage_collection_refuses_while_a_tag_has_lost_its_snapshot(store: Storage) -> None:
    snapshot = build_snapshot(store, candidates(store), POLICY, "set", tag="latest").snapshot
    store.delete(head_key(snapshot.id))
    with pytest.raises(SchemaError, match="tags without their snapshot"):
        collect_garbage(store, [], dry_run=False, older_than_s=0.0)
    store.write(tag_key("latest"), b"[]")
    with pytest.raises(SchemaError, match="not a tag file"):
        list_tags(store)
