"""Commands about models and videos: generate, evaluate, verify, estimate."""

from pathlib import Path

import click

from flows.terminal import PROBLEMS, Finish, json_option, not_built, say


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
    """Do the lips of every MP4 in FOLDER follow its own sound? Works on any videos, of this model or another's."""
    from tasks.evaluation import evaluate_folder

    report = evaluate_folder(folder, out or folder / "evaluation")
    say(report.model_dump(mode="json"), as_json, report.text())


@click.command()
@click.argument("what", type=click.Choice(["machine", "model", "mova"]), default="machine")
@json_option
def verify(what: str, as_json: bool) -> None:
    """Check what works here. `machine` is built; `model` and `mova` are not yet, and say so.

    Exit code 6 if something does not work.
    """
    if what != "machine":
        not_built(f"`verify {what}`", "it comes with the full-size model")
    from tasks.checks import machine_checks

    report = machine_checks()
    say(report.model_dump(mode="json"), as_json, report.text())
    if report.problems:
        raise Finish(PROBLEMS, f"{len(report.problems)} problems")


@click.command()
@click.option("--preset", help="a model by name")
@click.option("--config", type=click.Path(path_type=Path), help="a training configuration")
@click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, help="GPUs that share the run")
@json_option
def estimate(preset: str | None, config: Path | None, gpus: int, as_json: bool) -> None:
    """Parameters, memory per GPU and FLOPs per step of a training run. Not built yet: says so and fails."""
    not_built("`estimate`", "it comes with the full-size model")


COMMANDS = (generate, evaluate, verify, estimate)
