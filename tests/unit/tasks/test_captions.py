"""Captions are encoded once each, in batches that fit, and a killed run goes on where it was."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.config import ConfigError, Frozen
from dualforce_model.encoders.base import Modality, WeightFree
from dualforce_model.schema import SchemaError, load_snapshot, read_manifest
from dualforce_model.storage import Storage
from dualforce_model.text_features import read_text, text_key, text_name
from tasks import captions as captions_module
from tasks.captions import REFUSED, TextMemoryError, TextSummary, encode_captions, encode_texts, refusal_key
from tasks.extract import ExtractConfig
from tasks.extractors.text import TextConfig, TextNames
from tasks.ledger import Ledger, Row
from tasks.place import Place
from tasks.records import Clip, FailureClass, Stage, Temporary
from tasks.snapshot import build_snapshot
from tasks.texts import TextError
from tests.small_store import POLICY, small_candidates

CAPTIONS = ("a man is talking", "a woman", "a person is smiling to the camera")


class NoSettings(Frozen):
    """Nothing to choose."""


class Letters(WeightFree):
    """A text encoder for tests: a token per letter, and memory for so many letters at once."""

    name: ClassVar[str] = "letters"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "text"
    config_type: ClassVar[type[Frozen]] = NoSettings

    def __init__(self, room: int = 10**9, error: type[Exception] = MemoryError) -> None:
        self.room, self.error = room, error
        self.loaded: list[str] = []
        self.batches: list[tuple[str, ...]] = []

    @property
    def config(self) -> NoSettings:
        return NoSettings()

    def load(self, device: str = "cpu") -> None:
        self.loaded.append(device)

    def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
        if len(captions) * max(map(len, captions)) > self.room:
            raise self.error("no room")
        self.batches.append(tuple(captions))
        return [np.array([[ord(letter), 1.0] for letter in caption], np.float32) for caption in captions]


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def test_each_caption_is_encoded_once_whatever_number_of_clips_has_it(store: Storage) -> None:
    encoder, told = Letters(), list[str]()
    made = encode_captions(store, encoder, [*CAPTIONS, *CAPTIONS[:2]], told.extend, batch_size=2, device="cpu")
    assert (made.distinct, made.made, made.fingerprint) == (3, 3, encoder.fingerprint())
    assert encoder.loaded == ["cpu"]
    assert encoder.batches == [(CAPTIONS[2], CAPTIONS[0]), (CAPTIONS[1],)]
    assert sorted(told) == sorted(text_name(encoder.fingerprint(), caption) for caption in CAPTIONS)
    for caption in CAPTIONS:
        tokens = read_text(store, text_name(encoder.fingerprint(), caption))
        assert "".join(chr(int(code)) for code in tokens[:, 0]) == caption


def test_only_what_is_missing_is_encoded(store: Storage) -> None:
    encode_captions(store, Letters(), CAPTIONS[:2])
    again = Letters()
    summary = encode_captions(store, again, CAPTIONS)
    assert (summary.distinct, summary.made, again.batches) == (3, 1, [(CAPTIONS[2],)])
    assert summary.text().startswith("text: 1 captions, 2 there already")
    idle = Letters()
    summary = encode_captions(store, idle, CAPTIONS)
    assert (summary.made, idle.loaded, idle.batches) == (0, [], [])
    assert summary.text() == "text: nothing to do, 3 captions there already"


def test_a_removed_file_is_made_again(store: Storage) -> None:
    encoder = Letters()
    encode_captions(store, encoder, CAPTIONS)
    key = text_key(text_name(encoder.fingerprint(), CAPTIONS[1]))
    before = store.read(key)
    store.delete(key)
    assert encode_captions(store, encoder, CAPTIONS).made == 1
    assert store.read(key) == before


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_batches_shrink_to_what_memory_holds(store: Storage, error: type[Exception]) -> None:
    captions = [f"caption number {number:03d}" for number in range(20)]  # 18 letters each
    encoder = Letters(room=18 * 5, error=error)
    assert encode_captions(store, encoder, captions, batch_size=16).made == 20
    assert [len(batch) for batch in encoder.batches] == [4, 4, 4, 4, 4]


def test_a_caption_that_does_not_fit_alone_is_named_and_the_rest_stays_stored(store: Storage) -> None:
    with pytest.raises(TextMemoryError, match="a caption of 30 characters alone does not fit"):
        encode_captions(store, Letters(room=20), ["x" * 30, "y" * 10])
    assert encode_captions(store, Letters(room=20), ["y" * 10]).made == 1


def test_other_errors_are_not_taken_for_a_lack_of_memory(store: Storage) -> None:
    with pytest.raises(ZeroDivisionError):
        encode_captions(store, Letters(room=1, error=ZeroDivisionError), CAPTIONS)


class Picky(Letters):
    """Refuses some letters, and makes of others what half precision does not hold."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.cause = error or ValueError("a letter that I do not know")

    def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
        if any("?" in caption for caption in captions):
            raise self.cause
        return [
            tokens * np.float32(1e4 if "!" in caption else 1)
            for caption, tokens in zip(captions, super().__call__(captions), strict=True)
        ]


def test_a_caption_that_is_refused_is_its_own_affair(store: Storage) -> None:
    told, encoder = list[str](), Picky()
    given = [*CAPTIONS, "what?", "oh no!", "who?", "where?"]
    summary = encode_captions(store, encoder, given, told.extend, batch_size=3)
    assert (summary.distinct, summary.made, summary.refused, len(summary.messages)) == (7, 3, 4, 3)
    assert sorted(told) == sorted(text_name(summary.fingerprint, caption) for caption in CAPTIONS)
    assert len(store.list("text")) == 3
    assert summary.text().startswith("text: 3 captions, 4 refused, 0 there already")
    assert "\ntext: refused: 'where?': ValueError: a letter that I do not know\n" in summary.text()
    assert "'oh no!': SchemaError: text" in summary.text()
    again = encode_captions(store, Picky(), given)
    assert (again.made, again.refused) == (0, 4)
    assert again.text().startswith("text: 0 captions, 4 refused, 3 there already")


@pytest.mark.parametrize(("bad", "error"), [("what?", ValueError), ("oh no!", SchemaError)])
def test_where_all_are_refused_the_first_says_why(store: Storage, bad: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"half precision|do not know"):
        encode_captions(store, Picky(), [bad, f"{bad} {bad}"], prompt="a person")
    assert store.list() == []


@pytest.mark.parametrize(
    "error",
    [
        OSError("the disk is gone"),
        RuntimeError("CUDA error: device-side assert triggered"),
        TextMemoryError("no room"),
        Temporary(FailureClass.DISK, "full", systemic=True),
    ],
)
def test_what_has_nothing_to_do_with_a_caption_ends_it(store: Storage, error: Exception) -> None:
    with pytest.raises(type(error)):
        encode_captions(store, Picky(error), [*CAPTIONS, "what?"], prompt="a person")


def build(store: Storage, encoder: Letters, said: Sequence[str]) -> list[str | None]:
    """Texts that the snapshot of clips with these captions names."""
    names = [text_name(encoder.fingerprint(), caption) for caption in said]
    offered = [
        each.model_copy(update={"text": name})
        for each, name in zip(small_candidates(store, len(names)), names, strict=True)
    ]
    snapshot = load_snapshot(store, build_snapshot(store, offered, POLICY, "set").snapshot.id)
    assert snapshot.text is not None
    return [row.text for row in read_manifest(store, snapshot)]


def test_a_snapshot_names_the_prompt_where_a_caption_was_refused(store: Storage) -> None:
    encoder, said = Picky(), ["a man", "what?", "oh no!", "a man"]
    man, prompt = (text_name(encoder.fingerprint(), caption) for caption in ("a man", "a person"))
    assert encode_captions(store, encoder, said, prompt="a person").refused == 2
    assert build(store, encoder, said) == [man, prompt, prompt, man]
    with pytest.raises(TextError, match="c1: its caption has no text features"):
        build(store, encoder, ["a man", "a woman"])  # nobody has tried
    assert encode_captions(store, Letters(), said, prompt="a person").made == 2  # it has learned them
    assert store.list(REFUSED) == []
    assert build(store, encoder, said) == [text_name(encoder.fingerprint(), caption) for caption in said]


def test_a_prompt_that_is_refused_is_an_error_where_it_is_to_be_said(store: Storage) -> None:
    with pytest.raises(ValueError, match="do not know"):
        encode_captions(store, Picky(), ["a man", "what?"], prompt="a person?")
    assert store.list(REFUSED) == []


def test_a_damaged_note_is_named(store: Storage) -> None:
    encoder = Picky()
    encode_captions(store, encoder, ["a man", "what?"], prompt="a person")
    key = refusal_key(text_name(encoder.fingerprint(), "what?"))
    store.write(key, b'{"instead": "../x", "why": ""}')
    with pytest.raises(SchemaError, match=rf"{key}: damaged"):
        build(store, encoder, ["a man", "what?"])


@given(st.lists(st.text("abc", min_size=1, max_size=6), max_size=20), st.integers(1, 5), st.integers(6, 40))
def test_whatever_the_batches_the_store_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str], batch_size: int, room: int
) -> None:
    one, other = (Storage(str(tmp_path_factory.mktemp("store"))) for _ in range(2))
    summary = encode_captions(one, Letters(room), captions, batch_size=batch_size)
    encode_captions(other, Letters(), reversed(captions))
    assert summary.made == summary.distinct == len(set(captions)) == len(one.list())
    assert {key: one.read(key) for key in one.list()} == {key: other.read(key) for key in other.list()}


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from captions_encoder import Letters
from dualforce_model.storage import Storage
from tasks.captions import encode_captions
encode_captions(Storage(sys.argv[2]), Letters(), ["a", "b", "c", "d"], batch_size=1)
"""


@pytest.mark.parametrize(("point", "left"), [("text.before_rename:3", 2), ("text.after_rename:3", 3)])
def test_a_killed_run_goes_on_where_it_was(store: Storage, tmp_path: Path, point: str, left: int) -> None:
    (tmp_path / "captions_encoder.py").write_bytes(Path(__file__).read_bytes())
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), store.url()],
        env={**os.environ, "DUALFORCE_KILL_AT": point},
        cwd=Path(__file__).parents[3],
        check=False,
        capture_output=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert len(store.list("text")) == left
    assert encode_captions(store, Letters(), ["a", "b", "c", "d"]).made == 4 - left
    for caption in "abcd":
        assert read_text(store, text_name(Letters().fingerprint(), caption)).shape == (1, 2)


def clip(caption: str | None = None) -> Clip:
    return Clip(clip_id="a", source="s", video_id="v", location="l", caption=caption)


def test_the_list_speaks_first_and_the_configuration_else(tiny_umt5: Path) -> None:
    config = TextConfig(
        encoder={"name": "umt5", "config": {"weights": str(tiny_umt5), "precision": "fp32"}},
        prompt="a person is talking",
    )
    names = TextNames(config)
    assert (names.caption(clip("a man")), names.caption(clip())) == ("a man", "a person is talking")
    assert names(clip("a person is talking")) == names(clip())
    assert names(clip("a man")) == text_name(names.fingerprint, "a man")


def test_captions_through_the_real_encoder(store: Storage, tiny_umt5: Path) -> None:
    config = TextConfig(encoder={"name": "umt5", "config": {"weights": str(tiny_umt5), "precision": "fp32"}})
    names = TextNames(config)
    assert encode_captions(store, names.encoder, CAPTIONS, batch_size=2).made == 3
    alone = names.encoder(CAPTIONS[:1])[0]
    stored = read_text(store, names(clip(CAPTIONS[0])))
    assert stored.shape == (5, 32)
    np.testing.assert_allclose(stored, alone, rtol=2**-11, atol=1e-5)


@pytest.mark.parametrize("prompt", ["", " \n\u200b", "\x00"])
def test_a_prompt_says_something(prompt: str) -> None:
    with pytest.raises(ValueError, match="expected some text"):
        TextConfig(prompt=prompt)


def test_a_prompt_is_cleaned_as_captions_are() -> None:
    assert TextConfig(prompt=" a\n  b ").prompt == "a b"


def test_only_text_encoders_encode_text() -> None:
    with pytest.raises(ConfigError, match="log_mel encodes audio, not text"):
        TextNames(TextConfig(encoder={"name": "log_mel"}))


def test_summaries_are_records() -> None:
    assert TextSummary.model_validate(TextSummary(fingerprint="f", distinct=1, made=0, seconds=0.0).model_dump())


def test_the_net_is_gone_when_the_captions_are_encoded(
    tmp_path: Path, tiny_umt5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import UMT5EncoderModel

    place = Place(dataset="mine", home=str(tmp_path))
    value = {"path": "a.mp4", "digest": "d" * 64, "num_frames": 5, "scores": {}}
    with Ledger(place.ledger_url) as ledger:
        ledger.add_clips("mine", [clip("a man")])
        with ledger.lease("mine", Stage.CURATE, "r") as lease:
            ledger.record(lease, [Row(clip_id="a", stage=Stage.CURATE, state="done", key="k", value=value)])
    (tmp_path / "all.yaml").write_text("name: all\n")
    before, left, released = nets(UMT5EncoderModel), list[int](), captions_module.release_memory

    def counted() -> None:
        released()
        left.append(nets(UMT5EncoderModel) - before)

    monkeypatch.setattr(captions_module, "release_memory", counted)
    config = ExtractConfig(text=TextConfig(encoder={"name": "umt5", "config": {"weights": str(tiny_umt5)}}))
    assert config.text is not None
    assert encode_texts(place, str(tmp_path / "all.yaml"), config, config.text).made == 1
    assert left == [0]


def nets(kind: type) -> int:
    """How many there are."""
    return sum(issubclass(type(each), kind) for each in gc.get_objects())
