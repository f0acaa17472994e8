"""What is known of the files of a published model, kept in `.pulled.json` beside them.

Of each file its digest, its source, and the state in which that digest was last seen to be true. A file that nobody has
published a digest of is pinned there by the first pull: trust on first use. A file of one's own is pinned there by
`dualforce weights pin`. This list says what a file is; whether it is opened is not its to say (`vouchers.py`).
"""

import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError

from dualforce_model import storage
from dualforce_model.config import Frozen
from dualforce_model.errors import InputError
from dualforce_model.pretrained.vouchers import vouch
from dualforce_model.stamp import Stamp

PINS_NAME = ".pulled.json"
BY_PERSON = "a person"
FOLDERS_UP = 3  # between a file and the list that may name it: a model of several nets has a folder for each


class Pin(Frozen):
    """What is known of one file."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    source: str = Field(max_length=4096, description="where it was pulled from; empty: put there by other means")
    vouched: str = Field(
        max_length=40, description="who says it is the right one: reported, hub, first pull, or a person"
    )
    commit: str = Field("", max_length=64, description="of the hub's repository, where it was told")
    seen: Stamp = Field(description="the file when it had this digest")


class Pins(Frozen):
    """All that is known of a folder's files, by their names below it."""

    files: dict[str, Pin] = {}
    listing: tuple[str, ...] = Field((), description="all files that the hub listed when the last pull began")

    @classmethod
    def read(cls, folder: Path) -> "Pins":
        """Those of a folder; none where nothing was pulled. Raises InputError for a file that is no such list."""
        path = folder / PINS_NAME
        if not path.is_file():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InputError(
                f"{path}: not the list of what was pulled ({error.error_count()} errors); remove it, and pinned "
                "digests with it, then pull again"
            ) from error

    def with_(self, folder: Path, name: str, pin: Pin) -> "Pins":
        """With one more, written."""
        return self._written(folder, Pins(files={**self.files, name: pin}, listing=self.listing))

    def with_listing(self, folder: Path, names: Iterable[str]) -> "Pins":
        """With what the hub lists, written."""
        return self._written(folder, Pins(files=self.files, listing=tuple(names)))

    @staticmethod
    def _written(folder: Path, pins: "Pins") -> "Pins":
        storage.write_json(folder / PINS_NAME, pins.model_dump(mode="json"))
        return pins


def pin_of(path: Path) -> Pin | None:
    """What the nearest list that names a file says of it. Raises InputError for a list that cannot be read."""
    place = _place(path)
    return Pins.read(place[0]).files[place[1]] if place else None


def pin_file(path: Path) -> Pin:
    """Note that a person vouches for a file as it is now, and what it is beside it, unless others keep that folder.

    Raises InputError where there is no such file.
    """
    path = path.expanduser().absolute()
    if not path.is_file():
        raise InputError(f"{path}: no such file; name the file of weights itself")
    folder, name = _place(path) or (path.parent, path.name)
    stamp = Stamp.of(path)
    pin = Pin(sha256=storage.file_digest(path), source="", vouched=BY_PERSON, seen=stamp)
    vouch(pin.sha256, path.name, BY_PERSON)
    if os.access(folder, os.W_OK):
        Pins.read(folder).with_(folder, name, pin)
    return pin


def pinned_digest(path: Path, stamp: Stamp) -> str | None:
    """SHA-256 of a file that is as it was when a pull or check read it: the largest take half a minute to read anew.

    None, and the file has to be read, where nobody knows, where the list cannot be read (`dualforce weights check` says
    so), and where nothing tells when the file was changed.
    """
    if not stamp.mtime_ns:
        return None
    try:
        pin = pin_of(path)
    except (InputError, OSError):
        return None
    return pin.sha256 if pin is not None and pin.seen == stamp else None


def _place(path: Path) -> tuple[Path, str] | None:
    """Folder of the nearest list that names a file, and its name there."""
    path = path.absolute()
    for folder in list(path.parents)[:FOLDERS_UP]:
        name = path.relative_to(folder).as_posix()
        if (folder / PINS_NAME).is_file() and name in Pins.read(folder).files:
            return folder, name
    return None
