"""A server of models that misbehaves as told."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.downloads import DownloadConfig, Downloader

HOST = "https://models.example"  # what a test's files are published under; the mirror stands in for it


@dataclass
class Entry:
    """A file on the server, and what happens to the next requests for it, one word each.

    `cut:N` sends N bytes and hangs up, `drop` hangs up at once, a number is an answer of that kind, `shift` sends
    another range than the one that was asked for.
    """

    content: bytes
    etag: str = '"v1"'
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    redirect: str = ""
    length: bool = True
    faults: list[str] = field(default_factory=list)


class Models(ThreadingHTTPServer):
    """Serves `entries` and remembers `asked`: path and headers of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.entries: dict[str, Entry] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add(self, path: str, content: bytes, **options: object) -> Entry:
        self.entries[path] = Entry(content, **options)
        return self.entries[path]

    def ranges(self) -> list[str]:
        return [headers.get("range", "") for _, headers in self.asked]


class Handler(BaseHTTPRequestHandler):
    server: Models

    def log_message(self, *_: object) -> None:
        """Nothing on the test's output."""

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.path, headers))
        entry = self.server.entries.get(self.path)
        fault = entry.faults.pop(0) if entry and entry.faults else ""
        if fault == "drop":
            return
        if entry is None or fault.isdecimal():
            self.send_response(int(fault) if fault else 404)
            self.send_header("Retry-After", "0")
            self.end_headers()
        elif entry.redirect:
            self.send_response(302)
            self._headers({"Location": entry.redirect, **entry.headers})
        else:
            self._send(entry, headers, fault)

    def _send(self, entry: Entry, asked: dict[str, str], fault: str) -> None:
        start = 0
        if entry.ranges and asked.get("range") and asked.get("if-range") in (None, entry.etag):
            start = int(asked["range"].removeprefix("bytes=").partition("-")[0])
        if start and start >= len(entry.content):
            self.send_response(416)
            self._headers({})
            return
        self.send_response(206 if start else 200)
        body = entry.content[start:]
        length = {"Content-Length": str(len(body))} if entry.length else {}
        told = start + 1 if fault == "shift" else start
        span = {"Content-Range": f"bytes {told}-{len(entry.content) - 1}/{len(entry.content)}"} if start else {}
        tag = {"ETag": entry.etag} if entry.etag else {}
        self._headers({**length, **span, **tag, **entry.headers})
        self.wfile.write(body[: int(fault.partition(":")[2])] if fault.startswith("cut") else body)

    def _headers(self, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def serving() -> Iterator[Models]:
    server = Models()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server() -> Iterator[Models]:
    yield from serving()


@pytest.fixture
def elsewhere() -> Iterator[Models]:
    """Another host."""
    yield from serving()


@pytest.fixture
def downloader_of(server: Models) -> Iterator[Callable[..., Downloader]]:
    """A hasty downloader that takes the server for every publisher."""
    opened: list[Downloader] = []

    def make(token: str = "", hub: str = "https://huggingface.co", **settings: object) -> Downloader:
        config = {"mirror": server.url, "first_wait_s": 0.0, "tries": 3, "silence_s": 5.0, **settings}
        opened.append(Downloader(DownloadConfig.model_validate(config), token, hub=hub))
        return opened[-1]

    yield make
    for each in opened:
        each.__exit__()


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """Where a file comes down to."""
    return tmp_path / ".model.onnx.part"
