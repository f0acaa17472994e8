"""Published weights onto this machine: what is missing is fetched, checked, and takes its name only when it is whole.

pulled = pull(chosen(["yunet"]), root_of(None), Pulling(config), accepted=lambda weights: False)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import Field

from dualforce_model import faults, storage
from dualforce_model.config import Frozen
from dualforce_model.errors import InputError
from dualforce_model.pretrained import PRETRAINED, PublishedFile, Weights
from dualforce_model.stamp import Stamp
from tasks.archives import unpack
from tasks.downloads import HUB, Arrived, Downloader, OfflineError, Wanted, WrongBytesError, drop
from tasks.process import folder_lock
from tasks.weight_states import Pin, Pins

KEPT_SUFFIXES = (".json", ".safetensors", ".model", ".txt", ".bin", ".pth", ".pt")  # of a repository: no pictures
MAX_FILES = 500
FIRST_PULL = "first pull"


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
            for weights in models:
                folder = self.root / weights.folder
                listing, commit = (weights.files, "") if weights.files else self._hub_files(weights)
                for file in listing:
                    target = folder / storage.check_key(file.name)
                    if any(str(target) == each.path for each in files):
                        continue  # came with an archive that another model needed
                    if target.is_file() and not self.again:
                        drop(_part(target))  # of an attempt to replace it, or of a kill just after it got its name
                        present.append(str(target))
                        continue
                    files += self._one(weights, file, folder, commit)
        return Pulled(files=tuple(files), present=tuple(present))

    def _one(self, weights: Weights, file: PublishedFile, folder: Path, commit: str) -> list[PulledFile]:
        """Fetch a file, or the archive that holds it."""
        target = folder / file.name
        held = file.archive
        part = _part(target.with_name(file.url.rpartition("/")[2]) if held else target)
        part.parent.mkdir(parents=True, exist_ok=True)
        if held:
            self.downloader.fetch(Wanted(file.url, held.sha256, held.num_bytes), part)
            done = [self._unpacked(owner, each, part) for owner, each in self._inside(weights, file)]
        else:
            wanted = self._pinned(file, folder)
            arrived = self.downloader.fetch(wanted, part)
            if wanted.sha256 != file.sha256:
                arrived = replace(arrived, vouched=FIRST_PULL)
            elif file.sha256 and weights.hub:
                arrived = replace(arrived, vouched="hub")
            done = [self._named(weights, file, part, replace(arrived, commit=arrived.commit or commit))]
        drop(part)
        return done

    def _pinned(self, file: PublishedFile, folder: Path) -> Wanted:
        """A file with what is known of it: once trusted, its digest holds, and another one is an error."""
        pin = Pins.read(folder).files.get(file.name)
        if file.sha256 or pin is None or pin.vouched != FIRST_PULL:
            return Wanted(file.url, file.sha256, file.num_bytes)
        return Wanted(file.url, pin.sha256, pin.seen.num_bytes)

    def _inside(self, weights: Weights, file: PublishedFile) -> list[tuple[Weights, PublishedFile]]:
        """The file, and the files of other models in the same archive that are not there yet."""
        others = [
            (owner, each)
            for owner in PRETRAINED.values()
            for each in owner.files
            if each.archive and each.url == file.url and owner.model != weights.model
        ]
        missing = [(owner, each) for owner, each in others if not (self.root / owner.folder / each.name).is_file()]
        return [(weights, file), *missing]

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

    def _hub_files(self, weights: Weights) -> tuple[tuple[PublishedFile, ...], str]:
        """All files of a repository at the commit that it has now, and that commit; settings of the whole come last."""
        pins = Pins.read(self.root / weights.folder).files.values()
        begun = {pin.commit for pin in pins if pin.commit and not self.again}  # a pull goes on with the commit it began
        revision = weights.revision or (begun.pop() if len(begun) == 1 else "main")
        url = f"{HUB}/api/models/{weights.hub}/revision/{revision}?blobs=true"
        told = self.downloader.listing(url)
        try:
            commit, rows = str(told["sha"]), list(told["siblings"])
            found = [_row(weights.hub, commit, row) for row in rows if str(row["rfilename"]).endswith(KEPT_SUFFIXES)]
        except (KeyError, TypeError, ValueError) as error:
            raise WrongBytesError(f"{url}: not a list of files as the hub gives it: {error!r}") from error
        if not 0 < len(found) <= MAX_FILES:
            raise WrongBytesError(f"{url}: {len(found)} files of weights, expected 1 to {MAX_FILES}")
        return tuple(sorted(found, key=lambda each: ("/" not in each.name, each.name))), commit


def _part(target: Path) -> Path:
    """Where a file comes down to before it has its name."""
    return target.with_name(f".{target.name}.part")


def _row(repository: str, commit: str, row: dict[str, Any]) -> PublishedFile:
    name = storage.check_key(str(row["rfilename"]))
    digest, num_bytes = str((row.get("lfs") or {}).get("sha256", "")), int(row.get("size") or 0)
    return PublishedFile(name, f"{HUB}/{repository}/resolve/{commit}/{quote(name)}", digest, num_bytes)


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
