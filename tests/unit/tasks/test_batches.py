"""Batches: every job is handed out once and told of by one batch, and workers are kept busy across their borders."""

from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tasks.batches import MOST_TASK_RUNS, Batches
from tasks.work import Target
from tasks.worker import Job


def batched(
    clips_of_jobs: Sequence[int], size: int, ahead: int, seconds: Sequence[float] = (), runs: int = MOST_TASK_RUNS
) -> Batches:
    """Jobs j0, j1, ... that serve so many clips each."""
    names = [f"j{number}" for number in range(len(clips_of_jobs))]
    serving = {
        name: tuple(Target(f"{name}-{clip}", "k") for clip in range(count))
        for name, count in zip(names, clips_of_jobs, strict=True)
    }
    jobs = [Job(name, {}, seconds=seconds[number] if seconds else 0.0) for number, name in enumerate(names)]
    return Batches(iter(jobs), serving, sum(clips_of_jobs), size, ahead, runs)


def through(found: Batches, workers: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Jobs as workers were handed them, and the batches as they were told of; answers come in any order."""
    chance, handed, told = Random(seed), list[str](), list[list[str]]()
    flying: list[str] = []
    while (batch := found.first()) is not None:
        while batch.left:
            while len(flying) < workers and (job := next(found, None)) is not None:
                flying.append(job.job_id)
                handed.append(job.job_id)
            found.answered(flying.pop(chance.randrange(len(flying))))
        told.append([job.job_id for job in batch.jobs])
        found.close()
    assert not flying
    return handed, told


@given(
    st.lists(st.integers(1, 4), max_size=40), st.integers(1, 9), st.integers(0, 40), st.integers(1, 9), st.integers(0)
)
def test_every_job_is_handed_out_once_and_told_of_once_in_order(
    clips: list[int], size: int, ahead: int, workers: int, seed: int
) -> None:
    handed, told = through(batched(clips, size, ahead), workers, seed)
    assert handed == [name for batch in told for name in batch] == [f"j{number}" for number in range(len(clips))]
    assert all(told)


def test_a_batch_is_full_with_its_clips_and_a_job_is_never_cut() -> None:
    found = batched([1, 3, 3, 1, 2, 1], size=4, ahead=0)
    spans = []
    while (batch := found.first()) is not None:
        spans.append((len(batch.jobs), batch.first, batch.last))
        for job in batch.jobs:
            next(found)
            found.answered(job.job_id)
        found.close()
    assert spans == [(2, 1, 4), (2, 5, 8), (2, 9, 11)]


def test_workers_are_given_the_next_batch_while_the_last_clip_of_one_is_made() -> None:
    found = batched([1] * 20, size=4, ahead=3)
    assert found.first() is not None
    handed = [job.job_id for job in found]
    assert handed == [f"j{number}" for number in range(16)], "four batches are open"
    for name in handed[1:]:
        found.answered(name)
    assert next(found, None) is None, "no fifth while the first has a straggler: it is told of before long"
    found.answered("j0")
    found.close()
    assert [job.job_id for job in found] == [f"j{number}" for number in range(16, 20)]


def test_as_many_batches_are_open_as_workers_need() -> None:
    assert len(list(batched([1] * 100, size=4, ahead=30))) == 32
    assert len(list(batched([100] * 200, size=128, ahead=64))) == 66, "also where a job serves many clips"


def test_half_an_hour_of_media_fills_a_batch() -> None:
    found = batched([1] * 6, size=4, ahead=0, seconds=[900.0] * 6)
    assert [len(jobs) for jobs in through(found, 1, 0)[1]] == [2, 2, 2]


def test_there_are_no_more_task_runs_than_the_server_bears() -> None:
    _, many = through(batched([1] * 103, size=4, ahead=8, runs=5), 3, 0)
    assert [len(jobs) for jobs in many] == [21, 21, 21, 21, 19], "clips beyond the setting"
    _, long = through(batched([1] * 18, size=4, ahead=8, seconds=[3600.0] * 18, runs=5), 3, 0)
    assert len(long) <= 5, "media beyond half an hour"
    assert max(map(len, long)) <= 4
