"""SyncNet as a measure: a net made here that sees light and hears loudness finds how far apart the two are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dualforce_model import clock
from dualforce_model.encoders.syncnet import SyncNet
from dualforce_model.pretrained import DamagedWeightsError
from tasks import quality
from tasks.evidence import Evidence
from tasks.measures import MeasureConfig
from tasks.measures.syncnet import SyncNetMeasure
from tasks.records import Score
from tests.pickled import save_pickled

EvidenceOf = Callable[..., Evidence]
NUM_FRAMES = 41
LOUD = 25.0  # what the front end hears of noise at full strength


@pytest.fixture(scope="module")
def watchful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that let one number through every layer: how light the picture is, and how loud the sound."""
    net = SyncNet()
    for tensor in net.state_dict().values():
        tensor.zero_()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            module.running_var.fill_(1.0)
            module.weight.fill_(1.0)
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            middle = tuple(side // 2 for side in module.kernel_size)
            module.weight[(0, 0, *middle)] = 1.0
        elif isinstance(module, torch.nn.Linear):
            module.weight[0, 0] = 1.0
    net.netcnnlip[0].weight[0] = 1 / (255 * 3 * 5 * 7 * 7)  # the mean of five frames
    net.netcnnaud[0].weight[0] /= LOUD
    net.netcnnaud[18].weight[0, 0] = 0.0
    net.netcnnaud[18].weight[0, 0, 0] = 0.25  # the row with the energy, over all times
    path = tmp_path_factory.mktemp("weights") / "watchful.safetensors"
    save_file(net.state_dict(), path)
    return path


def loaded(path: Path) -> SyncNetMeasure:
    measure = SyncNetMeasure(MeasureConfig(weights=path))
    measure.load()
    return measure


def flicker() -> np.ndarray:
    """On twice in the middle of a clip, and 20 frames more of nothing on either side."""
    on = np.zeros(NUM_FRAMES + 40, bool)
    on[29:36] = on[43:52] = True
    return on


def talking(evidence_of: EvidenceOf, late: int) -> Evidence:
    """Pictures that are light and dark, sound that is there and gone `late` frames later."""
    on = flicker()
    pictures = [np.full((512, 512, 3), 230 if light else 20, np.uint8) for light in on[20 : 20 + NUM_FRAMES]]
    noise = np.random.default_rng(0).normal(0, 0.3, clock.num_samples(NUM_FRAMES))
    heard = np.repeat(on[20 - late : 20 - late + NUM_FRAMES], clock.SAMPLES_PER_FRAME)
    return evidence_of(pictures, (noise * heard).astype(np.float32))


@pytest.mark.parametrize("late", [3, -5])
def test_sound_that_is_late_is_found_late(late: int, watchful: Path, evidence_of: EvidenceOf) -> None:
    scores = loaded(watchful)(talking(evidence_of, late))
    offset, confidence = scores["sound_offset_ms"], scores["sync_confidence"]
    assert offset.value == 40 * late
    assert confidence.value is not None
    assert confidence.value > 0.2  # of the 1 between light and dark
    assert offset.method == confidence.method
    assert offset.method.startswith("SyncNet, weights "), "numbers of other weights are not those of papers"


def test_what_cannot_be_measured_says_why(watchful: Path, evidence_of: EvidenceOf) -> None:
    measure = loaded(watchful)
    method = measure.method
    short = [np.zeros((512, 512, 3), np.uint8)] * 35
    noise = np.random.default_rng(0).normal(0, 0.1, clock.num_samples(35)).astype(np.float32)
    for clip, why in (
        (evidence_of(), f"{method}: needs sound"),
        (evidence_of(short, np.full(len(noise), 0.25, np.float32)), f"{method}: needs sound"),
        (evidence_of(short, noise), f"{method}: needs 1.44 s of picture and sound"),
        (evidence_of(face=False, sound=noise), quality.no_face_sought().method),
    ):
        assert measure(clip) == dict.fromkeys(("sound_offset_ms", "sync_confidence"), Score(method=why))


def test_an_offset_that_is_none_is_not_told(watchful: Path) -> None:
    measure = loaded(watchful)
    curve = np.full(31, 9.0)
    for places, why in (
        ([4, 11], "several lags fit alike"),
        ([0], "the best lag is the furthest that is looked at"),
        ([30], "the best lag is the furthest that is looked at"),
    ):
        fitting = curve.copy()
        fitting[places] = 6.0
        scores = measure._scores(fitting)
        assert scores["sound_offset_ms"] == Score(method=f"{measure.method}: {why}")
        assert scores["sync_confidence"].value == 3.0
    curve[16] = 5.0
    assert measure._scores(curve)["sound_offset_ms"].value == 40.0
    assert measure._scores(np.full(31, 9.0))["sync_confidence"].value == 0.0


def test_weights_that_answer_no_numbers_are_refused(tmp_path: Path, watchful: Path) -> None:
    net = SyncNet()
    net.netfclip[1].running_var.fill_(-1.0)
    path = tmp_path / "odd.safetensors"
    save_file(net.state_dict(), path)
    with pytest.raises(DamagedWeightsError, match=r"odd\.safetensors: .* its answers are not numbers"):
        loaded(path)


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "syncnet_v2.model"
    save_pickled({name: torch.zeros(1) for name in SyncNet().state_dict()}, path)
    with pytest.raises(DamagedWeightsError, match=r"netcnnaud\.0\.weight is \[1\], expected \[64, 1, 3, 3\]"):
        loaded(path)
