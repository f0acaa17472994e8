"""A Prefect server of our own, for runs that are not given one: loopback only, everything below one folder."""

import os
import secrets
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dualforce_model.errors import InfrastructureError
from dualforce_model.storage import write_text
from tasks.process import Supervised, free_port, port_in_use

START_LIMIT_S = 180.0
START_NAME = "start"  # holds the word that a waiting server process was given: it may begin


class ServerError(InfrastructureError):
    """The Prefect server did not come up; the message says why and where its log is."""


def server_environment(home: Path, port: int) -> dict[str, str]:
    """Settings of server and clients. Nothing outside `home` is read or written, nothing calls out."""
    url = f"http://127.0.0.1:{port}/api"
    home = home.resolve()
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_UI_API_URL": url,  # without it the UI calls port 4200 whatever port it is served from
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # V1 plays videos, links table cells and makes no outside request
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "DO_NOT_TRACK": "1",
        # With batches of one the recorder drops history under load.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }


def without_folder(environment: dict[str, str]) -> dict[str, str]:
    """The same settings for the time before the folder may exist: Prefect makes its home when it is imported."""
    return {**environment, "PREFECT_HOME": tempfile.gettempdir()}  # there already, so nothing is made


class PrefectServer:
    """A server in a process of its own. Made, it loads its program; `start` lets it begin; `ready` waits for it.

    The 5 to 20 seconds it needs overlap whatever its owner does between these. Nothing is written before `start`.
    """

    def __init__(self, home: Path, port: int | None = None) -> None:
        if port is not None and port_in_use(port):
            raise ServerError(f"port {port} is in use; stop what listens there or choose another with --port")
        self.home = home.resolve()
        self.port = port or free_port()
        self.log = home / "server.log"
        self.environment = server_environment(home, self.port)
        self._word = secrets.token_hex(8)
        command = [sys.executable, "-m", "flows.server_process", str(self.home), str(self.port), self._word]
        self.process = Supervised(command, environment=without_folder(self.environment))

    @property
    def url(self) -> str:
        """Address of the UI."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Make the folder and let the server begin."""
        write_text(self.home / START_NAME, self._word)

    def ready(self, heartbeat: Callable[[], None] = lambda: None) -> None:
        """Start, and wait until the server answers; raises ServerError if it ends or takes over three minutes."""
        self.start()
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit:
            if not self.process.alive():
                raise ServerError(f"the Prefect server ended while starting; see {self.log}\n{self._last_lines()}")
            if self._healthy():
                return
            heartbeat()
            time.sleep(0.25)
        raise ServerError(f"the Prefect server did not answer within {START_LIMIT_S:.0f} s; see {self.log}")

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/health", timeout=2) as answer:  # noqa: S310  # loopback
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _last_lines(self) -> str:
        """The end of the log, or of what was said before there was one."""
        if not self.log.is_file():
            return "\n".join([*self.process.lines()][-8:])
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])

    def close(self) -> None:
        """Stop the server."""
        self.process.close()


@contextmanager
def prefect_server(home: Path, port: int | None = None) -> Iterator[PrefectServer]:
    """A server for the time of the block; the environment points Prefect's client at it. Import prefect inside.

    Until `enter_home` nothing is written, by the server or by the client.
    """
    server = PrefectServer(home, port)
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(without_folder(server.environment))
    try:
        yield server
    finally:
        drain_clients()
        server.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def enter_home(home: str) -> None:
    """Have Prefect, which may be imported already, keep its files in a folder from now on."""
    os.environ["PREFECT_HOME"] = home
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def drain_clients() -> None:
    """Logs and events leave this process on threads of Prefect's; let them arrive while there is a server."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=5)
        EventsWorker.drain_all(timeout=5)
