"""Commands that start flows: demo, run, up."""

import shlex
from pathlib import Path

import click

from flows.commands_state import failures_of
from flows.terminal import (
    CLIPS_FAILED,
    PROBLEMS,
    Finish,
    home_in,
    json_option,
    not_built,
    out_option,
    prefect_for,
    say,
    tell,
)

FLOWS = ("acquire", "curate", "extract", "train", "generate", "evaluate", "pipeline", "rerun", "verify", "ablate")


@click.command()
@out_option
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), help="of faces, speech and training; default: the folder's, else 0"
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="settings; default: the folder's, else configs/demo/demo.yaml (configs/demo/smoke.yaml takes a minute)",
)
@click.option("--rerun", is_flag=True, help="heal: try the failed clips again, then build a new snapshot version")
@click.option("--port", type=click.IntRange(1, 65535), help="port of the Prefect server; default: a free one")
@json_option
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def demo(
    out: Path,
    seed: int | None,
    config: Path | None,
    rerun: bool,
    port: int | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """The whole chain on this machine, without weights, GPU or network.

    Makes talking-head clips (and bad ones), serves them on loopback, downloads, curates and encodes them, trains a
    small model on the CPU and measures whether its lips follow unseen speech. Six to ten minutes. The clip whose
    server always hangs up fails as planned (exit code 0; 3 if others fail too); --rerun heals it.
    Started again it goes on where it was stopped, or says that there is nothing to do.
    """
    from flows.demo_run import heal_demo, run_demo

    if not rerun:
        report = run_demo(out, seed, config, overrides, port=port)
        say(report.model_dump(mode="json"), as_json, report.text(out))
        _refuse_unplanned(out)
        return
    healed = heal_demo(out, seed, config, overrides, port=port)
    say(healed.model_dump(mode="json"), as_json, healed.text())
    if healed.failed_clips:
        raise Finish(CLIPS_FAILED, f"{healed.failed_clips} clips failed again: `{failures_of(out)} --traceback`")


def _refuse_unplanned(out: Path) -> None:
    """Raises Finish if clips of a finished demo failed that were not meant to."""
    unplanned = unplanned_failures(out)
    if unplanned:
        named = ", ".join(unplanned[:5]) + (", ..." if len(unplanned) > 5 else "")
        remedy = f"`{failures_of(out)}`, then `dualforce demo --rerun --out {shlex.quote(str(out))}`"
        raise Finish(CLIPS_FAILED, f"clips failed that were not meant to: {len(unplanned)} ({named}): {remedy}")


def unplanned_failures(out: Path) -> list[str]:
    """Clips of a demo that failed although their kind was not made to, or otherwise than it was."""
    from flows.inspection import failed_clips
    from flows.pipeline import load_saved
    from tasks.synthetic.corpus import load_corpus

    items = load_corpus(out / "corpus").items
    found = []
    for fate in failed_clips(load_saved(out), quarantined=False).fates:
        meant = [item.expected for item in items if fate.clip_id.startswith(f"hdtf-RD_{item.name}-")]
        if fate.reason not in meant:
            found.append(fate.clip_id)
    return found


@click.command(epilog="Example: dualforce run curate --config configs/curate/folder.yaml place.home=runs/mine")
@click.argument("flow", type=click.Choice(FLOWS))
@click.option("--config", type=click.Path(path_type=Path), required=True, help="one YAML file, one complete run")
@json_option
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def run(flow: str, config: Path, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Run one flow with a configuration; dotted overrides are checked like the file itself.

    Uses the Prefect server of PREFECT_API_URL, or a private one for the time of the run.
    """
    if flow == "ablate":
        not_built("the ablation table", "it needs the training stages at full size")
    from dualforce_model.config import shipped
    from flows.registry import load_flow, load_run

    home = home_in(shipped(str(config)), overrides)
    with prefect_for(home, f"dualforce run {flow}") as start:
        from flows.single import is_whole, keep, kept_stages

        settings, notes = load_run(flow, config, overrides)
        tell(*notes)
        ready = start()
        ready()
        keep(flow, settings, home)
        result = load_flow(flow)(settings)
    say(result.model_dump(mode="json"), as_json, result.text())
    if flow == "verify" and result.problems:
        raise Finish(PROBLEMS, f"{len(result.problems)} problems")
    if result.failed_clips:
        again = f"`dualforce rerun --out {shlex.quote(str(home))}`"
        stages = kept_stages(home)
        if flow in stages and not is_whole(stages):
            again = "the same command with a higher stage.attempts"
        raise Finish(CLIPS_FAILED, f"{result.failed_clips} clips failed: `{failures_of(home)}`, then {again}")


@click.command()
@out_option
@click.option(
    "--port", type=click.IntRange(1, 65535), default=4200, show_default=True, help="port of the UI on loopback"
)
def up(out: Path, port: int) -> None:
    """The Prefect UI over a run's folder, with every flow deployed so that it can be started and rerun from there.

    Runs until Ctrl-C; nothing stays behind.
    """
    from flows.serving import serve_until_stopped

    serve_until_stopped(out, port, lambda line: click.echo(line, err=True))


COMMANDS = (demo, run, up)
