"""Structure vectors: tables of entries, and the way from motion to rows and back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dualforce_model.encoders.liveportrait import (
    LAYOUTS,
    LP70,
    LP128,
    Layout,
    Motion,
    Openness,
    canonical,
    lp70_fields,
    lp70_motion,
    lp128_fields,
    lp128_motion,
    rotation,
)
from dualforce_model.schema import TensorStatistics

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 5)


def some_motion(count: int, seed: int) -> Motion:
    """As a net might see it, looking nowhere near straight aside."""
    rng = np.random.default_rng(seed)
    numbers = {
        "kp": rng.normal(0, 0.3, (1, 21, 3)).repeat(count, axis=0),
        "exp": rng.normal(0, 0.01, (count, 21, 3)),
        "degrees": rng.uniform(-80, 80, (count, 3)),
        "t": rng.normal(0, 0.1, (count, 3)),
        "scale": rng.uniform(1, 2, (count, 1)),
    }
    return Motion(**{name: each.astype(np.float32) for name, each in numbers.items()})


def some_face(count: int, seed: int) -> tuple[Openness, np.ndarray]:
    rng = np.random.default_rng(seed + 1)
    eyes, lips, shapes = (rng.uniform(0, 0.7, (count, width)).astype(np.float32) for width in (2, 1, 52))
    return Openness(eyes, lips), shapes


# --------------------------------------------------------------------------------------------------------- the tables


def test_the_tables_are_those_of_the_design() -> None:
    """Stored rows depend on them: whoever changes a number here raises the version too."""
    spans = {name: {part.name: (part.start, part.stop) for part in layout.parts} for name, layout in LAYOUTS.items()}
    assert spans == {
        "lp70": {"exp": (0, 63), "degrees": (63, 66), "t": (66, 69), "scale": (69, 70)},
        "lp128": {
            "exp": (0, 63),
            "rotation": (63, 69),
            "t": (69, 72),
            "scale": (72, 73),
            "eyes": (73, 75),
            "lips": (75, 76),
            "blendshapes": (76, 128),
        },
    }
    assert {name: (layout.version, layout.num_entries) for name, layout in LAYOUTS.items()} == {
        "lp70": (1, 70),
        "lp128": (1, 128),
    }
    assert LP70.active.sum() == 42


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_table_goes_through_metadata(layout: Layout) -> None:
    assert Layout.model_validate(json.loads(json.dumps(layout.model_dump(mode="json")))) == layout


def part(name: str, start: int, stop: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "start": start, "stop": stop, "unit": "u", "source": "s", **more}


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ([part("a", 1, 2)], "expected one that starts at 0"),
        ([part("a", 0, 2), part("b", 3, 4)], "expected one that starts at 2"),
        ([part("a", 0, 2), part("b", 1, 4)], "expected one that starts at 2"),
        ([part("a", 0, 2), part("a", 2, 4)], "each name once"),
        ([part("a", 0, 2, at_rest=(2,))], "not inside"),
        ([], "at least 1 item"),
        ([part("a", 0, 2, other=1)], "Extra inputs"),
    ],
)
def test_tables_that_cannot_be_are_refused(parts: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Layout.model_validate({"name": "x", "version": 1, "parts": parts})


# ------------------------------------------------------------------------------------------------------ there and back


@given(seeds, counts)
def test_lp70_comes_back_to_the_bit(seed: int, count: int) -> None:
    motion = some_motion(count, seed)
    rows = LP70.join(lp70_fields(motion))
    assert (rows.shape, rows.dtype) == ((count, 70), np.float32)
    for found, wanted in zip(lp70_motion(rows, canonical(motion)), motion, strict=True):
        assert np.array_equal(found, wanted)
    assert np.array_equal(LP70.join(LP70.split(rows)), rows)


@given(seeds, counts)
def test_lp128_comes_back_but_for_the_last_bits_of_angles(seed: int, count: int) -> None:
    motion, (opened, shapes) = some_motion(count, seed), some_face(count, seed)
    rows = LP128.join(lp128_fields(motion, opened, shapes))
    assert (rows.shape, rows.dtype) == ((count, 128), np.float32)
    back = lp128_motion(rows, canonical(motion))
    assert np.allclose(back.degrees, motion.degrees, atol=1e-4)
    for name in ("kp", "exp", "t", "scale"):
        assert np.array_equal(getattr(back, name), getattr(motion, name))
    fields = LP128.split(rows)
    assert np.array_equal(fields["eyes"], opened.eyes)
    assert np.array_equal(fields["lips"], opened.lips)
    assert np.array_equal(fields["blendshapes"], shapes)
    assert np.array_equal(LP128.join(fields), rows)


@given(seeds, st.floats(0.1, 10), st.floats(0.1, 10), st.floats(-2, 2))
def test_what_a_model_makes_is_brought_back_to_a_rotation(seed: int, first: float, second: float, lean: float) -> None:
    """Other lengths, and a second row that leans on the first, name the same rotation."""
    motion, face = some_motion(2, seed), some_face(2, seed)
    rows = LP128.join(lp128_fields(motion, *face))
    top, below = rows[:, 63:66].copy(), rows[:, 66:69].copy()
    rows[:, 63:66], rows[:, 66:69] = first * top, second * below + lean * top
    found = lp128_motion(rows, canonical(motion)).degrees
    assert np.allclose(rotation(found), rotation(motion.degrees), atol=1e-4)


def test_the_rows_stand_where_the_table_says() -> None:
    motion, (opened, shapes) = some_motion(2, 0), some_face(2, 0)
    rows = LP70.join(lp70_fields(motion))
    assert np.array_equal(rows[:, 3 * 19 + 1], motion.exp[:, 19, 1])  # the point of the lips that moves most
    assert np.array_equal(rows[:, 63:66], motion.degrees)
    assert np.array_equal(rows[:, 69], motion.scale[:, 0])
    wide = LP128.join(lp128_fields(motion, opened, shapes))
    assert np.allclose(wide[:, 63:69], rotation(motion.degrees)[:, :2].reshape(2, 6), atol=1e-6)
    assert np.array_equal(wide[:, 73:75], opened.eyes)
    assert np.array_equal(wide[:, 76:], shapes)


def test_what_does_not_fit_the_table_is_refused() -> None:
    motion, face = some_motion(2, 0), some_face(2, 0)
    fields = lp70_fields(motion)
    rows = LP70.join(fields)
    with pytest.raises(ValueError, match="fields are"):
        LP70.join(lp128_fields(motion, *face))
    with pytest.raises(ValueError, match=r"lp70\.degrees is \[2, 2\]: expected \[2, 3\]"):
        LP70.join({**fields, "degrees": motion.degrees[:, :2]})
    with pytest.raises(ValueError, match=r"lp70\.t is \[1, 3\]: expected \[2, 3\]"):
        LP70.join({**fields, "t": motion.t[:1]})
    with pytest.raises(ValueError, match=r"lp70\.t holds NaN"):
        LP70.join({**fields, "t": np.full((2, 3), np.nan, np.float32)})
    with pytest.raises(ValueError, match=r"lp70\.t holds NaN, infinity, or more"):
        LP70.join({**fields, "t": np.full((2, 3), 1e300)})  # in 32 bits it is none
    for wrong in (rows[:, :69], rows[0]):
        with pytest.raises(ValueError, match=r"expected \[T, 70\], as in lp70"):
            lp70_motion(wrong, canonical(motion))
    with pytest.raises(ValueError, match="a row of lp70 holds NaN"):
        lp70_motion(np.full((2, 70), np.inf), canonical(motion))
    for wrong in (np.zeros(62), np.zeros((21, 3)), np.full(63, np.nan)):
        with pytest.raises(ValueError, match=r"canonical (is|holds)"):
            lp70_motion(rows, wrong)
    with pytest.raises(ValueError, match="parallel or zero"):
        lp128_motion(np.zeros((1, 128)), canonical(motion))
    with pytest.raises(ValueError, match="parallel or zero"):
        lp128_motion(np.ones((1, 128)), canonical(motion))


# ------------------------------------------------------------------------------------------------------- the statistics


def test_entries_at_rest_are_not_blown_up() -> None:
    std = np.full(70, 1e-5)
    std[:3] = (0.0, 4e-4, 0.02)
    floored = LP70.floored(std)
    assert floored[:4].tolist() == [5e-4, 5e-4, 0.02, 5e-4]
    for wrong in (np.zeros(69), np.full(70, -1.0), np.full(70, np.nan)):
        with pytest.raises(ValueError, match="deviations of shape"):
            LP70.floored(wrong)


def test_what_is_at_rest_in_real_clips_stays_near_zero_when_standardised(shared: Path) -> None:
    """And what moves does not: by the statistics of LivePortrait's own clips."""
    path = shared / "golden" / "encoders" / "liveportrait_ranges.json"
    if not path.is_file():
        pytest.skip("needs the ranges of LivePortrait's own clips")
    told = json.loads(path.read_text())
    mean, std, most = (np.array(told[f"exp_{name}"]) for name in ("mean", "std", "abs_max"))
    for layout in (LP70, LP128):
        assert layout.std_floor == 5e-4
        active = layout.active[:63]
        assert active.tolist() == told["exp_active"]
        found = TensorStatistics(mean=tuple(mean), std=tuple(std), floor=layout.std_floor)
        typical = np.abs(found.standardise((mean + std)[None]))[0]
        assert typical[~active].max() < 0.2
        assert np.median(typical[~active]) < 0.03
        np.testing.assert_allclose(typical[active], 1, rtol=1e-6)
        assert np.abs(found.standardise(most[None]))[0][~active].max() < 0.7
