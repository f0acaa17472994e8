"""SyncNet against the reference's numbers: every stage, with weights that are a function of their names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import Tensor

from dualforce_model.encoders.syncnet import SyncNet, agree, distances, mean_distances, mfcc
from dualforce_model.encoders.syncnet.faces import face_squares

RELATIVE = 1e-5  # of the largest value: what a correct 32-bit run stays well under


@pytest.fixture(scope="module")
def numbers(golden: Callable[[str], Any]) -> Any:
    return golden("syncnet_v2")


@pytest.fixture(scope="module")
def net(numbers: Any, encoder_weights: Callable[..., dict[str, Tensor]]) -> SyncNet:
    weights = encoder_weights(numbers.facts)
    made = SyncNet()
    assert {name: list(tensor.shape) for name, tensor in made.state_dict().items()} == {
        name: list(tensor.shape) for name, tensor in weights.items()
    }
    made.load_state_dict(weights)
    return made


def close(found: Any, wanted: Tensor) -> None:
    found, expected = np.asarray(found, np.float64), wanted.double().numpy()
    assert found.shape == expected.shape
    distance = np.abs(found - expected).max() / np.abs(expected).max()
    assert distance <= RELATIVE, f"{distance:.1e} of the largest value away"


def sound(numbers: Any) -> np.ndarray:
    return (numbers["audio_i16"].numpy() / 32768).astype(np.float32)


def test_the_front_end(numbers: Any) -> None:
    close(mfcc(sound(numbers)), numbers["mfcc_frames_by_13"])


def test_what_is_heard(numbers: Any, net: SyncNet) -> None:
    close(net.audio_features(sound(numbers)), numbers["audio_feature"])


def test_what_is_seen(numbers: Any, net: SyncNet) -> None:
    rgb = numbers["frames_bgr_u8"].numpy()[..., ::-1]
    close(net.video_features(rgb), numbers["video_feature"])
    frames = numbers["frames_bgr_u8"].float().permute(3, 0, 1, 2)[None]
    close(net.netcnnlip(frames).flatten(1), numbers["video_mid_512"])
    with pytest.raises(AssertionError):  # the order of colours is seen
        close(net.video_features(rgb[..., ::-1]), numbers["video_feature"])


def test_distances_offset_and_confidence(numbers: Any) -> None:
    video, audio = (numbers[f"metric_{which}_feature"].numpy() for which in ("video", "audio"))
    close(distances(video, audio), numbers["metric_v15_dists"])
    curve = mean_distances(video, audio)
    close(curve, numbers["metric_v15_mean_dist"])
    close(agree(curve), numbers["metric_v15_result_offset_mindist_conf"])


def test_the_face_is_cut_out_where_the_reference_does(numbers: Any) -> None:
    track = numbers.facts["track"]
    wanted = [
        (x0 - pad, y0 - pad, x1 - pad, y1 - pad)
        for pad, y0, y1, x0, x1 in track["per_frame_pad_y0_y1_x0_x1_in_padded_image"]
    ]
    assert face_squares(np.array(track["bbox_ltrb"])).tolist() == [list(square) for square in wanted]


def test_every_window_and_the_shorter_reach(shared: Path, net: SyncNet) -> None:
    """What is too large for the clone."""
    folder = shared / "golden" / "encoders"
    whole, facts = load_file(folder / "syncnet_v2.safetensors"), json.loads((folder / "syncnet_v2.json").read_text())
    video, audio = net.paired_features(
        whole["frames_bgr_u8"].numpy()[..., ::-1], (whole["audio_i16"].numpy() / 32768).astype(np.float32)
    )
    assert len(video) == len(audio) == facts["config"]["windows"]
    close(video, whole["video_feature"])
    close(audio, whole["audio_feature"])
    curve = mean_distances(whole["metric_video_feature"].numpy(), whole["metric_audio_feature"].numpy(), 10)
    close(agree(curve), whole["metric_v10_result_offset_mindist_conf"])
