"""The server that stands in for the web, asked by a plain client."""

import http.client
import socket
import threading
from pathlib import Path

import pytest

from tasks.synthetic.server import PAGE, Fault, LoopbackServer, Request, ServerError

DATA = bytes(range(256)) * 400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "web" / "deep").mkdir(parents=True)
    for name in ("a.mp4", "b.mkv", "odd name é.mp4", "deep/c.txt", "bad.mp4"):
        (tmp_path / "web" / name).write_bytes(DATA)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "web" / "link.mp4").symlink_to(tmp_path / "secret.txt")
    return tmp_path / "web"


def _ask(
    server: LoopbackServer, name: str, method: str = "GET", asked: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        path = server.url(name).removeprefix(f"http://127.0.0.1:{server.port}")
        connection.request(method, path, headers={"Range": asked} if asked else {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_files_types_and_heads(folder: Path) -> None:
    with LoopbackServer(folder) as server:
        status, headers, body = _ask(server, "a.mp4")
        assert (status, headers["Content-Type"], headers["Accept-Ranges"], body) == (200, "video/mp4", "bytes", DATA)
        assert _ask(server, "b.mkv")[1]["Content-Type"] == "video/x-matroska"
        assert _ask(server, "odd name é.mp4")[2] == DATA
        assert _ask(server, "deep/c.txt")[2] == DATA
        assert _ask(server, "a.mp4?x=1")[0] == 404  # url() quotes what it is given: this is a file name
        status, headers, body = _ask(server, "a.mp4", "HEAD")
        assert (status, headers["Content-Length"], body) == (200, str(len(DATA)), b"")


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=0-", 206, DATA),
        ("bytes=100-", 206, DATA[100:]),
        ("bytes=100-199", 206, DATA[100:200]),
        ("bytes=100-99999999", 206, DATA[100:]),
        (f"bytes={len(DATA)}-", 416, b""),
    ],
)
def test_ranges(folder: Path, asked: str, status: int, body: bytes) -> None:
    with LoopbackServer(folder) as server:
        found, headers, data = _ask(server, "a.mp4", asked=asked)
        assert (found, data) == (status, body)
        assert headers["Content-Range"].endswith(f"/{len(DATA)}")


@pytest.mark.parametrize(
    "path",
    ["/nowhere.mp4", "/", "/deep", "/link.mp4", "/../secret.txt", "/%2e%2e/secret.txt", "/%00", "/" + "x" * 5000],
)
def test_nothing_outside_the_folder(folder: Path, path: str) -> None:
    with LoopbackServer(folder) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        connection.request("GET", path)
        assert connection.getresponse().status == 404
        connection.close()


def test_only_this_machine_can_connect(folder: Path) -> None:
    with LoopbackServer(folder) as server:
        with socket.socket() as other, pytest.raises(OSError):
            other.connect(("127.0.0.2", server.port))  # loopback too, but not where the server listens
        assert server.url("a.mp4") == f"http://127.0.0.1:{server.port}/a.mp4"


@pytest.mark.parametrize(
    ("fault", "status"), [("not_found", 404), ("deleted", 410), ("forbidden", 403), ("unavailable", 503)]
)
def test_refusals(folder: Path, fault: Fault, status: int) -> None:
    with LoopbackServer(folder, {"bad.mp4": fault}) as server:
        assert _ask(server, "bad.mp4")[0] == status
        assert _ask(server, "a.mp4")[0] == 200


def test_throttling_says_when_to_come_back(folder: Path) -> None:
    with LoopbackServer(folder, {"bad.mp4": "throttled"}) as server:
        status, headers, _ = _ask(server, "bad.mp4")
        assert (status, headers["Retry-After"]) == (429, "1")


def test_fail_twice_then_the_file(folder: Path) -> None:
    with LoopbackServer(folder, {"bad.mp4": "fail_twice"}) as server:
        assert [_ask(server, "bad.mp4")[0] for _ in range(4)] == [500, 500, 200, 200]
        assert server.requests == [Request("GET", "bad.mp4", 0)] * 4


def test_resets_are_resets(folder: Path) -> None:
    with LoopbackServer(folder, {"bad.mp4": "always_reset"}) as server:
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                _ask(server, "bad.mp4")


def test_broken_off_and_resumed(folder: Path) -> None:
    with LoopbackServer(folder, {"bad.mp4": "breaks_off"}) as server:
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            _ask(server, "bad.mp4")
        assert _ask(server, "bad.mp4", asked="bytes=50-")[2] == DATA[50:]


def test_pages_in_the_place_of_videos(folder: Path) -> None:
    with LoopbackServer(folder, {"bad.mp4": "html_page", "a.mp4": "disguised_page"}) as server:
        for name, kind in (("bad.mp4", "text/html; charset=utf-8"), ("a.mp4", "video/mp4")):
            status, headers, body = _ask(server, name)
            assert (status, headers["Content-Type"], body) == (200, kind, PAGE)


def test_wrong_length_is_noticed_by_a_client(folder: Path) -> None:
    with LoopbackServer(folder, {"bad.mp4": "wrong_length"}) as server, pytest.raises(http.client.IncompleteRead):
        _ask(server, "bad.mp4")


def test_a_port_in_use_is_a_clear_error(folder: Path) -> None:
    with LoopbackServer(folder) as server:
        with pytest.raises(ServerError, match=f"port {server.port} of 127.0.0.1 is in use"):
            LoopbackServer(folder, port=server.port).__enter__()
        port = server.port
    with LoopbackServer(folder, port=port) as again:  # free as soon as the block has ended
        assert again.port == port


def test_a_missing_folder_and_a_stopped_server(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no such folder"):
        LoopbackServer(tmp_path / "nowhere")
    with pytest.raises(ServerError, match="block"):
        LoopbackServer(tmp_path).url("a")


@pytest.mark.parametrize("fault", ["slow", "silent", "endless"])
def test_it_stops_in_the_middle_of_anything(folder: Path, fault: Fault) -> None:
    (folder / "bad.mp4").write_bytes(b"x" * 4_000_000)
    before = set(threading.enumerate())
    with LoopbackServer(folder, {"bad.mp4": fault}) as server:
        client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        client.sendall(b"GET /bad.mp4 HTTP/1.1\r\nHost: x\r\n\r\n")
        idle = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        while not server.requests:
            threading.Event().wait(0.01)
    client.close()
    idle.close()
    assert set(threading.enumerate()) == before
