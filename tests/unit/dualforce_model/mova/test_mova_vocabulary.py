"""Every token that the tokenizer can give has a row in the text encoder's embedding, or it is said which has none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dualforce_model.mova.checkpoint import inspect

Make = Callable[..., Path]
ROWS = 40  # of the tiny checkpoint's embedding; its tokenizer has 32 pieces
EMBEDDING = "text_encoder/model.safetensors: shared.weight"


def problems(root: Path) -> list[str]:
    return [str(problem) for problem in inspect(root).problems]


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    edit(told)
    path.write_text(json.dumps(told), encoding="utf-8")


def tokenizer(root: Path) -> Path:
    return root / "tokenizer" / "tokenizer.json"


def resize(root: Path, rows: int, name: str = "shared.weight") -> None:
    """Another embedding in the file, the settings as they were."""
    path = root / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {name: torch.zeros(rows, 64)}, path)


def with_pieces(root: Path, count: int) -> None:
    pieces = [[f"piece{number}", -1.0] for number in range(count)]
    change(tokenizer(root), lambda told: told["model"].update(vocab=pieces))


@pytest.mark.parametrize("count", [3, ROWS])
def test_a_vocabulary_up_to_the_last_row_is_right(make_checkpoint: Make, count: int) -> None:
    root = make_checkpoint()
    with_pieces(root, count)
    assert problems(root) == []


def test_one_piece_too_many(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    with_pieces(root, ROWS + 1)
    (told,) = problems(root)
    assert told == (
        f"tokenizer/tokenizer.json: model.vocab: gives tokens up to {ROWS}, but {EMBEDDING} has {ROWS} rows: "
        f"from {ROWS} on they have none; are tokenizer and text encoder of one release?"
    )


def test_an_added_token_too_many(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    change(tokenizer(root), lambda told: told["added_tokens"].append({"id": 300, "content": "<extra>"}))
    (told,) = problems(root)
    assert f"gives tokens up to 300, but {EMBEDDING} has {ROWS} rows" in told


def test_a_vocabulary_that_is_a_mapping(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    change(tokenizer(root), lambda told: told["model"].update(vocab={"a": 0, "b": ROWS - 1}))
    assert problems(root) == []
    change(tokenizer(root), lambda told: told["model"].update(vocab={"a": 0, "b": ROWS}))
    (told,) = problems(root)
    assert f"gives tokens up to {ROWS}" in told


def test_an_embedding_of_another_vocabulary(make_checkpoint: Make) -> None:
    """Stored rows against the settings: file and tensor; and the tokenizer against what is stored."""
    root = make_checkpoint()
    resize(root, 24)
    shape, beyond = sorted(problems(root))
    assert shape == f"{EMBEDDING}: shape [24, 64], expected [40, 64] by the settings (vocab_size x d_model)"
    assert f"gives tokens up to 31, but {EMBEDDING} has 24 rows" in beyond


def test_the_twin_of_the_embedding_is_compared_too(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    resize(root, 41, "encoder.embed_tokens.weight")
    (told,) = problems(root)
    assert told.startswith("text_encoder/model.safetensors: encoder.embed_tokens.weight: shape [41, 64], expected [40,")


def test_settings_of_another_vocabulary(make_checkpoint: Make) -> None:
    """All weights stored for 40 rows; a vocab_size of 39 names the tensor that contradicts it."""
    root = make_checkpoint()
    change(root / "text_encoder" / "config.json", lambda told: told.update(vocab_size=39))
    (told,) = problems(root)
    assert told == f"{EMBEDDING}: shape [40, 64], expected [39, 64] by the settings (vocab_size x d_model)"


def test_without_the_weights_the_settings_decide(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    (root / "text_encoder" / "model.safetensors").unlink()
    with_pieces(root, ROWS + 1)
    assert any("text_encoder/config.json: vocab_size, by which shared.weight has 40 rows" in told
               for told in problems(root))  # fmt: skip


def test_a_towers_text_embedding_is_named_by_its_settings(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    path = root / "audio_dit" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file(weights | {"text_embedding.0.weight": weights["text_embedding.0.weight"][:, :-1].contiguous()}, path)
    (told,) = problems(root)
    assert told.startswith("audio_dit/diffusion_pytorch_model.safetensors: text_embedding.0.weight: shape ")
    assert told.endswith("by the settings (dim x text_dim)")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda told: told["model"].update(vocab=7), "expected a list or a mapping, found int"),
        (lambda told: told["model"].update(vocab={"a": "x"}), "token 'x', expected a whole number"),
        (lambda told: told["model"].update(vocab={"a": True}), "token True, expected a whole number"),
        (lambda told: told["model"].update(vocab={"a": -1}), "token -1, expected a whole number"),
        (lambda told: told.update(added_tokens=[{"content": "x"}]), "damaged vocabulary: 'id'"),
        (lambda told: told.update(added_tokens=[3]), "damaged vocabulary"),
        (lambda told: told.update(added_tokens=3), "damaged vocabulary"),
        (lambda told: told.update(added_tokens=[{"id": 1e99}]), "token 1e+99, expected a whole number"),
    ],
)
def test_hostile_vocabularies_are_problems(
    make_checkpoint: Make, edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    root = make_checkpoint()
    change(tokenizer(root), edit)
    (told,) = problems(root)
    assert told.startswith("tokenizer/tokenizer.json: model: ")
    assert words in told


def test_a_sentencepiece_model_is_not_opened(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    tokenizer(root).rename(root / "tokenizer" / "spiece.model")
    assert problems(root) == []
