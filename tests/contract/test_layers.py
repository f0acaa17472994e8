"""What may import what, beyond the layers that `make check` proves."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for package in ("flows", "tasks", "dualforce_model", "deploy") for path in (ROOT / package).rglob("*.py")
)


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("ray", ("tasks/pool.py",)),
        ("av", ("dualforce_model/media/",)),
        ("yt_dlp", ("tasks/ytdlp.py",)),
        ("imageio_ffmpeg", ("tasks/ytdlp.py",)),
        ("sqlalchemy", ("tasks/ledger", "tasks/leases.py", "tasks/migrations/")),
    ],
)
def test_a_library_has_one_door(library: str, allowed: tuple[str, ...]) -> None:
    users = [path.relative_to(ROOT).as_posix() for path in SOURCES if library in imported(path)]
    assert users, f"nobody imports {library}: the rule is stale"
    assert all(user.startswith(allowed) for user in users), users


def test_workers_do_not_import_prefect() -> None:
    in_workers = ("tasks/worker.py", "tasks/fetch.py", "tasks/curation.py", "tasks/extract.py", "tasks/text_worker.py")
    assert not [name for name in in_workers if "prefect" in imported(ROOT / name)]


def test_nothing_unsafe_is_imported_or_called() -> None:
    for path in SOURCES:
        assert not imported(path) & {"pickle", "cloudpickle", "marshal", "shelve"}, path


def test_modules_stay_readable() -> None:
    too_long = {path.name: lines for path in SOURCES if (lines := len(path.read_text().splitlines())) > 400}
    assert not too_long
