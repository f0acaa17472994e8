"""`dualforce snapshots`: versions of a data set in a store."""

from pathlib import Path
from typing import Literal

import click

from flows.terminal import PROBLEMS, Finish, json_option, out_option, say

store_option = click.option("--store", required=True, help="URL or folder of the store, e.g. runs/demo/store")


@click.group()
def snapshots() -> None:
    """Immutable, tagged versions of a data set: build, list, show, diff, tag, verify, agreement, pack, export, gc."""


@snapshots.command()
@out_option
@click.option("--policy", help="policy YAML; default: the one of the run's folder")
@click.option("--tag", help="tag to move to the new version")
@json_option
def build(out: Path, policy: str | None, tag: str | None, as_json: bool) -> None:
    """Judge the stored scores by a policy and build a version; nothing is decoded or encoded."""
    from flows.pipeline import load_saved
    from tasks.snapshotting import build_from_ledger

    overrides = ([f"policy={policy}"] if policy else []) + ([f"snapshot.tag={tag}"] if tag else [])
    run = load_saved(out, overrides)
    snapshot = build_from_ledger(run.place, run.policy, run.extract, run.snapshot)
    say(snapshot.model_dump(mode="json"), as_json, snapshot.text())


@snapshots.command("list")
@store_option
@json_option
def list_(store: str, as_json: bool) -> None:
    """All versions, newest first, with their tags and counts. Exit code 6 if a head is damaged."""
    from tasks.snapshotting import listing

    found = listing(store)
    say(found.model_dump(mode="json"), as_json, found.text())
    if found.damaged:
        raise Finish(PROBLEMS)


@snapshots.command()
@store_option
@click.argument("name")
@json_option
def show(store: str, name: str, as_json: bool) -> None:
    """One version, by tag or (a unique beginning of its) id."""
    from tasks.snapshotting import shown

    found = shown(store, name)
    say(found.model_dump(mode="json"), as_json, found.text())


@snapshots.command()
@store_option
@click.argument("old")
@click.argument("new")
@json_option
def diff(store: str, old: str, new: str, as_json: bool) -> None:
    """Clips added, removed and changed between two versions (tags or ids)."""
    from tasks.snapshotting import difference

    found = difference(store, old, new)
    say(found.model_dump(mode="json"), as_json, found.text())


@snapshots.command()
@store_option
@click.argument("name")
@click.argument("tag")
@json_option
def tag(store: str, name: str, tag: str, as_json: bool) -> None:
    """Point TAG at version NAME."""
    from tasks.snapshotting import point_tag

    found = point_tag(store, name, tag)
    say({"tag": tag, "snapshot": found}, as_json, f"{tag} -> {found}")


@snapshots.command()
@store_option
@click.argument("name")
@json_option
def verify(store: str, name: str, as_json: bool) -> None:
    """Read every byte of a version and check it. Exit code 6 if something is wrong."""
    from tasks.snapshotting import verified

    found = verified(store, name)
    say(found.model_dump(mode="json"), as_json, found.text())
    if found.problems:
        raise Finish(PROBLEMS)


@snapshots.command()
@store_option
@click.option(
    "--ledger", "ledgers", multiple=True, help="ledger whose features stay; default: ledger.db beside the store"
)
@click.option("--delete", is_flag=True, help="really delete; without it the command only says what it would do")
@json_option
def gc(store: str, ledgers: tuple[str, ...], delete: bool, as_json: bool) -> None:
    """Remove shards, texts and notes that no version, tag or ledger asks for. What is younger than a day stays."""
    from tasks.snapshotting import collect

    found = collect(store, _ledgers(store, ledgers, "features still in use cannot be known"), delete=delete)
    say(found.model_dump(mode="json"), as_json, found.text())


@snapshots.command()
@store_option
@click.argument("name")
@click.option("--shard-mb", type=click.IntRange(1, 4096), default=256, show_default=True, help="size of a shard")
@click.option(
    "--ledger", "ledgers", multiple=True, help="ledger to point to the new shards; default: ledger.db beside the store"
)
@click.option("--no-ledger", is_flag=True, help="leave ledgers alone: they go on naming the old shards")
@json_option
def pack(store: str, name: str, shard_mb: int, ledgers: tuple[str, ...], no_ledger: bool, as_json: bool) -> None:
    """Rewrite a version's features into few large shards in clip order. Its id stays; gc finds the old shards."""
    from tasks.packing import pack as packed

    if ledgers and no_ledger:
        raise click.UsageError("--ledger and --no-ledger exclude each other")
    told = () if no_ledger else _ledgers(store, ledgers, "give --no-ledger if no run goes on with this store")
    found = packed(store, name, told, shard_mb << 20)
    say(found.model_dump(mode="json"), as_json, found.text())


@snapshots.command()
@store_option
@click.argument("name")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="folder to make; never one that is there")
@click.option(
    "--form", type=click.Choice(["clips", "huggingface"]), required=True, help="a safetensors file a clip, or Parquet"
)
@click.option("--split", type=click.Choice(["train", "validation", "test"]), help="this split alone")
@json_option
def export(
    store: str,
    name: str,
    to: Path,
    form: Literal["clips", "huggingface"],
    split: Literal["train", "validation", "test"] | None,
    as_json: bool,
) -> None:
    """Write a version as plain files for other tools, each clip with its licence. Killed, it goes on where it was."""
    from tasks.exporting import export as exported

    found = exported(store, name, to, form, split)
    say(found.model_dump(mode="json"), as_json, found.text())


@snapshots.command()
@store_option
@click.argument("name")
@click.option(
    "--frames", type=click.Path(path_type=Path, dir_okay=False), help="Parquet file to write: the scores of every frame"
)
@json_option
def agreement(store: str, name: str, frames: Path | None, as_json: bool) -> None:
    """Whether LivePortrait's structure and FLAME saw the same head and mouth, clip by clip; the worst first."""
    from tasks.agreeing import agreements

    found = agreements(store, name, frames)
    say(found.model_dump(mode="json"), as_json, found.text())


def _ledgers(store: str, given: tuple[str, ...], otherwise: str) -> tuple[str, ...]:
    """URLs of the ledgers that are given, else of the one beside the store."""
    beside = Path(store).parent / "ledger.db"
    if not given and not beside.is_file():
        raise click.UsageError(f"no --ledger given and {beside} does not exist: {otherwise}")
    return given or (f"sqlite:///{beside}",)


COMMANDS = (snapshots,)
