"""Structure against FLAME over a whole snapshot: the worst clip comes first, and the axes are those of most clips."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dualforce_model.encoders.flame_rows import flame_layout, stand_in_layout
from dualforce_model.encoders.liveportrait.layouts import LP70
from dualforce_model.encoders.liveportrait.motion import rotation
from dualforce_model.errors import InputError
from dualforce_model.flame import LAYOUT
from dualforce_model.layout import Layout
from dualforce_model.rotations import axis_angles
from dualforce_model.schema import Feature
from dualforce_model.shards import pack_shard
from dualforce_model.storage import Storage
from tasks.agreeing import agreements, majority
from tasks.records import Clip, Span
from tasks.snapshot import SnapshotCandidate, build_snapshot
from tests.small_store import POLICY

FRAMES = 101
MIRROR = np.diag([1.0, -1.0, -1.0])


def head(seed: int, still: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Degrees of pitch, yaw and roll, and how far the mouth is open."""
    time, (a, b, c) = np.arange(FRAMES) / 25, np.random.default_rng(seed).uniform(0.8, 1.2, 3)
    waves = [7 * np.sin(2.1 * a * time), 14 * np.sin(1.3 * b * time + 0.5), 4 * np.sin(3.7 * c * time + 1)]
    mouth = np.maximum(0.5 + np.sin(11 * a * time) * np.sin(2 * time), 0)
    return np.stack(waves, axis=1) * (not still), mouth * (not still)


def features(seen: tuple[np.ndarray, np.ndarray], true: tuple[np.ndarray, np.ndarray]) -> dict[str, Feature]:
    """What LivePortrait says of one head and FLAME of another."""
    rows = np.zeros((FRAMES, LP70.num_entries), np.float32)
    rows[:, 63:66], rows[:, 69], rows[:, 58] = seen[0], 1.4, 0.02 * seen[1]
    parameters = np.zeros((FRAMES, 159), np.float32)
    parameters[:, LAYOUT["pose"]] = axis_angles(MIRROR @ rotation(true[0]).swapaxes(-1, -2) @ MIRROR.T)
    parameters[:, LAYOUT["jaw"].start] = 0.3 * true[1]
    return {"structure": {"motion": rows}, "flame": {"parameters": parameters}}


def build(folder: Path, clips: dict[str, dict[str, Feature]], layouts: dict[str, Layout]) -> str:
    store = Storage(str(folder))
    refs = {
        modality: pack_shard(
            store, modality, "fp", {name: made[modality] for name, made in clips.items()}, dict.fromkeys(clips, "k")
        )
        for modality in next(iter(clips.values()))
    }
    candidates = [
        SnapshotCandidate(
            clip=Clip(clip_id=name, source="s", video_id=name, location="x", span=Span(start_s=0.0, end_s=4.0)),
            media_digest="d",
            num_frames=FRAMES,
            features={modality: found[name] for modality, found in refs.items()},
        )
        for name in clips
    ]
    build_snapshot(store, candidates, POLICY, "d", tag="t", layouts=layouts)
    return str(folder)


TABLES = {"structure": LP70, "flame": flame_layout("SMIRK")}


def test_clips_are_ranked_and_frames_are_told(tmp_path: Path) -> None:
    clips = {f"c{seed}": features(head(seed), head(seed)) for seed in range(4)}
    clips["other"] = features(head(7), head(8))
    clips["still"] = features(head(0, still=True), head(0, still=True))
    store = build(tmp_path / "store", clips, TABLES)
    report = agreements(store, "t", tmp_path / "frames.parquet")
    assert report.signs == (1, -1, -1)
    assert report.clips[0].clip_id == "other"
    assert report.clips[0].score is not None
    assert report.clips[0].score < 0.6
    assert all(clip.score is not None and clip.score > 0.95 for clip in report.clips[1:5])
    assert (report.clips[5].clip_id, report.clips[5].score) == ("still", None)
    assert "not measurable" in report.clips[5].said
    assert "5 of 6 clips measured, median" in report.text()
    rows = pq.read_table(tmp_path / "frames.parquet").to_pydict()
    assert len(rows["frame"]) == 6 * FRAMES
    assert rows["frame"][:FRAMES] == list(range(FRAMES))
    still = [index for index, name in enumerate(rows["clip_id"]) if name == "still"]
    assert {rows["pose"][index] for index in still} == {None}


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    both = features(head(0), head(0))
    alone = build(tmp_path / "a", {"c": {"structure": both["structure"]}}, TABLES)
    with pytest.raises(InputError, match=r"has no flame; extract both"):
        agreements(alone, "t")
    unnamed = build(tmp_path / "b", {"c": both}, {})
    with pytest.raises(InputError, match="does not say what its entries are"):
        agreements(unnamed, "t")
    guessed = stand_in_layout("blend shapes", "MediaPipe")
    stand_in = build(tmp_path / "c", {"c": both}, {"structure": LP70, "flame": guessed})
    with pytest.raises(InputError, match="its flame is blendshapes159"):
        agreements(stand_in, "t")


def test_the_axes_are_those_of_most_clips() -> None:
    assert majority([(1, -1, 0), (1, -1, 1), (-1, -1, 0), None]) == (1, -1, 1)
    assert majority([None, (0, 0, 0)]) == majority([]) == (0, 0, 0)
