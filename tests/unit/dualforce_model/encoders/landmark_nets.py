"""Nets of landmarks whose answers are known, in the form of the published ones, and a motion extractor of noise."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from dualforce_model.encoders.liveportrait import MotionExtractor
from tests.pickled import vouched

FACE = 1 / 1.5  # share of the refining crop that the 203 points fill: with it, refining again changes nothing
STRIDES = (8, 16, 32)


def face_points(count: int, seed: int = 0) -> np.ndarray:
    """Points of an upright face in a square from 0 to 1 that it fills: eyes above the lips, whatever the set."""
    from dualforce_model.encoders.liveportrait.landmarks import PLACES

    places = PLACES[count]
    points = np.random.default_rng(seed).uniform(0, 1, (count, 2)).astype(np.float32)
    points[list(places.left_eye)] = [[0.2, 0.3], [0.3, 0.25], [0.4, 0.3], [0.3, 0.35]][: len(places.left_eye)]
    points[list(places.right_eye)] = [[0.6, 0.3], [0.7, 0.25], [0.8, 0.3], [0.7, 0.35]][: len(places.right_eye)]
    points[list(places.lips)] = [[0.35, 0.75], [0.65, 0.75]]
    loose = sorted(set(range(count)) - {i for place in places for i in place})
    points[loose[:2]] = [[0.0, 0.0], [1.0, 1.0]]
    return points


def _saved(path: Path, nodes: list[onnx.NodeProto], taken: list[int | str], answers: dict[str, int],
           constants: list[onnx.TensorProto], name: str) -> Path:  # fmt: skip
    outputs = [helper.make_tensor_value_info(each, TensorProto.FLOAT, [1, wide]) for each, wide in answers.items()]
    graph = helper.make_graph(
        nodes, "points", [helper.make_tensor_value_info(name, TensorProto.FLOAT, taken)], outputs, constants
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def _answer(name: str, values: np.ndarray, slope: float) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Constant numbers, moved by `slope` times the picture's mean colour."""
    kernel = np.full((3, values.size), slope / 3, np.float32)
    nodes = [helper.make_node("Gemm", ["colour", f"{name}.k", f"{name}.b"], [name])]
    return nodes, [numpy_helper.from_array(kernel, f"{name}.k"), numpy_helper.from_array(values, f"{name}.b")]


def save_first(path: Path, slope: float = 0.0, count: int = 106) -> Path:
    """`2d106det.onnx`: points from -1 to 1. Its first node is the one by which insightface knows the pixels' scale."""
    said, constants = _answer("fc1", (face_points(106)[:count] - 0.5).flatten(), slope)
    nodes = [
        helper.make_node("Identity", ["data"], ["seen"], name="bn_data"),
        helper.make_node("GlobalAveragePool", ["seen"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["colour"]),
    ]
    return _saved(path, [*nodes, *said], [1, 3, 192, 192], {"fc1": 2 * count}, constants, "data")


def save_dense(path: Path, slope: float = 0.0, count: int = 203) -> Path:
    """`landmark.onnx`: the third of three answers holds the points, from 0 to 1."""
    placed = (face_points(203) - 0.5) * FACE + np.array([0.5, 0.6], np.float32)
    said, constants = _answer("points", placed[:count].astype(np.float32).flatten(), slope)
    first, more = _answer("first", np.zeros(4, np.float32), 0.0)
    second, most = _answer("second", np.zeros(2, np.float32), 0.0)
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["colour"]),
    ]
    widths = {"first": 4, "second": 2, "points": 2 * count}
    return _saved(path, [*nodes, *first, *second, *said], [1, 3, 224, 224], widths, [*constants, *more, *most], "input")


def save_detector(path: Path) -> Path:
    """An SCRFD that takes a red cell of its coarse grid for the middle of a face of 3 x 4 cells."""
    nodes, constants, heads = [], [], {"score": [], "box": [], "point": []}
    for stride in STRIDES:
        pooling = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
        nodes.append(helper.make_node("AveragePool", ["picture"], [f"mean{stride}"], **pooling))
        answers = {"score": (1, [-24.0]), "box": (4, [1.0, 1.5, 2.0, 2.5]), "point": (10, [0.0] * 10)}
        for head, (wide, values) in answers.items():
            kernel = np.zeros((2 * wide, 3, 1, 1), np.float32)
            if head == "score" and stride == 32:
                kernel[0, :, 0, 0] = np.array([12, -12, -12])
            name = f"{head}{stride}"
            constants += [
                numpy_helper.from_array(kernel, f"{name}.kernel"),
                numpy_helper.from_array(np.tile(np.array(values, np.float32), 2), f"{name}.bias"),
                numpy_helper.from_array(np.array([-1, wide], np.int64), f"{name}.shape"),
            ]
            nodes += [
                helper.make_node("Conv", [f"mean{stride}", f"{name}.kernel", f"{name}.bias"], [f"{name}.map"]),
                helper.make_node("Transpose", [f"{name}.map"], [f"{name}.last"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}.last", f"{name}.shape"], [f"{name}.flat"]),
                helper.make_node("Sigmoid" if head == "score" else "Identity", [f"{name}.flat"], [name]),
            ]
            heads[head].append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, wide]))
    taken = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(nodes, "red", [taken], [out for outs in heads.values() for out in outs], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def save_motion_extractor(path: Path) -> Path:
    """Noise under the published names, in the published shapes; pinned, as whatever takes their place has to be."""
    net = MotionExtractor()
    draw = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in net.state_dict().items():
        spread = 0.02 if tensor.ndim < 2 else (1.4 / tensor[0].numel()) ** 0.5
        weights[name] = torch.randn(tensor.shape, generator=draw) * spread + (name.endswith("norm.weight"))
    save_file(weights, path)
    return vouched(path)
