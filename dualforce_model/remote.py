"""Objects at a URL that is no local folder: the half of `Storage` that fsspec and a network do.

An object is put as a whole, by one request or by parts that become an object when the last request completes them:
object stores have no rename and need none. Listings are never remembered, for others write too. Credentials and the
address of a server of one's own come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`), not from URLs.
"""

from collections.abc import Iterator
from typing import Any

import fsspec


class RemoteObjects:
    """Bytes under keys at an fsspec URL. Holds the URL alone: fsspec keeps a file system per process and thread."""

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self, key: str) -> bytes:
        """The whole object."""
        filesystem, root = self._open()
        return bytes(filesystem.cat_file(_path(root, key)))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`: fewer, or none, where the object ends before."""
        if not length:
            return b""
        filesystem, root = self._open()
        path = _path(root, key)
        try:
            return bytes(filesystem.cat_file(path, start=start, end=start + length))
        except FileNotFoundError:
            raise
        except OSError:  # S3 calls a range past the end an error; memory does not
            if start >= int(filesystem.info(path)["size"]):
                return b""
            raise

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


def _path(root: str, key: str) -> str:
    return f"{root}/{key}"
