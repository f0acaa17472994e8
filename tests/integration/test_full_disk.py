"""A disk that fills up in the middle of a run: said plainly, nothing charged to a clip, and the next run goes on."""

from pathlib import Path

import pytest

from flows.server import PrefectServer
from flows.terminal import BROKEN
from tests.integration.demo_runs import LOCAL, finish, start

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.timeout(1200)]

# One for each process that writes: a downloading worker, a cropping one, the driver, the trainer.
POINTS = ("download.before_rename:2", "crop.before_rename:2", "shard.before_rename", "checkpoint.before_rename:2")


def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(tmp_path: Path, prefect_server: PrefectServer) -> None:
    calm, out = finish(tmp_path / "calm", LOCAL), tmp_path / "full"
    for point in POINTS:
        process = start(out, LOCAL, full_at=point)
        _, said = process.communicate(timeout=600)
        assert process.returncode == BROKEN, f"{point}: {process.returncode}\n{said}"
        assert "No space left on device" in said, point
        assert not list(out.rglob("*.tmp")), "what could not be written whole is gone"
    report = finish(out, LOCAL)
    assert (report["snapshot"], report["clips"], report["lips"]) == (calm["snapshot"], calm["clips"], calm["lips"])
