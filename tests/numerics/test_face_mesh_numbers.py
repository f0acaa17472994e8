"""MediaPipe's landmarker, as it is used here, against numbers that were taken from it elsewhere."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from skimage import data

from dualforce_model.config import ConfigError
from dualforce_model.encoders.face_mesh import FaceMesh, FaceMeshConfig

POINTS, SHAPES, TURN, PLACE_CM = 2e-3, 2e-2, 1e-2, 0.5  # what other machines may differ by


@pytest.mark.parametrize(("name", "top", "left", "side"), [("full", 0, 0, 512), ("face", 20, 120, 200)])
def test_a_first_frame_is_what_a_single_picture_gives(shared: Path, name: str, top: int, left: int, side: int) -> None:
    pytest.importorskip("mediapipe")
    wanted = load_file(shared / "golden" / "encoders" / "mediapipe_face.safetensors")
    mesh = FaceMesh(FaceMeshConfig(weights=shared / "models"))
    try:
        mesh.load()
    except ConfigError as error:  # a system library is missing
        pytest.skip(str(error))
    picture = data.astronaut()[top : top + side, left : left + side]
    track = mesh.track(picture[None])
    golden = {each: wanted[f"astronaut_{name}_{each}"][0] for each in ("landmarks", "blendshapes", "matrix")}
    np.testing.assert_allclose(track.points[0] / side, golden["landmarks"], atol=POINTS)
    np.testing.assert_allclose(track.blendshapes[0], golden["blendshapes"], atol=SHAPES)
    np.testing.assert_allclose(track.poses[0, :3, :3], golden["matrix"][:3, :3], atol=TURN)
    np.testing.assert_allclose(track.poses[0, :3, 3], golden["matrix"][:3, 3], atol=PLACE_CM)
