"""Commands that look at a run's folder and mend it: plan, status, failures, rerun."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dualforce_model.config import load_config, shipped
from flows.terminal import CLIPS_FAILED, Finish, home_in, json_option, out_option, prefect_for, say, tell

if TYPE_CHECKING:
    from flows.pipeline import PipelineRun


def _pipeline(out: Path, config: Path | None) -> "PipelineRun":
    """The pipeline of a run's folder, or of a YAML file."""
    from flows.pipeline import PipelineRun, load_saved

    return load_config(PipelineRun, shipped(str(config))) if config else load_saved(out)


config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="a pipeline's YAML; default: the one that the run's folder keeps"
)


@click.command()
@out_option
@config_option
@json_option
def plan(out: Path, config: Path | None, as_json: bool) -> None:
    """What a run would compute now, stage by stage, and why. Changes nothing."""
    from flows.inspection import plan_pipeline

    run = _pipeline(out, config)
    tell(*run.check())
    found = plan_pipeline(run)
    say(found.model_dump(mode="json")["stages"], as_json, found.text())


@click.command()
@out_option
@config_option
@json_option
def status(out: Path, config: Path | None, as_json: bool) -> None:
    """Where all clips stand, who holds which stage, which snapshots and checkpoints there are."""
    from flows.inspection import pipeline_status

    found = pipeline_status(_pipeline(out, config))
    say(found.model_dump(mode="json"), as_json, found.text())


@click.command()
@out_option
@config_option
@click.option(
    "--quarantined/--no-quarantined", default=True, show_default=True, help="also clips that were quarantined"
)
@click.option("--traceback", "with_traceback", is_flag=True, help="print whole tracebacks")
@json_option
def failures(out: Path, config: Path | None, quarantined: bool, with_traceback: bool, as_json: bool) -> None:
    """Clips that failed or were quarantined, with class or reason, what was measured and the threshold."""
    from flows.inspection import failed_clips

    found = failed_clips(_pipeline(out, config), quarantined=quarantined)
    say(found.model_dump(mode="json"), as_json, found.text(with_traceback))


@click.command()
@out_option
@config_option
@click.option("--clip", "clips", multiple=True, help="only this clip; may be given many times")
@click.option("--damaged", is_flag=True, help="read all crops and features; make again what is gone or damaged")
@json_option
def rerun(out: Path, config: Path | None, clips: tuple[str, ...], damaged: bool, as_json: bool) -> None:
    """Try failed clips again from the stage that failed, then build a new snapshot version.

    Clips named with --clip are taken even if they are quarantined as impossible; what they had and lost is made
    again.
    """
    home = home_in(shipped(str(config)), ()) if config else out
    with prefect_for(home, "dualforce rerun") as start:
        from flows.rerun import RerunRun
        from flows.rerun import rerun as rerun_flow

        settings = RerunRun(pipeline=_pipeline(out, config), clip_ids=clips, damaged=damaged)
        tell(*settings.check())
        ready = start()
        ready()
        result = rerun_flow(settings)
    say(result.model_dump(mode="json"), as_json, result.text())
    if result.failed_clips:
        raise Finish(CLIPS_FAILED, f"{result.failed_clips} clips failed again: `dualforce failures --traceback`")


COMMANDS = (plan, status, failures, rerun)
