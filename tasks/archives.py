"""Files out of a zip that strangers packed: the ones that are wanted, by name, and nothing else of it.

Where a file goes is ours to say, never the archive's.
"""

import stat
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dualforce_model import storage
from dualforce_model.errors import InputError

MAX_MEMBERS = 10_000
MAX_MEMBER_BYTES = 4 << 30
STORED_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1


class ArchiveError(InputError):
    """An archive that cannot be used; the message names it and what is wrong."""


def unpack(archive: Path, name: str, target: Path, num_bytes: int = 0) -> None:
    """Write the member called `name` (in whichever folder of the archive) to `target`, whole or not at all.

    `num_bytes`, where known, is what it has unpacked. Raises ArchiveError for a member that is missing, there twice, a
    link, encrypted, too large, or damaged.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            member = _member(archive, opened.infolist(), name)
            limit = num_bytes or MAX_MEMBER_BYTES
            if member.file_size > limit or (num_bytes and member.file_size != num_bytes):
                raise ArchiveError(f"{archive.name}: {name} would have {member.file_size} bytes, expected {limit}")
            with storage.atomic_path(target) as temporary, opened.open(member) as source, open(temporary, "wb") as sink:
                written = 0
                while piece := source.read(storage.CHUNK_BYTES):
                    written += len(piece)
                    if written > limit:
                        raise ArchiveError(
                            f"{archive.name}: {name} unpacks to more than the {limit} bytes it announces"
                        )
                    sink.write(piece)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"{archive.name}: not a zip that can be read: {error}; pull it again") from error


def is_inside(name: str) -> bool:
    """Whether a member's name stays below the folder that it is unpacked into, on any system."""
    if not name or "\\" in name or "\0" in name or ":" in name or name.startswith("/"):
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _member(archive: Path, members: Iterable[zipfile.ZipInfo], name: str) -> zipfile.ZipInfo:
    """The one regular file of that name. An archive with names that lead out of it is not looked at further."""
    listed = [each for each in members if not each.is_dir()]
    if len(listed) > MAX_MEMBERS:
        raise ArchiveError(f"{archive.name}: {len(listed)} members, more than {MAX_MEMBERS}")
    astray = [each.filename for each in listed if not is_inside(each.filename)]
    if astray:
        raise ArchiveError(f"{archive.name}: {astray[0]!r} leads out of the archive's own folder; nothing was unpacked")
    found = [each for each in listed if PurePosixPath(each.filename).name == name]
    if len(found) != 1:
        raise ArchiveError(f"{archive.name}: {len(found)} members called {name}, expected one")
    (member,) = found
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise ArchiveError(f"{archive.name}: {name} is a link or device, expected a file")
    if member.flag_bits & ENCRYPTED or member.compress_type not in STORED_OR_DEFLATED:
        raise ArchiveError(f"{archive.name}: {name} is encrypted or packed in an unusual way")
    return member
