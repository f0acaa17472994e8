"""Windows of a snapshot: the right rows of every modality, drawn by (seed, epoch, index) alone."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dualforce_model.data
from dualforce_model import clock
from dualforce_model.batch import Sample, TalkingHeadBatch
from dualforce_model.data import SnapshotDataset, _widen, epoch_order
from dualforce_model.flame import NUM_PARAMETERS
from dualforce_model.schema import (
    Feature,
    FeatureRef,
    ModalityInfo,
    SchemaError,
    Snapshot,
    SnapshotRow,
    Split,
    TensorStatistics,
    encode_head,
    encode_manifest,
    head_key,
    manifest_key,
)
from dualforce_model.shards import DamagedShardError, cached_header, pack_shard, read_feature, tensor_entry
from dualforce_model.storage import Storage, file_digest

MEAN, STD = 10.0, 4.0


def features(seed: int, frames: int) -> dict[str, Feature]:
    """Every number tells where it comes from: row index plus a clip's offset."""
    steps, offset = clock.num_steps(frames), 1000 * seed
    shape = (1, 2, 3, 3)
    shown = np.array([0, 2, frames - 1], dtype=np.int32)
    latents = np.arange(steps).reshape(-1, 1, 1, 1) * np.ones(shape)
    return {
        "video": {
            "latents": latents.astype(np.float16),
            "references": (500.0 + shown.reshape(-1, 1, 1, 1) * np.ones(shape)).astype(np.float16),
            "reference_frames": shown,
        },
        "structure": {"motion": (offset + np.arange(frames)[:, None] * np.ones((1, 2))).astype(np.float32)},
        "audio": {"tokens": (np.arange(2 * frames)[:, None] * np.ones((1, 3))).astype(np.float16)},
    }


def with_flame(made: dict[str, Feature], frames: int) -> dict[str, Feature]:
    """FLAME too: a frame's number, plus that of the parameter over a thousand."""
    numbers = np.arange(frames)[:, None] + np.arange(NUM_PARAMETERS) / 1000
    return {**made, "flame": {"parameters": numbers.astype(np.float32)}}


def with_reference(made: dict[str, Feature], late: int) -> dict[str, Feature]:
    """Reference features too: a frame's number in each of 3 times 5 entries, in another order than the pictures."""
    shown = made["video"]["reference_frames"][::-1] + np.int32(late)
    told = shown[:, None, None] * np.ones((1, 3, 5))
    return {**made, "reference": {"features": told.astype(np.float16), "frames": shown}}


def with_canonical(made: dict[str, Feature], frames: int) -> dict[str, Feature]:
    """Key points at rest too: a frame's number, of all three."""
    return {
        **made,
        "structure": {**made["structure"], "canonical": np.float32(np.arange(frames)[:, None] * np.ones(3))},
    }


def with_alone(made: dict[str, Feature], late: int) -> dict[str, Feature]:
    """Pictures measured alone too: 5000 and the frame's number, key points at rest 2000 and that, in another order."""
    shown = made["video"]["reference_frames"][::-1] + np.int32(late)
    width = made["structure"]["motion"].shape[1]
    alone = {
        "reference_frames": shown,
        "reference_motion": np.float32(5000 + shown[:, None] * np.ones(width)),
        "reference_canonical": np.float32(2000 + shown[:, None] * np.ones(3)),
    }
    return {**made, "structure": {**made["structure"], **alone}}


def write_snapshot(
    folder: Path,
    frames: dict[str, int],
    weights: dict[str, float],
    split: dict[str, Split],
    flame: bool = False,
    reference: bool = False,
    late: int = 0,
    canonical: bool = False,
    alone: bool = False,
) -> str:
    """A snapshot written by hand: this package does not know the one that builds them."""
    store = Storage(str(folder))
    made = {clip: features(index, count) for index, (clip, count) in enumerate(sorted(frames.items()))}
    made = {clip: with_flame(each, frames[clip]) if flame else each for clip, each in made.items()}
    made = {clip: with_reference(each, late) if reference else each for clip, each in made.items()}
    made = {clip: with_canonical(each, frames[clip]) if canonical else each for clip, each in made.items()}
    made = {clip: with_alone(each, late) if alone else each for clip, each in made.items()}
    keys = {clip: f"key-{clip}" for clip in made}
    further = {"flame": flame, "reference": reference}
    modalities = ("video", "structure", "audio", *(name for name, there in further.items() if there))
    refs: dict[str, dict[str, FeatureRef]] = {clip: {} for clip in made}
    for modality in modalities:
        packed = pack_shard(store, modality, "fp", {clip: made[clip][modality] for clip in made}, keys)
        for clip, ref in packed.items():
            refs[clip][modality] = ref
    rows = tuple(
        SnapshotRow(
            clip_id=clip,
            source="test",
            video_id=clip,
            identity=None,
            licence="none",
            span_start_s=0.0,
            span_end_s=None,
            media_digest="d",
            num_frames=frames[clip],
            split=split.get(clip, "train"),
            weight=weights.get(clip, 1.0),
            features=refs[clip],
        )
        for clip in sorted(frames)
    )
    snapshot_id = "0123456789abcdef"
    store.write(manifest_key(snapshot_id), encode_manifest(rows))
    head = Snapshot(
        id=snapshot_id,
        content="c",
        dataset="set",
        policy={},
        modalities={
            name: ModalityInfo(
                fingerprint="fp", tensors=structure_tensors(canonical, alone) if name == "structure" else {}
            )
            for name in modalities
        },
        statistics={
            "flame.parameters": TensorStatistics(mean=(0.0,) * NUM_PARAMETERS, std=(2.0,) * NUM_PARAMETERS),
            "video.latents": TensorStatistics(mean=(MEAN,) * 2, std=(STD,) * 2),
            "structure.motion": TensorStatistics(mean=(MEAN,) * 2, std=(STD, 0.0)),
            "structure.canonical": TensorStatistics(mean=(MEAN,) * 3, std=(0.0001,) * 3, floor=0.5),
            "audio.tokens": TensorStatistics(mean=(MEAN,) * 3, std=(STD,) * 3),
        },
        num_rows=len(rows),
        num_frames=sum(frames.values()),
        splits={},
        quarantined={},
        failed={},
        created_at="2026-01-01T00:00:00+00:00",
        manifest_digest=file_digest(folder / manifest_key(snapshot_id)),
    )
    store.write(head_key(snapshot_id), encode_head(head))
    return snapshot_id


def structure_tensors(canonical: bool, alone: bool) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"canonical": (3,)} if canonical else {}
    return found | ({"reference_motion": (2,), "reference_canonical": (3,), "reference_frames": ()} if alone else {})


FRAMES = {"a": 33, "b": 61, "c": 21, "d": 17, "e": 41}
WEIGHTS = {"b": 0.5}
SPLITS: dict[str, Split] = {"e": "validation"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_snapshot(tmp_path, FRAMES, WEIGHTS, SPLITS)
    return tmp_path


def open_dataset(folder: Path, num_steps: int = 5, **settings: object) -> SnapshotDataset:
    return SnapshotDataset(str(folder), "0123456789abcdef", num_steps, **settings)  # type: ignore[arg-type]


def assert_equal(one: Sample, other: Sample) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_flame_is_the_motion_of_the_same_frames(tmp_path: Path) -> None:
    write_snapshot(tmp_path, FRAMES, WEIGHTS, SPLITS, flame=True)
    dataset = open_dataset(tmp_path)
    row = next(row for row in dataset.rows if row.clip_id == "b")
    found = np.asarray(dataset.window(row, start=4, reference=1)["flame"]) * 2
    assert found.shape == (5, 4, 56)
    np.testing.assert_allclose(found[0, :, 0], 2 + 0.1, atol=1e-4)  # the reference, expression first
    np.testing.assert_allclose(found[1:, :, 0].reshape(-1), np.arange(13, 29) + 0.1, rtol=1e-5)
    columns = (found[1, 0] - 13) * 1000
    np.testing.assert_allclose(columns, [*range(100, 150), *range(153, 156), *range(150, 153)], atol=0.1)
    batch = TalkingHeadBatch.stack([dataset[0, 0], dataset[0, 1]])
    assert batch.flame is not None
    assert "flame" not in open_dataset(tmp_path, modalities=["video", "audio"]).sample(0, 0)


def test_step_0_has_the_structure_of_its_picture_alone(tmp_path: Path) -> None:
    write_snapshot(tmp_path, FRAMES, WEIGHTS, SPLITS, canonical=True, alone=True)
    for in_memory in (False, True):
        dataset = open_dataset(tmp_path, in_memory=in_memory)
        row = next(row for row in dataset.rows if row.clip_id == "b")
        plain = {}
        for reference, frame in enumerate((0, 2, 60)):
            sample = dataset.window(row, start=4, reference=reference)
            plain[reference] = np.asarray(sample["structure"])
            statistics = dataset.snapshot.statistics["structure.motion"]
            wanted = statistics.standardise(np.full((1, plain[reference].shape[-1]), 5000 + frame, np.float32))
            np.testing.assert_allclose(plain[reference][0], np.broadcast_to(wanted, plain[reference][0].shape))
            found = np.asarray(sample["canonical"]) * 0.5 + MEAN
            np.testing.assert_allclose(found, np.full(3, 2000 + frame), rtol=1e-6)
        np.testing.assert_array_equal(plain[0][1:], plain[2][1:])  # the steps are the clip's


def test_structure_of_other_pictures_is_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path, FRAMES, WEIGHTS, SPLITS, canonical=True, alone=True, late=1)
    dataset = open_dataset(tmp_path)
    row = next(row for row in dataset.rows if row.clip_id == "b")
    with pytest.raises(SchemaError, match=r"b: the reference is frame 2, but those of structure are the frames"):
        dataset.window(row, start=4, reference=1)


def test_canonical_is_that_of_the_window_s_own_reference(tmp_path: Path) -> None:
    write_snapshot(tmp_path, FRAMES, WEIGHTS, SPLITS, canonical=True)
    for in_memory in (False, True):
        dataset = open_dataset(tmp_path, in_memory=in_memory)
        row = next(row for row in dataset.rows if row.clip_id == "b")
        for reference, frame in enumerate((0, 2, 60)):
            found = dataset.window(row, start=4, reference=reference)["canonical"]
            assert np.asarray(found).dtype == np.float32
            np.testing.assert_array_equal(np.asarray(found) * 0.5 + MEAN, np.full(3, frame))  # its statistics' floor
    assert TalkingHeadBatch.stack([dataset[0, 0], dataset[0, 1]]).canonical.shape == (2, 3)
    assert "canonical" not in open_dataset(tmp_path, modalities=["video", "audio"]).sample(0, 0)


def test_features_are_those_of_the_window_s_own_reference(tmp_path: Path) -> None:
    write_snapshot(tmp_path, FRAMES, WEIGHTS, SPLITS, reference=True)
    for in_memory in (False, True):
        dataset = open_dataset(tmp_path, in_memory=in_memory)
        row = next(row for row in dataset.rows if row.clip_id == "b")
        for reference, frame in enumerate((0, 2, 60)):
            sample = dataset.window(row, start=4, reference=reference)
            assert float(np.asarray(sample["video"])[0, 0, 0, 0] * STD + MEAN) == 500 + frame
            assert np.asarray(sample["features"]).dtype == np.float32
            np.testing.assert_array_equal(sample["features"], np.full((3, 5), frame))
        for epoch in range(6):  # and so in whatever window is drawn
            drawn = dataset.sample(epoch, 0)
            shown = np.asarray(drawn["video"])[0, 0, 0, 0] * STD + MEAN - 500
            assert (np.asarray(drawn["features"]) == shown).all()
    assert TalkingHeadBatch.stack([dataset[0, 0], dataset[0, 1]]).features is not None
    assert "features" not in open_dataset(tmp_path, modalities=["video", "audio"]).sample(0, 0)


def test_a_reference_without_features_of_its_own_is_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path, FRAMES, WEIGHTS, SPLITS, reference=True, late=1)
    dataset = open_dataset(tmp_path)
    with pytest.raises(
        SchemaError, match=r"b: the reference is frame 2, but those of reference are the frames \[61, 3, 1\]"
    ):
        dataset.window(next(row for row in dataset.rows if row.clip_id == "b"), start=4, reference=1)


def test_a_window_is_a_reference_and_consecutive_steps_of_every_modality(folder: Path) -> None:
    dataset = open_dataset(folder)
    row = next(row for row in dataset.rows if row.clip_id == "b")
    sample = dataset.window(row, start=4, reference=1)  # reference: frame 2
    np.testing.assert_array_equal(sample["positions"], [0, 4, 5, 6, 7])
    latents = np.asarray(sample["video"])[:, 0, 0, 0] * STD + MEAN
    np.testing.assert_allclose(latents, [502, 4, 5, 6, 7])
    np.testing.assert_array_equal(sample["reference"], np.asarray(sample["video"])[0])
    motion = np.asarray(sample["structure"])[:, :, 0] * STD + MEAN - 1000
    np.testing.assert_allclose(motion[0], [2, 2, 2, 2], atol=1e-3)
    np.testing.assert_allclose(motion[1:].reshape(-1), np.arange(13, 29), atol=1e-3)
    tokens = np.asarray(sample["audio"])
    assert not tokens[0].any()
    np.testing.assert_array_equal(tokens[1:, :, 0].reshape(-1), np.arange(26, 58))
    np.testing.assert_array_equal(np.asarray(sample["audio_mask"]).any(axis=1), [False, True, True, True, True])
    assert np.asarray(sample["audio_mask"])[1:].all()


@given(st.integers(0, 5), st.integers(0, 2**31), st.integers(2, 5))
def test_every_window_agrees_with_the_clock(
    tmp_path_factory: pytest.TempPathFactory, epoch: int, seed: int, num_steps: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "clock"
    if not folder.exists():
        write_snapshot(folder, FRAMES, WEIGHTS, SPLITS)
    dataset = open_dataset(folder, num_steps, seed=seed)
    for index in range(len(dataset)):
        sample = dataset.sample(epoch, index)
        positions = np.asarray(sample["positions"])
        tokens, motion = np.asarray(sample["audio"]), np.asarray(sample["structure"])
        motion_frames = np.round((motion[:, :, 0] * STD + MEAN) % 1000)
        for place in range(1, num_steps):
            frames = clock.frames_of_step(int(positions[place]))
            np.testing.assert_array_equal(motion_frames[place], list(frames))
            np.testing.assert_array_equal(tokens[place, :, 0] // 2, np.repeat(list(frames), 2))


def test_samples_stack_into_a_batch(folder: Path) -> None:
    dataset = open_dataset(folder)
    batch = TalkingHeadBatch.stack([dataset[0, index] for index in range(len(dataset))])
    assert (len(batch), batch.num_steps) == (4, 5)
    assert batch.video.dtype == batch.audio.dtype == batch.structure.dtype == torch.float32
    assert batch.weights.tolist() == [1.0] * 4  # the drawing has honoured the weights already


def test_a_sample_depends_on_seed_epoch_and_index_alone(folder: Path) -> None:
    one, other = open_dataset(folder, seed=3), open_dataset(folder, seed=3, in_memory=True)
    for epoch in (0, 7):
        for index in reversed(range(len(one))):
            assert_equal(one[epoch, index], other[epoch, index])
    assert_equal(pickle.loads(pickle.dumps(one))[7, 1], one[7, 1])  # noqa: S301 our own bytes
    starts = {
        (epoch, seed): tuple(np.asarray(open_dataset(folder, seed=seed)[epoch, 0]["positions"]).tolist())
        for epoch in range(4)
        for seed in range(4)
    }
    assert len(set(starts.values())) > 3


def test_a_forked_worker_reads_the_same(folder: Path) -> None:
    dataset = open_dataset(folder)
    expected = [dataset[1, index] for index in range(len(dataset))]
    pid = os.fork()
    if pid == 0:
        same = all(
            np.array_equal(dataset[1, index][name], expected[index][name])
            for index in range(len(dataset))
            for name in expected[index]
        )
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_every_half_is_widened_to_the_very_same_number() -> None:
    halves = np.tile(np.arange(1 << 16, dtype=np.uint16).view(np.float16), 3)[: 3 * (1 << 16) - 5]
    halves = halves[np.isfinite(halves)].reshape(2, -1)
    wide = np.full(halves.shape, np.nan, np.float32)
    _widen(halves, wide)
    np.testing.assert_array_equal(wide.view(np.uint32), halves.astype(np.float32).view(np.uint32))


FORKED = """
import os, signal
import numpy as np, torch
from dualforce_model.data import _widen
halves, wide = np.ones((4, 1 << 18), np.float16), np.empty((4, 1 << 18), np.float32)
torch.set_num_threads(2)
torch.from_numpy(wide).copy_(torch.from_numpy(halves))
pid = os.fork()
if pid == 0:
    signal.alarm(20)  # a child that waits for ever is killed
    _widen(halves, wide)
    os._exit(0)
raise SystemExit(os.waitpid(pid, 0)[1])
"""


def test_a_forked_worker_does_not_wait_for_its_parents_threads() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_window_reads_is_told_as_it_is_stored(folder: Path) -> None:
    dataset = open_dataset(folder)
    row, start, reference = drawn = dataset.drawn(2, 1)
    stored = dataset.stored_window(*drawn)
    assert stored["latents"].dtype == np.float16
    np.testing.assert_array_equal(stored["latents"][:, 0, 0, 0], np.arange(start, start + dataset.num_steps - 1))
    np.testing.assert_array_equal(
        stored["references"], read_feature(Storage(str(folder)), row.features["video"], "references")[[reference]]
    )
    assert_equal(dataset.window(*drawn), dataset.sample(2, 1))


def test_held_out_clips_come_once_in_order_with_their_weight(tmp_path: Path) -> None:
    write_snapshot(tmp_path, FRAMES, {"e": 0.25}, SPLITS)
    dataset = open_dataset(tmp_path, split="validation")
    assert [row.clip_id for row in dataset.rows] == ["e"]
    assert float(dataset[0, 0]["weights"]) == 0.25
    assert len(open_dataset(tmp_path, split="test")) == 0
    with pytest.raises(IndexError, match="epoch of 1"):
        dataset.sample(0, 1)


def test_clips_that_are_too_short_are_named(folder: Path) -> None:
    dataset = open_dataset(folder, num_steps=9)
    assert ([row.clip_id for row in dataset.rows], dataset.too_short) == (["a", "b"], ("c", "d"))
    with pytest.raises(SchemaError, match="none of its 4 training clips has 40 steps"):
        open_dataset(folder, num_steps=40)
    with pytest.raises(ValueError, match="at least 2"):
        open_dataset(folder, num_steps=1)


def test_video_alone_leaves_the_other_fields_empty(folder: Path) -> None:
    sample = open_dataset(folder, modalities=("video",))[0, 0]
    assert np.asarray(sample["structure"]).shape == (5, 4, 1)
    assert np.asarray(sample["audio"]).shape == (5, 8, 1)
    assert not np.asarray(sample["audio_mask"]).any()
    assert len(TalkingHeadBatch.stack([sample])) == 1
    for wrong in (("structure",), ("video", "smell")):
        with pytest.raises(SchemaError, match="ask for what is there"):
            open_dataset(folder, modalities=wrong)


def test_an_entry_that_never_moves_is_not_blown_up(folder: Path) -> None:
    motion = np.asarray(open_dataset(folder)[0, 0]["structure"])
    assert np.isfinite(motion).all()


def test_damage_is_an_error_and_never_a_sample(folder: Path) -> None:
    dataset = open_dataset(folder)
    row = dataset.rows[0]
    ref = row.features["audio"]
    path = folder / ref.shard
    entry = tensor_entry(Storage(str(folder)), ref, "tokens")
    damaged = bytearray(path.read_bytes())
    damaged[entry.start + 20 * entry.row_bytes] ^= 4
    path.write_bytes(damaged)
    cached_header.cache_clear()
    with pytest.raises(DamagedShardError, match="a/tokens"):
        dataset.window(row, start=3, reference=0)


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=60), st.integers(0, 100), st.integers(0, 100))
def test_an_epoch_draws_every_clip_as_often_as_its_weight_asks(weights: list[float], seed: int, epoch: int) -> None:
    order = epoch_order(weights, seed, epoch)
    counts = np.bincount(order, minlength=len(weights))
    wanted = np.asarray(weights) / np.sum(weights) * len(weights)
    assert (np.abs(counts - wanted) < 1 + 1e-6).all()
    np.testing.assert_array_equal(order, epoch_order(weights, seed, epoch))


@given(st.integers(1, 300), st.integers(0, 50))
def test_equal_weights_draw_each_clip_once(count: int, epoch: int) -> None:
    assert sorted(epoch_order([0.5] * count, 0, epoch).tolist()) == list(range(count))


def test_a_window_asks_the_store_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First which picture stands as step 0, then for all of the window."""
    write_snapshot(tmp_path, FRAMES, WEIGHTS, SPLITS, flame=True, reference=True)
    data = open_dataset(tmp_path)
    asked: list[list[str]] = []
    read_rows = dualforce_model.data.read_rows
    monkeypatch.setattr(
        dualforce_model.data,
        "read_rows",
        lambda store, wanted: (
            asked.append([f"{ref.modality}/{name}" for ref, name, *_ in wanted]) or read_rows(store, wanted)
        ),
    )
    data.sample(0, 0)
    assert [sorted(each) for each in asked] == [
        ["reference/frames", "video/reference_frames"],
        [
            "audio/tokens", "flame/parameters", "flame/parameters", "reference/features", "structure/motion",
            "structure/motion", "video/latents", "video/references",
        ],
    ]  # fmt: skip
