"""What every command shares: exit codes, common options, how answers are printed, where Prefect's server is."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

USAGE, CLIPS_FAILED, BUSY, BROKEN, PROBLEMS, NOT_BUILT, INTERRUPTED = 2, 3, 4, 5, 6, 69, 130

out_option = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True, help="the run's folder"
)
json_option = click.option("--json", "as_json", is_flag=True, help="print one JSON document instead of text")


class Finish(Exception):
    """Ends a command with an exit code and, unless empty, a line on standard error."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def say(value: Any, as_json: bool, text: str) -> None:
    """The answer of a command: JSON for scripts, text for people."""
    click.echo(json.dumps(value, indent=2, sort_keys=True) if as_json else text)


def tell(*lines: str) -> None:
    """Lines for the person who watches; answers for scripts go to standard output alone."""
    for line in lines:
        click.echo(line, err=True)


def not_built(what: str, until: str) -> NoReturn:
    """Refuse, by name, what does not exist yet."""
    raise Finish(NOT_BUILT, f"{what} is not built yet: {until}. Nothing was done.")


@contextmanager
def prefect_for(home: Path, what: str, port: int | None = None) -> Iterator[Callable[[], Callable[[], str]]]:
    """For the time of the block, Prefect at PREFECT_API_URL, or at a private server below `home`.

    Prefect reads its settings when it is imported, so import flows inside the block. Gives a function `start`: until it
    is called nothing is written anywhere, so call it when the configuration has been checked. It takes the folder in
    the name of `what` (FolderBusy if another process has it), lets the server begin, and returns `ready`, which waits
    until the server answers and returns the UI's address: what comes before that call overlaps the server's start.
    """
    from tasks.process import folder_lock

    given = os.environ.get("PREFECT_API_URL")
    if given and port is not None:
        raise click.UsageError(f"--port is for a private server, but PREFECT_API_URL names one already: {given}")
    with ExitStack() as until_the_end:  # the folder is let go last, when the server has stopped
        if given:
            address = given.removesuffix("/api")

            def start_given() -> Callable[[], str]:
                until_the_end.enter_context(folder_lock(home, what))
                return lambda: address

            yield start_given
            return
        from flows.server import enter_home, prefect_server

        # The UI keeps every line; what goes wrong is said once, by the command itself.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        with prefect_server(home / "prefect", port) as server:

            def ready() -> str:
                server.ready()
                return server.url

            def start() -> Callable[[], str]:
                until_the_end.enter_context(folder_lock(home, what))
                server.start()
                enter_home(server.environment["PREFECT_HOME"])
                return ready

            yield start


def home_in(path: Path, overrides: Sequence[str]) -> Path:
    """The run's folder as a YAML file states it, before Prefect may be imported to validate the rest."""
    from dualforce_model.config import ConfigError, read_settings

    settings = read_settings(path, overrides)
    for name in ("pipeline", "place"):
        inner = settings.get(name, {} if name == "place" else settings)
        if not isinstance(inner, dict):
            raise ConfigError(f"{path}: {name}: expected a group of settings, found {inner!r}")
        settings = inner
    home = settings.get("home", "runs/default")
    if not isinstance(home, str) or not home:
        raise ConfigError(f"{path}: place.home: expected a folder, found {home!r}")
    return Path(home)
