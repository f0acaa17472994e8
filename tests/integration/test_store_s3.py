"""A store on S3: a real server on this machine speaks its protocol."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

from dualforce_model.data import SnapshotDataset
from dualforce_model.errors import InputError
from dualforce_model.shards import cached_header
from dualforce_model.storage import ByteRange, CutShortError, MissingKeyError, Storage, StorageError
from tasks.packing import pack_snapshot
from tasks.process import free_port
from tasks.snapshot import list_snapshots
from tasks.upkeep import collect_garbage, verify_snapshot
from tests.small_store import small_snapshot

pytest.importorskip("moto", reason="needs the packages of the extra `dev`")
s3fs = pytest.importorskip("s3fs", reason="needs the packages of the extra `s3`")

STARTS_WITHIN_S = 60
LARGE = 101 << 20  # from 100 MiB on an object is put in parts


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the server, which forgets everything when it ends."""
    port, log = free_port(), tmp_path_factory.mktemp("s3") / "server.log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                urlopen(address, timeout=5).close()
                break
            except (URLError, ConnectionError):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An empty store in a bucket of its own."""
    settings = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**settings, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    bucket = f"b{time.time_ns()}"
    s3fs.S3FileSystem().mkdir(bucket)
    return Storage(f"s3://{bucket}/data/store")


def in_a_process(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_objects_go_there_and_back(store: Storage) -> None:
    before = time.time()
    with pytest.raises(InputError, match="there is no store at s3://"):
        store.require()
    store.write("features/a.bin", b"0123456789")
    store.write("tags/x.json", b"{}")
    assert store.require() is store
    assert store.read("features/a.bin") == b"0123456789"
    assert store.read_range("features/a.bin", 3, 4) == b"3456"
    assert store.read_range("features/a.bin", 10, 0) == b""
    assert (store.size("features/a.bin"), store.exists("features")) == (10, False)
    assert abs(store.modified_at("tags/x.json") - before) < 60
    assert store.list() == ["features/a.bin", "tags/x.json"]
    assert (store.list("tags"), store.list("nothing")) == (["tags/x.json"], [])
    assert store.local_path("tags/x.json") is None
    store.write("tags/x.json", b"new")
    assert store.read("tags/x.json") == b"new"
    store.delete("tags/x.json")
    assert store.list() == ["features/a.bin"]
    with pytest.raises(InputError, match="is a file"):
        Storage(store.url("features/a.bin")).require()


def test_parts_are_asked_for_at_once(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three requests are under way before the first is answered."""
    store.write("a", b"0123456789")
    store.write("b", b"abc")
    under_way, most = 0, 0
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: s3fs.S3FileSystem, method: str, *arguments: object, **settings: object) -> object:
        nonlocal under_way, most
        under_way, most = under_way + 1, max(most, under_way + 1)
        try:
            return await call(self, method, *arguments, **settings)
        finally:
            under_way -= 1

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    ranges = [ByteRange("a", 7, 3), ByteRange("b", 0, 2), ByteRange("b", 1, 0), ByteRange("a", 0, 4)]
    parts = store.read_ranges(ranges)
    assert [part.tobytes() for part in parts] == [b"789", b"ab", b"", b"0123"]
    assert most == 3
    parts[0][:] = 0  # it is the reader's own
    with pytest.raises(CutShortError, match="1 are there"):
        store.read_ranges([*ranges, ByteRange("b", 2, 3)])
    with pytest.raises(MissingKeyError, match=r"nothing/here"):
        store.read_ranges([*ranges, ByteRange("nothing/here", 2, 3)])


def test_what_is_not_there_is_said(store: Storage) -> None:
    store.write("a", b"123")
    for ask in (store.read, store.size, store.delete, store.modified_at):
        with pytest.raises(MissingKeyError, match=r"nothing/here"):
            ask("nothing/here")
    with pytest.raises(MissingKeyError):
        store.read_range("nothing", 0, 4)
    for start, there in ((1, 2), (3, 0), (50, 0)):
        with pytest.raises(CutShortError, match=f"{there} are there"):
            store.read_range("a", start, 3)
    with pytest.raises(StorageError, match="nothing is stored here"):
        Storage("s3://no-such-bucket-of-ours/store").read("a")


def test_a_server_out_of_reach_is_no_empty_store(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys\n"
        "from dualforce_model.storage import Storage, StorageError\n"
        "try:\n"
        "    print(Storage(sys.argv[1]).exists('a'))\n"
        "except StorageError as error:\n"
        "    print('refused:', error)\n"
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    said = in_a_process(code, store.url())
    assert said.stdout.startswith("refused:"), said.stdout + said.stderr
    assert "check" in said.stdout


def test_what_another_process_wrote_is_seen_at_once(store: Storage) -> None:
    """No listing and no absence is remembered."""
    assert not store.exists("features/a")
    assert store.list("features") == []
    code = "import sys; from dualforce_model.storage import Storage; Storage(sys.argv[1]).write('features/a', b'1')"
    assert in_a_process(code, store.url()).returncode == 0
    assert store.exists("features/a")
    assert store.list("features") == ["features/a"]


def test_a_forked_reader_has_a_connection_of_its_own(store: Storage) -> None:
    store.write("a", b"123")
    assert store.read("a") == b"123"
    pid = os.fork()
    if pid == 0:
        os._exit(0 if store.read_range("a", 1, 2) == b"23" else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.slow
def test_readers_see_the_old_object_or_the_new_one(store: Storage) -> None:
    """One too large for a single request: its parts are no object before the last request."""
    store.write("shard", b"o" * LARGE)
    seen, stop = list[bytes](), threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(store.read_range("shard", 0, 4) + store.read_range("shard", LARGE - 4, 4))

    reader = threading.Thread(target=look)
    reader.start()
    store.write("shard", b"n" * LARGE)
    stop.set()
    reader.join()
    assert b"oooooooo" in seen
    assert set(seen) <= {b"oooooooo", b"nnnnnnnn", b"oooonnnn"}  # the last: between the two requests it was replaced
    assert store.size("shard") == LARGE
    assert store.read_range("shard", 0, 4) == b"nnnn"


KILLED_WRITER = """
import os, signal, sys
import s3fs
from dualforce_model.storage import Storage
call = s3fs.S3FileSystem._call_s3
async def dying(self, method, *arguments, **settings):
    if method == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return await call(self, method, *arguments, **settings)
s3fs.S3FileSystem._call_s3 = dying
Storage(sys.argv[1]).write("shard", bytes(int(sys.argv[3])))
"""


@pytest.mark.parametrize(
    ("request_name", "num_bytes"),
    [
        ("put_object", 10),
        pytest.param("upload_part", LARGE, marks=pytest.mark.slow),
        pytest.param("complete_multipart_upload", LARGE, marks=pytest.mark.slow),
    ],
)
def test_a_killed_writer_leaves_the_old_object(store: Storage, request_name: str, num_bytes: int) -> None:
    store.write("shard", b"old")
    assert in_a_process(KILLED_WRITER, store.url(), request_name, str(num_bytes)).returncode == -signal.SIGKILL
    assert (store.read("shard"), store.list()) == (b"old", ["shard"])


# ------------------------------------------------------------------------------------------------- a snapshot on S3


def test_a_snapshot_is_built_read_packed_and_cleaned_up_as_in_a_folder(store: Storage, tmp_path: Path) -> None:
    here = Storage(str(tmp_path / "store"))
    local = small_snapshot(here)
    built = small_snapshot(store)
    assert (built.id, built.content) == (local.id, local.content)
    assert [entry.tags for entry in list_snapshots(store)] == [("latest",)]
    there = SnapshotDataset(store.url(), "latest", 5)
    same = SnapshotDataset(here.url(), "latest", 5)
    for index in range(len(there)):
        for name, array in same[1, index].items():
            np.testing.assert_array_equal(there[1, index][name], array, err_msg=name)
    packed = pack_snapshot(store, "latest")
    assert (packed.snapshot.id, packed.shards_before, packed.shards_after) == (local.id, 12, 3)
    assert verify_snapshot(store, "latest").sound
    assert collect_garbage(store, [], dry_run=False).keys == ()  # all is young
    cached_header.cache_clear()
    assert np.array_equal(there[1, 0]["video"], same[1, 0]["video"]), "who read before the packing still finds its own"
    gone = collect_garbage(store, [], dry_run=False, older_than_s=-60.0)
    assert sum(key.startswith("features/") for key in gone.keys) == 12
    cached_header.cache_clear()
    assert verify_snapshot(store, "latest").sound
    assert np.array_equal(SnapshotDataset(store.url(), "latest", 5)[1, 0]["video"], same[1, 0]["video"])
