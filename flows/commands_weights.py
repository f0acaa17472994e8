"""`dualforce weights`: models that others published, on this machine."""

import os
import sys
from pathlib import Path

import click

from flows.terminal import PROBLEMS, Finish, json_option, say

folder_option = click.option(
    "--in",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="the folder below which they lie; default: ~/.cache/dualforce/weights",
)


@click.group()
def weights() -> None:
    """Published models that detectors, measures, encoders and metrics need: list, pull, check, pin."""


@weights.command("list")
@folder_option
@json_option
def list_(folder: Path | None, as_json: bool) -> None:
    """All models: who needs them, size, licence, whether they are here, where. Nothing is read or fetched."""
    from tasks.weight_states import listed, root_of

    found = listed(root_of(folder))
    say(found.model_dump(mode="json"), as_json, found.text())


@weights.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False),
              help="the folder below which they go; default: ~/.cache/dualforce/weights")  # fmt: skip
@click.option("--mirror", help="scheme and host that stand in for the publishers'; default: DUALFORCE_MIRROR, and for "
              "the Hugging Face hub HF_ENDPOINT")  # fmt: skip
@click.option("--accept-licence", is_flag=True, help="you have read the licences of these models and accept them")
@click.option("--again", is_flag=True, help="fetch and replace what is there already, too")
@click.option("--hub", metavar="OWNER/NAME", help="the repository of the Hugging Face hub that the encoder NAME is to "
              "read instead of its own (the encoder's `hub`); with --revision")  # fmt: skip
@click.option("--revision", metavar="COMMIT", help="commit of --hub, 40 hex digits")
@json_option
def pull(
    names: tuple[str, ...],
    folder: Path | None,
    mirror: str | None,
    accept_licence: bool,
    again: bool,
    hub: str | None,
    revision: str | None,
    as_json: bool,
) -> None:
    """Fetch models from their publishers. A pull that was cut short goes on where it stopped.

    Every file is checked against its published digest, or against the hub's; where nobody tells one, the first file
    to come is trusted and pinned. DUALFORCE_OFFLINE=1 (or HF_HUB_OFFLINE=1) keeps off the network. A token for the
    Hugging Face hub is read from HF_TOKEN and sent nowhere else.
    """
    from tasks.downloads import DownloadConfig, Downloader
    from tasks.pulling import Pull, check_pull, of_hub, offline_by
    from tasks.weight_states import chosen, root_of

    if (hub is None) != (revision is None) or (hub is not None and len(names) != 1):
        raise click.UsageError("--hub and --revision go together, with the one NAME whose encoder reads what they name")
    models, root = chosen(names), root_of(folder)
    if hub is not None and revision is not None:
        models = (of_hub(models[0], hub, revision),)
    config = DownloadConfig.from_environment(mirror)
    check_pull(models, root, offline_by(), lambda each: accept_licence or _accepts(each.model, each.licence))
    with Downloader(config, os.environ.get("HF_TOKEN", ""), show=sys.stderr.isatty()) as downloader:
        found = Pull(root, downloader, again)(models)
    say(found.model_dump(mode="json"), as_json, found.text())


@weights.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@folder_option
@json_option
def check(names: tuple[str, ...], folder: Path | None, as_json: bool) -> None:
    """Read every byte of the models that are here and compare with their digests.

    Exit code 6 if one is damaged, incomplete or not vouched for, or is named and missing. Without names, all models
    are looked at, and a missing one is no problem. Nets that can be opened cheaply are opened: their tensors must have
    the right names and shapes.
    """
    from tasks.weight_states import checked, chosen, root_of

    found = checked(chosen(names), root_of(folder))
    say(found.model_dump(mode="json"), as_json, found.text())
    if unusable := found.unusable(missing_too=bool(names)):
        raise Finish(PROBLEMS, unusable)


@weights.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@json_option
def pin(files: tuple[Path, ...], as_json: bool) -> None:
    """Vouch for files of your own: note their SHA-256, on this machine.

    A pickled file (.pth, .pt, .bin, .ckpt, .tar) is opened only where its digest is published or pinned, and so is any
    file of LivePortrait's motion extractor. Pin what you trained, or have from somebody whom you trust, and nothing
    else. The notes lie in ~/.cache/dualforce/weights/.vouched (DUALFORCE_VOUCHED names another folder).
    """
    from tasks.weight_states import pinned

    found = pinned(files)
    say(found.model_dump(mode="json"), as_json, found.text())


def _accepts(model: str, licence: str) -> bool:
    """Ask the person at the terminal, if there is one."""
    return sys.stdin.isatty() and click.confirm(f"{model}: {licence}. Do you accept this licence?", err=True)


COMMANDS = (weights,)
