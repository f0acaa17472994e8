"""Commands that look at a run's folder and mend it: plan, status, clips, failures, rerun."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from dualforce_model.config import ConfigError, load_config, read_settings, shipped
from flows.terminal import CLIPS_FAILED, Finish, home_in, json_option, out_option, prefect_for, say, tell

if TYPE_CHECKING:
    from flows.extract import ExtractRun
    from flows.pipeline import PipelineRun


def failures_of(home: Path) -> str:
    """The command that lists what failed in a run's folder."""
    return f"dualforce failures --out {shlex.quote(str(home))}"


def _asked(out: Path) -> Path | None:
    """The folder, if the person named it: then it holds whatever a configuration says."""
    source = click.get_current_context().get_parameter_source("out")
    return None if source == ParameterSource.DEFAULT else out


def _pipeline(out: Path, config: Path | None) -> "PipelineRun":
    """The pipeline of a run's folder, or of a YAML file."""
    from flows.pipeline import PipelineRun, load_saved
    from flows.single import kept_stages, moved, refuse_single

    if config is None:
        refuse_single(out, kept_stages(out))
        return load_saved(out)
    run, home = load_config(PipelineRun, shipped(str(config))), _asked(out)
    return run if home is None else run.model_copy(update={"place": moved(run.place, home)})


def _begun(out: Path, config: Path | None) -> "PipelineRun | ExtractRun":
    """What says where clips stand: a pipeline's or a single stage's. Raises ConfigError where nothing ran yet."""
    from flows.preflight import check_begun
    from flows.single import kept_stages, load_kept, moved, stage_of, standing_of

    run: PipelineRun | ExtractRun
    if config is None:
        run = load_kept(out) if kept_stages(out) else _pipeline(out, None)
    else:
        path = shipped(str(config))
        settings, home = read_settings(path), _asked(out)
        run = standing_of(settings, str(path)) if stage_of(settings) else _pipeline(out, config)
        if home is not None:
            run = run.model_copy(update={"place": moved(run.place, home)})
    check_begun(run.place, "look at", "a flow there (or name the folder of a run with --out)")
    return run


config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="a run's YAML; default: the one that its folder keeps"
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
    value = found.model_dump(mode="json")
    say(value["stages"] | ({} if found.captions is None else {"text": value["captions"]}), as_json, found.text())


@click.command()
@out_option
@config_option
@json_option
def status(out: Path, config: Path | None, as_json: bool) -> None:
    """Where all clips stand, who holds which stage, which snapshots and checkpoints there are."""
    from flows.inspection import pipeline_status

    found = pipeline_status(_begun(out, config))
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
    """Clips that failed or were quarantined, with class or reason, what was measured and the threshold.

    Captions that failed or were refused follow, with why.
    """
    from flows.inspection import failed_clips

    found = failed_clips(_begun(out, config), quarantined=quarantined)
    say(found.model_dump(mode="json"), as_json, found.text(with_traceback))


@click.command()
@out_option
@config_option
@click.option("--policy", help="judge by this policy's YAML instead of the run's; nothing is stored")
@click.option("--clip", "named", multiple=True, help="only this clip; may be given many times")
@json_option
def clips(out: Path, config: Path | None, policy: str | None, named: tuple[str, ...], as_json: bool) -> None:
    """Every clip with its outcome, the reason, and all its scores; with --json also the methods that measured them."""
    from flows.clip_report import clip_reports
    from tasks.policy import load_policy

    run = _begun(out, config)
    judged_by, reports = load_policy(policy or run.policy).name, clip_reports(run, policy)
    tell(f"outcomes under policy {judged_by}")
    chosen = (report for report in reports if not named or report.clip_id in named)
    missing = set(named)
    if as_json:
        found = [report.model_dump(mode="json") for report in chosen]
        click.echo(json.dumps({"policy": judged_by, "clips": found}, indent=2, sort_keys=True))
        missing -= {report["clip_id"] for report in found}
    else:
        for report in chosen:
            click.echo(report.text())
            missing.discard(report.clip_id)
    if missing:
        raise ConfigError(f"--clip {sorted(missing)[0]}: {out} has no such clip; leave --clip out to see all")


@click.command()
@out_option
@config_option
@click.option("--clip", "clips", multiple=True, help="only this clip; may be given many times")
@click.option("--damaged", is_flag=True, help="read all crops, features and texts; make again what is gone or damaged")
@json_option
def rerun(out: Path, config: Path | None, clips: tuple[str, ...], damaged: bool, as_json: bool) -> None:
    """Try failed clips again from the stage that failed, then build a new snapshot version.

    Clips named with --clip are taken even if they are quarantined as impossible; what they had and lost is made
    again. Where stages were run by themselves, those that the folder keeps are run, in their order.
    """
    home = out if config is None else _asked(out) or home_in(shipped(str(config)), ())
    with prefect_for(home, "dualforce rerun") as start:
        from flows.rerun import RerunRun
        from flows.rerun import rerun as rerun_flow
        from flows.single import kept_stages, load_chain

        stages = kept_stages(home)
        if stages and config is not None:
            _refuse_stage_config(config, home)
        if stages and config is None:
            settings = RerunRun(pipeline=load_chain(home), clip_ids=clips, damaged=damaged, stages=stages)
        else:
            settings = RerunRun(pipeline=_pipeline(out, config), clip_ids=clips, damaged=damaged)
        tell(*settings.check())
        ready = start()
        ready()
        result = rerun_flow(settings)
    say(result.model_dump(mode="json"), as_json, result.text())
    if result.failed_clips:
        raise Finish(CLIPS_FAILED, f"{result.failed_clips} clips failed again: `{failures_of(home)} --traceback`")


def _refuse_stage_config(config: Path, home: Path) -> None:
    from flows.single import stage_of

    stage = stage_of(read_settings(shipped(str(config))))
    if stage:
        raise ConfigError(
            f"{config} is the configuration of a single stage, {stage}, and {home} keeps those that it ran; leave "
            f"--config out: `dualforce rerun --out {shlex.quote(str(home))}`"
        )


COMMANDS = (plan, status, clips, failures, rerun)
