"""The tokenizer beside the text encoder: every token that it can give must have a row in the embedding.

Only sizes are read, out of `tokenizer.json`; a sentencepiece model is not opened. The embedding may be longer than the
vocabulary (releases round it up), never shorter.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualforce_model.mova.files import Weights
from dualforce_model.mova.settings import Settings, TextEncoderSettings
from dualforce_model.weight_files import Report, read_json

TOKENIZER_FILES = ("tokenizer.json", "spiece.model")  # one of them
EMBEDDING = "shared.weight"


def check_tokenizer(folder: Path, report: Report, text_encoder: tuple[Settings, Weights] | None) -> None:
    """One of its files; where that is JSON, a vocabulary, and no token beyond the text encoder's embedding."""
    fast, slow = (folder / name for name in TOKENIZER_FILES)
    if not fast.is_file():
        if not slow.is_file():
            report(folder, "", f"expected one of {', '.join(TOKENIZER_FILES)}")
        return
    told = read_json(fast, report)
    if told is None:
        return
    model = told.get("model")
    if not isinstance(model, dict) or not model.get("vocab"):
        report(fast, "model", "no vocabulary; expected the tokenizer that transformers saved")
        return
    try:
        last = max(_token_ids(model["vocab"], told.get("added_tokens") or []))
    except (TypeError, LookupError) as error:
        report(fast, "model", f"damaged vocabulary: {error}")
        return
    if text_encoder is None:
        return
    what, rows = _rows(*text_encoder)
    if last >= rows:
        message = f"gives tokens up to {last}, but {what} has {rows} rows: from {rows} on they have none"
        report(fast, "model.vocab", f"{message}; are tokenizer and text encoder of one release?")


def _token_ids(vocabulary: Any, added: Any) -> Iterator[int]:
    """The last token of a vocabulary, in either of its forms, and every token added to it."""
    if isinstance(vocabulary, list):
        yield len(vocabulary) - 1
    elif isinstance(vocabulary, dict):
        yield from map(_whole, vocabulary.values())
    else:
        raise TypeError(f"expected a list or a mapping, found {type(vocabulary).__name__}")
    for token in added:
        yield _whole(token["id"])


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise TypeError(f"token {number!r:.80}, expected a whole number")
    return number


def _rows(settings: Settings, weights: Weights) -> tuple[str, int]:
    """The embedding and its rows as stored; as the settings have them where it is not there."""
    assert isinstance(settings, TextEncoderSettings)
    stored = weights.tensors.get(EMBEDDING)
    if stored is None or not stored.shape:
        return f"text_encoder/config.json: vocab_size, by which {EMBEDDING}", settings.vocab_size
    return f"text_encoder/{stored.path.name}: {EMBEDDING}", stored.shape[0]
