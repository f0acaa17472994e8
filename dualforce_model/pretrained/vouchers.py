"""Digests of files that this user vouches for: a note for each, in a folder that no model brings along.

What lies beside a model (`.pulled.json`) came from whoever made the folder, for all that is known: it says what a file
is, and opens none.
"""

import os
import re
from pathlib import Path

from pydantic import Field

from dualforce_model import storage
from dualforce_model.config import Frozen

VARIABLE = "DUALFORCE_VOUCHED"  # names another folder, which machines of a cluster may share
DEFAULT = "~/.cache/dualforce/weights/.vouched"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Voucher(Frozen):
    """Why files of a digest are opened."""

    name: str = Field(max_length=4096, description="of the file when it was vouched for")
    by: str = Field(max_length=40, description="a person, or how a pull knew that it is the right one")


def vouchers_folder() -> Path:
    """Where the notes are."""
    return Path(os.environ.get(VARIABLE) or DEFAULT).expanduser()


def vouch(sha256: str, name: str, by: str) -> None:
    """Note that files of this digest may be opened. Removing the note takes it back."""
    storage.write_json(_note(sha256), Voucher(name=name, by=by).model_dump(mode="json"))


def has_voucher(sha256: str) -> bool:
    """Whether somebody vouched for files of this digest here."""
    return _note(sha256).is_file()


def _note(sha256: str) -> Path:
    assert _DIGEST.fullmatch(sha256), "a SHA-256 in hexadecimal digits"
    return vouchers_folder() / f"{sha256}.json"
