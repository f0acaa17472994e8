"""The extract stage over real crops, workers and ledger: what is done once, and what a fault costs whom."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client

from dualforce_model.config import validate
from tasks.extract import ExtractConfig
from tasks.place import Place
from tasks.pool import PoolConfig
from tasks.records import FailureClass, Reason
from tasks.stages import StageConfig
from tests.integration.extract_places import features_of, log_of, make_place, rows_of, run_extract

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]
LOCAL = PoolConfig(engine="local", workers=2)
RAY = PoolConfig(engine="ray", workers=2)
MODALITIES = ("audio", "structure", "video")
GOOD = tuple(f"good{number:02}" for number in range(12))


def test_changing_one_extractor_costs_what_it_costs_alone(tmp_path: Path) -> None:
    place = make_place(tmp_path / "all", GOOD[:4])
    run_extract(place, LOCAL)
    first = log_of(place)
    assert all(first[f"{kind} {clip}"] == 1 for kind in (*MODALITIES, "frames", "samples") for clip in GOOD[:4])
    assert run_extract(place, LOCAL).planned == 0
    assert not log_of(place), "with nothing to do no worker starts"
    for modality, need, change in (
        ("audio", "samples", {"encoder": {"name": "log_mel", "config": {"num_mels": 40}}}),
        ("structure", "frames", {"encoder": {"name": "face_dct", "config": {"num_eye": 2}}}),
    ):
        changed = validate(ExtractConfig, {modality: change}, "test")
        assert run_extract(place, LOCAL, changed).planned == 4
        after = {line: times for line, times in log_of(place).items() if not line.startswith("loaded")}
        assert after == {f"{kind} {clip}": 1 for kind in (modality, need) for clip in GOOD[:4]}
        run_extract(place, LOCAL)
        log_of(place)


def faulty(pool: PoolConfig, tmp_path: Path) -> None:
    """One clip of each fault among good ones, one of them with a file that is no video, one with none."""
    calm = make_place(tmp_path / "calm", GOOD)
    run_extract(calm, pool)
    faults = ("kill0", "hang0", "memory0", "bug0", "faceless0")
    place = make_place(tmp_path / "faulty", [*GOOD[:6], *faults, "once-kill0", "torn0", "gone0", *GOOD[6:]])
    (place.media_root / "crops/torn0.mp4").write_bytes(b"\0" * 1000)
    (place.media_root / "crops/gone0.mp4").unlink()
    summary = run_extract(place, pool.model_copy(update={"deadline_s": 6.0}))
    rows = rows_of(place)
    assert {clip: rows[clip, "structure"].failure for clip in faults} == {
        "kill0": FailureClass.CRASH,
        "hang0": FailureClass.TIMEOUT,
        "memory0": FailureClass.OUT_OF_MEMORY,
        "bug0": FailureClass.BUG,
        "faceless0": None,
    }
    assert rows["faceless0", "structure"].reason == Reason.NO_FACE
    assert "ZeroDivisionError: of all things" in rows["bug0", "structure"].detail
    for modality in MODALITIES:
        assert {rows[clip, modality].failure for clip in ("torn0", "gone0")} == {FailureClass.DISK}
    others = [rows[clip, modality] for clip in (*faults, "once-kill0") for modality in ("audio", "video")]
    assert {row.state for row in [*others, rows["once-kill0", "structure"]]} == {"done"}
    assert {row.attempts for row in others} == {0}, "only what failed is charged"
    expected, found = features_of(calm), features_of(place)
    assert len(expected) == 3 * len(GOOD)
    assert {name: found[name] for name in expected} == expected, "the same bytes, whatever befell the neighbours"
    assert summary.impossible == {"no_face": 1}
    assert summary.failed == {"bug": 1, "crash": 1, "disk": 2, "out_of_memory": 1, "timeout": 1}


@pytest.mark.slow
def test_faults_cost_their_own_clips_alone(tmp_path: Path) -> None:
    faulty(LOCAL, tmp_path)


@pytest.mark.slow
@pytest.mark.ray
def test_faults_cost_their_own_clips_alone_with_ray(tmp_path: Path) -> None:
    faulty(RAY, tmp_path)


@pytest.mark.slow
@pytest.mark.ray
def test_both_engines_make_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for pool in (LOCAL, RAY):
        place = make_place(tmp_path / pool.engine, GOOD)
        run_extract(place, pool)
        made.append(features_of(place))
    assert made[0] == made[1]


def test_one_modality_that_fails_is_charged_alone_and_the_artifact_says_how_it_stands(tmp_path: Path) -> None:
    place = make_place(tmp_path, [*GOOD[:3], "bug0", "faceless0"])
    run_extract(place, LOCAL)
    rows = rows_of(place)
    assert {(row.state, row.attempts) for (_, modality), row in rows.items() if modality != "structure"} == {
        ("done", 0)
    }
    assert (rows["bug0", "structure"].failure, rows["bug0", "structure"].attempts) == (FailureClass.BUG, 1)
    assert rows["faceless0", "structure"].reason == Reason.NO_FACE
    with get_client(sync_client=True) as client:
        wanted = {"artifacts": {"key": {"any_": ["extract-progress"]}}, "sort": "CREATED_DESC", "limit": 1}
        (latest,) = client.request("POST", "/artifacts/filter", json=wanted).json()
    assert latest["data"] == 100.0
    assert "extract: 5 of 5 clips: 3 done, 1 " in latest["description"]
    assert "1 quarantined" in latest["description"]
    assert "1 failed" in latest["description"]
    assert latest["description"].endswith(" clips/s")


# ----------------------------------------------------------------------------------------------------- kill -9, anybody

DRIVER = """
import json, sys
from pathlib import Path
from tasks.place import Place
from tasks.pool import PoolConfig
from tests.integration.extract_places import run_extract
run_extract(Place(dataset="d", home=sys.argv[1]), PoolConfig(engine=sys.argv[2], workers=2), slow_s=float(sys.argv[3]))
"""


def start(place: Place, engine: str, slow_s: float) -> "subprocess.Popen[str]":
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", DRIVER, place.home, engine, str(slow_s)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=root, text=True, env={**os.environ, "PYTHONPATH": str(root)}, **quiet)  # type: ignore[call-overload,no-any-return]


def when_made(place: Place, number: int, process: "subprocess.Popen[str]") -> None:
    """Wait until workers have begun so many features."""
    end = time.monotonic() + 200
    while True:
        log = (place.folder / "log").read_text() if (place.folder / "log").exists() else ""
        if sum(line.split()[0] in MODALITIES for line in log.splitlines()) >= number:
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < end
        time.sleep(0.02)


def a_worker(place: Place, driver: int) -> int:
    log = (place.folder / "log").read_text()
    return int([line for line in log.splitlines() if line.startswith("loaded")][-1].split()[1])


def the_driver(place: Place, driver: int) -> int:
    return driver


def the_raylet(place: Place, driver: int) -> int:
    (found,) = [child for child in psutil.Process(driver).children(recursive=True) if child.name() == "raylet"]
    return found.pid


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "victim"),
    [
        ("local", a_worker),
        ("local", the_driver),
        pytest.param("ray", a_worker, marks=pytest.mark.ray),
        pytest.param("ray", the_driver, marks=pytest.mark.ray),
        pytest.param("ray", the_raylet, marks=pytest.mark.ray),
    ],
)
def test_a_kill_loses_no_more_than_what_was_being_made(
    tmp_path: Path, engine: str, victim: Callable[[Place, int], int]
) -> None:
    calm = make_place(tmp_path / "calm", GOOD)
    run_extract(calm, LOCAL)
    place = make_place(tmp_path / "killed", GOOD)
    slow_s = 1.5 if victim is the_raylet else 0.15  # its actors live on for ten seconds
    with start(place, engine, slow_s) as process:
        when_made(place, 13, process)
        os.kill(victim(place, process.pid), signal.SIGKILL)
        _, said = process.communicate(timeout=150)
    assert (process.returncode == 0) == (victim is a_worker), f"only a worker's death is mended within the run: {said}"
    assert victim is not the_raylet or "Ray has no living node left" in said
    if victim is not a_worker:
        run_extract(place, LOCAL, stage=StageConfig(attempts=3, backoff_s=0.0))
    rows = rows_of(place)
    assert {row.state for row in rows.values()} == {"done"}
    assert {row.attempts for row in rows.values()} == {0}, "no clip is charged with a death from outside"
    made = {line: times for line, times in log_of(place).items() if line.split()[0] in MODALITIES}
    assert sum(made.values()) <= 3 * len(GOOD) + LOCAL.workers, "each worker was at one feature"
    assert features_of(place) == features_of(calm)
