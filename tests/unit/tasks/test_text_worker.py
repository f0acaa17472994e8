"""What a worker makes of captions: as many at once as memory holds, and each caption's fault is its own."""

import errno
import gc
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.batching import BatchSize
from dualforce_model.config import ConfigError
from dualforce_model.errors import InputError
from dualforce_model.storage import Storage, StorageError
from dualforce_model.text_features import read_text, text_key, text_name
from dualforce_model.weight_files import WeightsError
from tasks.extractors.text import TextConfig, TextNames
from tasks.records import FailureClass, Temporary
from tasks.text_worker import TextJob, TextWorker
from tests.letters import Letters

CAPTIONS = ("a man is talking", "a woman", "a person is smiling to the camera")


class Plain(TextWorker):
    """The worker around an encoder that is given."""

    def __init__(self, store: Storage, encoder: Letters, batch_size: int = 32) -> None:
        self.encoder, self.store, self.device, self.workers = encoder, store, "cpu", 1
        self.fingerprint, self.size = encoder.fingerprint(), BatchSize(batch_size)


def answers(worker: TextWorker, captions: Sequence[str]) -> list[dict[str, Any] | Exception]:
    return list(worker.batch([TextJob(caption=caption) for caption in captions]))


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def test_captions_are_stored_under_their_names(store: Storage) -> None:
    encoder = Letters()
    worker = Plain(store, encoder, batch_size=2)
    named = [text_name(encoder.fingerprint(), caption) for caption in CAPTIONS]
    assert answers(worker, CAPTIONS) == [{"made": name} for name in named]
    assert encoder.batches == [CAPTIONS[:2], CAPTIONS[2:]]
    for name, caption in zip(named, CAPTIONS, strict=True):
        assert "".join(chr(int(code)) for code in read_text(store, name)[:, 0]) == caption
    assert worker(TextJob(caption="a man")) == {"made": text_name(encoder.fingerprint(), "a man")}


def test_each_is_stored_before_it_is_answered(store: Storage) -> None:
    results = Plain(store, Letters()).batch([TextJob(caption=caption) for caption in CAPTIONS])
    for number in range(1, 4):
        next(results)
        assert len(store.list("text")) == number


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_batches_shrink_to_what_memory_holds(store: Storage, error: type[Exception]) -> None:
    captions = [f"caption number {number:03d}" for number in range(20)]  # 18 letters each
    encoder = Letters(room=18 * 5, error=error)
    worker = Plain(store, encoder, batch_size=16)
    assert all(isinstance(answer, dict) and "made" in answer for answer in answers(worker, captions))
    assert [len(batch) for batch in encoder.batches] == [4, 4, 4, 4, 4]
    answers(worker, captions[:4])
    assert len(encoder.batches[-1]) == 4, "the size is remembered"


def test_what_does_not_fit_alone_is_a_failure_of_its_own(store: Storage) -> None:
    short, *others = answers(Plain(store, Letters(room=20)), ["x" * 30, "y" * 10, "z" * 10])
    assert isinstance(short, MemoryError)
    assert all(isinstance(answer, dict) and "made" in answer for answer in others)


def test_a_refusal_is_a_fact_about_the_caption_and_other_errors_are_not(store: Storage) -> None:
    class Picky(Letters):
        def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
            if "bug" in captions:
                raise ZeroDivisionError("of all things")
            return super().__call__(captions)

    one, unknown, bug, loud, other = answers(Plain(store, Picky()), ["a", "what?", "bug", "oh no!", "b"])
    assert unknown == {"refused": "ValueError: a letter that I do not know"}
    assert isinstance(loud, dict)
    assert loud["refused"].startswith("SchemaError: text")
    assert isinstance(bug, ZeroDivisionError)
    assert (one, other) == tuple({"made": text_name(Letters().fingerprint(), name)} for name in "ab")
    with pytest.raises(ZeroDivisionError):
        Plain(store, Picky())(TextJob(caption="bug"))


def test_a_failure_keeps_no_memory_of_what_it_met(store: Storage) -> None:
    held: list[weakref.ref[np.ndarray]] = []

    class Heavy(Letters):
        def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
            activations: np.ndarray = np.zeros(8)
            held.append(weakref.ref(activations))
            raise ZeroDivisionError("of all things")

    failures = answers(Plain(store, Heavy()), ["a", "b"])
    gc.collect()
    assert [type(failure) for failure in failures] == [ZeroDivisionError] * 2
    assert len(held) == 3
    assert not any(each() is not None for each in held)


def test_a_full_disk_is_told_of_each_caption(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALFORCE_DISK_FULL_AT", "text.before_rename")
    for answer in answers(Plain(store, Letters()), ["a", "b"]):
        assert isinstance(answer, Temporary)
        assert (answer.failure, answer.systemic) == (FailureClass.DISK, True)
        assert isinstance(answer.__cause__, OSError)
        assert answer.__cause__.errno == errno.ENOSPC


class Unreachable(Storage):
    """A store elsewhere that takes nothing: what its library raises has no errno."""

    def write(self, key: str, data: bytes, points: str = "") -> None:
        raise StorageError(None, "403 Forbidden; check address, network and credentials of the store", self.url(key))


def test_a_store_that_takes_nothing_is_no_bug_and_every_caption_meets_it() -> None:
    for answer in answers(Plain(Unreachable("memory://unreachable"), Letters()), ["a", "b"]):
        assert isinstance(answer, Temporary)
        assert (answer.failure, answer.systemic) == (FailureClass.NETWORK, True)
        assert "403 Forbidden" in answer.message
        assert "memory://unreachable/text" in answer.message


@pytest.mark.parametrize("error", [ConfigError("of a setting"), WeightsError("of a file")])
def test_an_error_about_the_encoder_itself_is_no_refusal(store: Storage, error: InputError) -> None:
    class Broken(Letters):
        def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
            raise error

    assert answers(Plain(store, Broken()), ["a", "b"]) == [error, error]


def test_what_overflows_among_others_is_tried_alone_before_it_is_refused(store: Storage) -> None:
    class Crowded(Letters):
        def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
            made = super().__call__(captions)
            return [tokens * np.nan for tokens in made] if len(captions) > 1 else made

    encoder = Crowded()
    good, loud, other = answers(Plain(store, encoder), ["a", "oh no!", "b"])
    assert (good, other) == tuple({"made": text_name(encoder.fingerprint(), name)} for name in "ab")
    assert isinstance(loud, dict)
    assert loud["refused"].startswith("SchemaError: text")
    assert encoder.batches[1:] == [("a",), ("oh no!",), ("b",)]


def test_a_refusal_says_no_more_than_can_be_written(store: Storage) -> None:
    class Foul(Letters):
        def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
            raise ValueError("half \ud83d, \x1b[31mred\x00 and" + " long" * 200)

    (answer,) = answers(Plain(store, Foul()), ["a"])
    assert isinstance(answer, dict)
    assert answer["refused"].encode().startswith(b"ValueError: half , [31mred and long")
    assert len(answer["refused"]) < 330


def test_too_few_texts_are_a_bug(store: Storage) -> None:
    class Short(Letters):
        def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
            return super().__call__(captions)[1:]

    (answer,) = answers(Plain(store, Short()), ["a"])
    assert isinstance(answer, RuntimeError)
    assert "letters made 0 texts of 1 captions" in str(answer)


@given(st.lists(st.text("abc", min_size=1, max_size=6), max_size=20), st.integers(1, 5), st.integers(6, 40))
def test_whatever_the_batches_the_store_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str], batch_size: int, room: int
) -> None:
    one, other = (Storage(str(tmp_path_factory.mktemp("store"))) for _ in range(2))
    assert len(answers(Plain(one, Letters(room), batch_size), captions)) == len(captions)
    answers(Plain(other, Letters()), captions[::-1])
    assert len(one.list()) == len(set(captions))
    assert {key: one.read(key) for key in one.list()} == {key: other.read(key) for key in other.list()}


def test_the_real_encoder_and_other_weights_than_the_drivers(store: Storage, tiny_umt5: Path) -> None:
    choice = {"name": "umt5", "config": {"weights": str(tiny_umt5), "precision": "fp32"}}
    config = TextConfig.model_validate({"encoder": choice, "batch_size": 2})
    names = TextNames(config)
    worker = TextWorker(config, store.url(), names.fingerprint, "cpu", workers=1)
    worker.load()
    assert [list(answer) for answer in answers(worker, CAPTIONS) if isinstance(answer, dict)] == [["made"]] * 3
    stored = read_text(store, text_name(names.fingerprint, CAPTIONS[0]))
    assert stored.shape == (5, 32)
    names.encoder.load()
    np.testing.assert_allclose(stored, names.encoder(CAPTIONS[:1])[0], rtol=2**-11, atol=1e-5)
    assert text_key(text_name(names.fingerprint, CAPTIONS[1])) in store.list()
    with pytest.raises(ConfigError, match="give all machines the same weights"):
        TextWorker(config, store.url(), "ab" * 16, "cpu", workers=1).load()


def test_workers_on_a_cpu_share_its_cores(store: Storage, tiny_umt5: Path) -> None:
    choice = {"name": "umt5", "config": {"weights": str(tiny_umt5), "precision": "fp32"}}
    config = TextConfig.model_validate({"encoder": choice})
    fingerprint, cores, before = TextNames(config).fingerprint, len(os.sched_getaffinity(0)), torch.get_num_threads()
    try:
        for workers, threads in ((1, cores), (cores, 1), (cores + 1, 1)):
            torch.set_num_threads(cores + 2)
            TextWorker(config, store.url(), fingerprint, "cpu", workers).load()
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
