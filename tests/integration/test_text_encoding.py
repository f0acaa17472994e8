"""Captions through real workers: what a fault costs whom, and that a kill loses nothing that was made."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dualforce_model.storage import Storage
from dualforce_model.text_features import text_name
from tasks.pool import PoolConfig
from tasks.records import FailureClass
from tasks.stages import StageConfig
from tasks.text_notes import FAILED, REFUSED, noted, read_failure
from tests.letters import LOCAL, Letters, encode, log_of, said_in

FINGERPRINT = Letters().fingerprint()
GOOD = tuple(f"a good caption, number {number:02}" for number in range(12))
BAD = {
    "kill this worker": FailureClass.CRASH,
    "hang for an hour": FailureClass.TIMEOUT,
    "memory is short": FailureClass.OUT_OF_MEMORY,
    "bug in the encoder": FailureClass.BUG,
    "x" * 200: FailureClass.OUT_OF_MEMORY,  # beyond the room that there is, and longest, so that it comes first
}
ODD = ("who is it?", "too loud!")
RAY = PoolConfig(engine="ray", workers=2)


def store_of(home: Path) -> Storage:
    return Storage(str(home / "store"))


def names_of(captions: object) -> set[str]:
    assert isinstance(captions, (tuple, dict))
    return {text_name(FINGERPRINT, caption) for caption in captions}


def faulty(pool: PoolConfig, home: Path) -> None:
    """Hostile captions among good ones; then the same again once the encoder has learned."""
    pool = pool.model_copy(update={"workers": 2, "deadline_s": 4.0})
    summary = encode(home, [*GOOD[:6], *BAD, *ODD, *GOOD], pool=pool, workers=None)
    assert (summary.distinct, summary.made, summary.refused) == (20, 13, 2), "the prompt is made as well"
    assert summary.failed == {"bug": 1, "crash": 1, "out_of_memory": 2, "timeout": 1}
    assert summary.failed_clips == 5
    assert summary.traceback
    assert all(said_in(home, caption) == caption for caption in (*GOOD, "a person"))
    store = store_of(home)
    assert (noted(store, FAILED, FINGERPRINT), noted(store, REFUSED, FINGERPRINT)) == (names_of({**BAD}), names_of(ODD))
    notes = {caption: read_failure(store, text_name(FINGERPRINT, caption)) for caption in BAD}
    assert {caption: note.failure for caption, note in notes.items() if note is not None} == BAD
    assert notes["bug in the encoder"] is not None
    assert "ZeroDivisionError: of all things" in notes["bug in the encoder"].traceback
    log_of(home)
    (home / "healed").touch()
    again = encode(home, [*GOOD, *BAD, *ODD], pool=pool, workers=None)
    assert (again.made, again.there, again.failed) == (4, 13, {"out_of_memory": 1})
    done = log_of(home)
    assert not any(done[caption] for caption in (*GOOD, *ODD)), "what was made or refused is left alone"
    assert noted(store, FAILED, FINGERPRINT) == names_of(("x" * 200,))


@pytest.mark.slow
def test_faults_cost_their_own_captions_alone(tmp_path: Path) -> None:
    faulty(LOCAL, tmp_path)


@pytest.mark.slow
@pytest.mark.ray
def test_faults_cost_their_own_captions_alone_with_ray(tmp_path: Path) -> None:
    faulty(RAY, tmp_path)


def test_no_more_workers_start_than_have_something_to_do(tmp_path: Path) -> None:
    encode(tmp_path, GOOD[:3], pool=LOCAL.model_copy(update={"workers": 4}), workers=None)
    assert log_of(tmp_path)["loaded"] == 1, "three captions are one batch"
    encode(tmp_path, GOOD, pool=LOCAL.model_copy(update={"workers": 4}))
    assert log_of(tmp_path)["loaded"] == 1, "one worker may hold the encoder"


def test_what_fails_in_a_way_that_time_mends_is_tried_again_in_the_run(tmp_path: Path) -> None:
    summary = encode(tmp_path, ["a man", "memory is short"], stage=StageConfig(attempts=2, backoff_s=0.0))
    assert (summary.made, summary.failed) == (1, {"out_of_memory": 1})
    # It takes a worker with it when it is with others, the others one more, and it has a fresh one when it is alone.
    done = log_of(tmp_path)
    assert done["loaded"] == 5
    assert done["a man"] in (1, 2), "the worker that is ended may be through with it before it is"


# --------------------------------------------------------------------------------------------------------------- kills

DRIVER = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())  # as a path that workers are told
from tests.letters import encode
if sys.argv[2] == "all":
    os.environ["DUALFORCE_KILL_PID"] = str(os.getpid())
print(encode(Path(sys.argv[1]), sys.argv[3:]).text())
"""


def run(home: Path, point: str, whom: str, *captions: str) -> "subprocess.CompletedProcess[str]":
    """A run in a process of its own that is killed at a point: `all` of it, or the `worker` alone."""
    return subprocess.run(
        [sys.executable, "-c", DRIVER, str(home), whom, *captions],
        env={**os.environ, "DUALFORCE_KILL_AT": point},
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(("point", "left"), [("text.before_rename:6", 5), ("text.after_rename:6", 6)])
def test_a_killed_run_loses_no_more_than_the_batch_in_flight(tmp_path: Path, point: str, left: int) -> None:
    ended = run(tmp_path, point, "all", *GOOD)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    store = store_of(tmp_path)
    assert len(store.list("text")) == left
    assert encode(tmp_path, GOOD).made == 12 - left
    assert all(said_in(tmp_path, caption) == caption for caption in GOOD)
    done = log_of(tmp_path)
    assert sum(done[caption] for caption in GOOD) <= 12 + 4, "a batch is four captions"


def test_a_worker_that_is_killed_costs_the_run_nothing(tmp_path: Path) -> None:
    ended = run(tmp_path, "text.after_rename:10", "worker", *GOOD)
    assert (ended.returncode, ended.stdout.split(",")[0]) == (0, "text: 12 captions"), ended.stderr
    assert store_of(tmp_path).list(FAILED) == []
    assert log_of(tmp_path)["loaded"] == 2


@pytest.mark.parametrize(("point", "left"), [("note.before_rename:2", 1), ("note.after_rename:2", 2)])
def test_a_run_killed_over_its_notes_goes_on(tmp_path: Path, point: str, left: int) -> None:
    given = ("a man", "bug one", "what?", "who?")
    ended = run(tmp_path, point, "all", *given)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    store = store_of(tmp_path)
    assert len(store.list(FAILED) + store.list(REFUSED)) == left
    summary = encode(tmp_path, given)
    assert (summary.distinct, summary.refused, summary.failed) == (5, 2, {"bug": 1})
    assert noted(store, REFUSED, FINGERPRINT) == names_of(("what?", "who?"))
    assert noted(store, FAILED, FINGERPRINT) == names_of(("bug one",))
    assert {said_in(tmp_path, caption) for caption in ("a man", "a person")} == {"a man", "a person"}
