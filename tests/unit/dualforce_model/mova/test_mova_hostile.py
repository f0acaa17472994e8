"""Settings made to harm: each is a problem with its file and field, never an exception or minutes of work."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualforce_model.mova.checkpoint import inspect

Make = Callable[..., Path]


def reset(path: Path, **values: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def expect(root: Path, file: str, subject: str, words: str) -> None:
    """A problem at this file and field, in these words."""
    problems = inspect(root).problems
    assert any(
        (problem.file, problem.subject) == (file, subject) and words in problem.message for problem in problems
    ), [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("file", "values", "subject", "words"),
    [
        ("audio_vae", {"encoder_rates": [0, 2]}, "encoder_rates.0", "greater than or equal to 1"),
        ("audio_vae", {"encoder_rates": [1] * 9}, "encoder_rates", "at most 8 items"),
        ("dual_tower_bridge", {"visual_layers": 10**12}, "visual_layers", "less than or equal to 1000"),
        ("dual_tower_bridge", {"audio_layers": 10**12}, "audio_layers", "less than or equal to 1000"),
        ("dual_tower_bridge", {"audio_fps": math.inf}, "audio_fps", "finite number"),
        ("text_encoder", {"architectures": {"a": 1}}, "_class_name", "{'a': 1}, expected 'UMT5EncoderModel'"),
        ("text_encoder", {"architectures": 3}, "_class_name", "3, expected 'UMT5EncoderModel'"),
        ("video_vae", {"num_res_blocks": 200_000}, "num_res_blocks", "less than or equal to 100"),
        ("video_vae", {"dim_mult": [1] * 3000}, "dim_mult", "at most 8 items"),
        ("video_vae", {"temperal_downsample": [True] * 3000}, "temperal_downsample", "at most 8 items"),
        ("video_vae", {"latents_std": [0.0] * 16}, "latents_std.0", "greater than or equal to 0.000001"),
        ("video_vae", {"latents_std": [math.inf] * 16}, "latents_std.0", "finite number"),
        ("video_vae", {"decoder_base_dim": {"a": 1}}, "", "no model can be built by these settings"),
        ("video_vae", {"patch_size": 2}, "", "patch_size is 2; only None is supported"),
        ("video_vae", {"attn_scales": [1.0]}, "attn_scales", "at most 0 items"),
        ("dual_tower_bridge", {"head_dim": 14}, "", "does not divide into heads of head_dim 14"),
        ("dual_tower_bridge", {"head_dim": 128}, "", "does not divide into heads of head_dim 128"),
        ("video_dit", {"patch_size": [1, 4, 4]}, "patch_size.1", "Input should be 2"),
    ],
)  # fmt: skip
def test_hostile_settings_are_problems(
    make_checkpoint: Make, file: str, values: dict[str, Any], subject: str, words: str
) -> None:
    """Never an exception, never minutes of building."""
    root = make_checkpoint()
    reset(root / file / "config.json", **values)
    start = time.monotonic()
    expect(root, f"{file}/config.json", subject, words)
    assert time.monotonic() - start < 4


def test_strides_other_than_movas_are_refused(make_checkpoint: Make) -> None:
    """A VAE that could be built, but whose latents the towers would get at another size."""
    root = make_checkpoint()
    reset(root / "video_vae" / "config.json", temperal_downsample=[False, True, False])
    subject = "temperal_downsample (frames per latent)"
    expect(root, "video_vae/config.json", subject, "2, but MOVA's is 4")
    reset(root / "video_vae" / "config.json", dim_mult=[1, 2, 4], temperal_downsample=[True, True])
    expect(root, "video_vae/config.json", "dim_mult (pixels per latent)", "4, but MOVA's is 8")


@pytest.mark.parametrize("text", ["{}", '{"model": 3}', '{"model": {"vocab": []}}'])
def test_tokenizer_without_a_vocabulary(make_checkpoint: Make, text: str) -> None:
    root = make_checkpoint()
    (root / "tokenizer" / "tokenizer.json").write_text(text, encoding="utf-8")
    expect(root, "tokenizer/tokenizer.json", "model", "no vocabulary")
    (root / "tokenizer" / "tokenizer.json").write_text("[", encoding="utf-8")
    expect(root, "tokenizer/tokenizer.json", "", "not readable as JSON")
    (root / "tokenizer" / "tokenizer.json").unlink()
    expect(root, "tokenizer/", "", "expected one of tokenizer.json, spiece.model")
