"""Captions are encoded once each; what became of every one is known, and noted where it has no text."""

from pathlib import Path

import numpy as np
import pytest

from dualforce_model.config import ConfigError
from dualforce_model.storage import Storage
from dualforce_model.text_features import pack_text, text_key, text_name
from tasks.captions import NoTextError, Said, TextRun, TextSummary, captions_of, plan_texts, text_spec
from tasks.extractors.text import TextConfig, TextNames
from tasks.progress import Progress
from tasks.records import Attempt, Clip, FailureClass
from tasks.stages import Selection, StageHalted
from tasks.text_notes import (
    FAILED,
    REFUSED,
    KnownTexts,
    Refusal,
    TextFailure,
    note_key,
    noted,
    read_failure,
    write_note,
)
from tests.letters import LOCAL, Letters, encode, log_of, names, said_in

CAPTIONS = ("a man is talking", "a woman", "a person is smiling to the camera")
FINGERPRINT = Letters().fingerprint()


def named(caption: str) -> str:
    return text_name(FINGERPRINT, caption)


def clip(caption: str | None = None, clip_id: str = "a") -> Clip:
    return Clip(clip_id=clip_id, source="s", video_id="v", location="l", caption=caption)


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def known(store: Storage) -> KnownTexts:
    return KnownTexts(store, names())


def make(store: Storage, *captions: str) -> None:
    for caption in captions:
        pack_text(store, FINGERPRINT, caption, np.ones((2, 2), np.float32))


# ------------------------------------------------------------------------------------------------- what is to be done


def test_the_list_speaks_first_and_the_configuration_else(tiny_umt5: Path) -> None:
    config = TextConfig(
        encoder={"name": "umt5", "config": {"weights": str(tiny_umt5), "precision": "fp32"}},
        prompt="a person is talking",
    )
    spoken = TextNames(config)
    assert (spoken.caption(clip("a man")), spoken.caption(clip())) == ("a man", "a person is talking")
    assert spoken(clip("a person is talking")) == spoken(clip()) == spoken.prompt_name
    assert spoken(clip("a man")) == text_name(spoken.fingerprint, "a man")


def test_captions_are_those_of_the_clips_that_pass_each_once() -> None:
    listed = [clip("a man", "a"), clip("a man", "b"), clip(None, "c"), clip("two", "d"), clip("a woman", "e")]
    said = captions_of(listed, {"a", "b", "c", "e"}, names(), Selection(again=frozenset({"b", "d"})))
    assert said == Said({"a man": 2, "a person": 1, "a woman": 1}, frozenset({"a man"}))


def test_a_plan_sorts_captions_from_the_stores_list_alone(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store, "done", "mended")
    write_note(store, named("odd"), Refusal(caption="odd", why="w"))
    for caption in ("broken", "mended"):
        write_note(store, named(caption), TextFailure(caption=caption, failure=FailureClass.BUG, traceback="t"))
    monkeypatch.setattr(Storage, "read", None)  # a plan of half a million captions opens no file
    said = Said(dict.fromkeys(("done", "mended", "odd", "broken", "new", "newer"), 1))
    planned, todo = plan_texts(known(store), said)
    assert sorted(todo.values()) == ["a person", "broken", "new", "newer"], "the prompt is said instead of `odd`"
    assert (planned.distinct, planned.todo) == (7, 4)
    assert planned.text() == "7 captions: 3 new, 1 retryable, 2 done, 1 refused"
    planned, todo = plan_texts(known(store), Said(said.clips, again=frozenset({"odd", "done"})))
    assert sorted(todo.values()) == ["broken", "new", "newer", "odd"]
    assert planned.text() == "6 captions: 2 new, 2 retryable, 2 done"


def test_a_plan_says_that_another_encoder_makes_all_anew(store: Storage) -> None:
    planned, _ = plan_texts(known(store), Said({"a": 1}))
    assert planned.text() == "1 caption: 1 new"
    pack_text(store, "ab" * 16, "a", np.ones((1, 2), np.float32))
    planned, _ = plan_texts(known(store), Said({"a": 1, "b": 1}))
    assert planned.text() == (
        "2 captions: 2 new; all anew: the 1 texts there are by another encoder, or other weights or settings"
    )
    make(store, "a")
    planned, _ = plan_texts(known(store), Said({"a": 1, "b": 1}))
    assert planned.text() == "2 captions: 1 new, 1 done"
    planned, _ = plan_texts(known(store), Said({"a": 3}))
    assert planned.text() == "nothing to do, 1 done"
    planned, _ = plan_texts(known(store), Said({}))
    assert planned.text() == "nothing to do, no clip has come this far"


def test_a_refused_prompt_is_tried_again(store: Storage) -> None:
    write_note(store, named("a person"), Refusal(caption="a person", why="w"))
    _, todo = plan_texts(known(store), Said({"a person": 1}))
    assert list(todo.values()) == ["a person"]


# --------------------------------------------------------------------------------------------------- what became of it


@pytest.fixture
def run(store: Storage) -> TextRun:
    """A run that has handed out five captions."""
    run = TextRun(known(store), Progress("text", 5, "caption"))
    run.captions = {named(caption): caption for caption in "abcde"}
    return run


def refused(caption: str) -> Attempt:
    return Attempt(job_id=named(caption), value={"refused": f"no {caption}"})


def made(caption: str) -> Attempt:
    return Attempt(job_id=named(caption), value={"made": named(caption)})


def failed(caption: str, failure: FailureClass = FailureClass.BUG, *, systemic: bool = False) -> Attempt:
    return Attempt(job_id=named(caption), failure=(failure, f"Traceback\nof {caption}"), systemic=systemic)


def test_refusals_are_believed_once_the_encoder_has_made_something(store: Storage, run: TextRun) -> None:
    run.take(refused("a"))
    assert store.list() == []
    run.take(made("b"))
    assert noted(store, REFUSED, FINGERPRINT) == {named("a")}
    run.take(refused("c"))
    assert noted(store, REFUSED, FINGERPRINT) == {named("a"), named("c")}
    assert run.messages() == ("refused: 'a': no a", "refused: 'c': no c")


def test_failures_are_noted_and_forgotten_when_the_text_is_made(store: Storage, run: TextRun) -> None:
    run.take(failed("a"))
    assert noted(store, FAILED, FINGERPRINT) == {named("a")}
    assert run.messages() == ("failed: 'a': bug: of a",)
    run.take(made("a"))
    assert (store.list(), run.failed, run.made) == ([], {}, {named("a")})
    run.take(failed("b"))
    run.take(refused("b"))
    assert store.list() == [f"{REFUSED}/{named('b')}.json"]
    assert (list(run.refused), run.failed) == ([named("b")], {})


def test_of_many_failures_the_store_has_the_tracebacks(store: Storage, run: TextRun) -> None:
    for caption in "abcde":
        run.take(failed(caption))
    assert [run.failed[named(caption)].traceback for caption in "ae"] == ["Traceback\nof a", "of e"]
    noted_of_it = read_failure(store, named("e"))
    assert noted_of_it is not None
    assert noted_of_it.traceback == "Traceback\nof e"
    assert len(run.messages()) == 3


def test_what_a_dead_worker_had_stored_counts(store: Storage, run: TextRun) -> None:
    make(store, "a")
    run.take(failed("a", FailureClass.CRASH))
    assert (run.made, run.failed) == ({named("a")}, {})


def test_a_full_disk_halts_the_run(store: Storage, run: TextRun) -> None:
    for caption in ("a", "b"):
        run.take(failed(caption, FailureClass.DISK, systemic=True))
    run.take(failed("c"))
    for caption in ("d", "e"):
        run.take(failed(caption, FailureClass.DISK, systemic=True))
    with pytest.raises(StageHalted, match="3 captions in a row failed alike: 'a': disk: of a"):
        run.take(failed("a", FailureClass.DISK, systemic=True))
    assert noted(store, FAILED, FINGERPRINT) == {named("c")}, "a note would not have gone down either"


def test_a_summary_is_a_record_for_people_and_the_ui() -> None:
    summary = TextSummary(
        fingerprint="f",
        distinct=9,
        there=3,
        made=2,
        refused=1,
        failed={"bug": 2, "crash": 1},
        failed_clips=5,
        seconds=1.25,
        messages=("refused: 'x': y",),
        traceback="```hostile",
    )
    assert TextSummary.model_validate(summary.model_dump()) == summary
    assert summary.text() == (
        "text: 2 captions, 1 refused, 2 failed (bug), 1 failed (crash), 5 clips left out for it, 3 there already, 1.2 s"
        "\ntext: refused: 'x': y"
    )
    assert "| failed: bug | 2 |" in summary.markdown()
    assert summary.markdown().endswith("```\nrefused: 'x': y\n\n'''hostile\n```")
    idle = TextSummary(fingerprint="f", distinct=2, there=1, made=0, refused=1, seconds=0.0)
    assert idle.text() == "text: nothing to do, 1 captions there already, 1 refused"


# ---------------------------------------------------------------------------------------------------- through workers


def test_each_caption_is_encoded_once_and_with_nothing_to_do_no_worker_starts(tmp_path: Path) -> None:
    summary = encode(tmp_path, [*CAPTIONS, *CAPTIONS[:2]])
    assert (summary.distinct, summary.made, summary.there) == (3, 3, 0)
    assert log_of(tmp_path) == {"loaded": 1} | dict.fromkeys(CAPTIONS, 1)
    assert all(said_in(tmp_path, caption) == caption for caption in CAPTIONS)
    assert encode(tmp_path, CAPTIONS).text() == "text: nothing to do, 3 captions there already"
    assert not log_of(tmp_path)
    assert encode(tmp_path, [*CAPTIONS, "a boy"]).text().startswith("text: 1 captions, 3 there already")
    assert log_of(tmp_path) == {"loaded": 1, "a boy": 1}


def test_a_refused_caption_is_remembered_and_a_rerun_tries_it_again(tmp_path: Path) -> None:
    given = ["a man", "what?", "oh no!"]
    summary = encode(tmp_path, given)
    assert (summary.distinct, summary.made, summary.refused) == (4, 2, 2), "the prompt is said instead"
    assert said_in(tmp_path, "a person") == "a person"
    assert "\ntext: refused: 'what?': ValueError: a letter that I do not know" in summary.text()
    assert "text: refused: 'oh no!': SchemaError: text" in summary.text()
    log_of(tmp_path)
    again = encode(tmp_path, given)
    assert again.text() == "text: nothing to do, 2 captions there already, 2 refused"
    assert not log_of(tmp_path)
    named_again = encode(tmp_path, given, again=["what?"])
    assert (named_again.made, named_again.refused, len(named_again.messages)) == (0, 2, 1)


def test_where_all_are_refused_the_prompt_shows_whose_fault_it_is(tmp_path: Path) -> None:
    with pytest.raises(NoTextError, match="none of 3 captions could be encoded; refused: 'who and what"):
        encode(tmp_path, ["what?", "who and what?"], prompt="a person?")
    assert Storage(str(tmp_path / "store")).list() == []
    summary = encode(tmp_path, ["what?", "who and what?"])
    assert (summary.distinct, summary.made, summary.refused) == (3, 1, 2)


@pytest.mark.parametrize("prompt", ["a person", "a man"])
def test_an_encoder_that_broke_since_refuses_nothing(tmp_path: Path, prompt: str) -> None:
    encode(tmp_path, ["a man", "a woman"])
    (tmp_path / "deaf").touch()
    with pytest.raises(NoTextError, match="none of 3 captions could be encoded; refused: 'a girl': ValueError: deaf"):
        encode(tmp_path, ["a man", "a girl", "a boy"], prompt=prompt)
    store = Storage(str(tmp_path / "store"))
    assert store.list(REFUSED) == []
    (tmp_path / "deaf").unlink()
    summary = encode(tmp_path, ["a man", "a girl", "a boy", "what?"], prompt="a man")
    assert (summary.distinct, summary.there, summary.made, summary.refused) == (4, 1, 2, 1)


def test_a_refusal_is_believed_where_the_prompt_that_is_there_is_made_again(tmp_path: Path) -> None:
    encode(tmp_path, ["a person"])
    summary = encode(tmp_path, ["what?"])
    assert (summary.distinct, summary.there, summary.made, summary.refused) == (2, 1, 0, 1)
    assert log_of(tmp_path)["a person"] == 2
    assert encode(tmp_path, ["what?"]).text() == "text: nothing to do, 1 captions there already, 1 refused"


def test_a_refusal_that_cannot_be_read_is_tried_again(tmp_path: Path) -> None:
    store = Storage(str(tmp_path / "store"))
    make(store, "a person")
    store.write(note_key(REFUSED, named("a man")), b'{"instead": "a person", "why": "an older release"}')
    assert encode(tmp_path, ["a man"]).made == 1
    assert store.list(REFUSED) == []


def test_failures_alone_end_no_run_that_has_texts(tmp_path: Path) -> None:
    encode(tmp_path, ["a man"])
    assert encode(tmp_path, ["a man", "bug"]).failed == {"bug": 1}


def test_where_no_text_can_be_written_the_run_is_halted(tmp_path: Path) -> None:
    captions = [f"caption {letter}" for letter in "abcdef"]
    for caption in captions:
        (tmp_path / "store" / text_key(named(caption))).mkdir(parents=True)  # nothing can be written there
    with pytest.raises(StageHalted, match="3 captions in a row failed alike: 'caption c': disk: "):
        encode(tmp_path, captions)
    assert Storage(str(tmp_path / "store")).list() == []


def test_what_failed_before_comes_last_and_alone(store: Storage) -> None:
    write_note(store, named("failed once"), TextFailure(caption="-", failure=FailureClass.TIMEOUT, traceback="t"))
    run = TextRun(known(store), Progress("text", 3, "caption"))
    run.captions = {named(caption): caption for caption in ("a", "failed once", "b b")}
    found = [(run.captions[job.job_id], job.alone) for job in run.jobs(run.captions)]
    assert found == [("b b", False), ("a", False), ("failed once", True)]
    run.take(failed("b b", FailureClass.TIMEOUT))
    found = [(run.captions[job.job_id], job.alone) for job in run.jobs(run.captions)]
    assert found == [("a", False), ("failed once", True), ("b b", True)]


def test_a_prompt_that_is_refused_is_an_error_where_it_is_to_be_said(tmp_path: Path) -> None:
    with pytest.raises(NoTextError, match=r"extract\.text\.prompt, .*: 'a person\?': ValueError"):
        encode(tmp_path, ["a man", "what?"], prompt="a person?")
    assert encode(tmp_path, ["a man", "what?"]).made == 1


def test_a_text_of_a_clip_that_a_rerun_names_is_looked_after(tmp_path: Path) -> None:
    encode(tmp_path, CAPTIONS)
    store = Storage(str(tmp_path / "store"))
    for key in store.list("text"):
        store.write(key, store.read(key)[:-1] + b"x")
    assert encode(tmp_path, CAPTIONS).made == 0, "a plain run trusts the store's list"
    assert encode(tmp_path, CAPTIONS, again=CAPTIONS[:1]).made == 1
    assert said_in(tmp_path, CAPTIONS[0]) == CAPTIONS[0]


# ----------------------------------------------------------------------------------------------------- configuration


def test_the_worker_is_told_how_many_captions_it_does_at_once(store: Storage) -> None:
    pool = LOCAL.model_copy(update={"workers": 4})
    spec = text_spec(names(batch_size=7).config, store, names(), "cuda", pool)
    assert (spec.jobs_per_message, spec.kwargs["device"], spec.kwargs["workers"]) == (7, "cuda", 1)
    assert spec.jobs_at_once == 1, "a hanging caption must not cost as many deadlines as there are captions"
    settings = names(workers=None).config
    assert text_spec(settings, store, names(), "cuda", pool).kwargs["workers"] == 4


@pytest.mark.parametrize("prompt", ["", " \n\u200b", "\x00"])
def test_a_prompt_says_something(prompt: str) -> None:
    with pytest.raises(ValueError, match="expected some text"):
        TextConfig(prompt=prompt)


def test_a_prompt_is_cleaned_as_captions_are() -> None:
    assert TextConfig(prompt=" a\n  b ").prompt == "a b"


def test_only_text_encoders_encode_text() -> None:
    with pytest.raises(ConfigError, match="log_mel encodes audio, not text"):
        TextNames(TextConfig(encoder={"name": "log_mel"}))
