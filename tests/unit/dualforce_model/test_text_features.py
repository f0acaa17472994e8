"""Text features: one file for a caption, every byte of it proven, whoever reads it."""

import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors

from dualforce_model.captions import TEXT_TOKENS, clean_caption
from dualforce_model.schema import SchemaError
from dualforce_model.storage import MissingKeyError, Storage
from dualforce_model.text_features import (
    DamagedTextError,
    TextFeatures,
    decode_text,
    encode_text,
    names_of,
    pack_text,
    pad_text,
    read_text,
    text_key,
    text_name,
)

FINGERPRINT, WIDTH = "ab" * 16, 6


def tokens(seed: int = 0, count: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def test_what_went_in_comes_out_and_is_named_for_what_made_it(store: Storage) -> None:
    name = pack_text(store, FINGERPRINT, "A man.", tokens())
    assert name == text_name(FINGERPRINT, "A man.")
    assert np.array_equal(read_text(store, name), tokens().astype(np.float16))
    assert store.list("text") == [text_key(name)]
    assert names_of(store, FINGERPRINT) == {name}
    assert names_of(store, "cd" * 16) == set()
    assert text_name("cd" * 16, "A man.") != name != text_name(FINGERPRINT, "A woman.")


def test_any_tool_can_open_it(store: Storage) -> None:
    name = pack_text(store, FINGERPRINT, "A man.", tokens())
    (array,) = load_safetensors(store.read(text_key(name))).values()
    assert np.array_equal(array, tokens().astype(np.float16))


def test_any_flipped_byte_is_found(store: Storage) -> None:
    name = pack_text(store, FINGERPRINT, "A man.", tokens(count=2))
    data = store.read(text_key(name))
    for place in range(len(data)):
        for bit in (0, 6):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises(DamagedTextError, match="damaged"):
                decode_text(name, bytes(flipped), "here")


@given(st.binary(max_size=300) | st.binary(max_size=80).map(lambda tail: (64).to_bytes(8, "little") + tail))
def test_bytes_that_are_no_text_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedTextError):
        decode_text(f"{FINGERPRINT}/{FINGERPRINT}", data, "here")


@pytest.mark.parametrize(
    "shape", ["[[[[", '{"tokens":{"shape":[-1,6]}}', '{"tokens":{"shape":[1,99]}}', "[" * 4000, "{}"]
)
def test_hostile_headers_are_refused(shape: str) -> None:
    header = shape.encode()
    with pytest.raises(DamagedTextError):
        decode_text(f"{FINGERPRINT}/{FINGERPRINT}", len(header).to_bytes(8, "little") + header + bytes(12), "here")


def test_cut_short_long_and_swapped_files_are_found(store: Storage) -> None:
    one, other = (pack_text(store, FINGERPRINT, text, tokens(seed)) for seed, text in enumerate(("a", "b")))
    data = store.read(text_key(one))
    for wrong in (data[:-1], data + b"\0", b"", store.read(text_key(other))):
        store.write(text_key(one), wrong)
        with pytest.raises(DamagedTextError, match="remove the file, and extract makes it again"):
            read_text(store, one)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((2, 3), 7e4, np.float32), "half precision"),
        (np.full((2, 3), np.nan, np.float32), "half precision"),
        (np.zeros((0, 3), np.float32), "expected 1 to 512 rows"),
        (np.zeros((TEXT_TOKENS + 1, 3), np.float32), "expected 1 to 512 rows"),
        (np.zeros(3, np.float32), "expected 1 to 512 rows"),
    ],
)
def test_what_is_no_text_is_not_stored(store: Storage, array: np.ndarray, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        pack_text(store, FINGERPRINT, "a", array)
    assert store.list() == []


@pytest.mark.parametrize("name", ["", "a/b", f"{FINGERPRINT}/../{FINGERPRINT}", f"{FINGERPRINT}/{FINGERPRINT}\n"])
def test_names_lead_nowhere_else(store: Storage, name: str) -> None:
    with pytest.raises(SchemaError, match="not a text's name"):
        read_text(store, name)


@given(st.text(max_size=30), st.text(max_size=30))
def test_captions_share_a_name_only_if_they_are_the_same(one: str, other: str) -> None:
    one, other = clean_caption(one), clean_caption(other)
    assert (text_name(FINGERPRINT, one) == text_name(FINGERPRINT, other)) == (one == other)


def test_padding_is_zeros_behind() -> None:
    padded = pad_text(tokens())
    assert padded.shape == (TEXT_TOKENS, WIDTH)
    assert np.array_equal(padded[:5], tokens())
    assert not padded[5:].any()


def test_the_reader_remembers_the_last_ones_within_its_bound(store: Storage) -> None:
    names = [pack_text(store, FINGERPRINT, f"text {number}", tokens(number)) for number in range(4)]
    reader = TextFeatures(store, cache_bytes=3 * 5 * WIDTH * 2)
    first = reader.tokens(names[0])
    for name in names[1:3]:
        reader.tokens(name)
    assert reader.tokens(names[0]) is first
    reader.tokens(names[3])  # the second was used longest ago
    shutil.rmtree(Path(store.url()))
    assert reader.tokens(names[0]) is first
    with pytest.raises(MissingKeyError):
        reader.tokens(names[1])
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_one_text_larger_than_the_bound_is_read_all_the_same(store: Storage) -> None:
    names = [pack_text(store, FINGERPRINT, text, tokens(seed)) for seed, text in enumerate("ab")]
    reader = TextFeatures(store, cache_bytes=1)
    for _ in range(2):
        for seed, name in enumerate(names):
            assert np.array_equal(reader.tokens(name), tokens(seed).astype(np.float16))


def _read_in_child(reader: TextFeatures, names: list[str], answers: "multiprocessing.Queue[float]") -> None:
    answers.put(float(sum(reader.tokens(name).astype(np.float64).sum() for name in names)))


def test_readers_are_pickled_without_what_they_remember(store: Storage) -> None:
    name = pack_text(store, FINGERPRINT, "a", tokens())
    reader = TextFeatures(store)
    size = len(pickle.dumps(reader))
    assert np.array_equal(reader.tokens(name), tokens().astype(np.float16))
    copy = pickle.dumps(reader)
    assert len(copy) == size
    assert np.array_equal(pickle.loads(copy).tokens(name), reader.tokens(name))  # noqa: S301  # our own


def test_readers_survive_a_fork(store: Storage) -> None:
    names = [pack_text(store, FINGERPRINT, text, tokens(seed)) for seed, text in enumerate("abc")]
    reader = TextFeatures(store)
    reader.tokens(names[0])
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[float] = context.Queue()
    children = [context.Process(target=_read_in_child, args=(reader, names, answers)) for _ in range(2)]
    for child in children:
        child.start()
    found = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert found == [float(sum(tokens(seed).astype(np.float16).astype(np.float64).sum() for seed in range(3)))] * 2


def test_equal_tokens_give_equal_bytes() -> None:
    name = text_name(FINGERPRINT, "a")
    array = tokens().astype(np.float16)
    assert encode_text(name, array) == encode_text(name, np.asfortranarray(array))
