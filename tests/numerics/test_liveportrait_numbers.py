"""LivePortrait's motion extractor against the reference's numbers, with weights that are a function of their names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualforce_model.encoders.liveportrait import (
    DRIVING,
    LP70,
    LP128,
    REFINING,
    SOURCE,
    MotionExtractor,
    angles,
    assemble,
    degrees,
    face_square,
    load_motion_extractor,
    mean_square,
    posed_points,
    rotation,
    to_crop,
)
from dualforce_model.encoders.liveportrait.motion import HEADS
from tests.pickled import vouched

RELATIVE = 1e-5  # of the largest value: what a correct 32-bit run stays well under
ANGLE = 1e-3  # degrees: a mean over bins, times 3
TURN = ANGLE * np.pi / 180  # of a rotation's entry, by such an angle
PIXEL = 2e-3  # landmarks are stored to a thousandth


@pytest.fixture(scope="module")
def numbers(golden: Callable[[str], Any]) -> Any:
    return golden("liveportrait_motion")


@pytest.fixture(scope="module")
def net(
    numbers: Any, encoder_weights: Callable[..., dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> MotionExtractor:
    """As from a published file: the names are the file's, all of them and no others."""
    weights = encoder_weights(numbers.facts)
    path = tmp_path_factory.mktemp("weights") / "motion_extractor.safetensors"
    save_file(weights, path)
    made = load_motion_extractor(vouched(path))
    path.unlink()
    assert sum(tensor.numel() for tensor in made.state_dict().values()) == 28_118_728
    return made


def close(found: Any, wanted: Any, atol: float | None = None) -> None:
    found, expected = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == expected.shape
    allowed = RELATIVE * np.abs(expected).max() if atol is None else atol
    distance = np.abs(found - expected).max()
    assert distance <= allowed, f"{distance:.1e} away, {allowed:.1e} allowed"


def agrees(net: MotionExtractor, wanted: dict[str, Tensor]) -> None:
    """Every stage from pixels to key points."""
    pictures = wanted["image_rgb_u8"]
    raw = net.raw(pictures.numpy())
    for name in HEADS:
        close(raw[name], wanted[f"raw_{name}"])
    with torch.inference_mode():
        close(net.detector.pooled(pictures.permute(0, 3, 1, 2) / 255), wanted["pooled_feature"])
    motion = assemble(raw)
    for column, name in enumerate(("pitch", "yaw", "roll")):
        close(motion.degrees[:, column, None], wanted[f"{name}_degree"], ANGLE)
    close(rotation(motion.degrees), wanted["rotation"], TURN)
    close(posed_points(motion), wanted["keypoints_transformed"])


def test_every_stage(numbers: Any, net: MotionExtractor) -> None:
    agrees(net, numbers.numbers)


def test_two_pictures_at_once(shared: Path, net: MotionExtractor) -> None:
    """All that the reference has, from where it came."""
    agrees(net, load_file(shared / "golden" / "encoders" / "liveportrait_motion.safetensors"))


def test_the_bound_tells_mistakes_apart(numbers: Any, net: MotionExtractor) -> None:
    """Colours in the other order and the norms' usual epsilon are both seen."""
    rgb = numbers["image_rgb_u8"].numpy()
    with pytest.raises(AssertionError, match="away"):
        close(net.raw(rgb[..., ::-1])["exp"], numbers["raw_exp"])
    norms = [module for module in net.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    try:
        for norm in norms:
            norm.eps = 1e-5
        with pytest.raises(AssertionError, match="away"):
            close(net.raw(rgb)["exp"], numbers["raw_exp"])
    finally:
        for norm in norms:
            norm.eps = 1e-6


def test_bins_and_angles(numbers: Any) -> None:
    close(degrees(numbers["bins_probe_logits"].numpy()), numbers["bins_probe_degree"], 2e-5)
    probes = numbers["euler_probe_pitch_yaw_roll"].numpy()
    close(rotation(probes), numbers["euler_probe_rotation"], 1e-6)
    close(angles(numbers["euler_probe_rotation"].numpy()), probes, 1e-4)


def crops_agree(crops: list[dict[str, Any]], driving: dict[str, Any]) -> None:
    """Squares and matrices of the reference's crops."""
    for crop in crops:
        points = np.array(crop["landmarks"])
        square, told = face_square(points, SOURCE), crop["rect_scale2.3_vy-0.125"]
        close((square.x, square.y), told["center"], PIXEL)
        close((square.side, square.side), told["size"], PIXEL)
        close(square.radians, told["angle_rad"], 1e-5)
        for name, form in (
            ("source_512", SOURCE),
            ("landmark_refine_224", REFINING),
            ("source_512_no_rot", SOURCE._replace(turned=False)),
        ):
            matrix = to_crop(face_square(points, form), form.side_px)
            matrix_close(matrix, crop[name]["M_o2c"])
            close(points[:3] @ matrix[:, :2].T + matrix[:, 2], crop[name]["pt_crop_first3"], PIXEL)
    frames = np.array(driving["landmarks_per_frame"])
    for points, box in zip(frames, driving["bbox_per_frame_ltrb"], strict=True):
        close(edges(face_square(points, DRIVING)), box, PIXEL)
    close(edges(mean_square(frames)), driving["mean_bbox"], PIXEL)
    matrix_close(to_crop(mean_square(frames), DRIVING.side_px), driving["M_o2c"])


def edges(square: Any) -> list[float]:
    half = square.side / 2
    return [square.x - half, square.y - half, square.x + half, square.y + half]


def matrix_close(found: np.ndarray, wanted: list[list[float]]) -> None:
    close(found[:, :2], [row[:2] for row in wanted[:2]], 1e-5)
    close(found[:, 2], [row[2] for row in wanted[:2]], PIXEL)


def test_crops(numbers: Any) -> None:
    assert [len(crop["landmarks"]) for crop in numbers.facts["crops"]] == [106, 203, 68]
    crops_agree(numbers.facts["crops"], numbers.facts["driving"])


def test_crops_where_they_came_from(shared: Path) -> None:
    crops = json.loads((shared / "golden" / "encoders" / "crops.json").read_text())
    crops_agree(crops["liveportrait"], crops["liveportrait_driving_bbox"])


def test_the_entries_at_rest_are_those_of_real_clips(numbers: Any) -> None:
    """Under the floor they stay where they are; what moves is over it."""
    ranges = numbers.facts["ranges"]
    for layout, width in ((LP70, 42), (LP128, 100)):
        active = layout.active
        assert active[:63].tolist() == ranges["exp_active"]
        assert active.sum() == width
        std = np.concatenate([ranges["exp_std"], np.ones(layout.num_entries - 63)])
        scaled = std / layout.floored(std)
        assert (scaled[active] == 1).all()
        assert scaled[:63][~active[:63]].max() < 0.2
        assert ranges["exp_inactive_abs_max"] < layout.std_floor < np.array(ranges["exp_abs_max"])[active[:63]].min()


def test_how_many_pictures_at_once_changes_nothing(net: MotionExtractor, numbers: Any) -> None:
    pictures = numbers["image_rgb_u8"].numpy()
    raw = net.raw(pictures, chunk=1)
    for name in HEADS:
        close(raw[name], numbers[f"raw_{name}"])


@pytest.mark.slow
def test_half_precision_stays_near(net: MotionExtractor, numbers: Any) -> None:
    """As the encoder's `precision: fp16`. Measured with these weights of noise: 0.006 net units, 0.03 degrees."""
    pictures = numbers["image_rgb_u8"].numpy()[:1]
    full = net.motion(pictures)
    with torch.autocast("cpu", torch.float16):
        half = net.motion(pictures)
    for name in ("kp", "exp", "t", "scale"):
        close(getattr(half, name), getattr(full, name), 0.01)
    close(half.degrees, full.degrees, 0.1)
    assert np.abs(half.kp - full.kp).max() > 1e-5  # it is another precision
