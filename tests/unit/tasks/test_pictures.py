"""Pictures are written, of the right size, equal for equal input, and survive what strangers call their clips."""

from pathlib import Path

import numpy as np
import pytest

from dualforce_model import media
from dualforce_model.train_log import LogRow
from tasks.pictures import LipCurves, Strip, contact_sheet, lips_plot, loss_curves, side_by_side

HOSTILE = "../<b>\x00\n \u202e" + "Ж語" * 80


@pytest.fixture
def strip(tmp_path: Path) -> Strip:
    path = tmp_path / "strip.jpg"
    media.write_image(path, np.full((90, 360, 3), (200, 40, 40), np.uint8))
    return Strip("clip", "r 0.8", path)


def test_a_contact_sheet_shows_every_clip(tmp_path: Path, strip: Strip) -> None:
    quarantined = [Strip("gone", "gone: HTTP 404", None), Strip(HOSTILE, HOSTILE, strip.picture)]
    contact_sheet(tmp_path / "sheet.png", [strip] * 4, quarantined)
    sheet = media.read_image(tmp_path / "sheet.png")
    reddish = (sheet[..., 0] > 180) & (sheet[..., 1] < 70) & (sheet[..., 2] < 70)
    assert reddish.sum() > 5 * 355 * 88
    contact_sheet(tmp_path / "again.png", [strip] * 4, quarantined)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sheet.png").read_bytes()


def test_a_contact_sheet_of_nothing_and_of_far_too_much(tmp_path: Path, strip: Strip) -> None:
    contact_sheet(tmp_path / "none.png", [], [])
    contact_sheet(tmp_path / "many.jpg", [strip._replace(picture=None)] * 300, [])
    assert media.read_image(tmp_path / "many.jpg").shape[0] < 9000


def test_loss_curves(tmp_path: Path) -> None:
    rows = [LogRow(step=step, values={"loss": 1 / step, "loss_video": 0.5 / step, "lr": 1.0}) for step in range(1, 30)]
    loss_curves(tmp_path / "loss.png", rows)
    loss_curves(tmp_path / "again.png", rows)
    assert media.read_image(tmp_path / "loss.png").shape[1] > 1000
    assert (tmp_path / "loss.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    loss_curves(tmp_path / "one.png", [LogRow(step=1, values={"loss": -0.5})])


def test_a_log_without_losses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        loss_curves(tmp_path / "loss.png", [LogRow(step=1, values={"lr": 1.0})])


def test_lips_plots(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    curve = LipCurves("clip", "r 0.5", rng.random(50).astype(np.float32), {"truth": np.zeros(50, np.float32)})
    one, many = tmp_path / "one.png", tmp_path / "many.png"
    lips_plot(one, [curve])
    lips_plot(many, [curve._replace(openings={"generated": curve.envelope, "other": curve.envelope})] * 40)
    assert media.read_image(many).shape[0] > 5 * media.read_image(one).shape[0]
    with pytest.raises(ValueError, match="no clip"):
        lips_plot(one, [])


def test_side_by_side_is_a_video_with_the_sound(tmp_path: Path) -> None:
    left, right = np.full((9, 32, 32, 3), 40, np.uint8), np.full((13, 32, 33, 3), 220, np.uint8)
    sound = 0.3 * np.sin(np.arange(640 * 20) / 7).astype(np.float32)
    side_by_side(tmp_path / "pair.mp4", left, right, sound, scale=1)
    frames = np.stack(list(media.read_frames(tmp_path / "pair.mp4")))
    assert frames.shape == (9, 62, 66, 3)
    assert abs(int(frames[4, 50, 10].mean()) - 40) < 6
    assert abs(int(frames[4, 50, 50].mean()) - 220) < 6
    heard = media.read_sound(tmp_path / "pair.mp4", 0.0, 9 / 25)
    assert np.corrcoef(heard[2000:5000], sound[2000:5000])[0, 1] > 0.95
