"""What the corpus consists of, decided before anything is made: every clip's kind, people, length and seed."""

from collections.abc import Iterator
from enum import StrEnum
from itertools import chain
from typing import Literal, Self

import cv2
import numpy as np
from pydantic import Field, model_validator

from dualforce_model import clock
from dualforce_model.config import Frozen, digest
from tasks.records import FailureClass, Reason
from tasks.synthetic import speech
from tasks.synthetic.animate import Look, TalkingHead, act, openness_of
from tasks.synthetic.backgrounds import paint_background
from tasks.synthetic.portraits import PORTRAITS

BLUR = 0.02  # of the frame's width: an unusable lens, in which a face is still a face
SHOT_S = 2.0  # between two cuts


class Kind(StrEnum):
    """Good clips, clips that the server makes trouble about, and every way in which a clip can be bad."""

    GOOD = "good"
    FAIL_TWICE = "fail_twice"  # good; the server answers the first two requests with an error
    ALWAYS_RESET = "always_reset"  # good; the server cuts the connection until somebody repairs it
    NO_FACE = "no_face"
    TWO_PEOPLE = "two_people"
    TOO_SHORT = "too_short"
    BLURRED = "blurred"
    SILENT = "silent"  # lips move, the sound is digital silence
    STILL_LIPS = "still_lips"  # speech, the mouth stays closed
    SHOT_CUT = "shot_cut"
    TRUNCATED = "truncated"  # the file ends too early
    HTML_PAGE = "html_page"  # a web page in the place of the video
    NOT_FOUND = "not_found"  # listed, not there


Outcome = Literal["passed"] | Reason | FailureClass

EXPECTED: dict[Kind, Outcome] = {
    Kind.GOOD: "passed",
    Kind.FAIL_TWICE: "passed",
    Kind.ALWAYS_RESET: FailureClass.NETWORK,
    Kind.NO_FACE: Reason.NO_FACE,
    Kind.TWO_PEOPLE: Reason.MULTIPLE_PEOPLE,
    Kind.TOO_SHORT: Reason.TOO_SHORT,
    Kind.BLURRED: Reason.BLURRED,
    Kind.SILENT: Reason.NO_SOUND,
    Kind.STILL_LIPS: Reason.LIPS_STILL,
    Kind.SHOT_CUT: Reason.SHOT_CUT,
    Kind.TRUNCATED: Reason.UNDECODABLE,
    Kind.HTML_PAGE: Reason.NOT_MEDIA,
    Kind.NOT_FOUND: Reason.GONE,
}
BAD_KINDS = tuple(kind for kind in Kind if kind is not Kind.GOOD)


class CorpusConfig(Frozen):
    """How much of what; the defaults are the demo's."""

    seed: int = Field(0, ge=0, le=2**32 - 1, description="another seed: other people in training, rooms, speech, order")
    num_speakers: int = Field(5, ge=2, le=len(PORTRAITS), description="people in the clips; the rest is never seen")
    num_good: int = Field(16, ge=1, le=500, description="good clips, shared evenly among the speakers")
    min_s: int = Field(10, ge=2, le=600, description="shortest good clip, whole seconds as HDTF's lists have them")
    max_s: int = Field(18, ge=2, le=600, description="longest good clip")
    bad: tuple[Kind, ...] = Field(BAD_KINDS, description="one clip of each of these kinds as well")
    bad_s: int = Field(8, ge=2, le=600, description="length of those, except the one that is too short")
    size_px: int = Field(320, ge=128, le=1024, multiple_of=2, description="width and height of the frames")
    num_unseen: int = Field(8, ge=0, le=100, description="utterances for generation, said by seen faces")
    num_unseen_faces: int = Field(2, ge=0, le=100, description="utterances for generation, said by unseen faces")
    unseen_min_s: int = Field(4, ge=2, le=60, description="shortest of those utterances")
    unseen_max_s: int = Field(6, ge=2, le=60, description="longest of those utterances")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for low, high in (("min_s", "max_s"), ("unseen_min_s", "unseen_max_s")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} is {getattr(self, low)}, more than {high} ({getattr(self, high)})")
        if Kind.GOOD in self.bad or len(set(self.bad)) != len(self.bad):
            raise ValueError("bad: each kind once, and good clips by num_good")
        if self.num_unseen_faces and self.num_speakers == len(PORTRAITS):
            raise ValueError(f"num_unseen_faces is {self.num_unseen_faces}, but all {len(PORTRAITS)} people are seen")
        return self


class Recipe(Frozen):
    """One thing to make. Equal recipes give equal pixels and samples."""

    name: str
    kind: Kind
    speaker: str
    partner: str = Field(description="who else appears, where somebody does")
    seconds: int
    seed: int
    look_seed: int = Field(description="seed of framing, light and room")
    size_px: int
    unseen: bool = Field(False, description="for generation, not in the list")

    @property
    def num_frames(self) -> int:
        """Pictures at 25 a second."""
        return self.seconds * clock.FPS


def seen_speakers(config: CorpusConfig) -> tuple[str, ...]:
    """Who speaks in the clips of this seed, and in which order."""
    return _cast(config)[: config.num_speakers]


def plan_clips(config: CorpusConfig) -> tuple[Recipe, ...]:
    """Recipes of all listed clips, good and bad mixed, named RadioA, RadioB ... in the order of the list.

    Letters, not numbers: HDTF's reader takes names that differ in a number for one person, and all clips of a person
    stay together when training and validation are split.
    """
    rng = np.random.default_rng([config.seed, 0xC11])
    seen = seen_speakers(config)
    rows = [(Kind.GOOD, seen[index % len(seen)]) for index in range(config.num_good)]
    rows += [(kind, seen[rng.integers(len(seen))]) for kind in config.bad]
    recipes = []
    for index, row in enumerate(rng.permutation(len(rows))):
        kind, speaker = rows[row]
        length = int(rng.integers(config.min_s, config.max_s + 1)) if kind is Kind.GOOD else config.bad_s
        seconds = 1 if kind is Kind.TOO_SHORT else length
        recipes.append(_recipe(config, f"Radio{_letters(index)}", kind, speaker, seconds))
    return tuple(recipes)


def plan_unseen(config: CorpusConfig) -> tuple[Recipe, ...]:
    """Recipes of the utterances for generation: seen faces in a room they were seen in, then unseen faces."""
    rng = np.random.default_rng([config.seed, 0x0A5])
    cast = _cast(config)
    seen, unseen = cast[: config.num_speakers], cast[config.num_speakers :]
    rooms = {recipe.speaker: recipe.look_seed for recipe in plan_clips(config) if recipe.kind is Kind.GOOD}
    speakers = [seen[index % len(seen)] for index in range(config.num_unseen)]
    speakers += [unseen[index % len(unseen)] for index in range(config.num_unseen_faces)]
    recipes = []
    for index, speaker in enumerate(speakers):
        seconds = int(rng.integers(config.unseen_min_s, config.unseen_max_s + 1))
        recipe = _recipe(config, f"unseen{index}", Kind.GOOD, speaker, seconds)
        room = rooms.get(speaker, recipe.look_seed)
        recipes.append(recipe.model_copy(update={"look_seed": room, "unseen": True}))
    return tuple(recipes)


def _cast(config: CorpusConfig) -> tuple[str, ...]:
    names = tuple(PORTRAITS)
    return tuple(names[index] for index in np.random.default_rng([config.seed, 0xCA5]).permutation(len(names)))


def _letters(index: int) -> str:
    """A, B ... Z, AA, AB ..."""
    head = _letters(index // 26 - 1) if index >= 26 else ""
    return head + chr(ord("A") + index % 26)


def _recipe(config: CorpusConfig, name: str, kind: Kind, speaker: str, seconds: int) -> Recipe:
    seed = int(digest(config.seed, name, kind)[:8], 16)
    others = [person for person in seen_speakers(config) if person != speaker]
    return Recipe(
        name=name,
        kind=kind,
        speaker=speaker,
        partner=others[seed % len(others)],
        seconds=seconds,
        seed=seed,
        look_seed=seed,
        size_px=config.size_px,
    )


def perform(recipe: Recipe) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Pictures (uint8 [H, W, 3], lazily) and sound (float32 [n]) of a recipe."""
    sound = speech.synthesise(PORTRAITS[recipe.speaker].voice, recipe.seconds, recipe.seed)
    frames = _pictures(recipe, sound)
    return frames, np.zeros_like(sound) if recipe.kind is Kind.SILENT else sound


def _pictures(recipe: Recipe, sound: np.ndarray) -> Iterator[np.ndarray]:
    openness = openness_of(sound)
    match recipe.kind:
        case Kind.NO_FACE:
            return _empty_room(recipe)
        case Kind.TWO_PEOPLE:
            listening = np.zeros_like(openness)
            left = _head(recipe, recipe.speaker, openness)
            right = _head(recipe, recipe.partner, listening, salt=1)
            return (np.hstack(pair) for pair in zip(left, right, strict=True))
        case Kind.STILL_LIPS:
            return _head(recipe, recipe.speaker, np.zeros_like(openness))
        case Kind.BLURRED:
            sharp = _head(recipe, recipe.speaker, openness)
            return (cv2.GaussianBlur(frame, (0, 0), BLUR * recipe.size_px) for frame in sharp)
        case Kind.SHOT_CUT:
            return _cut_shots(recipe, openness)
    return _head(recipe, recipe.speaker, openness)


def _head(recipe: Recipe, speaker: str, openness: np.ndarray, salt: int = 0) -> Iterator[np.ndarray]:
    head = TalkingHead(speaker, Look.draw(recipe.look_seed + salt), recipe.size_px)
    return head.frames(act(openness, recipe.seed + salt))


def _cut_shots(recipe: Recipe, openness: np.ndarray) -> Iterator[np.ndarray]:
    """The speaker and the partner in turn, each in a room of their own, with hard cuts between."""
    length = round(SHOT_S * clock.FPS)
    starts = range(0, recipe.num_frames, length)
    people = (recipe.speaker, recipe.partner)
    return chain.from_iterable(
        _head(recipe, people[index % 2], openness[start : start + length], salt=index % 2)
        for index, start in enumerate(starts)
    )


def _empty_room(recipe: Recipe) -> Iterator[np.ndarray]:
    """A slow pan through a room with nobody in it."""
    size = recipe.size_px
    room = paint_background(recipe.look_seed, 2 * size)
    for share in np.linspace(0.0, 1.0, recipe.num_frames):
        left = size * share
        shift = np.array([[1, 0, -left], [0, 1, -0.3 * size]], np.float64)
        yield cv2.warpAffine(room, shift, (size, size), flags=cv2.INTER_LINEAR)
