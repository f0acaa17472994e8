"""Weights that others trained and published: whose, where they lie, what to do where they do not.

path = PRETRAINED["yunet"].find(config.weights)   # or MissingWeightsError, with the command that gets them
content = PRETRAINED["yunet"].read(path)

Nothing is downloaded from here: only `dualforce weights pull` does that (tasks/pulling.py).
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dualforce_model import storage
from dualforce_model.config import Frozen, digest
from dualforce_model.errors import InputError
from dualforce_model.stamp import Stamp

WEIGHTS_FOLDER = "~/.cache/dualforce/weights"  # searched where the configuration names none
MAX_BYTES = 1 << 29  # thirty times the largest SCRFD
POINTER = b"version https://git-lfs"  # what a clone without git-lfs has in a large file's place


class MissingWeightsError(InputError, FileNotFoundError):
    """Weights that are not there; the message says which, whose, under what licence, and the command that gets them."""


class DamagedWeightsError(InputError):
    """A file that is there and is not what the detector reads; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A file that others trained and published."""

    name: str  # of the detector, measure or encoder that reads it
    setting: str  # that names the file
    pattern: str  # its name; with `*` where several sizes of the model exist; "" where the folder itself is the model
    folder: str  # where it is looked for below WEIGHTS_FOLDER
    origin: str  # project and release
    licence: str
    url: str  # of the file, or of the archive that holds it

    @property
    def default(self) -> str:
        """The folder that is searched where the configuration names none."""
        return "/".join(part for part in (WEIGHTS_FOLDER, self.folder) if part)

    @property
    def command(self) -> str:
        """Shell line for a person that gets the file."""
        archive = self.url.rpartition("/")[2]
        unpack = f" && python -m zipfile -e {archive} ." if archive.endswith(".zip") else ""
        return f"mkdir -p {self.default} && cd {self.default} && curl -fLO {self.url}{unpack}"

    def find(self, chosen: Path | None) -> Path:
        """The file itself. `chosen` is it or the folder that holds it; None is the default folder."""
        place = Path(os.path.expanduser(self.default if chosen is None else chosen))
        if place.is_file() or (not self.pattern and place.is_dir()):
            return place
        offered = sorted(path for path in place.glob(self.pattern) if path.is_file()) if place.is_dir() else []
        if len(offered) > 1:
            names = ", ".join(path.name for path in offered)
            raise InputError(f"{place}: {names}; {self.setting} for {self.name} names one of them")
        if not offered:
            found = f"no {self.pattern} in it" if place.is_dir() else "no such file or folder"
            raise MissingWeightsError(
                f"{place}: {found}; {self.name} needs {self.pattern} of {self.origin} (licence: {self.licence}). "
                f"Nothing is downloaded for you: set {self.setting} to the file, or get it with: {self.command}"
            )
        return offered[0]

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
            f"{path}: not a model that {self.name} can use: {reason}. Expected {self.pattern} of {self.origin}; "
            f"get it anew with: {self.command}"
        )


def fingerprint(name: str, version: int, path: Path, config: Frozen) -> str:
    """32 hex digits over what decides the answer. Where the weights lie does not; what is in them does."""
    return digest(name, version, weights_digest(name, path), config.model_copy(update={"weights": None}))


def weights_digest(name: str, path: Path) -> str:
    """SHA-256 of a file, or over names and digests of all files of a folder. Raises MissingWeightsError."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise MissingWeightsError(f"{path}: the weights of {name} were there a moment ago and are gone; put them back")
    if files == [path]:
        return _file_digest(path, Stamp.of(path))
    return digest([[each.relative_to(path).as_posix(), _file_digest(each, Stamp.of(each))] for each in files])


@lru_cache(maxsize=64)
def _file_digest(path: Path, stamp: Stamp) -> str:
    """Digest of a file as it was at that size and time: the driver asks once per clip."""
    return storage.file_digest(path)
