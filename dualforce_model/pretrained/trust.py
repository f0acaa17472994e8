"""Whose word is taken for a file of weights: that of the registry, or that of this user.

A pickled file is a program in all but name. It is read as tensors alone, and even so opened only where its digest is
one that the registry states, or one that a pull or a person has vouched for on this machine (`vouchers.py`). What the
folder itself brings along counts for nothing, and the bytes are read: a list that says what they are is not asked.
"""

import shlex
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from dualforce_model import storage
from dualforce_model.config import Frozen, digest
from dualforce_model.errors import InputError
from dualforce_model.pretrained.record import MissingWeightsError, file_digest, visible_files
from dualforce_model.pretrained.registry import PRETRAINED
from dualforce_model.pretrained.vouchers import has_voucher
from dualforce_model.stamp import Stamp

PICKLED = (".pth", ".pt", ".ckpt", ".tar")  # files of other kinds are called .bin as well
ZIPPED, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\x0a"  # how files of torch begin, since version 1.6 and before
IN_ARCHIVE = "data.pkl"  # in the archives of torch; other models are archives, too
BECAUSE_PICKLED = "A pickled file is opened only where its digest is known, and nothing in this one was run"
KNOWN = frozenset(file.sha256 for weights in PRETRAINED.values() for file in weights.files if file.sha256)


class UntrustedWeightsError(InputError):
    """A file that nobody vouches for; the message says its digest, the expected ones, and who may vouch for it how."""


def fingerprint(name: str, version: int, path: Path, config: Frozen) -> str:
    """32 hex digits over what decides the answer. Where the weights lie does not; what is in them does."""
    return digest(name, version, weights_digest(name, path), config.model_copy(update={"weights": None}))


def weights_digest(name: str, path: Path) -> str:
    """SHA-256 of a file, or over names and digests of all files of a folder.

    Raises MissingWeightsError, and UntrustedWeightsError for a pickled file that nobody vouches for: whoever asks is
    about to read it.
    """
    files = visible_files(path) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise MissingWeightsError(f"{path}: the weights of {name} were there a moment ago and are gone; put them back")
    if files == [path]:
        if is_pickled(path):
            check_vouched([path])
            return _digest_of_bytes(path, Stamp.of(path))  # they were read just now
        return file_digest(path, Stamp.of(path))
    return digest([[each.relative_to(path).as_posix(), file_digest(each, Stamp.of(each))] for each in files])


def is_pickled(path: Path) -> bool:
    """Whether a file's name or what is in it say so."""
    return path.suffix in PICKLED or _holds_pickle(path, Stamp.of(path))


@lru_cache(maxsize=64)
def _holds_pickle(path: Path, stamp: Stamp) -> bool:
    """Whether a file, as it was at that size and time, is one that torch wrote: the driver asks once per clip."""
    with open(path, "rb") as file:
        beginning = file.read(len(ZIPPED))
    if beginning != ZIPPED:
        return beginning == LEGACY
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == IN_ARCHIVE for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return True  # torch reads archives that this library does not


def check_vouched(paths: Sequence[Path], why: str = BECAUSE_PICKLED, command: str = "") -> None:
    """Raises UntrustedWeightsError unless registry or this user know each file's digest. `command` gets another one."""
    strange = [path for path in paths if not _is_vouched(path)]
    if not strange:
        return
    first = strange[0]
    digests = "; ".join([f"SHA-256 {_digest_of_bytes(first, Stamp.of(first))}", *_expected(first)])
    way = command or _command(first)
    others = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
    raise UntrustedWeightsError(
        f"{first}{others}: {digests}. {why}. {f'Get the published one with: {way}. ' if way else ''}If it is the file "
        f"that you mean, vouch for it with: dualforce weights pin {shlex.join(map(str, strange))}"
    )


def _is_vouched(path: Path) -> bool:
    found = _digest_of_bytes(path, Stamp.of(path))
    return found in KNOWN or has_voucher(found)


@lru_cache(maxsize=64)
def _digest_of_bytes(path: Path, stamp: Stamp) -> str:
    """SHA-256 of a file as it was at that size and time, read by this process."""
    return storage.file_digest(path)


def _expected(path: Path) -> list[str]:
    """Other digests that a file of that name should have, in words."""
    published = [file for weights in PRETRAINED.values() for file in weights.files if file.name == path.name]
    told = [f"expected {file.sha256}, as it is published" for file in published if file.sha256]
    return told or ["nobody has published a digest for it, or vouched for it here"]


def _command(path: Path) -> str:
    """Shell line that gets the model that has such a file, or tells how; empty where none is known to."""
    for weights in PRETRAINED.values():
        if weights.pattern and fnmatch(path.name, weights.pattern):
            return weights.command if weights.by_hand else f"{weights.command} --again"
    return ""
