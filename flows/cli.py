"""The `dualforce` command. Heavy imports wait until a command needs them: --help answers in a fraction of a second."""

import os
import sys
from pathlib import Path

import click

from dualforce_model.errors import BusyError, InfrastructureError, InputError
from flows.interrupts import keep_interrupts
from flows.terminal import BROKEN, BUSY, INTERRUPTED, USAGE, Finish

EXIT_CODES = """\b
Exit codes
  0    done
  1    an error that is ours: please report it with its traceback
  2    wrong usage, configuration or input; nothing was changed
  3    finished, but some clips failed: see `dualforce failures`, then `dualforce rerun`
  4    another run holds the folder or the stage; the message names it
  5    infrastructure gave way (disk, network, training, server); run the same command again to go on
  6    a check found problems
  69   not built yet
  130  interrupted; run the same command again to go on
"""


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dualforce")
def cli() -> None:
    """Lists of talking-head videos in, a trained and evaluated audio-driven talking-head generator out.

    Start with `dualforce demo`. Every command can be killed at any moment and started again.
    """


def _register() -> None:
    from flows import (
        commands_model,
        commands_run,
        commands_snapshots,
        commands_sources,
        commands_state,
        commands_weights,
    )

    modules = (commands_run, commands_state, commands_sources, commands_snapshots, commands_model, commands_weights)
    for module in modules:
        for command in module.COMMANDS:
            cli.add_command(command)


def _failure(error: BaseException) -> Finish | None:
    """How an exception ends the command; None for what we did not foresee."""
    if isinstance(error, Finish):
        return error
    if isinstance(error, (KeyboardInterrupt, click.exceptions.Abort)):  # click turns the former into the latter
        return Finish(INTERRUPTED, "interrupted; the same command goes on where it stopped")
    for kind, code in ((InputError, USAGE), (BusyError, BUSY), (InfrastructureError, BROKEN), (OSError, BROKEN)):
        if isinstance(error, kind):
            return Finish(code, str(error))
    return None


def _keep_to_ourselves() -> None:
    """Settings of libraries that would otherwise write into the user's home or import from the current folder."""
    cache = Path(sys.prefix) / ".cache"
    if os.access(sys.prefix, os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", str(cache / "matplotlib"))
        os.environ.setdefault("PREFECT_HOME", str(cache / "prefect"))
        os.environ.setdefault("PREFECT_PROFILES_PATH", str(cache / "prefect" / "profiles.toml"))
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # a tasks.py in the user's folder must not become ours in children


def main() -> None:
    """Entry point of the console script."""
    keep_interrupts()
    _keep_to_ourselves()
    if "DUALFORCE_KILL_AT" in os.environ:  # tests that kill a run at a named point mean this process, see faults.py
        os.environ["DUALFORCE_KILL_PID"] = str(os.getpid())
    _register()
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BaseException as error:
        finish = _failure(error)
        if finish is None:
            raise
        if finish.message:
            click.echo(f"dualforce: {finish.message}", err=True)
        code = finish.code
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
