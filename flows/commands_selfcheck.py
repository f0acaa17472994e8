"""`dualforce verify model`: its options, and what it does with them."""

from collections.abc import Callable
from typing import Any, Literal

import click

from flows.terminal import PROBLEMS, Finish, say

Device = Literal["auto", "cpu", "cuda"]
OPTIONS = (
    click.option("--preset", default="tiny", show_default=True, help="model: which one: tiny, small, base"),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="model: where; auto takes CUDA if there is any",
    ),
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; it gets them as keywords that `verify_model` takes."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def verify_model(as_json: bool, preset: str, device: Device) -> None:
    """The six-part check of a preset with random weights. Exit code 6 if a part fails."""
    import torch

    from dualforce_model.config import ConfigError
    from dualforce_model.selfcheck import check_model
    from flows.estimation import of_preset

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA device here; leave it out to check on the CPU")
    kind = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    question = of_preset(preset)
    report = check_model(preset, question.model, torch.device(kind), lambda line: click.echo(line, err=True))
    say(report.model_dump(mode="json"), as_json, report.text())
    if report.problems:
        raise Finish(PROBLEMS, f"{len(report.problems)} of {len(report.parts)} parts failed")
