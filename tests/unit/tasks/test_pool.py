"""One contract, two engines: every job comes back exactly once, whatever its worker does."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.pool import Job, Pool, PoolConfig, WorkerSpec, WorkerUnusable, make_pool
from tasks.records import Attempt, FailureClass, Reason

HERE = Path(__file__).parent

Open = Callable[..., Pool]


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Ray, started once for all tests of this file: pools find it and leave it running."""
    with make_pool(PoolConfig(engine="ray", workers=2)):
        yield


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def open_pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A function that opens a pool of the engine under test."""
    monkeypatch.syspath_prepend(str(HERE))
    if request.param == "ray":
        request.getfixturevalue("ray_here")
    opened = []

    def open_one(**settings: Any) -> Pool:
        opened.append(make_pool(PoolConfig(engine=request.param, **{"workers": 2, "deadline_s": 30.0, **settings})))
        return opened[-1].__enter__()

    yield open_one
    for pool in opened:
        pool.__exit__(None, None, None)


def spec(folder: Path, at_load: str = "") -> WorkerSpec:
    return WorkerSpec(target="pool_workers:Scripted", kwargs={"folder": folder, "at_load": at_load})


def job(name: str, do: str = "", num_bytes: int = 0) -> Job:
    return Job(name, {"name": name, "do": do}, num_bytes)


def by_id(attempts: Iterator[Attempt]) -> dict[str, Attempt]:
    found = list(attempts)
    result = {attempt.job_id: attempt for attempt in found}
    assert len(result) == len(found), "a job came back twice"
    return result


def gone(pid: int, within_s: float = 5.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def loaded(folder: Path) -> set[int]:
    return {int(path.name.split("-")[1]) for path in folder.glob("loaded-*")}


def test_all_jobs_come_back_from_workers_built_once(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool()
    for run in range(2):
        found = by_id(pool.run(spec(tmp_path), (job(f"j{run}-{number}") for number in range(20))))
        assert set(found) == {f"j{run}-{number}" for number in range(20)}
        assert all(attempt.value and attempt.value["name"] == name for name, attempt in found.items())
        assert all(attempt.value and attempt.value["threads"] == "1" for attempt in found.values())
        assert all(attempt.value and attempt.value["ignores_int"] for attempt in found.values())
    assert len(loaded(tmp_path)) <= 2
    assert list(pool.run(spec(tmp_path), [])) == []


def test_every_way_to_fail_has_its_outcome_and_costs_nobody_else(open_pool: Open, tmp_path: Path) -> None:
    doing = {
        "impossible": "raise=impossible",
        "shown": "raise=shown",
        "temporary": "raise=temporary",
        "disk": "raise=disk",
        "bug": "raise=bug",
        "leave": "raise=leave",
        "surrogate": "raise=surrogate",
        "poison": "say=alas exit=3",
        "mended": "once:kill",
        "memory": "raise=memory",
        "cuda": "raise=cuda",
        "memory_mended": "once:raise=memory",
    }
    jobs = [job(name, do) for name, do in doing.items()] + [job(f"good{number}") for number in range(10)]
    found = by_id(open_pool().run(spec(tmp_path), jobs))
    assert set(found) == set(doing) | {f"good{number}" for number in range(10)}
    assert found["impossible"].impossible == (Reason.NO_FACE, "0 of 10 frames")
    assert (found["impossible"].preview, found["shown"].preview) == (None, "crops/why.jpg")
    failures = {name: attempt.failure[0] for name, attempt in found.items() if attempt.failure}
    assert failures == {
        "temporary": FailureClass.THROTTLED,
        "disk": FailureClass.DISK,
        "bug": FailureClass.BUG,
        "leave": FailureClass.BUG,
        "surrogate": FailureClass.BUG,
        "poison": FailureClass.CRASH,
        "memory": FailureClass.OUT_OF_MEMORY,
        "cuda": FailureClass.OUT_OF_MEMORY,
    }
    bug = found["bug"].failure
    assert bug is not None
    assert "ZeroDivisionError: of all things" in bug[1]
    assert "pool_workers.py" in bug[1]


def test_a_hung_job_is_killed_retried_alone_and_only_then_given_up(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(deadline_s=1.0)
    jobs = [job("hangs", "sleep=60"), job("hung", "once:sleep=60"), job("a"), job("b")]
    started = time.monotonic()
    found = by_id(pool.run(spec(tmp_path), jobs))
    assert time.monotonic() - started < 30
    assert found["hangs"].failure is not None
    assert found["hangs"].failure[0] == FailureClass.TIMEOUT
    assert found["hangs"].seconds >= 1.0
    assert all(found[name].value for name in ("hung", "a", "b"))


def test_a_suspect_runs_when_nobody_else_does(open_pool: Open, tmp_path: Path) -> None:
    jobs = [job("suspect", "once:kill span=0.3"), *[job(f"g{number}", "span=0.1") for number in range(6)]]
    found = by_id(open_pool().run(spec(tmp_path), jobs))
    assert len(found) == 7
    spans = sorted(tuple(map(float, path.name.split("-")[1:])) for path in tmp_path.glob("span-*"))
    longest = max(spans, key=lambda span: span[1] - span[0])
    assert longest == spans[-1]
    assert all(end <= longest[0] for _, end in spans[:-1])


@pytest.mark.parametrize("at_load", ["raise=bug", "raise=leave"])
def test_a_worker_that_cannot_load_is_one_error(open_pool: Open, tmp_path: Path, at_load: str) -> None:
    pool = open_pool()
    with pytest.raises(WorkerUnusable, match="pool_workers:Scripted cannot be loaded"):
        list(pool.run(spec(tmp_path, at_load), (job(str(number)) for number in range(100))))
    assert len(loaded(tmp_path)) <= 2
    assert by_id(pool.run(spec(tmp_path), [job("fine")]))["fine"].value


def test_workers_that_die_loading_end_the_run(open_pool: Open, tmp_path: Path) -> None:
    with pytest.raises(WorkerUnusable, match="3 workers died before any job"):
        list(open_pool(workers=1).run(spec(tmp_path, "say=oh exit=4"), [job("a"), job("b")]))


def test_loading_has_a_deadline(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(load_deadline_s=1.5)
    with pytest.raises(WorkerUnusable, match=r"did not load within 1.5 s"):
        list(pool.run(spec(tmp_path, "sleep=60"), [job("a")]))


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("no_such_module:X", "ModuleNotFoundError"),
        ("pool_workers:Nobody", "AttributeError"),
        ("pool_workers:Typed", "TypeError"),
    ],
)
def test_a_wrong_spec_is_one_clear_error(open_pool: Open, target: str, complaint: str) -> None:
    with pytest.raises(WorkerUnusable, match=complaint):
        list(open_pool(workers=1).run(WorkerSpec(target=target, kwargs={"surplus": 1}), [job("a")]))


def test_payloads_and_answers_are_checked(open_pool: Open) -> None:
    pool = open_pool(workers=1)
    found = by_id(
        pool.run(WorkerSpec(target="pool_workers:Typed"), [Job("a", {"number": 4}), Job("b", {"number": "x"})])
    )
    assert found["a"].value == {"double": 8}
    assert found["b"].failure is not None
    assert "ValidationError" in found["b"].failure[1]
    answers = {"none": 3, "nan": {"x": float("nan")}, "huge": {"x": "y" * 5_000_000}}
    jobs = [Job(name, {"answer": answer}) for name, answer in answers.items()]
    refused = by_id(pool.run(WorkerSpec(target="pool_workers:Silent"), jobs))
    texts = {name: attempt.failure[1] for name, attempt in refused.items() if attempt.failure}
    assert "returned int; a worker returns a dict" in texts["none"]
    assert "JSON" in texts["nan"]
    assert "write the data to a file" in texts["huge"]


def test_bytes_in_flight_are_bounded(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(max_in_flight_bytes=100)
    jobs = [job("big", "span=0.3", 1000), *[job(f"m{number}", "span=0.2", 60) for number in range(3)]]
    assert len(by_id(pool.run(spec(tmp_path), jobs))) == 4
    spans = sorted(tuple(map(float, path.name.split("-")[1:])) for path in tmp_path.glob("span-*"))
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_jobs_are_taken_as_they_are_needed(open_pool: Open, tmp_path: Path) -> None:
    taken = 0

    def endless() -> Iterator[Job]:
        nonlocal taken
        while True:
            taken += 1
            yield job(f"j{taken}")

    run = open_pool().run(spec(tmp_path), endless())
    for _ in range(10):
        next(run)
    assert taken <= 10 + 5
    run.close()


def test_closing_a_run_early_kills_the_workers_and_the_pool_goes_on(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool()
    run = pool.run(spec(tmp_path), [job("quick"), job("long", "sleep=60"), job("never", "sleep=60")])
    first = next(run)
    assert first.value
    with pytest.raises(RuntimeError, match="in the middle of a run"):
        next(pool.run(spec(tmp_path), [job("x")]))
    run.close()
    assert all(gone(pid) for pid in loaded(tmp_path))
    assert by_id(pool.run(spec(tmp_path), [job("again")]))["again"].value


def test_an_error_from_the_list_of_jobs_or_ctrl_c_kills_the_workers(open_pool: Open, tmp_path: Path) -> None:
    def interrupted() -> Iterator[Job]:
        yield job("long", "sleep=60")
        yield job("quick")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(open_pool().run(spec(tmp_path), interrupted()))
    assert all(gone(pid) for pid in loaded(tmp_path))


def test_ctrl_c_while_waiting_kills_the_workers(open_pool: Open, tmp_path: Path) -> None:
    run = open_pool().run(spec(tmp_path), [job("quick"), job("long", "sleep=60")])
    next(run)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(run)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert all(gone(pid) for pid in loaded(tmp_path))


def test_workers_killed_while_idle_charge_nobody(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool()
    for run in range(3):  # two workers each: more deaths in a row than a worker that cannot load is allowed
        found = by_id(pool.run(spec(tmp_path), [job(f"{run}-{number}", "sleep=0.05") for number in range(4)]))
        assert all(attempt.value for attempt in found.values())
        for pid in {attempt.value["pid"] for attempt in found.values() if attempt.value}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            assert gone(pid)


def test_warm_workers_serve_and_another_spec_takes_their_place(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool()
    first = by_id(pool.run(spec(tmp_path), [job("a", "sleep=0.2"), job("b", "sleep=0.2")]))
    again = by_id(pool.run(spec(tmp_path), [job("c"), job("d")]))
    pids = [{attempt.value["pid"] for attempt in found.values() if attempt.value} for found in (first, again)]
    assert pids[1] <= pids[0], "workers outlive a run"
    other = tmp_path / "other"
    other.mkdir()
    found = by_id(pool.run(spec(other), [job(f"e{number}") for number in range(5)]))
    assert all(attempt.value and attempt.value["pid"] in loaded(other) for attempt in found.values())


def test_a_local_worker_tells_how_it_ended_and_where_it_hung(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    with make_pool(PoolConfig(engine="local", workers=2, deadline_s=1.0)) as pool:
        jobs = [
            job("poison", "say=alas exit=3"),
            job("hangs", "sleep=60"),
            job("killed", "kill"),
            job("chatty", "spam=9000000"),
        ]
        found = by_id(pool.run(spec(tmp_path), jobs))
    assert found["chatty"].value
    details = {name: attempt.failure[1] for name, attempt in found.items() if attempt.failure}
    assert "exit code 3; its last words:\nalas" in details["poison"]
    assert "signal SIGKILL (nobody here sent it" in details["killed"]
    assert "not done after 1 s" in details["hangs"]
    assert "pool_workers.py" in details["hangs"]
    assert max(map(len, details.values())) < 10_000


def test_nothing_lives_after_a_local_pool_is_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    with make_pool(PoolConfig(engine="local", workers=2)) as pool:
        list(pool.run(spec(tmp_path), [job("a"), job("b", "child")]))
    assert all(gone(pid) for pid in loaded(tmp_path))
    assert gone(int((tmp_path / "child").read_text()))


def test_the_bound_on_memory_follows_the_machine_unless_it_is_given() -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert PoolConfig().in_flight_bytes == machine // 2
    assert PoolConfig(address="auto").in_flight_bytes > machine, "a cluster's memory is not this machine's"
    assert PoolConfig(address="auto", max_in_flight_bytes=7).in_flight_bytes == 7
