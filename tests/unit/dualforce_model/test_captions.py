"""Captions come from strangers' lists and go into databases, file names and terminals."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.captions import MAX_CAPTION_CHARS, MAX_RAW_CHARS, caption_digest, clean_caption

anything = st.text(st.characters(codec=None, exclude_categories=()), max_size=200)  # half characters among them


@given(anything)
def test_what_is_clean_can_be_stored_and_shown_anywhere(text: str) -> None:
    clean = clean_caption(text)
    assert clean.encode().decode() == clean
    assert unicodedata.is_normalized("NFC", clean)
    assert not {unicodedata.category(each) for each in clean} & {"Cc", "Cs"}
    assert clean == " ".join(clean.split())
    assert clean_caption(clean) == clean


@given(anything, st.integers(MAX_CAPTION_CHARS - 3, 3 * MAX_RAW_CHARS))
def test_a_caption_has_a_length(text: str, times: int) -> None:
    clean = clean_caption((text or "x") * times)
    assert len(clean) <= MAX_CAPTION_CHARS
    assert clean_caption(clean) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  A man\n\tin a\u00a0suit. ", "A man in a suit."),
        ("a\x00b\x1b[31mc\x7f", "ab[31mc"),
        ("evil \u202etxt.exe\u2066", "evil txt.exe"),
        ("cafe\u0301", "café"),
        ("e\u200b\u0301", "é"),
        ("half \ud83d a pair", "half a pair"),
        ("👨\u200d👩 می\u200cخواهم", "👨\u200d👩 می\u200cخواهم"),
        ("日本語 です", "日本語 です"),
        ("\u2028\u0000 \u200b", ""),
        ("x" * 1999 + " y", "x" * 1999),
    ],
)
def test_cleaning(text: str, clean: str) -> None:
    assert clean_caption(text) == clean


def test_a_run_of_accents_costs_no_time() -> None:
    assert len(clean_caption("a" + "\u0301\u0316" * 500_000)) == MAX_CAPTION_CHARS


def test_the_digest_is_of_the_text_alone() -> None:
    assert caption_digest("A man.") == "f1c5d288492b7dc03895accb2b7538c6"
    assert caption_digest("A man.") != caption_digest("A man")
