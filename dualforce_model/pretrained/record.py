"""What is known of a published model, and how it is found and read."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dualforce_model import storage
from dualforce_model.errors import InputError
from dualforce_model.pretrained.pins import pinned_digest
from dualforce_model.stamp import Stamp

WEIGHTS_FOLDER = "~/.cache/dualforce/weights"  # searched where the configuration names none
MAX_BYTES = 1 << 29  # thirty times the largest SCRFD
MARKERS = ("config.json", "model_index.json")  # one of them is in every folder that is a model, and written last
POINTER = b"version https://git-lfs"  # what a clone without git-lfs has in a large file's place


class MissingWeightsError(InputError, FileNotFoundError):
    """Weights that are not there; the message says which, whose, under what licence, and the command that gets them."""


class DamagedWeightsError(InputError):
    """A file that is there and is not what the detector reads; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip that holds published files."""

    sha256: str = ""
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a model. Digests and sizes are those that several public projects report, or of the file itself."""

    name: str  # below the model's folder
    url: str  # of it, or of the archive that holds it
    sha256: str = ""  # "": nobody has published it
    num_bytes: int = 0  # 0: not known
    archive: Archive | None = None  # the zip at `url`, which holds the file under its own name


@dataclass(frozen=True, slots=True)
class Weights:
    """A model that others trained and published: a file, or a folder of files."""

    name: str  # of the detector, measure, encoder or metric that reads it
    setting: str  # that names the file
    pattern: str  # its name; with `*` where several sizes of the model exist; "" where the folder itself is the model
    folder: str  # where it is looked for below WEIGHTS_FOLDER
    origin: str  # project and release
    licence: str
    url: str  # of the file, of the archive that holds it, or of the page that leads there
    model: str = ""  # its name in PRETRAINED, where another reads it under a name of its own
    needed_by: str = ""
    revision: str = ""  # commit or release that `url` is bound to; "": whatever lies there today
    restricted: bool = False  # the licence forbids commercial use: it is accepted in so many words or nothing is pulled
    by_hand: str = ""  # what a person does to get it, where no program can
    files: tuple[PublishedFile, ...] = ()
    hub: str = ""  # owner/name on the hub, which is asked for the files
    parts: tuple[str, ...] = ()  # patterns of what is read of the hub's repository; (): all of it
    also: tuple[str, ...] = ()  # patterns of other names that it may have: what its reader takes beside `pattern`

    @property
    def default(self) -> str:
        """The folder that is searched where the configuration names none."""
        return "/".join(part for part in (WEIGHTS_FOLDER, self.folder) if part)

    @property
    def command(self) -> str:
        """Shell line for a person that gets the model, or tells how."""
        return f"dualforce weights pull {self.model or self.name}"

    def find(self, chosen: Path | None) -> Path:
        """The file itself, or the folder. `chosen` is it or the folder that holds it; None is the default folder."""
        place = Path(os.path.expanduser(self.default if chosen is None else chosen))
        if place.is_file() or (not self.pattern and any((place / name).is_file() for name in MARKERS)):
            return place
        offered = self.offered(place, *((self.pattern,) if self.pattern else ()), *self.also)
        if len(offered) > 1:
            names = ", ".join(path.name for path in offered)
            raise InputError(f"{place}: {names}; {self.setting} for {self.name} names one of them")
        if not offered:
            raise self.missing(place)
        return offered[0]

    @staticmethod
    def offered(place: Path, *patterns: str) -> list[Path]:
        """Files of a folder that bear one of these names, sorted."""
        return sorted({path for pattern in patterns for path in place.glob(pattern) if path.is_file()})

    def missing(self, place: Path) -> "MissingWeightsError":
        """The error for a place that holds no such model."""
        names = " or ".join((self.pattern or MARKERS[0], *self.also))
        found = f"no {names} in it" if place.is_dir() else "no such file or folder"
        way = f"do what `{self.command}` says" if self.by_hand else f"get it with: {self.command}"
        return MissingWeightsError(
            f"{place}: {found}; {self.name} needs {self.pattern or 'the folder'} of {self.origin} (licence: "
            f"{self.licence}; from {self.url}). Nothing is downloaded for you: set {self.setting} to the "
            f"{'file' if self.pattern else 'folder'}, or {way}"
        )

    def read(self, path: Path) -> bytes:
        """The file's bytes: what is loaded from memory cannot draw in other files."""
        found = self.find(path)
        num_bytes = found.stat().st_size
        if num_bytes > MAX_BYTES:
            raise self.damaged(path, f"{num_bytes} bytes, more than the {MAX_BYTES} that any such model has")
        content = found.read_bytes()
        if content.startswith(POINTER):
            raise self.damaged(path, "the pointer of git-lfs, not the file itself")
        if not content:
            raise self.damaged(path, "an empty file")
        return content

    def damaged(self, path: Path, why: object) -> DamagedWeightsError:
        """The error for a file that cannot be used."""
        reason = " ".join(str(why).split())[:300]
        return DamagedWeightsError(
            f"{path}: not a model that {self.name} can use: {reason}. Expected {self.pattern or 'the folder'} of "
            f"{self.origin}; get it anew with: {self.command} --again"
        )


def visible_files(folder: Path) -> list[Path]:
    """Files below a folder, sorted. What is hidden is the bookkeeping of whoever put them there, and no weights."""
    found = sorted(each for each in folder.rglob("*") if each.is_file())
    return [each for each in found if not any(part.startswith(".") for part in each.relative_to(folder).parts)]


@lru_cache(maxsize=64)
def file_digest(path: Path, stamp: Stamp) -> str:
    """Digest of a file as it was at that size and time: the driver asks once per clip."""
    return pinned_digest(path, stamp) or storage.file_digest(path)
