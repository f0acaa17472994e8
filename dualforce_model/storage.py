"""The only writer of files: everything is written under a temporary name, synced, then renamed.

Two doors. `atomic_path` and its short forms write one local file; `Storage` is a store of bytes under keys at any
fsspec URL (a local folder by default, with positioned reads; `s3://` and the like by their package).

A killed writer leaves a temporary (`.<name>.<random>.tmp`) and never a half-written target; `sweep_temporaries`
removes such leftovers. A full disk is an OSError with errno ENOSPC, whichever door it came through.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from jaxtyping import UInt8

from dualforce_model import faults
from dualforce_model.errors import BusyError, InfrastructureError, InputError
from dualforce_model.keys import CONTROL, is_temporary, temporary_name
from dualforce_model.keys import check_key as check_key
from dualforce_model.ranges import ByteRange as ByteRange
from dualforce_model.ranges import read_files
from dualforce_model.remote import RemoteObjects

CHUNK_BYTES = 1 << 20


class StorageError(OSError, InfrastructureError):
    """A store or file that cannot be used; the message names the URL and the remedy, `errno` is the system's."""


class MissingKeyError(StorageError, FileNotFoundError):
    """The store is readable and has nothing under this key."""


class CutShortError(StorageError):
    """An object ends before the bytes that were asked for."""


# ---------------------------------------------------------------------------------------------------- local files


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; when the block ends well it is synced and takes the target's name.

    When the block raises, the temporary is removed and the target is what it was. Folders are made as needed.
    """
    _make_folders(target.parent)
    temporary = target.parent / temporary_name(target.name)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(target.parent)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; when the block ends well its files are synced and it is renamed.

    Raises FileExistsError if `target` is already there: a folder is never replaced.
    """
    _make_folders(target.parent)
    temporary = target.parent / temporary_name(target.name)
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.rglob("*"), reverse=True):
            _sync(path)
        _sync(temporary)
        if target.exists():
            raise FileExistsError(f"{target} is already there; remove it or write under another name")
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(target.parent)


@contextmanager
def resumable_folder(target: Path) -> Iterator[Path]:
    """Yield `.<name>.partial` beside `target`, with what an earlier try left there; when the block ends, rename it.

    When the block raises or is killed, the folder stays for the next try. Raises InputError if `target` is there: it
    is never written over. Raises BusyError if another process fills the same folder now.
    """
    partial = target.parent / f".{target.name}.partial"
    _refuse_existing(target)
    _make_folders(partial)
    descriptor = os.open(partial, os.O_RDONLY)  # the lock is on the folder itself: nothing is left of it inside
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"another process is writing {target}; wait for it to end") from None
        _refuse_existing(target)  # it may have been finished while we came here
        yield partial
        for folder in (*(path for path in partial.rglob("*") if path.is_dir()), partial):
            _sync(folder)
        _refuse_existing(target)
        os.rename(partial, target)
    finally:
        os.close(descriptor)
    _sync(target.parent)


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise InputError(f"{target} is already there and is not written over; remove it or name another folder")


def write_bytes(target: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def write_text(target: Path, text: str) -> None:
    """Write a whole UTF-8 file atomically."""
    write_bytes(target, text.encode())


def write_json(target: Path, value: Any) -> None:
    """Write readable JSON atomically: sorted keys, so equal values give equal bytes; NaN is refused."""
    write_text(target, json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(target: Path, line: str) -> None:
    """Add one line to a log. The line goes out in one write; a kill can tear at most the last line."""
    _make_folders(target.parent)
    with open(target, "ab", buffering=0) as file:
        file.write(line.rstrip("\n").encode() + b"\n")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep_temporaries(folder: Path, older_than_s: float = 3600.0) -> tuple[Path, ...]:
    """Remove leftovers of killed writers below `folder` that nobody touched for `older_than_s`; return them."""
    if not folder.is_dir():
        return ()
    limit = time.time() - older_than_s
    found = [path for path in sorted(folder.rglob(".*.tmp")) if is_temporary(path.name)]
    removed = []
    for path in found:
        if not path.exists() or path.stat().st_mtime > limit:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        removed.append(path)
    return tuple(removed)


def _make_folders(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(error.errno, f"{folder} cannot be a folder: a file is in its place", str(folder)) from error


def _sync(path: Path) -> None:
    """Put a file's bytes, or a folder's entries, on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------------------------------------------- a store


class Storage:
    """Bytes under keys at a URL. Picklable and fork-safe: it holds the URL alone and no open file.

    `Storage("store")` and `Storage("file:///data/store")` are local folders: writes are atomic and synced, reads are
    positioned (`pread`). Other URLs go through fsspec, where one object is put as a whole (as object stores do).
    """

    def __init__(self, url: str) -> None:
        if not url or CONTROL.search(url):
            raise InputError(f"store URL {url!r}: expected a folder or an fsspec URL such as s3://bucket/store")
        self._url = url.rstrip("/") or "/"
        try:
            filesystem, root = fsspec.core.url_to_fs(self._url)
        except (ValueError, ImportError) as error:
            scheme = url.partition("://")[0]
            raise StorageError(
                f"store {url}: fsspec cannot open {scheme}:// ({error}); install the package it names, or use a folder"
            ) from error
        self._root: Path | None = None
        self._remote = RemoteObjects(self._url)
        if isinstance(filesystem, LocalFileSystem):
            self._root = Path(root)
            self._url = str(root)  # absolute: the same store after a change of folder

    def __repr__(self) -> str:
        return f"Storage({self._url!r})"

    def url(self, key: str = "") -> str:
        """Full address of a key, or of the store."""
        return f"{self._url.rstrip('/')}/{check_key(key)}" if key else self._url

    def local_path(self, key: str) -> Path | None:
        """Where a key lies on this machine; None for a store elsewhere."""
        check_key(key)
        return None if self._root is None else self._root / key

    def read(self, key: str) -> bytes:
        """The whole object. Raises MissingKeyError or StorageError."""
        with self._naming(key):
            path = self.local_path(key)
            return path.read_bytes() if path is not None else self._remote.read(key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`; an object that ends earlier raises CutShortError."""
        return self.read_ranges([ByteRange(key, start, length)])[0].tobytes()

    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[UInt8[np.ndarray, " n"]]:
        """Exactly these bytes, each part in memory of its own that may be written to; raises as `read_range` does.

        A file is opened once however many parts of it are asked for; what lies elsewhere is asked for all at once.
        """
        for key, start, length in ranges:
            check_key(key)
            if start < 0 or length < 0:
                raise InputError(f"{key}: cannot read {length} bytes from {start}")
        with self._naming(""):
            parts = read_files(str(self._root), ranges) if self._root is not None else self._remote.read_ranges(ranges)
        found = [self._found(part, asked.key) for part, asked in zip(parts, ranges, strict=True)]
        for part, (key, start, length) in zip(found, ranges, strict=True):
            if len(part) != length:
                raise CutShortError(
                    f"{self.url(key)}: {length} bytes from {start} were asked for, {len(part)} are there; "
                    "the object is cut short, make it again"
                )
        return found

    def _found(self, part: UInt8[np.ndarray, " n"] | Exception, key: str) -> UInt8[np.ndarray, " n"]:
        if isinstance(part, Exception):
            with self._naming(key):
                raise part
        return part

    def write(self, key: str, data: bytes, points: str = "") -> None:
        """Put a whole object; readers see the old one or the new one.

        `points` names the kill points around the rename, as in "shard" for shard.before_rename.
        """
        check_key(key)
        with self._naming(key):
            path = self.local_path(key)
            if path is not None:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(data)
                    _visit(points, "before_rename")
            else:
                _visit(points, "before_rename")
                self._remote.write(key, data)
        _visit(points, "after_rename")

    def exists(self, key: str) -> bool:
        """Whether there is an object under the key. An unreadable store raises StorageError instead of saying no."""
        try:
            self.size(key)
        except MissingKeyError:
            return False
        return True

    def size(self, key: str) -> int:
        """Bytes of an object."""
        with self._naming(key):
            path = self.local_path(key)
            if path is not None:
                status = path.stat()
                size = status.st_size if stat.S_ISREG(status.st_mode) else None
            else:
                size = self._remote.size(key)
            if size is None:
                raise FileNotFoundError(errno.ENOENT, "a folder")
            return size

    def modified_at(self, key: str) -> float:
        """When an object was written, seconds since 1970."""
        with self._naming(key):
            path = self.local_path(key)
            return path.stat().st_mtime if path is not None else self._remote.modified_at(key)

    def require(self) -> Self:
        """The store itself, for one who only reads. Raises InputError if there is none, or a file is in its place.

        An empty folder is a store. Object stores have no folders: nothing below the URL is no store.
        """
        with self._naming(""):
            try:
                if self._root is not None:
                    is_file = not stat.S_ISDIR(self._root.stat().st_mode)
                else:
                    is_file = self._remote.is_file()
            except (FileNotFoundError, NotADirectoryError):
                raise InputError(f"there is no store at {self._url}; check the path or URL") from None
            if is_file:
                raise InputError(f"{self._url} is a file; expected the folder or URL of a store")
        return self

    def list(self, prefix: str = "") -> list[str]:
        """Keys of all objects below a folder key ("" is the whole store), sorted, without temporaries."""
        if prefix:
            check_key(prefix)
        with self._naming(prefix):
            keys = _list_local(self._root, prefix) if self._root is not None else self._remote.list(prefix)
            return sorted(key for key in keys if not any(is_temporary(part) for part in key.split("/")))

    def delete(self, key: str) -> None:
        """Remove an object; raises MissingKeyError if there is none."""
        with self._naming(key):
            path = self.local_path(key)
            if path is not None:
                path.unlink()
            else:
                self._remote.delete(key)

    def delete_unless_newer(self, key: str, limit: float) -> bool:
        """Remove an object that nobody wrote after `limit` (seconds since 1970); whether it was removed.

        In a folder a writer of the same key is never undone, however the two fall together: the file is taken aside,
        looked at, and put back if it is newer. Elsewhere the look comes just before the removal.
        """
        path = self.local_path(key)
        if path is None:
            if self.modified_at(key) > limit:
                return False
            self.delete(key)
            return True
        with self._naming(key):
            aside = path.with_name(temporary_name(path.name))
            os.rename(path, aside)
            newer = aside.stat().st_mtime > limit
            if newer and not path.exists():
                os.rename(aside, path)
            else:
                aside.unlink()
            return not newer

    @contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        """Whatever the store's library raises becomes a StorageError with the URL, what to do, and the errno."""
        where = self.url(key)
        try:
            yield
        except (StorageError, InputError):
            raise
        except FileNotFoundError as error:
            message = "nothing is stored here; check the URL, or make it again"
            raise MissingKeyError(errno.ENOENT, message, where) from error
        except OSError as error:
            found = os.strerror(error.errno) if error.errno else error
            message = f"{found}; check that the store is there, writable and has room"
            raise StorageError(error.errno, message, where) from error
        except Exception as error:
            if self._root is not None:
                raise
            message = f"{type(error).__name__}: {error}; check address, network and credentials of the store"
            raise StorageError(None, message, where) from error


def _list_local(root: Path, prefix: str) -> Iterator[str]:
    top = root / prefix if prefix else root
    if not top.exists():
        return
    for folder, _, names in os.walk(top, onerror=_raise):
        for name in names:
            yield (Path(folder) / name).relative_to(root).as_posix()


def _raise(error: OSError) -> None:
    raise error


def _visit(points: str, name: str) -> None:
    if points:
        faults.point(f"{points}.{name}")
