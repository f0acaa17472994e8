"""Objects at a URL that is no local folder: the half of `Storage` that fsspec and a network do.

An object is put as a whole, by one request or by parts that become an object when the last request completes them:
object stores have no rename and need none. Listings are never remembered, for others write too. Credentials and the
address of a server of one's own come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`), not from URLs.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import fsspec
import numpy as np
from jaxtyping import UInt8

from dualforce_model.ranges import ByteRange


class RemoteObjects:
    """Bytes under keys at an fsspec URL. Holds the URL alone: fsspec keeps a file system per process and thread."""

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self, key: str) -> bytes:
        """The whole object."""
        filesystem, root = self._open()
        return bytes(filesystem.cat_file(_path(root, key)))

    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[UInt8[np.ndarray, " n"] | Exception]:
        """At most these bytes of each, to be written to: fewer, or none, where an object ends before; or what is wrong.

        All are asked for at once, where the file system can.
        """
        filesystem, root = self._open()
        asked = [part for part in ranges if part.length]  # of nothing, S3 would send the whole object
        answers = iter(_past_the_end(filesystem, root, asked, _asked(filesystem, root, asked)))
        return [next(answers) if part.length else np.empty(0, np.uint8) for part in ranges]

    def write(self, key: str, data: bytes) -> None:
        """Put a whole object; until that is complete, readers see the old one."""
        filesystem, root = self._open()
        filesystem.pipe_file(_path(root, key), data)

    def size(self, key: str) -> int | None:
        """Bytes of an object; None for a folder."""
        filesystem, root = self._open()
        info = filesystem.info(_path(root, key))
        return int(info["size"]) if info["type"] == "file" else None

    def modified_at(self, key: str) -> float:
        """Seconds since 1970, by the store's clock."""
        filesystem, root = self._open()
        return float(filesystem.modified(_path(root, key)).timestamp())

    def is_file(self) -> bool:
        """Whether the URL itself is an object. Raises FileNotFoundError where nothing is at or below it."""
        filesystem, root = self._open()
        return bool(filesystem.info(root)["type"] == "file") and not self._url.startswith(("http:", "https:"))

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below a folder key ("" is all)."""
        filesystem, root = self._open()
        for path in filesystem.find(_path(root, prefix) if prefix else root):
            yield str(path)[len(root) + 1 :]

    def delete(self, key: str) -> None:
        """Remove an object; raises FileNotFoundError if there is none, which S3 itself would not say."""
        filesystem, root = self._open()
        filesystem.info(_path(root, key))
        filesystem.rm_file(_path(root, key))

    def _open(self) -> tuple[Any, str]:
        """File system and path of the store's root. A forked child gets a file system of its own."""
        filesystem, root = fsspec.core.url_to_fs(self._url, use_listings_cache=False)
        return filesystem, str(root).rstrip("/")


def _asked(filesystem: Any, root: str, asked: Sequence[ByteRange]) -> list[Any]:
    """What a file system says of each part, or what it raises of it."""
    spans = [(_path(root, part.key), part.start, part.start + part.length) for part in asked]
    try:
        paths, starts, ends = ([span[place] for span in spans] for place in range(3))
        return list(filesystem.cat_ranges(paths, starts, ends, on_error="return"))
    except Exception:  # some fail over all of them where one cannot be read: the others have nothing to do with it
        return [_answer(partial(filesystem.cat_file, path, start=start, end=end)) for path, start, end in spans]


def _answer(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:
        return error


def _past_the_end(
    filesystem: Any, root: str, asked: Sequence[ByteRange], found: Sequence[Any]
) -> list[UInt8[np.ndarray, " n"] | Exception]:
    """The parts. One past the end of its object is an error to S3, to memory it is not: an object is asked for its size
    once. Where it does not say, the error stands.
    """
    sizes: dict[str, Any] = {}
    parts: list[np.ndarray | Exception] = []
    for part, said in zip(asked, found, strict=True):
        if isinstance(said, OSError) and not isinstance(said, FileNotFoundError):
            if part.key not in sizes:
                sizes[part.key] = _answer(partial(filesystem.info, _path(root, part.key)))
            info = sizes[part.key]
            past = not isinstance(info, Exception) and part.start >= int(info["size"])
            parts.append(np.empty(0, np.uint8) if past else said)
        else:
            parts.append(said if isinstance(said, Exception) else np.frombuffer(bytearray(said), np.uint8))
    return parts


def _path(root: str, key: str) -> str:
    return f"{root}/{key}"
