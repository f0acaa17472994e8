"""A Prefect server of our own, for runs that are not given one: loopback only, everything below one folder."""

import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dualforce_model.errors import InfrastructureError
from tasks.process import Supervised, free_port, port_in_use

START_LIMIT_S = 180.0


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


class PrefectServer:
    """A running server. Start it early and `ready()` later: the 5 to 20 seconds it needs overlap other work."""

    def __init__(self, home: Path, port: int | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        if port is not None and port_in_use(port):
            raise ServerError(f"port {port} is in use; stop what listens there or choose another with --port")
        self.port = port or free_port()
        self.log = home / "server.log"
        self.environment = server_environment(home, self.port)
        command = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--log-level", "warning", "--timeout-graceful-shutdown", "3"]
        self.process = Supervised([sys.executable, *command], environment=self.environment, log=self.log)

    @property
    def url(self) -> str:
        """Address of the UI."""
        return f"http://127.0.0.1:{self.port}"

    def ready(self, heartbeat: Callable[[], None] = lambda: None) -> None:
        """Wait until the server answers; raises ServerError if it ends or takes longer than three minutes."""
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
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])

    def close(self) -> None:
        """Stop the server."""
        self.process.close()


@contextmanager
def prefect_server(home: Path, port: int | None = None) -> Iterator[PrefectServer]:
    """A server for the time of the block; the environment points Prefect's client at it. Import prefect inside."""
    server = PrefectServer(home, port)
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
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


def drain_clients() -> None:
    """Logs and events leave this process on threads of Prefect's; let them arrive while there is a server."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=5)
        EventsWorker.drain_all(timeout=5)
