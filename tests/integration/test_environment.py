"""Everything imports, and Prefect's server builds: version conflicts show here, not in the middle of a run."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import deploy
import dualforce_model
import flows
import tasks
from flows.server import PrefectServer, ServerError
from tasks.checks import machine_checks

ROOT = Path(__file__).resolve().parents[2]
RUN_BY_THEMSELVES = {"tasks.migrations.env"}  # alembic runs it inside a migration


def modules() -> list[str]:
    found = [package.__name__ for package in (dualforce_model, tasks, flows, deploy)]
    for package in (dualforce_model, tasks, flows, deploy):
        found += [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [name for name in found if name not in RUN_BY_THEMSELVES and ".versions" not in name]


@pytest.mark.parametrize("name", modules())
def test_every_module_imports(name: str) -> None:
    importlib.import_module(name)


def test_the_model_library_imports_without_prefect_and_ray() -> None:
    names = [name for name in modules() if name.startswith("dualforce_model")]
    code = (
        "import importlib, sys\n"
        "for name in ('prefect', 'ray'): sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_this_machine_works() -> None:
    report = machine_checks()
    assert not report.problems, report.text()


@pytest.mark.prefect
def test_a_port_in_use_is_named(prefect_server: PrefectServer, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=f"port {prefect_server.port} is in use"):
        PrefectServer(tmp_path, prefect_server.port)


@pytest.mark.prefect
def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").mkdir()  # a folder where the database should be
    server = PrefectServer(tmp_path)
    try:
        with pytest.raises(ServerError, match=r"server\.log"):
            server.ready()
    finally:
        server.close()
