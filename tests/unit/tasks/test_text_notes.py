"""Notes of captions without a text: one kind each, beside a text they say nothing, and damage is named."""

from pathlib import Path

import numpy as np
import pytest

from dualforce_model.storage import Storage
from dualforce_model.text_features import pack_text
from tasks.extract import ExtractConfig
from tasks.place import Place
from tasks.records import Clip, FailureClass
from tasks.text_notes import (
    FAILED,
    REFUSED,
    KnownTexts,
    Refusal,
    TextFailure,
    drop_notes,
    known_texts,
    note_key,
    noted,
    read_failure,
    read_refusal,
    write_note,
)
from tests.letters import names

NAMES = names()
REFUSAL = Refusal(caption="odd", why="ValueError: no")
FAILURE = TextFailure(caption="broken", failure=FailureClass.CRASH, traceback="Traceback\n  deep\nSIGSEGV\n")


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def clip(caption: str | None) -> Clip:
    return Clip(clip_id="a", source="s", video_id="v", location="l", caption=caption)


def name(caption: str) -> str:
    return NAMES(clip(caption))


def test_a_note_replaces_one_of_the_other_kind(store: Storage) -> None:
    write_note(store, name("odd"), FAILURE)
    assert read_failure(store, name("odd")) == FAILURE
    write_note(store, name("odd"), REFUSAL)
    assert store.list() == [note_key(REFUSED, name("odd"))]
    assert read_refusal(store, name("odd")) == REFUSAL
    write_note(store, name("odd"), FAILURE)
    assert store.list() == [note_key(FAILED, name("odd"))]
    drop_notes(store, [name("odd"), name("never noted")])
    assert store.list() == []


def test_notes_are_found_by_encoder(store: Storage) -> None:
    write_note(store, name("odd"), REFUSAL)
    write_note(store, f"{'ab' * 16}/{'cd' * 16}", REFUSAL)
    assert noted(store, REFUSED, NAMES.fingerprint) == {name("odd")}
    assert noted(store, FAILED, NAMES.fingerprint) == set()


def test_clips_are_told_the_prompt_where_their_caption_was_refused(store: Storage) -> None:
    write_note(store, name("odd"), REFUSAL)
    write_note(store, name("broken"), FAILURE)
    known = KnownTexts(store, NAMES)
    assert [known.said(clip(each)) for each in ("odd", "broken", "a man", None)] == [
        NAMES.prompt_name,
        name("broken"),
        name("a man"),
        NAMES.prompt_name,
    ]
    assert [known.failure(clip(each)) for each in ("odd", "broken", "a man")] == [None, FAILURE.brief(), None]


def test_a_note_beside_a_text_says_nothing(store: Storage) -> None:
    write_note(store, name("odd"), REFUSAL)
    write_note(store, name("broken"), FAILURE)
    for caption in ("odd", "broken"):
        pack_text(store, NAMES.fingerprint, caption, np.ones((1, 2), np.float32))
    known = KnownTexts(store, NAMES)
    assert (known.refused, known.failed, known.failure(clip("broken"))) == (set(), set(), None)
    assert known.said(clip("odd")) == name("odd")


def test_notes_have_a_line_for_people() -> None:
    assert REFUSAL.line() == "'odd': ValueError: no"
    assert FAILURE.line() == "'broken': crash: SIGSEGV"
    assert TextFailure(caption="x" * 99, failure=FailureClass.BUG, traceback="").line() == f"'{'x' * 60}...': bug: "


@pytest.mark.parametrize("data", [b"", b'{"caption": 1}', b'{"instead": "a person", "why": "an older release"}'])
def test_a_note_that_cannot_be_read_counts_as_none(store: Storage, data: bytes) -> None:
    store.write(note_key(FAILED, name("broken")), data)
    store.write(note_key(REFUSED, name("odd")), data)
    write_note(store, name("odder"), REFUSAL)
    known = KnownTexts(store, NAMES)
    assert known.failure(clip("broken")) is None
    assert read_refusal(store, name("odd")) is None
    known.drop_unreadable([name("odd"), name("odder"), name("a man")])
    assert known.refused == {name("odder")}
    assert store.list(REFUSED) == [note_key(REFUSED, name("odder"))]


def test_a_note_that_goes_away_is_no_failure_any_more(store: Storage) -> None:
    write_note(store, name("broken"), FAILURE)
    known = KnownTexts(store, NAMES)
    assert known.failed == {name("broken")}
    drop_notes(store, known.failed)  # as another run does that has made the text
    assert known.failure(clip("broken")) is None
    assert (read_failure(store, name("broken")), read_refusal(store, name("broken"))) == (None, None)
    assert not known.is_due(clip("broken"))


def test_a_text_is_due_that_was_neither_made_nor_failed(store: Storage) -> None:
    write_note(store, name("odd"), REFUSAL)
    write_note(store, name("broken"), FAILURE)
    pack_text(store, NAMES.fingerprint, "a man", np.ones((1, 2), np.float32))
    known = KnownTexts(store, NAMES)
    assert [known.is_due(clip(each)) for each in ("a man", "broken", "a boy", "odd")] == [False, False, True, True]
    pack_text(store, NAMES.fingerprint, "a person", np.ones((1, 2), np.float32))
    assert not KnownTexts(store, NAMES).is_due(clip("odd")), "its clips are told the prompt"


def test_runs_without_text_know_of_none(tmp_path: Path) -> None:
    assert known_texts(Place(home=str(tmp_path)), ExtractConfig()) is None
