"""`dualforce sources`: which lists can be read, and what a list holds. Nothing is fetched, nothing is written."""

from pathlib import Path

import click

from flows.terminal import PROBLEMS, Finish, json_option, say


@click.group()
def sources() -> None:
    """Lists of data sets: which formats are read, and what a list holds before anything is fetched."""


@sources.command("list")
@json_option
def list_(as_json: bool) -> None:
    """All sources: their names, whether the list is a file or a folder, where videos come from, the licence."""
    from tasks.sources.counts import all_sources

    found = all_sources()
    say(found.model_dump(mode="json"), as_json, found.text())


@sources.command()
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="exit with 6 if the list has any problem; else it is told and passes")
@json_option
def check(name: str, path: Path, strict: bool, as_json: bool) -> None:
    """Read the list of source NAME at PATH, a file or folder, and tell its counts and problems.

    NAME is one of `dualforce sources list`. A problem is told with file, line and reason; a list is read to its end
    whatever it holds.
    """
    from tasks.sources import SourceError
    from tasks.sources.counts import check_list

    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; name the list, or the folder that holds its files")
    found = check_list(name, path)
    say(found.model_dump(mode="json"), as_json, found.text())
    if strict and found.num_problems:
        raise Finish(PROBLEMS, f"{found.num_problems} problem{'s' * (found.num_problems > 1)} in {path}")


COMMANDS = (sources,)
