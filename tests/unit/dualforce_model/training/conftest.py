"""A store with a small snapshot of made-up features, and settings that train on it within a second."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from jaxtyping import Float32, UInt8

from dualforce_model import clock
from dualforce_model.audio import AudioConfig
from dualforce_model.bridge import BridgeConfig
from dualforce_model.config import Frozen
from dualforce_model.encoders import ENCODERS, DctVideoCodec, FaceDctStructure, LogMel
from dualforce_model.encoders.base import Modality, WeightFree
from dualforce_model.encoders.structure import Measured
from dualforce_model.flame import NUM_PARAMETERS
from dualforce_model.model import ModelConfig
from dualforce_model.optimisation import OptimizerConfig
from dualforce_model.schema import Feature, FeatureRef
from dualforce_model.shards import pack_shard
from dualforce_model.storage import Storage
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig
from dualforce_model.train_config import TrainConfig, TrainSettings
from tasks.policy import Policy
from tasks.records import Clip, Span
from tasks.snapshot import SnapshotCandidate, SplitConfig, build_snapshot

NUM_CLIPS, NUM_FRAMES, SIDE_PX = 6, 41, 32
MODEL = ModelConfig(
    video=VideoTowerConfig(heads=2, head_dim=8, layers=2, ffn_dim=16, freq_dim=8, patch_px=(2, 2)),
    structure=StructureTowerConfig(heads=2, head_dim=8, layers=2, ffn_dim=16, freq_dim=8, sink_tokens=1),
    bridge=BridgeConfig(depth=1, condition_dim=8),
    audio=AudioConfig(layers=1, slot_dim=4, context_dim=8),
    window_steps=4,
)
SETTINGS = TrainSettings(
    model=MODEL,
    optimizer=OptimizerConfig(warmup_steps=2, ema_decay=0.9),
    steps=6,
    batch_size=4,
    window_steps=5,
    save_every=2,
    keep_checkpoints=9,
    log_every=1,
    validate_every=3,
    validation_windows=4,
)


class NoSettings(Frozen):
    """Nothing to choose."""


class QuarterMeans(WeightFree):
    """An encoder of reference pictures, which the product has none of without weights: mean colours of the quarters."""

    name: ClassVar[str] = "quarter_means"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "reference"
    config_type: ClassVar[type[Frozen]] = NoSettings
    num_features = 3

    def __init__(self, config: Frozen | None = None) -> None:
        self._config = config or NoSettings()

    @property
    def config(self) -> Frozen:
        return self._config

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "4 3"]:
        halves = [half for rows in np.split(picture, 2) for half in np.split(rows, 2, axis=1)]
        return np.stack([half.mean(axis=(0, 1), dtype=np.float32) / 255 for half in halves])


class RestingDct(FaceDctStructure):
    """The same that also tells who a face is from what it does: by the mean colour. Under the same name."""

    def measure(self, frames: UInt8[np.ndarray, "T h w 3"]) -> Measured:
        return Measured(self(frames), frames.mean(axis=(1, 2), dtype=np.float32) / 255)


def features(number: int) -> dict[str, Feature]:
    """Pictures of noise and a hum, through the real encoders."""
    draw = np.random.default_rng(number)
    frames = draw.integers(0, 256, (NUM_FRAMES, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    sound = draw.standard_normal(clock.num_samples(NUM_FRAMES)).astype(np.float32) * 0.1
    codec, shown = DctVideoCodec(), np.array([0, 9, 20], np.int32)
    return {
        "video": {
            "latents": codec.encode(frames).astype(np.float16),
            "references": np.stack([codec.encode_image(frames[frame]) for frame in shown]).astype(np.float16),
            "reference_frames": shown,
        },
        "structure": {"motion": draw.standard_normal((NUM_FRAMES, FaceDctStructure().num_features)).astype(np.float32)},
        "audio": {"tokens": LogMel()(sound).astype(np.float16)},
        "flame": {"parameters": draw.standard_normal((NUM_FRAMES, NUM_PARAMETERS)).astype(np.float32)},
        "reference": {
            "features": np.stack([QuarterMeans()(frames[frame]) for frame in shown[::-1]]).astype(np.float16),
            "frames": shown[::-1].copy(),
        },
    }


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Settings resolved on a snapshot of six clips, one of them held out."""
    return on_snapshot(tmp_path_factory.mktemp("store"), ("video", "structure", "audio"))


@pytest.fixture(scope="session")
def flame_config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The same with FLAME parameters."""
    return on_snapshot(tmp_path_factory.mktemp("flame_store"), ("video", "structure", "audio", "flame"))


@pytest.fixture(scope="session")
def reference_config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The same with reference features, and a model that takes them, whatever their width."""
    found = on_snapshot(tmp_path_factory.mktemp("reference_store"), ("video", "structure", "audio", "reference"))
    video = MODEL.video.model_copy(update={"feature_dim": 1})
    return found.model_copy(update={"model": MODEL.model_copy(update={"video": video})})


@pytest.fixture(scope="session")
def canonical_config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The same with key points at rest, and a model that takes them, however many."""
    folder = tmp_path_factory.mktemp("canonical_store")
    found = on_snapshot(folder, ("video", "structure", "audio"), canonical=True)
    structure = MODEL.structure.model_copy(update={"canonical_dim": 1}) if MODEL.structure is not None else None
    return found.model_copy(update={"model": MODEL.model_copy(update={"structure": structure})})


@pytest.fixture
def resting_dct() -> Iterator[type[RestingDct]]:
    """The encoder of their structure, instead of the one that tells no key points at rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, FaceDctStructure.name, RestingDct)
        yield RestingDct


@pytest.fixture
def quarter_means() -> Iterator[type[QuarterMeans]]:
    """The encoder of their reference features, among those that a checkpoint may name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, QuarterMeans.name, QuarterMeans)
        yield QuarterMeans


def at_rest(number: int) -> Feature:
    """Key points at rest of made-up frames."""
    return {"canonical": np.random.default_rng(100 + number).standard_normal((NUM_FRAMES, 3)).astype(np.float32)}


def on_snapshot(folder: Path, modalities: Sequence[str], canonical: bool = False) -> TrainConfig:
    """A snapshot with these modalities, and the settings resolved on it."""
    store, made = Storage(str(folder)), {f"c{number}": features(number) for number in range(NUM_CLIPS)}
    if canonical:
        for number, clip in enumerate(made.values()):
            clip["structure"] |= at_rest(number)
    refs: dict[str, dict[str, FeatureRef]] = {name: {} for name in made}
    for modality in modalities:
        packed = pack_shard(
            store, modality, "fp", {n: f[modality] for n, f in made.items()}, {n: f"key-{n}" for n in made}
        )
        for name, ref in packed.items():
            refs[name][modality] = ref
    candidates = [
        SnapshotCandidate(
            clip=Clip(clip_id=name, source="test", video_id=name, location="none", span=Span(start_s=0.0, end_s=2.0)),
            media_digest="d",
            num_frames=NUM_FRAMES,
            features=refs[name],
        )
        for name in made
    ]
    split = SplitConfig(validation=0.2, salt="b")
    encoders = (DctVideoCodec(), FaceDctStructure(), LogMel(), QuarterMeans())
    made_by: dict[str, str] = {each.modality: each.fingerprint() for each in encoders}
    snapshot = build_snapshot(store, candidates, Policy(name="open"), "set", split=split, encoders=made_by).snapshot
    assert snapshot.splits["validation"]
    return SETTINGS.resolve(str(folder), snapshot.id)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """An empty folder for one run."""
    return tmp_path / "run"
