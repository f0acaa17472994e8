"""What the UI shows after curate alone: pictures of what was cut and of what was not, with the reasons."""

import re
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from dualforce_model import media
from dualforce_model.config import validate
from flows.acquire import AcquireRun, acquire
from flows.curate import CurateRun, curate
from flows.server import PrefectServer
from tasks.synthetic.animate import render_clip
from tasks.synthetic.portraits import PORTRAITS
from tasks.synthetic.speech import synthesise

pytestmark = pytest.mark.prefect


def previews(server: PrefectServer) -> str:
    filters = {"artifacts": {"key": {"any_": ["previews"]}}}
    (sheet,) = httpx.post(f"{server.url}/api/artifacts/latest/filter", json=filters).json()
    return str(sheet["data"])


@pytest.mark.timeout(300)
def test_curate_shows_what_was_cut_and_why_not(prefect_server: PrefectServer, tmp_path: Path) -> None:
    sound = synthesise(PORTRAITS["astronaut"].voice, 3, 1)
    media.write_video(tmp_path / "videos/talk.mp4", render_clip("astronaut", sound, 1).frames, sound)
    wall = cv2.resize(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8), (320, 180))
    media.write_video(tmp_path / "videos/wall.mp4", [wall] * 50, None)
    values: dict[str, Any] = {
        "place": {"dataset": "sheet", "home": str(tmp_path / "run")},
        "pool": {"engine": "local", "workers": 1},
        "stage": {"attempts": 1, "backoff_s": 0.0},
    }
    source = {"source": {"name": "folder", "folder": str(tmp_path / "videos")}}
    acquire(validate(AcquireRun, {**values, "acquire": source}, "test"))
    curate(validate(CurateRun, {**values, "curate": {"crop_px": 64}}, "test"))
    sheet = previews(prefect_server)
    assert re.findall("^###.*", sheet, re.MULTILINE) == ["### quarantined: no_face, 1", "### done, 1"]
    assert "no_face: `no face in any of the 7 frames looked at`" in sheet
    assert sheet.count("data:image/jpeg;base64,") == 2
    judged = {"curate": {"crop_px": 72}, "policy": "configs/policy/default.yaml"}
    curate(validate(CurateRun, {**values, **judged}, "test"))
    sheet = previews(prefect_server)
    assert sheet.startswith("Outcomes under the policy `default`.")
    assert "### quarantined: face_too_small, 1" in sheet
    assert re.search(r"face_too_small: `face_px \d+.*`, the threshold is `", sheet)
    general = {"curate": {"mode": "general", "crop_px": 64}, "policy": "configs/policy/default.yaml"}
    curate(validate(CurateRun, {**values, **general}, "test"))
    sheet = previews(prefect_server)
    assert sheet.startswith("The policy `default` asks for ")
    assert "### done, 2" in sheet
