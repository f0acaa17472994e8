"""Commands about models and videos: generate, evaluate, verify, estimate."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from flows.commands_mova import mova_options, verify_mova
from flows.commands_selfcheck import Device, model_options, verify_model
from flows.terminal import CLIPS_FAILED, PROBLEMS, Finish, json_option, say


@click.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="a checkpoint's folder",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="picture with one face, or a video whose first frame is meant",
)
@click.option(
    "--audio",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="speech; any file with sound",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="the MP4 to write")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="of the noise")
@click.option("--crop-px", type=click.IntRange(32, 2048), help="size of the crop; default: what was trained on")
@click.option("--other-size", is_flag=True, help="allow a size that the checkpoint was not trained on")
@click.option("--cropped", is_flag=True, help="the picture is a square face crop already")
@json_option
def generate(
    checkpoint: Path,
    image: Path,
    audio: Path,
    output: Path,
    seed: int,
    cropped: bool,
    crop_px: int | None,
    other_size: bool,
    as_json: bool,
) -> None:
    """One talking video from a picture and a sound; the MP4 carries the sound."""
    if output.suffix.lower() != ".mp4":
        raise click.UsageError(f"{output}: the output is an MP4, its name ends in .mp4")
    from dualforce_model.config import validate
    from tasks.generation import GenerateConfig, generate_one

    asked = {"seed": seed, "other_size": other_size, "crop": None if crop_px is None else {"crop_px": crop_px}}
    made = generate_one(checkpoint, image, audio, output, validate(GenerateConfig, asked, "options"), cropped=cropped)
    say({"video": str(output), "num_frames": made}, as_json, f"{output}: {made} frames, {made / 25:.1f} s")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--out", type=click.Path(path_type=Path), help="folder for lips.csv and report.json; default: FOLDER/evaluation"
)
@json_option
def evaluate(folder: Path, out: Path | None, as_json: bool) -> None:
    """Do the lips of every MP4 in FOLDER follow its own sound? Works on any videos, of this model or another's.

    Exit code 3 if some could not be judged: the table names them with the reason.
    """
    from tasks.evaluation import evaluate_folder

    report = evaluate_folder(folder, out or folder / "evaluation")
    say(report.model_dump(mode="json"), as_json, report.text())
    if report.unjudged:
        raise Finish(CLIPS_FAILED, report.left_out)


@click.command()
@click.argument("what", type=click.Choice(["machine", "model", "mova"]), default="machine")
@model_options
@mova_options
@json_option
@click.pass_context
def verify(context: click.Context, /, what: str, as_json: bool, preset: str, device: Device, **mova: Any) -> None:
    """Check what works here: the machine, the model (six parts, seconds), or a MOVA checkpoint.

    Exit code 6 if something does not work.
    """
    for owner, names in (("model", ("preset", "device")), ("mova", mova)):
        if what != owner:
            _refuse_options(context, names, what, owner)
    if what == "mova":
        verify_mova(as_json, **mova)
        return
    if what == "model":
        verify_model(as_json, preset, device)
        return
    from tasks.checks import machine_checks

    report = machine_checks()
    say(report.model_dump(mode="json"), as_json, report.text())
    if report.problems:
        raise Finish(PROBLEMS, f"{len(report.problems)} problems")


def _refuse_options(context: click.Context, names: Iterable[str], what: str, owner: str) -> None:
    """A check that ignored what was asked of another would look passed."""
    given = {name for name in names if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    for parameter in context.command.params:
        if parameter.name in given:
            option = "/".join((*parameter.opts, *parameter.secondary_opts))
            raise click.UsageError(f"{option} is an option of `verify {owner}`; this is `verify {what}`")


@click.command(
    epilog="Examples: dualforce estimate --preset base --gpus 8; dualforce estimate --config configs/train/folder.yaml "
    "train.batch_size=16; dualforce estimate --preset mova-360p num_frames=97"
)
@click.option("--preset", help="a model by name: tiny, small, base, mova-360p")
@click.option("--config", type=click.Path(path_type=Path), help="a training configuration, or a flow's that trains")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="a MOVA checkpoint's folder, estimated by its own settings",
)
@click.option("--gpus", type=click.IntRange(1, 65_536), default=1, show_default=True, help="GPUs that share the run")
@click.option("--crop-px", type=click.IntRange(32, 4096), help="side of the crops; default: as configured, or 512")
@click.option("--window-steps", type=click.IntRange(2, 4096), help="steps of a training window, reference included")
@click.option("--batch-size", type=click.IntRange(1), help="windows per training step over all GPUs")
@click.option("--limit-gb", type=click.FloatRange(min=1), default=50.0, show_default=True, help="memory to use per GPU")
@json_option
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def estimate(
    preset: str | None,
    config: Path | None,
    checkpoint: Path | None,
    gpus: int,
    crop_px: int | None,
    window_steps: int | None,
    batch_size: int | None,
    limit_gb: float,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """Parameters, memory per GPU and FLOPs per step of a training run, with and without activation checkpointing.

    The model is run on shapes alone, which takes seconds and no memory. If the run does not fit, says which single
    changes would make it fit, and ends with exit code 6. A --config is judged with the activation checkpointing that
    it turns on, a --preset with it. Of MOVA: inference, stage by stage, and a training step.
    """
    if [preset, config, checkpoint].count(None) != 2:
        raise click.UsageError("give exactly one of --preset, --config and --checkpoint (a MOVA checkpoint's folder)")
    from flows.estimation import MOVA, of_file, of_preset

    if checkpoint is not None or preset == MOVA:
        _estimate_mova(checkpoint, overrides, gpus, (crop_px, window_steps, batch_size), limit_gb, as_json)
        return
    if preset is not None and overrides:
        raise click.UsageError(f"{overrides[0]}: settings are overridden in a --config; a --preset has none")
    if batch_size is not None and batch_size % gpus:
        raise click.UsageError(f"--batch-size {batch_size} cannot be shared by {gpus} GPUs; take a multiple of {gpus}")
    from dualforce_model.estimate import estimate as estimated

    question = of_file(config, overrides, gpus) if config is not None else of_preset(str(preset), MOVA)
    per_gpu = batch_size // gpus if batch_size is not None else None
    given = {"crop_px": crop_px, "num_steps": window_steps, "batch_per_gpu": per_gpu}
    work = question.resized({name: value for name, value in given.items() if value is not None})
    report = estimated(
        question.name, question.model, work, gpus, question.precision, limit_gb, question.attention, question.recompute
    )
    totals = {"checkpointed": report.checkpointed.total, "plain": report.plain.total}
    say({**report.model_dump(mode="json"), "total_bytes": totals, "fits": report.fits}, as_json, report.text())
    if not report.fits:
        raise Finish(PROBLEMS, f"{report.judged.total / 1e9:.1f} GB per GPU of {limit_gb:g} GB; see above")


def _estimate_mova(
    checkpoint: Path | None,
    overrides: tuple[str, ...],
    gpus: int,
    sizes: tuple[int | None, ...],
    limit_gb: float,
    as_json: bool,
) -> None:
    """The parent model: what it takes to make a video; exit code 6 if that does not fit."""
    if any(size is not None for size in sizes):
        raise click.UsageError(
            "--crop-px, --window-steps and --batch-size are not for MOVA; its video is changed by KEY=VALUE: "
            "height_px, width_px, num_frames, fps, num_steps, guidance"
        )
    from flows.estimation import of_mova

    report = of_mova(checkpoint, overrides, gpus, limit_gb)
    totals = {"training": report.training.memory.total} | {stage.name: stage.total for stage in report.stages}
    fits = {"fits": report.fits, "training_fits": report.training_fits}
    say({**report.model_dump(mode="json"), "total_bytes": totals, **fits}, as_json, report.text())
    if not report.fits:
        most = report.largest
        raise Finish(PROBLEMS, f"{most.name}: {most.total / 1e9:.1f} GB of {limit_gb:g} GB per GPU; see above")


COMMANDS = (generate, evaluate, verify, estimate)
