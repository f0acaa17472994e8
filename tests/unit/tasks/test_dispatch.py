"""Messages of several jobs: each job is answered for itself, and what befalls a message befalls no neighbour."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.pool import Job, Pool, PoolConfig, WorkerSpec, make_pool
from tasks.records import Attempt, FailureClass

HERE = Path(__file__).parent
Open = Callable[..., Pool]


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Ray, started once for all tests of this file: pools find it and leave it running."""
    with make_pool(PoolConfig(engine="ray", workers=2)):
        yield


@pytest.fixture
def open_local(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A function that opens a pool of local workers."""
    monkeypatch.syspath_prepend(str(HERE))
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            make_pool(PoolConfig(**{"engine": "local", "workers": 2, "deadline_s": 30.0, **settings}))
        )


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def open_pool(request: pytest.FixtureRequest, open_local: Open) -> Open:
    """A function that opens a pool of the engine under test."""
    if request.param == "ray":
        request.getfixturevalue("ray_here")
    return lambda **settings: open_local(engine=request.param, **settings)


def spec(folder: Path, target: str = "Scripted", most: int = 4) -> WorkerSpec:
    kwargs = {"folder": folder, "at_load": ""}
    return WorkerSpec(target=f"pool_workers:{target}", kwargs=kwargs, jobs_per_message=most)


def job(name: str, do: str = "", num_bytes: int = 0) -> Job:
    return Job(name, {"name": name, "do": do}, num_bytes)


def by_id(attempts: Iterator[Attempt]) -> dict[str, Attempt]:
    found = list(attempts)
    result = {attempt.job_id: attempt for attempt in found}
    assert len(result) == len(found), "a job came back twice"
    return result


def failures(found: dict[str, Attempt]) -> dict[str, FailureClass]:
    return {name: attempt.failure[0] for name, attempt in found.items() if attempt.failure}


@pytest.mark.parametrize("target", ["Scripted", "Together"])
def test_every_way_to_fail_costs_no_neighbour(open_pool: Open, tmp_path: Path, target: str) -> None:
    doing = {
        "impossible": "raise=impossible",
        "temporary": "raise=temporary",
        "bug": "raise=bug",
        "leave": "raise=leave",
        "poison": "exit=3",
        "mended": "once:kill",
        "memory": "raise=memory",
        "memory_mended": "once:raise=memory",
    }
    if target == "Together":
        doing |= {"returned": "return=bug"}
    names = [*doing, *[f"good{number}" for number in range(12)]]
    jobs = [job(name, doing.get(name, "")) for name in sorted(names, key=lambda name: sum(map(ord, name)) % 7)]
    found = by_id(open_pool().run(spec(tmp_path, target), jobs))
    assert set(found) == set(names)
    assert found["impossible"].impossible is not None
    bugs = ["bug", "leave", *(["returned"] if target == "Together" else [])]
    assert failures(found) == {
        "temporary": FailureClass.THROTTLED,
        "poison": FailureClass.CRASH,
        "memory": FailureClass.OUT_OF_MEMORY,
        **dict.fromkeys(bugs, FailureClass.BUG),
    }
    for name in bugs:
        told = found[name].failure
        assert told is not None
        assert ("SystemExit" if name == "leave" else "ZeroDivisionError: of all things") in told[1]


def test_a_payload_that_is_refused_costs_no_neighbour(open_local: Open) -> None:
    typed = WorkerSpec(target="pool_workers:Typed", jobs_per_message=3)
    jobs = [Job(str(number), {"number": "x" if number == 2 else number}) for number in range(6)]
    found = by_id(open_local(workers=1).run(typed, jobs))
    assert [name for name, attempt in found.items() if attempt.value is None] == ["2"]
    assert found["5"].value == {"double": 10}


def test_a_batch_that_ends_early_is_a_bug_of_its_own_job(open_local: Open, tmp_path: Path) -> None:
    found = by_id(open_local(workers=1).run(spec(tmp_path, "Together"), [job("a"), job("b", "skip")]))
    assert found["a"].value is not None
    assert found["b"].failure is not None
    assert "returned NoneType; a worker returns a dict" in found["b"].failure[1]


def test_a_hang_is_timed_by_job_and_its_neighbours_are_done(open_pool: Open, tmp_path: Path) -> None:
    jobs = [job("hangs", "sleep=60"), *[job(f"slow{number}", "sleep=0.5") for number in range(4)]]
    found = by_id(open_pool(deadline_s=1.5, workers=1).run(spec(tmp_path, most=6), jobs))
    assert failures(found) == {"hangs": FailureClass.TIMEOUT}, "four slow ones take longer than the deadline together"
    assert len(found) == 5


def test_jobs_done_at_once_have_as_many_times_the_deadline(open_local: Open, tmp_path: Path) -> None:
    together = spec(tmp_path).model_copy(update={"jobs_at_once": 3})
    jobs = [job("a", "sleep=1.5"), job("b"), job("c"), job("d")]
    found = by_id(open_local(deadline_s=1.0, workers=1).run(together, jobs))
    assert failures(found) == {}, "three deadlines passed for the first three"
    assert len(list(tmp_path.glob("loaded-*"))) == 1


def test_messages_are_full_and_shrink_towards_the_end(open_local: Open, tmp_path: Path) -> None:
    found = by_id(open_local().run(spec(tmp_path, "Together", most=8), [job(f"j{number}") for number in range(30)]))
    sizes = Counter(map(int, (tmp_path / "messages").read_text().split()))
    assert len(found) == 30
    assert sizes.total() < 12
    assert sizes[8] >= 1, "a message holds what its worker takes"
    assert sizes[1] >= 1, "at the end the jobs are shared out"


def test_jobs_that_go_alone_share_no_message(open_local: Open, tmp_path: Path) -> None:
    jobs = [Job(name, {"name": name}, alone=name in "cf") for name in "abcdefgh"]
    found = by_id(open_local(workers=1).run(spec(tmp_path, "Together", most=8), jobs))
    assert len(found) == 8
    assert (tmp_path / "messages").read_text().split() == ["2", "1", "2", "1", "2"]


def test_messages_hold_what_a_worker_s_share_of_memory_holds(open_local: Open, tmp_path: Path) -> None:
    jobs = [job(f"j{number}", num_bytes=40) for number in range(12)] + [job("big", num_bytes=1000)]
    found = by_id(open_local(max_in_flight_bytes=200).run(spec(tmp_path, "Together", most=8), jobs))
    assert len(found) == 13
    assert max(map(int, (tmp_path / "messages").read_text().split())) == 2


def test_what_lacks_memory_among_others_is_done_alone(open_pool: Open, tmp_path: Path) -> None:
    jobs = [job("crowded", "crowded"), job("never", "crowded=always"), *[job(f"g{number}") for number in range(5)]]
    found = by_id(open_pool(workers=1).run(spec(tmp_path, "Together"), jobs))
    assert len(found) == 7
    assert (found["crowded"].value, found["crowded"].crowded) == ({"name": "crowded", "of": 1}, False)
    assert (found["never"].value, found["never"].crowded) == ({"name": "never", "of": 1}, True)


def test_workers_are_replaced_after_so_many_jobs(open_pool: Open, tmp_path: Path) -> None:
    found = by_id(open_pool(workers=1, recycle_after=3).run(spec(tmp_path, most=1), [job(f"j{n}") for n in range(7)]))
    pids = Counter(attempt.value["pid"] for attempt in found.values() if attempt.value)
    assert sorted(pids.values()) == [1, 3, 3]


def test_workers_that_grow_too_large_are_replaced(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(workers=1, recycle_resident_mb=400)
    jobs = [job("small"), job("same"), job("grows", f"hold={500 * 2**20}"), job("fresh")]
    found = {name: attempt.value for name, attempt in by_id(pool.run(spec(tmp_path, most=1), jobs)).items()}
    pids = [value["pid"] for value in map(found.get, ("small", "same", "grows", "fresh")) if value]
    assert pids[0] == pids[1] == pids[2] != pids[3]


def test_local_workers_take_gpus_in_turns_also_after_a_death(open_local: Open, tmp_path: Path) -> None:
    pool = open_local(workers=3, gpus=(0, 5))
    jobs = [job(f"j{number}", "sleep=0.6") for number in range(3)]
    found = by_id(pool.run(spec(tmp_path, most=1), jobs))
    taken = Counter(attempt.value["gpus"] for attempt in found.values() if attempt.value)
    assert taken == {"0": 2, "5": 1}
    again = by_id(pool.run(spec(tmp_path, most=1), [job("dies", "once:kill"), *jobs]))
    assert {attempt.value["gpus"] for attempt in again.values() if attempt.value} == {"0", "5"}


def test_settings_of_the_other_engine_are_refused() -> None:
    with pytest.raises(ValidationError, match="with ray say gpus_per_worker"):
        PoolConfig(engine="ray", gpus=(0,))
    with pytest.raises(ValidationError, match="with local say gpus"):
        PoolConfig(engine="local", gpus_per_worker=0.5)
