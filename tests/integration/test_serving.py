"""`dualforce up`: who watches it learns when it ends by itself."""

import signal
import time
from pathlib import Path

import psutil
import pytest

from flows.server import ServerError
from flows.serving import serve_until_stopped
from tasks.process import free_port

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.timeout(300)]


def test_deployments_that_end_are_an_error_that_names_their_log(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text("no: pipeline\n")
    with pytest.raises(ServerError, match=r"the deployments ended unasked; see \S+deployments.log"):
        serve_until_stopped(tmp_path, free_port(), lambda line: None)
    assert (tmp_path / "prefect" / "deployments.log").read_text()


def test_a_server_that_dies_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text("no: pipeline\n")

    def kill_server(line: str) -> None:
        if not line.startswith("the UI is at"):
            return
        for child in psutil.Process().children(recursive=True):  # the deployments need seconds to find their fault
            if "flows.server_process" in child.cmdline() and "tasks.supervisor" not in child.cmdline():
                child.send_signal(signal.SIGKILL)
        time.sleep(1.0)  # until the supervisor has seen it

    with pytest.raises(ServerError, match=r"the Prefect server ended unasked; see \S+server.log"):
        serve_until_stopped(tmp_path, free_port(), kill_server)
