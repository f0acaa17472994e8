"""`dualforce verify mova`: its options, and what it does with them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from flows.terminal import PROBLEMS, Finish, say

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
REPORT_SUFFIX = ".verify.json"  # in place of the video's own
SHORT = {"num_frames": 25, "num_steps": 8}  # a trial, not a film; the release's own are 193 and 50
OPTIONS = (
    click.option(
        "--checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False), help="mova: the folder to check"
    ),
    click.option("--load/--no-load", default=True, show_default=True, help="mova: read all weights, or headers only"),
    click.option("--run", "run", is_flag=True, help="mova: generate a short video with sound"),
    click.option("--output", type=click.Path(path_type=Path), help="mova --run: the MP4 to write"),
    click.option("--image", type=FILE, help="mova --run: first frame; default: a colour card"),
    click.option("--prompt", help="mova --run: words; needs the package transformers"),
    click.option("--negative-prompt", default="", help="mova --run: words to stay away from"),
    click.option("--embeddings", type=FILE, help="mova --run: safetensors with `positive` and `negative` instead"),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="mova --run: a setting of the request"),
)


def mova_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; it gets them as keywords that `verify_mova` takes."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def verify_mova(
    as_json: bool,
    checkpoint: Path | None,
    load: bool,
    run: bool,
    output: Path | None,
    image: Path | None,
    prompt: str | None,
    negative_prompt: str,
    embeddings: Path | None,
    settings: tuple[str, ...],
) -> None:
    """Check a MOVA checkpoint and, if asked and able, run it. Exit code 6 if anything is wrong with it."""
    if checkpoint is None:
        raise click.UsageError("verify mova needs --checkpoint, the folder with model_index.json")
    if run and (output is None or output.suffix.lower() != ".mp4"):
        raise click.UsageError("--run needs --output, the MP4 to write")
    if prompt is not None and embeddings is not None:
        raise click.UsageError("give either --prompt or --embeddings")
    from dualforce_model import media
    from dualforce_model.mova.prompts import require_package
    from dualforce_model.mova.verify import verify

    request = _request(settings)
    picture = None if image is None else media.read_image(image)  # what a run lacks is said before hours of reading
    if run and prompt is not None:
        require_package()

    progress = partial(click.echo, err=True)
    report = verify(checkpoint, load, progress)
    try:
        if run:
            assert output is not None
            words = (prompt, negative_prompt)
            attempt = partial(_trial, checkpoint, request, output, picture, words, embeddings, progress)
            report = _run(report, output.with_suffix(REPORT_SUFFIX), attempt, progress)
    finally:  # a run that fails does not take the report with it
        say(report.model_dump(mode="json"), as_json, report.text())
    if report.problems:
        raise Finish(PROBLEMS, f"{len(report.problems)} problems in {checkpoint}")


def _run(report: Any, kept: Path, attempt: Callable[[], Any], progress: Callable[[str], None]) -> Any:
    """The report with what a run gave. It is in a file before the run starts: a kill cannot take it away."""
    from dualforce_model.storage import write_json

    write_json(kept, report.model_dump(mode="json"))
    progress(f"the report is in {kept}" + ("" if report.problems else "; what the run gives is added to it"))
    if not report.problems:
        report = report.model_copy(update={"trial": attempt()})
        write_json(kept, report.model_dump(mode="json"))
    return report


def _request(settings: tuple[str, ...]) -> Any:
    """A short trial, with the settings that were given."""
    from dualforce_model.config import apply_override, validate
    from dualforce_model.mova.inference import MovaRequest

    wanted: dict[str, Any] = dict(SHORT)
    for override in settings:
        apply_override(wanted, override)
    return validate(MovaRequest, wanted, "--set")


def _trial(
    folder: Path,
    request: Any,
    output: Path,
    picture: Any,
    words: tuple[str | None, str],
    embeddings: Path | None,
    progress: Callable[[str], None],
) -> Any:
    """Run a checkpoint on the GPU in bfloat16, or on the CPU in float32."""
    import torch

    from dualforce_model.mova.checkpoint import MovaCheckpoint
    from dualforce_model.mova.inference import Machine
    from dualforce_model.mova.prompts import Prompts, encode
    from dualforce_model.mova.trial import trial

    machine = Machine(torch.device("cuda"), torch.bfloat16) if torch.cuda.is_available() else Machine()
    checkpoint = MovaCheckpoint.open(folder)
    prompts = None
    if embeddings is not None:
        prompts = Prompts.read(embeddings, checkpoint.settings("video_dit").text_dim)
    elif words[0] is not None:
        prompts = encode(checkpoint, words[0], words[1], machine.device)
    return trial(checkpoint, request, output, picture, prompts, machine, progress)
