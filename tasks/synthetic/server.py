"""A web server on this machine for files of a folder, with the misbehaviour of the real web where it is asked for.

    with LoopbackServer(folder, faults={"talk.mp4": "fail_twice"}) as server:
        download(server.url("talk.mp4"))

It listens on 127.0.0.1 alone, serves byte ranges, and keeps a record of what it was asked. When the block ends, all its
connections are closed and all its threads have ended.
"""

import errno
import logging
import os
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote, unquote, urlsplit

from dualforce_model.errors import InfrastructureError

Fault = Literal[
    "not_found",  # 404
    "deleted",  # 410
    "forbidden",  # 403
    "throttled",  # 429 with Retry-After, always
    "unavailable",  # 503, always
    "fail_twice",  # 500 for the first two requests, then the file
    "always_reset",  # the connection is reset before an answer
    "breaks_off",  # the connection is reset in the middle of the file; who asks for the rest gets it
    "html_page",  # a web page in the place of the video, and said to be one
    "disguised_page",  # a web page that is said to be a video
    "slow",  # the file, at SLOW_BYTES_PER_S
    "silent",  # the connection stays open and nothing is sent
    "wrong_length",  # more bytes announced than are sent
    "endless",  # no length, and bytes without end
    "endless_page",  # the same as a web page
]

HOST = "127.0.0.1"
PIECE_BYTES = 64 * 1024
SLOW_BYTES_PER_S = 256 * 1024
PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><p>This is no video.</p></body></html>\n"
TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
    ".avi": "video/x-msvideo",
    ".wav": "audio/wav",
    ".m3u8": "application/vnd.apple.mpegurl",
    ".mpd": "application/dash+xml",
    ".html": "text/html; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
_STATUS: dict[Fault, int] = {"not_found": 404, "deleted": 410, "forbidden": 403, "throttled": 429, "unavailable": 503}

_log = logging.getLogger(__name__)


class ServerError(InfrastructureError):
    """The server cannot start; the message says why and what to change."""


@dataclass(frozen=True)
class Request:
    """What a client asked, in the order of arrival."""

    method: str
    name: str
    first_byte: int  # 0 where no range was asked for


class LoopbackServer:
    """Serves the files below `folder` on 127.0.0.1 until the `with` block ends."""

    def __init__(self, folder: Path, faults: Mapping[str, Fault] | None = None, port: int = 0) -> None:
        """`faults` maps file names (as given to `url`) to misbehaviour; `port` 0 takes any free port."""
        if not folder.is_dir():
            raise ServerError(f"{folder}: no such folder to serve; make the files first")
        self.folder = folder.resolve()
        self.faults = dict(faults or {})
        self.requests: list[Request] = []
        self._wanted_port = port
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._listener = _Listener(self.folder, self.faults, self.requests, self._wanted_port)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), name="loopback-server")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        listener, thread = self._running(), self._thread
        assert thread is not None
        listener.shutdown()
        thread.join()
        listener.close_connections()
        listener.server_close()  # joins the connections' threads
        self._listener = self._thread = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._running().port

    def url(self, name: str) -> str:
        """Address of a file, by its path relative to the folder."""
        return f"http://{HOST}:{self.port}/{quote(name)}"

    def _running(self) -> "_Listener":
        if self._listener is None:
            raise ServerError(f"the server of {self.folder} runs inside its `with` block only")
        return self._listener


class _Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Sockets and threads. Not http.server's class: that one asks the name service for its own name."""

    allow_reuse_address = True  # a port in TIME_WAIT is free; one that is listened on is still refused
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, folder: Path, faults: Mapping[str, Fault], requests: list[Request], port: int) -> None:
        self.folder = folder
        self.faults = faults
        self.requests = requests
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise ServerError(f"port {port} of {HOST} is in use; stop who has it, or take another (0: any)") from error
        self.port = int(self.server_address[1])

    def record(self, request: Request) -> int:
        """Note a request; return how many there were for this file before it."""
        with self._lock:
            earlier = sum(one.name == request.name for one in self.requests)
            self.requests.append(request)
        return earlier

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note the connection, so that a stopping server can close it, and give it a thread."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Wake every handler that waits for its client."""
        self.stopping.set()
        with self._lock:
            for client in self._connections:
                try:
                    client.shutdown(socket.SHUT_RDWR)
                except OSError as error:
                    _log.debug("connection was closed already: %s", error)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is normal; anything else is a bug and logged as one."""
        level = logging.DEBUG if isinstance(sys.exception(), ConnectionError | TimeoutError) else logging.ERROR
        _log.log(level, "connection from %s broke off", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: _Listener
    protocol_version = "HTTP/1.1"
    server_version = "Loopback/1"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer with the file, a range of it, or its fault."""
        self.close_connection = True
        name = unquote(urlsplit(self.path).path).lstrip("/")
        fault = self.server.faults.get(name)
        first = self._first_byte()
        earlier = self.server.record(Request(self.command, name, first))
        if fault == "always_reset":
            self._reset()
        elif fault == "silent":
            self.server.stopping.wait(self.timeout)
        elif fault in _STATUS:
            self._refuse(_STATUS[fault])
        elif fault == "fail_twice" and earlier < 2:
            self._refuse(500)
        elif fault in ("html_page", "disguised_page"):
            self._page("text/html; charset=utf-8" if fault == "html_page" else "video/mp4")
        elif fault in ("endless", "endless_page"):
            self._endless("video/mp4" if fault == "endless" else "text/html; charset=utf-8")
        elif (path := self._find(name)) is None:
            self._refuse(404)
        else:
            self._file(path, first, fault)

    def do_HEAD(self) -> None:
        """The same without a body."""
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """To the log, not to the terminal."""
        _log.debug(format, *args)

    def _find(self, name: str) -> Path | None:
        """The file of this name below the folder, if there is one."""
        path = self.server.folder / name
        try:
            return path if path.resolve().is_relative_to(self.server.folder) and path.is_file() else None
        except (OSError, ValueError):  # no file can have such a name
            return None

    def _first_byte(self) -> int:
        """Start of `Range: bytes=N-`; other forms of range are answered with the whole file, as the standard allows."""
        unit, _, span = self.headers.get("Range", "").partition("=")
        first = span.partition("-")[0].strip()
        return int(first) if unit.strip() == "bytes" and first.isascii() and first.isdigit() else 0

    def _last_byte(self, size: int) -> int:
        last = self.headers.get("Range", "").partition("=")[2].partition("-")[2].strip()
        return min(int(last), size - 1) if last.isascii() and last.isdigit() else size - 1

    def _head(self, status: int, kind: str, length: int | None, **extra: str) -> bool:
        """Send status and headers; return whether a body is wanted."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        for name, value in extra.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        return self.command != "HEAD"

    def _refuse(self, status: int) -> None:
        body = f"{status}\n".encode()
        extra = {"Retry_After": "1"} if status == 429 else {}
        if self._head(status, "text/plain", len(body), **extra):
            self.wfile.write(body)

    def _page(self, kind: str) -> None:
        if self._head(200, kind, len(PAGE)):
            self.wfile.write(PAGE)

    def _endless(self, kind: str) -> None:
        if self._head(200, kind, None):
            self.wfile.write(b"<!DOCTYPE html><html>" if kind.startswith("text") else b"\0\0\0\x18ftypmp42")
            while not self.server.stopping.is_set():
                self.wfile.write(b" " * PIECE_BYTES)

    def _file(self, path: Path, first: int, fault: Fault | None) -> None:
        size = path.stat().st_size
        ranged = "Range" in self.headers
        last = self._last_byte(size) if ranged else size - 1
        if first > last:
            self._head(416, "text/plain", 0, Content_Range=f"bytes */{size}")
            return
        length = last - first + 1
        announced = length * 2 if fault == "wrong_length" else length
        extra = {"Accept_Ranges": "bytes"}
        if ranged:
            extra["Content_Range"] = f"bytes {first}-{last}/{size}"
        kind = TYPES.get(path.suffix.lower(), "application/octet-stream")
        if self._head(206 if ranged else 200, kind, announced, **extra):
            broken = fault == "breaks_off" and first == 0
            self._body(path, first, length // 2 if broken else length, slow=fault == "slow")
            if broken:
                self._reset()

    def _body(self, path: Path, first: int, length: int, slow: bool) -> None:
        with open(path, "rb") as file:
            file.seek(first)
            while length > 0 and not self.server.stopping.is_set():
                piece = file.read(min(PIECE_BYTES, length))
                self.wfile.write(piece)
                length -= len(piece)
                if slow:
                    time.sleep(len(piece) / SLOW_BYTES_PER_S)

    def _reset(self) -> None:
        """Close with RST: lingering for zero seconds drops the connection instead of ending it."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        os.close(self.connection.detach())
