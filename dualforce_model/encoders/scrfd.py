"""SCRFD through insightface's own class, which is handed an open session: its downloads are never reached."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dualforce_model.onnx_session import open_session
from dualforce_model.pretrained import Weights

STRIDE_PX = 32  # of the coarsest grid: sides must be multiples of it
NUM_OUTPUTS = (6, 9, 10, 15)  # three or five grids, without and with landmarks


def on_canvas(picture: UInt8[np.ndarray, "h w 3"], fixed: tuple[int, int] | None) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The RGB picture in BGR at the upper left of a black one whose size the net takes.

    `fixed`: width and height of a net that takes but one size (`static_input_size`).
    """
    height, width = picture.shape[:2]
    across, down = fixed or (-(-width // STRIDE_PX) * STRIDE_PX, -(-height // STRIDE_PX) * STRIDE_PX)
    canvas = np.zeros((down, across, 3), np.uint8)
    canvas[:height, :width] = picture[:, :, ::-1]
    return canvas


def open_scrfd(weights: Weights, path: Path) -> Any:
    """insightface's SCRFD on one CPU thread, tried once. The package is imported here: it takes half a second.

    Raises DamagedWeightsError for what is no such net.
    """
    from insightface.model_zoo.scrfd import SCRFD

    session = open_session(weights, path)
    (taken,), outputs = session.get_inputs(), session.get_outputs()
    if len(outputs) not in NUM_OUTPUTS or len(taken.shape) != 4:
        found = f"it takes {taken.shape} and gives {len(outputs)} outputs"
        raise weights.damaged(path, f"{found}; SCRFD takes one picture and gives 6, 9, 10 or 15")
    net = SCRFD(session=session)
    blank = on_canvas(np.zeros((STRIDE_PX, STRIDE_PX, 3), np.uint8), net.static_input_size)
    try:
        found, landmarks = net.detect(blank, blank.shape[1::-1], det_thresh=0.0)
    except Exception as error:  # from onnxruntime, or from numpy about shapes
        raise weights.damaged(path, error) from error
    if found.shape[1:] != (5,) or (landmarks is not None and landmarks.shape[1:] != (5, 2)):
        raise weights.damaged(path, f"its boxes have the shape {found.shape}, expected [n, 5]")
    if not np.isfinite(found).all():
        raise weights.damaged(path, "its boxes are not numbers")
    return net
