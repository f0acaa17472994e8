"""Atomic writes, store keys, positioned reads, full disks and killed writers."""

import contextlib
import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model import storage
from dualforce_model.errors import InputError
from dualforce_model.storage import (
    ByteRange,
    CutShortError,
    MissingKeyError,
    Storage,
    StorageError,
    atomic_folder,
    atomic_path,
)


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path}/store")


def test_write_replaces_whole_and_leaves_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.bin"
    storage.write_bytes(target, b"old")
    storage.write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(target.parent) == ["b.bin"]


def test_error_in_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "b.bin"
    storage.write_bytes(target, b"old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["b.bin"]


def test_json_is_canonical_and_refuses_nan(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "a.json", {"b": 1, "a": "ä"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": "ä",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert '"b": 1' in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_append_line_keeps_earlier_lines(tmp_path: Path) -> None:
    storage.append_line(tmp_path / "log" / "a.jsonl", '{"step": 1}')
    storage.append_line(tmp_path / "log" / "a.jsonl", '{"step": 2}\n')
    assert (tmp_path / "log" / "a.jsonl").read_text(encoding="utf-8") == '{"step": 1}\n{"step": 2}\n'


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert storage.file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_atomic_folder_appears_whole_and_is_never_replaced(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "step") as temporary:
        (temporary / "part").mkdir()
        (temporary / "part" / "a").write_bytes(b"1")
        assert not (tmp_path / "step").exists()
    assert (tmp_path / "step" / "part" / "a").read_bytes() == b"1"
    with pytest.raises(FileExistsError, match="already there"), atomic_folder(tmp_path / "step"):
        pass
    assert os.listdir(tmp_path) == ["step"]


def test_killed_writer_leaves_the_old_file_and_a_temporary_that_the_sweep_removes(tmp_path: Path) -> None:
    target = tmp_path / "b.bin"
    storage.write_bytes(target, b"old")
    code = (
        "import os, pathlib, signal, sys\n"
        "from dualforce_model.storage import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert run_python(code, str(target)).returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    assert Storage(str(tmp_path)).list() == ["b.bin"]
    assert storage.sweep_temporaries(tmp_path, older_than_s=3600.0) == ()
    os.utime(next(path for path in tmp_path.iterdir() if path.name.endswith(".tmp")), (time.time() - 7200,) * 2)
    assert len(storage.sweep_temporaries(tmp_path, older_than_s=3600.0)) == 1
    assert os.listdir(tmp_path) == ["b.bin"]


def test_disk_that_fills_up_half_way_keeps_the_old_file_and_cleans_up(tmp_path: Path) -> None:
    """A file size limit stops the write in the middle, as a full disk does."""
    store = Storage(str(tmp_path))
    store.write("shard", b"old")
    code = (
        "import resource, sys\n"
        "from dualforce_model.storage import Storage, StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    Storage(sys.argv[1]).write('shard', bytes(100_000))\n"
        "except StorageError as error:\n"
        "    print(error.errno)\n"
    )
    done = run_python(code, str(tmp_path))
    assert done.stdout.strip() == str(errno.EFBIG), done.stderr
    assert store.read("shard") == b"old"
    assert os.listdir(tmp_path) == ["shard"]


def test_full_disk_surfaces_as_enospc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system's sync reports the full disk (as network file systems do); nothing of ours is replaced."""
    store = Storage(str(tmp_path))
    store.write("shard", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="room") as caught:
        store.write("shard", b"new")
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert store.read("shard") == b"old"
    assert os.listdir(tmp_path) == ["shard"]


def test_store_round_trip(store: Storage) -> None:
    before = time.time()
    store.write("features/video/a.bin", b"0123456789")
    store.write("tags/x.json", b"{}")
    assert store.read("features/video/a.bin") == b"0123456789"
    assert store.read_range("features/video/a.bin", 3, 4) == b"3456"
    assert store.read_range("features/video/a.bin", 10, 0) == b""
    assert store.size("features/video/a.bin") == 10
    assert store.exists("features/video/a.bin")
    assert not store.exists("features/video")
    assert abs(store.modified_at("tags/x.json") - before) < 60
    assert store.list() == ["features/video/a.bin", "tags/x.json"]
    assert store.list("features") == ["features/video/a.bin"]
    assert store.list("nothing") == []
    store.delete("tags/x.json")
    assert not store.exists("tags/x.json")


def test_missing_and_short_objects_are_errors_that_name_the_place(store: Storage) -> None:
    store.write("a", b"123")
    with pytest.raises(MissingKeyError, match="nothing/here"):
        store.read("nothing/here")
    with pytest.raises(MissingKeyError):
        store.delete("nothing")
    with pytest.raises(StorageError, match="2 are there"):
        store.read_range("a", 1, 3)
    with pytest.raises(ValueError, match="cannot read"):
        store.read_range("a", -1, 3)


def test_a_file_is_opened_once_however_many_parts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Storage(str(tmp_path))
    store.write("a", b"0123456789")
    opened: list[str] = []
    opening = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: opened.append(Path(path).name) or opening(path, flags))
    store.read_ranges([ByteRange("a", 8, 2), ByteRange("a", 1, 4)])
    assert opened == ["a"]


def test_parts_of_several_objects_come_in_their_order(store: Storage) -> None:
    store.write("x/a", b"0123456789")
    store.write("b", b"abcdef")
    ranges = [ByteRange("x/a", 8, 2), ByteRange("b", 0, 3), ByteRange("x/a", 0, 0), ByteRange("x/a", 1, 4)]
    assert [part.tobytes() for part in store.read_ranges(ranges)] == [b"89", b"abc", b"", b"1234"]
    assert store.read_ranges([]) == []
    with pytest.raises(CutShortError, match=r"b: 9 bytes from 4 were asked for, 2 are there"):
        store.read_ranges([*ranges, ByteRange("b", 4, 9)])
    with pytest.raises(MissingKeyError, match="nothing/here"):
        store.read_ranges([*ranges, ByteRange("nothing/here", 0, 1)])
    with pytest.raises(InputError, match=r"\.\."):
        store.read_ranges([ByteRange("../b", 0, 1)])


def test_a_file_system_that_fails_as_a_whole_is_asked_part_by_part(tmp_path: Path) -> None:
    Storage(f"memory://{tmp_path}").write("there", b"123")
    store = Storage(f"simplecache::memory://{tmp_path}")
    assert store.read_range("there", 1, 2) == b"23"
    with pytest.raises(MissingKeyError, match="nowhere"):
        store.read_ranges([ByteRange("there", 0, 1), ByteRange("nowhere", 0, 1)])


def test_a_failing_store_is_asked_for_a_size_once_and_its_own_error_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Storage(f"memory://{tmp_path}")
    sizes: list[str] = []

    def failing(self: MemoryFileSystem, path: str, *_: object, **__: object) -> bytes:
        raise PermissionError(errno.EACCES, "not yours", path)

    def counting(self: MemoryFileSystem, path: str, **_: object) -> dict[str, object]:
        sizes.append(path)
        raise OSError(errno.EIO, "no answer")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", failing)
    monkeypatch.setattr(MemoryFileSystem, "info", counting)
    with pytest.raises(StorageError) as caught:
        store.read_ranges([ByteRange("a", start, 1) for start in range(5)])
    assert caught.value.errno == errno.EACCES
    assert len(sizes) == 1


def test_a_part_that_the_system_hands_over_in_pieces_is_whole(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a", bytes(range(100)))
    reading = os.preadv
    monkeypatch.setattr(os, "preadv", lambda handle, parts, at: reading(handle, [parts[0][:7]], at))
    assert store.read_range("a", 5, 60) == bytes(range(5, 65))
    with pytest.raises(CutShortError, match="5 are there"):
        store.read_range("a", 95, 60)


def test_unreadable_store_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Storage(str(tmp_path / "file"))
    with pytest.raises(StorageError):
        store.exists("a")
    with pytest.raises(StorageError):
        store.list()
    with pytest.raises(StorageError, match="a file is in its place"):
        store.write("a/b", b"1")


def test_a_reader_is_told_that_there_is_no_store(store: Storage) -> None:
    with pytest.raises(InputError, match=r"there is no store at .*/store; check the path or URL"):
        store.require()
    store.write("a/b", b"1")
    assert store.require() is store
    with pytest.raises(InputError, match=r"/a/b is a file; expected the folder"):
        Storage(store.url("a/b")).require()
    with pytest.raises(InputError, match=r"no store at .*/a/b/c"):
        Storage(store.url("a/b/c")).require()


def test_an_empty_folder_is_a_store_and_asking_makes_none(tmp_path: Path) -> None:
    assert Storage(str(tmp_path)).require().list() == []
    with pytest.raises(InputError, match="no store"):
        Storage(str(tmp_path / "nowhere")).require()
    assert os.listdir(tmp_path) == []


def test_unknown_scheme_names_the_remedy() -> None:
    with pytest.raises(StorageError, match="install the package"):
        Storage("nosuchscheme://bucket/store")
    with pytest.raises(ValueError, match="store URL"):
        Storage("a\nb")


@pytest.mark.parametrize(
    "key", ["", "/a", "a//b", "../a", "a/../b", "a/.", "a\\b", "a\x00b", "a\nb", "a/.b.1.tmp", "x" * 201]
)
def test_keys_that_could_leave_the_store_are_refused(store: Storage, key: str) -> None:
    with pytest.raises(ValueError, match="store key"):
        store.write(key, b"")
    with pytest.raises(ValueError, match="store key"):
        store.read(key)


@given(st.text(max_size=40))
def test_accepted_keys_stay_inside(key: str) -> None:
    root = Path("/store")
    try:
        storage.check_key(key)
    except ValueError:
        return
    assert os.path.normpath(root / key).startswith("/store/")


def test_stores_travel_between_processes(tmp_path: Path) -> None:
    store = Storage(str(tmp_path))
    store.write("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"  # noqa: S301 our own bytes
    assert store.url("a") == f"{tmp_path}/a"
    with contextlib.chdir(tmp_path.parent):
        relative = Storage(tmp_path.name)
    assert relative.read("a") == b"1"
    assert Storage(f"file://{tmp_path}").local_path("a") == tmp_path / "a"
