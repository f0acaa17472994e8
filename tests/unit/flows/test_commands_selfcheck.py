"""`dualforce verify model` from a shell."""

import json

import pytest
import torch
from click.testing import CliRunner

from dualforce_model.config import ConfigError
from flows.commands_model import verify


def test_the_check_answers_in_json_and_tells_how_far_it_is() -> None:
    result = CliRunner().invoke(verify, ["model", "--preset", "tiny", "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [part["passed"] for part in found["parts"]] == [True] * 6
    assert "6 of 6: memory" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    result = CliRunner().invoke(verify, ["model", "--device", "cuda"])
    assert isinstance(result.exception, ConfigError)
    assert "no CUDA device" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run"], "--run is an option of `verify mova`; this is `verify machine`"),
        (["--prompt", "hi"], "--prompt is an option of `verify mova`"),
        (["machine", "--no-load"], "--load/--no-load is an option of `verify mova`"),
        (["model", "--output", "a.mp4"], "--output is an option of `verify mova`; this is `verify model`"),
        (["--preset", "tiny"], "--preset is an option of `verify model`; this is `verify machine`"),
        (["mova", "--device", "auto"], "--device is an option of `verify model`; this is `verify mova`"),
    ],
)
def test_options_of_another_check_are_refused(words: list[str], message: str) -> None:
    """`verify --run` with the word mova forgotten would show a green table of the machine."""
    result = CliRunner().invoke(verify, words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
