"""What the corpus will consist of, and what each kind of clip looks and sounds like."""

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.synthetic.portraits import PORTRAITS
from tasks.synthetic.recipes import (
    BAD_KINDS,
    EXPECTED,
    CorpusConfig,
    Kind,
    Recipe,
    perform,
    plan_clips,
    plan_unseen,
    seen_speakers,
)

SMALL = CorpusConfig(num_good=4, min_s=2, max_s=3, bad_s=5, size_px=128, num_unseen=3)


def recipe(kind: Kind, seconds: int = 5) -> Recipe:
    return Recipe(name="x", kind=kind, speaker="grey", partner="bob", seconds=seconds, seed=5, look_seed=6, size_px=128)


def played(kind: Kind, seconds: int = 5) -> tuple[np.ndarray, np.ndarray]:
    frames, sound = perform(recipe(kind, seconds))
    return np.stack(list(frames)), sound


def changes(frames: np.ndarray) -> np.ndarray:
    """Mean change from picture to picture."""
    return np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))


def test_every_kind_has_an_expected_outcome_and_a_place_in_the_demo() -> None:
    assert set(EXPECTED) == set(Kind)
    kinds = Counter(recipe.kind for recipe in plan_clips(CorpusConfig()))
    assert kinds == Counter({Kind.GOOD: 16, **{kind: 1 for kind in BAD_KINDS}})
    assert len(BAD_KINDS) == 12


def test_speakers_share_the_good_clips() -> None:
    config = CorpusConfig()
    good = Counter(recipe.speaker for recipe in plan_clips(config) if recipe.kind is Kind.GOOD)
    assert set(good) == set(seen_speakers(config))
    assert max(good.values()) - min(good.values()) <= 1


def test_names_are_distinct_and_never_differ_in_a_number_alone() -> None:
    names = [recipe.name for recipe in plan_clips(CorpusConfig(num_good=60))]
    assert len({name.rstrip("0123456789") for name in names}) == len(names) == 72
    assert (names[0], names[25], names[26], names[53]) == ("RadioA", "RadioZ", "RadioAA", "RadioBB")


def test_lengths_are_whole_seconds_within_bounds() -> None:
    for item in plan_clips(CorpusConfig(min_s=3, max_s=5, bad_s=7)):
        expected = {Kind.GOOD: (3, 5), Kind.TOO_SHORT: (1, 1)}.get(item.kind, (7, 7))
        assert expected[0] <= item.seconds <= expected[1]


def test_equal_seeds_plan_equally_and_others_differ_in_everything() -> None:
    assert plan_clips(SMALL) == plan_clips(SMALL)
    other = SMALL.model_copy(update={"seed": 1})
    assert seen_speakers(SMALL) != seen_speakers(other)
    assert [item.kind for item in plan_clips(SMALL)] != [item.kind for item in plan_clips(other)]
    assert not {item.seed for item in plan_clips(SMALL)} & {item.seed for item in plan_clips(other)}


def test_unseen_speech_is_new_and_said_in_known_rooms_by_known_faces() -> None:
    clips, utterances = plan_clips(SMALL), plan_unseen(SMALL)
    rooms = {(item.speaker, item.look_seed) for item in clips if item.kind is Kind.GOOD}
    seen = set(seen_speakers(SMALL))
    assert [item.speaker in seen for item in utterances] == [True] * 3 + [False] * 2
    assert not {item.seed for item in clips} & {item.seed for item in utterances}
    known = {item.speaker for item in clips if item.kind is Kind.GOOD}
    assert all((item.speaker, item.look_seed) in rooms for item in utterances if item.speaker in known)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"min_s": 9, "max_s": 4}, "min_s is 9, more than max_s"),
        ({"unseen_min_s": 6, "unseen_max_s": 5}, "unseen_min_s is 6"),
        ({"bad": (Kind.GOOD,)}, "each kind once"),
        ({"bad": (Kind.SILENT, Kind.SILENT)}, "each kind once"),
        ({"num_speakers": len(PORTRAITS)}, "all 6 people are seen"),
        ({"size_px": 321}, "multiple of 2"),
    ],
)
def test_contradictions_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CorpusConfig.model_validate({**CorpusConfig().model_dump(), **changed})


def test_a_good_clip_has_640_samples_a_frame() -> None:
    frames, sound = played(Kind.GOOD, 2)
    assert frames.shape == (50, 128, 128, 3)
    assert sound.shape == (32_000,)


def test_two_people_share_a_wide_frame() -> None:
    frames, _ = played(Kind.TWO_PEOPLE, 2)
    assert frames.shape == (50, 128, 256, 3)


def test_silence_is_digital_and_its_lips_move() -> None:
    frames, sound = played(Kind.SILENT, 2)
    assert not sound.any()
    assert np.array_equal(frames, played(Kind.GOOD, 2)[0])


def test_still_lips_move_far_less_than_speaking_ones() -> None:
    still, sound = played(Kind.STILL_LIPS)
    good, _ = played(Kind.GOOD)
    mouth = (slice(None), slice(74, 96), slice(50, 78))
    assert changes(still[mouth]).mean() < 0.5 * changes(good[mouth]).mean()
    assert sound.any()


def test_shot_cuts_are_hard_and_every_two_seconds() -> None:
    frames, _ = played(Kind.SHOT_CUT)
    change = changes(frames)
    assert sorted(np.argsort(change)[-2:].tolist()) == [49, 99]
    assert np.sort(change)[-2] > 8 * np.sort(change)[-3]


def test_blurred_clips_have_lost_their_detail() -> None:
    def detail(frames: np.ndarray) -> float:
        return float(np.abs(np.diff(frames.astype(int), 2, axis=2)).mean())

    assert detail(played(Kind.BLURRED, 2)[0]) < 0.35 * detail(played(Kind.GOOD, 2)[0])


def test_the_empty_room_pans() -> None:
    frames, _ = played(Kind.NO_FACE, 2)
    assert frames.shape == (50, 128, 128, 3)
    assert changes(frames).min() > 0
