"""Whether a file is still the one that was looked at: size and time say so cheaply, the digest for certain."""

from pathlib import Path
from typing import Self

from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.storage import file_digest


class Stamp(Frozen):
    """What a file system says of a file without reading it."""

    num_bytes: int = Field(ge=0)
    mtime_ns: int = Field(ge=0, description="last change, nanoseconds since 1970; 0: not recorded")

    @classmethod
    def of(cls, path: Path) -> Self:
        """The stamp of a file that is there."""
        status = path.stat()
        return cls(num_bytes=status.st_size, mtime_ns=max(status.st_mtime_ns, 0))


def is_same_file(path: Path, digest: str, stamp: Stamp | None = None) -> bool:
    """Whether the file is there and unchanged. One with another time (copied, say) is read; one of another size not."""
    if not path.is_file():
        return False
    found = Stamp.of(path)
    if stamp is not None and found.num_bytes != stamp.num_bytes:
        return False
    return found == stamp or file_digest(path) == digest
