"""Published weights onto this machine: what is missing is fetched, checked, and takes its name only when it is whole.

pulled = Pull(root_of(None), downloader)(chosen(["yunet"]))
pulled = Pull(root_of(None), downloader)([of_hub("dinov2", "owner/name", commit)])
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import Field

from dualforce_model import faults, storage
from dualforce_model.config import Frozen
from dualforce_model.errors import InputError
from dualforce_model.pretrained import PRETRAINED, PublishedFile, Weights
from dualforce_model.pretrained.hub import COMMIT, REPOSITORY, commit_folder
from dualforce_model.pretrained.pins import BY_PERSON, PINS_NAME, Pin, Pins
from dualforce_model.pretrained.record import MARKERS
from dualforce_model.pretrained.trust import PICKLED, is_pickled
from dualforce_model.pretrained.vouchers import vouch
from dualforce_model.stamp import Stamp
from tasks.archives import unpack
from tasks.downloads import HUB, Arrived, Downloader, Wanted, WrongBytesError, check_room, drop
from tasks.process import folder_lock

KEPT_SUFFIXES = (".json", ".safetensors", ".model", ".txt", ".bin", ".pth", ".pt")  # of a repository: no pictures
MAX_FILES = 500
FIRST_PULL = "first pull"
YES = ("1", "on", "yes", "true")


class OfflineError(InputError):
    """The network is switched off by a setting; the message names it and the way by hand."""


class PulledFile(Frozen):
    """A file that is there now."""

    model: str
    path: str
    sha256: str
    num_bytes: int
    vouched: str = Field(description="who says it is the right one: reported, hub, or first pull")


class Pulled(Frozen):
    """What a pull did."""

    files: tuple[PulledFile, ...]
    present: tuple[str, ...] = Field(description="files that were there already; nothing was done about them")

    def text(self) -> str:
        """What was pulled, and why its digest is trusted."""
        words = {
            "reported": "as several public projects report it",
            "hub": "as the hub announces it",
            FIRST_PULL: "nobody has published a digest: trusted because it was the first to come, and pinned",
        }
        lines = [f"{each.path}: {each.num_bytes} bytes, SHA-256 {each.sha256}, {words[each.vouched]}"
                 for each in self.files]  # fmt: skip
        lines += [f"{path}: was there already; `dualforce weights check` reads it" for path in self.present]
        return "\n".join(lines) or "nothing to pull"


@dataclass(frozen=True)
class _Planned:
    """A model that was asked for, and its files."""

    weights: Weights
    listing: tuple[PublishedFile, ...]
    commit: str = ""  # that the hub listed them at


@dataclass(frozen=True)
class Pull:
    """How models are pulled. Models and licences are looked at before a byte is asked for."""

    root: Path
    downloader: Downloader
    again: bool = False  # also what is there already

    def __call__(self, models: Sequence[Weights]) -> Pulled:
        """Pull models one after another; what one of them needs of an archive of several is unpacked for all."""
        files: list[PulledFile] = []
        present: list[str] = []
        with folder_lock(self.root, "dualforce weights pull"):
            plan = [self._planned(weights) for weights in models]
            asked = {weights.model for weights in models}
            if needed := self._needed(plan, asked):
                check_room(self.root, needed)
            for each in plan:
                folder = self.root / each.weights.folder
                if each.weights.hub:
                    Pins.read(folder).with_listing(folder, [file.name for file in each.listing])
                for file in each.listing:
                    if any(str(folder / file.name) == done.path for done in files):
                        continue  # came with an archive that another model needed
                    if there := self._there(each.weights, file):
                        drop(_part(there))  # of an attempt to replace it, or of a kill just after it got its name
                        present.append(str(there))
                        continue
                    files += self._one(each, file, asked)
        return Pulled(files=tuple(files), present=tuple(present))

    def _planned(self, weights: Weights) -> _Planned:
        return _Planned(weights, weights.files) if weights.files else self._hub_files(weights)

    def _there(self, weights: Weights, file: PublishedFile) -> Path | None:
        """What is left alone: the file itself, or one of another name that is read in its stead."""
        if self.again:
            return None
        folder = self.root / weights.folder
        found = folder / file.name
        return found if found.is_file() else next(iter(weights.offered(folder, *weights.also)), None)

    def _needed(self, plan: Sequence[_Planned], asked: Set[str]) -> int:
        """Bytes still to come, as far as sizes are known; an archive and what is unpacked of it lie there at once."""
        needed: dict[str, int] = {}
        for each in plan:
            for file in each.listing:
                if self._there(each.weights, file):
                    continue
                part = self._part_of(each.weights, file)
                size = file.archive.num_bytes if file.archive else file.num_bytes
                needed[file.url] = max(size - (part.stat().st_size if part.is_file() else 0), 0)
                if file.archive:
                    needed |= {inner.name: inner.num_bytes for _, inner in self._inside(each.weights, file, asked)}
        return sum(needed.values())

    def _part_of(self, weights: Weights, file: PublishedFile) -> Path:
        """Where a file, or the archive that holds it, comes down to."""
        target = self.root / weights.folder / file.name
        return _part(target.with_name(file.url.rpartition("/")[2]) if file.archive else target)

    def _one(self, planned: _Planned, file: PublishedFile, asked: Set[str]) -> list[PulledFile]:
        """Fetch a file, or the archive that holds it."""
        weights, held = planned.weights, file.archive
        part = self._part_of(weights, file)
        part.parent.mkdir(parents=True, exist_ok=True)
        if held:
            self.downloader.fetch(Wanted(file.url, held.sha256, held.num_bytes), part)
            done = [self._unpacked(owner, each, part) for owner, each in self._inside(weights, file, asked)]
        else:
            arrived = self._fetched(weights, file, part)
            done = [self._named(weights, file, part, replace(arrived, commit=arrived.commit or planned.commit))]
        drop(part)
        return done

    def _fetched(self, weights: Weights, file: PublishedFile, part: Path) -> Arrived:
        """A file held to what is known of it. Where no publisher tells its digest (a mirror's list is none), one that
        was trusted before holds until the person removes it."""
        folder = self.root / weights.folder
        mirrored = bool(weights.hub) and not self.downloader.asks_hub(file.url)
        pin = Pins.read(folder).files.get(file.name)
        of_pull = pin is not None and pin.vouched != BY_PERSON  # a person's own file is another, and says nothing of it
        if pin is not None and of_pull and (mirrored or not file.sha256):
            try:
                arrived = self.downloader.fetch(Wanted(file.url, pin.sha256, pin.seen.num_bytes), part)
            except WrongBytesError as error:
                raise WrongBytesError(
                    f"{error}. Its digest is pinned in {folder / PINS_NAME}; to trust another file, remove it there"
                ) from error
            return replace(arrived, vouched=pin.vouched)
        arrived = self.downloader.fetch(Wanted(file.url, file.sha256, file.num_bytes), part)
        listed = bool(weights.hub and file.sha256)
        return replace(arrived, vouched=(FIRST_PULL if mirrored else "hub") if listed else arrived.vouched)

    def _inside(self, weights: Weights, file: PublishedFile, asked: Set[str]) -> list[tuple[Weights, PublishedFile]]:
        """The file, and files of other models in the same archive: those not there yet, or asked for again."""
        others = [
            (owner, each)
            for owner in PRETRAINED.values()
            for each in owner.files
            if each.archive and each.url == file.url and owner.model != weights.model
        ]
        wanted = [(owner, each) for owner, each in others if (self.again and owner.model in asked)
                  or not (self.root / owner.folder / each.name).is_file()]  # fmt: skip
        return [(weights, file), *wanted]

    def _unpacked(self, weights: Weights, file: PublishedFile, archive: Path) -> PulledFile:
        fresh = self.root / weights.folder / f".{file.name}.unpacked"
        unpack(archive, file.name, fresh, file.num_bytes)
        try:
            digest = storage.file_digest(fresh)
            if file.sha256 and digest != file.sha256:
                raise WrongBytesError(
                    f"{archive.name}: its {file.name} has SHA-256 {digest}, expected {file.sha256}; nothing was kept"
                )
            vouched = "reported" if file.sha256 else ""
            return self._named(weights, file, fresh, Arrived(digest, Stamp.of(fresh).num_bytes, vouched))
        finally:
            fresh.unlink(missing_ok=True)

    def _named(self, weights: Weights, file: PublishedFile, fresh: Path, arrived: Arrived) -> PulledFile:
        """Write down what a checked file is, then give it its name: a kill between the two loses no pinned digest."""
        folder = self.root / weights.folder
        vouched = arrived.vouched or FIRST_PULL
        source = self.downloader.config.source(file.url).partition("?")[0]
        pin = Pin(sha256=arrived.sha256, source=source, vouched=vouched, commit=arrived.commit, seen=Stamp.of(fresh))
        Pins.read(folder).with_(folder, file.name, pin)
        if Path(file.name).suffix in (*PICKLED, ".bin") or is_pickled(fresh):  # nothing else asks for it
            vouch(arrived.sha256, file.name, vouched)
        faults.point("weights.before_rename")
        with storage.atomic_path(folder / file.name) as temporary:
            fresh.replace(temporary)
        faults.point("weights.after_rename")
        return PulledFile(
            model=weights.model,
            path=str(folder / file.name),
            sha256=arrived.sha256,
            num_bytes=arrived.num_bytes,
            vouched=vouched,
        )

    def _hub_files(self, weights: Weights) -> _Planned:
        """Files of a repository, or its parts that are read, at the commit that it has now or at the one that is named;
        those that make a folder count as whole come last.
        """
        pins = Pins.read(self.root / weights.folder).files.values()
        begun = {pin.commit for pin in pins if pin.commit and not self.again}  # a pull goes on with the commit it began
        revision = weights.revision or (begun.pop() if len(begun) == 1 else "main")
        url = f"{HUB}/api/models/{weights.hub}/revision/{revision}?blobs=true"
        told = self.downloader.listing(url)
        try:
            commit, rows = str(told["sha"]), list(told["siblings"])
            rows = [row for row in rows if str(row["rfilename"]).endswith(KEPT_SUFFIXES)]
            rows = _read_of(rows, weights.parts) if weights.parts else rows
            found = [_row(weights.hub, commit, row) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise WrongBytesError(f"{url}: not a list of files as the hub gives it: {error!r}") from error
        if not 0 < len(found) <= MAX_FILES:
            raise WrongBytesError(f"{url}: {len(found)} files of weights, expected 1 to {MAX_FILES}")
        if not any((Path(each.name).name if weights.parts else each.name) in MARKERS for each in found):
            raise WrongBytesError(f"{url}: neither of {' and '.join(MARKERS)} is listed: no folder that can be read")
        found.sort(key=lambda each: (Path(each.name).name in MARKERS, "/" not in each.name, each.name))
        return _Planned(weights, tuple(found), commit)


def of_hub(model: Weights, repository: str, commit: str) -> Weights:
    """A model as another repository of the hub has it at a commit: what the encoder of that name reads of it.

    Raises InputError for names that the hub has not, and for a model that is no folder of the hub.
    """
    from dualforce_model.encoders import ENCODERS  # it imports torch

    form = getattr(ENCODERS.get(model.name), "form", None)
    if form is None:
        readers = ", ".join(name for name, kind in ENCODERS.items() if hasattr(kind, "form"))
        raise InputError(f"{model.name}: no model that another repository of the hub can replace; there are: {readers}")
    if not re.fullmatch(REPOSITORY, repository):
        raise InputError(f"--hub {repository!r}: expected owner/name of a repository of the Hugging Face hub")
    if not re.fullmatch(COMMIT, commit):
        raise InputError(f"--revision {commit!r}: expected a commit, 40 hex digits: a branch may be another tomorrow")
    url = f"{HUB}/{repository}/tree/{commit}"
    return replace(
        model, folder=commit_folder(repository, commit), origin=f"{repository} at {commit}", url=url, files=(),
        licence="as its publisher says", hub=repository, revision=commit, parts=form.parts,
    )  # fmt: skip


def _read_of(rows: Sequence[dict[str, Any]], parts: Sequence[str]) -> list[dict[str, Any]]:
    """Files that fit one of the patterns; pickled ones only where their folder has no safe ones."""
    read = [row for row in rows if any(fnmatch(str(row["rfilename"]), part) for part in parts)]
    safe = {_folder(row) for row in read if str(row["rfilename"]).endswith(".safetensors")}
    return [row for row in read if not (_folder(row) in safe and ".bin" in Path(str(row["rfilename"])).suffixes)]


def _folder(row: dict[str, Any]) -> str:
    return str(row["rfilename"]).rpartition("/")[0]


def _part(target: Path) -> Path:
    """Where a file comes down to before it has its name."""
    return target.with_name(f".{target.name}.part")


def _row(repository: str, commit: str, row: dict[str, Any]) -> PublishedFile:
    name = storage.check_key(str(row["rfilename"]))
    if any(part.startswith(".") for part in name.split("/")):
        raise ValueError(f"{name!r} is hidden, as our own notes are")
    digest, num_bytes = str((row.get("lfs") or {}).get("sha256", "")), int(row.get("size") or 0)
    return PublishedFile(name, f"{HUB}/{repository}/resolve/{commit}/{quote(name)}", digest, num_bytes)


def offline_by(environment: Mapping[str, str] = os.environ) -> str:
    """The variable that switches the network off; empty where none does."""
    named = ("DUALFORCE_OFFLINE", "HF_HUB_OFFLINE")
    return next((name for name in named if environment.get(name, "").lower() in YES), "")


def check_pull(models: Sequence[Weights], root: Path, offline: str, accepts: Callable[[Weights], bool]) -> None:
    """Refuse, before anything is asked of the network, what cannot or may not be pulled.

    `offline` names the setting that switches the network off. Raises InputError with the way by hand.
    """
    for weights in models:
        if weights.by_hand:
            raise InputError(
                f"{weights.model}: no program may fetch it. Get it from {weights.url}: {weights.by_hand}. Put it into "
                f"{root / weights.folder} (licence: {weights.licence}); then: dualforce weights check {weights.model}"
            )
    if offline:
        ways = "; ".join(f"{weights.model}: {by_hand(weights, root)}" for weights in models)
        raise OfflineError(f"{offline} is set, so nothing is fetched. By hand, on a machine with a network: {ways}")
    for weights in models:
        if weights.restricted and not accepts(weights):
            raise InputError(
                f"{weights.model}: its licence restricts what it may be used for ({weights.licence}; "
                f"{weights.origin}). If you accept that, say so with --accept-licence; nothing was fetched"
            )


def by_hand(weights: Weights, root: Path) -> str:
    """What a person downloads, and where it goes."""
    folder = root / weights.folder
    if not weights.files:
        return f"all files of {weights.url} into {folder}"
    ways = []
    for file in weights.files:
        digest = f" (SHA-256 {file.sha256})" if file.sha256 else ""
        ways.append(f"{file.name} out of {file.url}{digest}" if file.archive else f"{file.url}{digest}")
    return f"{', '.join(ways)} into {folder}"
