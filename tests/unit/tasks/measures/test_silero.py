"""Speech as Silero VAD hears it: its makers' own numbers, and what loudness alone takes for speech."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dualforce_model import media
from dualforce_model.pretrained import DamagedWeightsError
from tasks import quality
from tasks.evidence import Evidence
from tasks.measures import Measure, MeasureConfig
from tasks.measures.silero import SPEECH, WINDOW, Silero
from tasks.synthetic.portraits import PORTRAITS
from tasks.synthetic.speech import synthesise

MeasureOf = Callable[[str], Measure]
EvidenceOf = Callable[..., Evidence]

SECONDS, RATE = 6, 16000
HEARD_S = 120  # of each file, when the manifest was made


def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, SECONDS * RATE).astype(np.float32)


def bursts() -> np.ndarray:
    """Noise that comes and goes as sentences do."""
    return (noise() * (np.sin(2 * np.pi * 0.7 * np.arange(SECONDS * RATE) / RATE) > 0)).astype(np.float32)


def music() -> np.ndarray:
    """Plucked notes with overtones."""
    length = RATE // 4
    notes = np.random.default_rng(1).choice([220.0, 262.0, 330.0, 392.0, 523.0], SECONDS * 4).repeat(length)
    phase = np.cumsum(2 * np.pi * notes / RATE)
    fading = np.exp(-np.tile(np.arange(length), SECONDS * 4) / 4000)
    return (0.2 * fading * (np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.3 * np.sin(3 * phase))).astype(np.float32)


@pytest.fixture
def share(measure_of: MeasureOf, evidence_of: EvidenceOf) -> Callable[[np.ndarray], float]:
    measure = measure_of("silero")

    def of(sound: np.ndarray) -> float:
        score = measure(evidence_of(sound=sound))["speech_share"]
        assert score.method == "Silero VAD"
        assert score.value is not None
        return score.value

    return of


def test_noise_music_and_silence_are_no_speech(share: Callable[[np.ndarray], float]) -> None:
    for sound in (noise(), bursts(), music(), np.zeros(SECONDS * RATE, np.float32), np.zeros(0, np.float32)):
        assert share(sound) < 0.05
    assert (quality.speech_share(bursts()).value or 0.0) > 0.4, "which loudness takes for speech"


@pytest.mark.parametrize("who", ["astronaut", "grey"])
def test_made_speech_is_speech(who: str, share: Callable[[np.ndarray], float]) -> None:
    sound = synthesise(PORTRAITS[who].voice, SECONDS, 1)
    assert share(sound) == pytest.approx(quality.speech_share(sound).value, abs=0.1)


def test_a_window_that_ends_early_and_sounds_shorter_than_one_are_heard(share: Callable[[np.ndarray], float]) -> None:
    for length in (1, WINDOW - 1, WINDOW, WINDOW + 1):
        assert share(noise()[:length]) in (0.0, 0.5, 1.0)


def test_real_recordings_measure_what_the_manifest_says(share: Callable[[np.ndarray], float], shared: Path) -> None:
    folder = shared / "realdata"
    if not (folder / "manifest.json").is_file():
        pytest.skip("needs realdata/manifest.json in the shared folder")
    entries = json.loads((folder / "manifest.json").read_text())["entries"]
    known = {entry["file"]: entry["audio"]["speech_ratio"] for entry in entries if "speech_ratio" in str(entry)}
    compared = 0
    for name, expected in known.items():
        if not (folder / name).is_file():
            continue
        sound = media.read_sound(folder / name)[: HEARD_S * RATE]
        windows = max(len(sound) / WINDOW, 1)  # other decoders and resamplers move a window or two
        assert share(sound) == pytest.approx(expected, abs=0.01 + 2 / windows), name
        compared += 1
    assert compared >= 40


MUSIC_AND_HUM = ("video/LivePortrait/s13.mp4", "video/media/sample.avi", "audio/silero-vad/test.opus")


@pytest.mark.parametrize("name", MUSIC_AND_HUM)
def test_real_music_and_hum_are_no_speech_though_loudness_says_so(
    name: str, share: Callable[[np.ndarray], float], shared: Path
) -> None:
    path = shared / "realdata" / name
    if not path.is_file():
        pytest.skip(f"needs realdata/{name} in the shared folder")
    sound = media.read_sound(path)
    assert share(sound) < 0.02
    assert (quality.speech_share(sound).value or 0.0) > 0.5


def counting_net(path: Path, *, answers: int = 1) -> Path:
    """A net in Silero's form whose probability is the loudest sample, and whose state counts windows."""
    taken = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, None]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, 1, 128]),
        helper.make_tensor_value_info("sr", TensorProto.INT64, []),
    ]
    given = [
        helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, answers]),
        helper.make_tensor_value_info("stateN", TensorProto.FLOAT, [2, 1, 128]),
    ]
    ones = np.ones((1, answers), np.float32)
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["loudest"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["loudest", "ones"], ["output"]),
        helper.make_node("Add", ["state", "one"], ["stateN"]),
    ]
    constants = [
        numpy_helper.from_array(ones, "ones"),
        numpy_helper.from_array(np.ones((1, 1, 1), np.float32), "one"),
    ]
    graph = helper.make_graph(nodes, "counting", taken, given, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_windows_follow_each_other_with_some_of_the_one_before(tmp_path: Path) -> None:
    measure = Silero(MeasureConfig(weights=counting_net(tmp_path / "silero_vad.onnx")))
    measure.load()
    sound = np.zeros(4 * WINDOW + 10, np.float32)
    sound[WINDOW - 1] = 0.75  # the end of the first window is the context of the second
    sound[3 * WINDOW] = 0.625  # the start of a window is no context
    assert measure.probabilities(sound).tolist() == [0.75, 0.75, 0.0, 0.625, 0.0]
    assert (measure.probabilities(sound) > SPEECH).mean() == 0.6


def test_a_net_that_answers_in_another_form_is_refused(tmp_path: Path) -> None:
    measure = Silero(MeasureConfig(weights=counting_net(tmp_path / "silero_vad.onnx", answers=2)))
    with pytest.raises(DamagedWeightsError, match="expected a probability"):
        measure.load()
