"""Speakers cut from pictures: all there, upright, and refused when a picture is not the one that was measured."""

import subprocess
import sys

import numpy as np
import pytest

from tasks.synthetic.portraits import EYES_AT, PORTRAITS, Picture, PortraitError, cut_out


@pytest.mark.parametrize("name", sorted(PORTRAITS))
def test_every_speaker_is_cut_out(name: str) -> None:
    cut = cut_out(name, 160)
    alpha = cut.rgba[..., 3]
    assert cut.rgba.shape == (208, 208, 4)
    assert 0.25 < (alpha > 128).mean() < 0.8
    for x, y in (EYES_AT, *cut.portrait.lips, cut.portrait.chin):
        assert alpha[int(y * cut.scale), int(x * cut.scale)] > 200, "a feature lies outside the outline"
    assert alpha[0, 0] == alpha[0, -1] == 0, "background in the corners"


@pytest.mark.parametrize("name", sorted(PORTRAITS))
def test_features_are_where_faces_have_them(name: str) -> None:
    face = PORTRAITS[name]
    (x0, _), (x1, y1), (x2, _) = face.lips
    assert x0 < x1 < x2
    assert face.chin[1] - y1 > 0.35 * face.eyes_to_mouth
    assert y1 == pytest.approx(EYES_AT[1] + face.eyes_to_mouth, abs=6)
    assert all(eye.top < eye.bottom < y1 for eye in face.eyes)


def test_cut_outs_do_not_depend_on_anything_but_their_arguments() -> None:
    assert np.array_equal(cut_out("grey", 160).rgba, cut_out("grey", 160).rgba)


def test_another_picture_is_refused_by_name() -> None:
    with pytest.raises(PortraitError, match=r"astronaut\.png is another picture.*constraints\.txt"):
        Picture(package="skimage", path="data/astronaut.png", sha256="0" * 64).locate()
    with pytest.raises(PortraitError, match="skimage has no data/nobody"):
        Picture(package="skimage", path="data/nobody.png", sha256="0" * 64).locate()
    with pytest.raises(PortraitError, match="no_such_package is not installed"):
        Picture(package="no_such_package", path="a.png", sha256="0" * 64).locate()


def test_an_unknown_speaker_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"no speaker 'nobody'.*astronaut"):
        cut_out("nobody", 160)


def test_the_packages_that_ship_the_pictures_are_not_imported() -> None:
    code = (
        "import sys; from tasks.synthetic.portraits import cut_out; cut_out('grey', 128); cut_out('astronaut', 128); "
        "print([name for name in ('insightface', 'skimage', 'prefect', 'ray') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"
