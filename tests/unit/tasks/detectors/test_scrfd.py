"""SCRFD on nets made here, whose answers are known exactly: any SCRFD's file form, without anybody's weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dualforce_model.pretrained import DamagedWeightsError
from tasks.detectors import Detector, DetectorConfig, make_detector

STRIDES = (8, 16, 32)
EDGES = (0.5, 0.25, 1.5, 1.75)  # left, top, right, bottom of the box, in strides from the anchor
POINTS = (1.0, 0.25, 0.0, 0.25, 0.5, 0.75, 0.75, 1.25, 0.25, 1.25)  # the right one of each pair first


def red_net(path: Path, landmarks: bool = True, side_px: int | None = None, bad: bool = False) -> Path:
    """An SCRFD that takes each cell of the coarse grid that is pure red for a face of a fixed shape."""
    nodes, constants, heads = [], [], {"score": [], "box": [], "point": []}
    for stride in STRIDES:
        nodes.append(
            helper.make_node(
                "AveragePool", ["picture"], [f"mean{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        seen = 12.0 if stride == 32 else 0.0
        answers = {"score": (1, [-24.0]), "box": (4, EDGES), "point": (10, POINTS)}
        for head, (wide, values) in answers.items():
            if head == "point" and not landmarks:
                continue
            kernel = np.zeros((2 * wide, 3, 1, 1), np.float32)
            if head == "score":
                kernel[:, :, 0, 0] = seen * np.array([1, -1, -1])  # RGB
            bias = np.tile(np.array(values, np.float32), 2) * (np.nan if bad and head == "box" else 1)
            name = f"{head}{stride}"
            constants += [
                numpy_helper.from_array(kernel, f"{name}.kernel"),
                numpy_helper.from_array(bias, f"{name}.bias"),
                numpy_helper.from_array(np.array([-1, wide], np.int64), f"{name}.shape"),
            ]
            nodes += [
                helper.make_node("Conv", [f"mean{stride}", f"{name}.kernel", f"{name}.bias"], [f"{name}.map"]),
                helper.make_node("Transpose", [f"{name}.map"], [f"{name}.last"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}.last", f"{name}.shape"], [f"{name}.flat"]),
                helper.make_node("Sigmoid" if head == "score" else "Identity", [f"{name}.flat"], [name]),
            ]
            heads[head].append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, wide]))
    sides = ["height", "width"] if side_px is None else [side_px] * 2
    taken = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, *sides])
    graph = helper.make_graph(nodes, "red", [taken], [out for outs in heads.values() for out in outs], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def loaded(path: Path, **settings: object) -> Detector:
    detector = make_detector(DetectorConfig(name="scrfd", weights=path, **settings))
    detector.load()
    return detector


def red_cell(height: int, width: int, row: int, column: int) -> np.ndarray:
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = (255, 0, 0)
    return picture


@pytest.mark.parametrize("side_px", [None, 320])
def test_boxes_and_points_are_those_of_the_net(tmp_path: Path, side_px: int | None) -> None:
    detector = loaded(red_net(tmp_path / "det_red.onnx", side_px=side_px))
    (face,) = detector(red_cell(200, 300, row=1, column=2))
    assert np.allclose(face.box, (64 - 16, 32 - 8, 64 + 48, 32 + 56))
    assert face.score == pytest.approx(1 / (1 + np.exp(-12.0)), abs=1e-3)
    assert np.allclose(face.landmarks, [(64, 40), (96, 40), (80, 56), (72, 72), (88, 72)])


def test_channels_are_red_green_blue(tmp_path: Path) -> None:
    detector = loaded(red_net(tmp_path / "det_red.onnx"))
    assert len(detector(red_cell(128, 128, 1, 1))) == 1
    assert detector(np.ascontiguousarray(red_cell(128, 128, 1, 1)[:, :, ::-1])) == []


@pytest.mark.parametrize("side_px", [None, 320])
def test_large_pictures_are_shrunk_and_answers_come_back_in_their_pixels(tmp_path: Path, side_px: int | None) -> None:
    detector = loaded(red_net(tmp_path / "det_red.onnx", side_px=side_px), max_side_px=320)
    (face,) = detector(red_cell(160, 320, row=2, column=3).repeat(4, axis=0).repeat(4, axis=1))
    assert np.allclose(np.array(face.box) / 4, (96 - 16, 64 - 8, 96 + 48, 64 + 56))
    assert np.allclose(np.array(face.landmarks) / 4, [(96, 72), (128, 72), (112, 88), (104, 104), (120, 104)])


def test_boxes_end_at_the_edge_and_landmarks_tell_where_they_are(tmp_path: Path) -> None:
    (face,) = loaded(red_net(tmp_path / "det_red.onnx"))(red_cell(64, 64, row=1, column=1))
    assert face.box == (16.0, 24.0, 64.0, 64.0)
    assert max(y for _, y in face.landmarks or ()) == pytest.approx(72)


def test_a_net_without_landmarks_gives_none(tmp_path: Path) -> None:
    (face,) = loaded(red_net(tmp_path / "det_red.onnx", landmarks=False))(red_cell(96, 96, 1, 1))
    assert face.landmarks is None


def test_small_and_unsure_faces_are_left_out(tmp_path: Path) -> None:
    path = red_net(tmp_path / "det_red.onnx")
    picture = red_cell(256, 256, 1, 1)  # the box is 64 px high
    assert len(loaded(path, min_face=0.25)(picture)) == 1
    assert loaded(path, min_face=0.26)(picture) == []
    assert loaded(path, min_score=1.0)(picture) == []


def test_a_net_that_answers_no_numbers_is_refused(tmp_path: Path) -> None:
    path = red_net(tmp_path / "det_red.onnx", bad=True)
    with pytest.raises(DamagedWeightsError, match="not numbers"):
        loaded(path)


def test_neither_insightface_nor_onnxruntime_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys; import tasks.detectors; "
        "print([name for name in ('insightface', 'onnxruntime', 'onnx', 'mediapipe') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"
