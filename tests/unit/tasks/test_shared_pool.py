"""Pools that nested stages share."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.pool import Job, PoolConfig, WorkerSpec
from tasks.shared_pool import dismiss_workers, shared_pool

LOCAL = PoolConfig(engine="local", workers=1)


def test_workers_are_dismissed_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    spec = WorkerSpec(target="pool_workers:Scripted", kwargs={"folder": tmp_path})
    dismiss_workers(LOCAL)  # nobody has a pool
    with shared_pool(LOCAL) as pool, shared_pool(LOCAL) as same:

        def pid() -> Any:
            (attempt,) = pool().run(spec, [Job("a", {"name": "a"})])
            assert attempt.value is not None
            return attempt.value["pid"]

        first = pid()
        assert same() is pool()
        assert pid() == first, "workers stay warm"
        dismiss_workers(LOCAL)
        assert pid() != first
        closed = pool()
    with shared_pool(LOCAL) as fresh:
        assert fresh() is not closed


def test_no_engine_starts_to_have_its_workers_dismissed() -> None:
    config = PoolConfig(engine="ray", workers=3)
    with shared_pool(config):
        dismiss_workers(config)
        ray = sys.modules.get("ray")
        assert ray is None or not ray.is_initialized()
