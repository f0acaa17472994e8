"""Hands jobs to workers and takes answers, whatever the engine: bounded, with deadlines, every job exactly once.

A message holds one job, or several where the worker says so; each is answered for itself. A worker that dies or passes
the deadline with several jobs unanswered has them handed out again in messages of their own; with one, or out of
memory over one, it makes that job a suspect. Suspects wait until everything else is through, then run one at a time in
a fresh worker: only what fails alone has failed.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dualforce_model.errors import InfrastructureError
from tasks.records import Attempt, FailureClass
from tasks.worker import Job, Reply, WorkerSpec, message_of

log = logging.getLogger(__name__)

LOAD_DEATHS = 3  # workers that may die one after another while loading before the run is given up
LOOK_S = 1.0  # longest silent wait, so that Ctrl-C is noticed


class WorkerDied(Exception):
    """A worker process ended, or cannot be reached any more, without an answer."""

    def __init__(self, detail: str, failure: FailureClass = FailureClass.CRASH) -> None:
        super().__init__(detail)
        self.detail = detail
        self.failure = failure


class WorkerUnusable(InfrastructureError):
    """No worker can be had: its class cannot be built or loaded. Said once, before any job is charged for it."""


class Worker(Protocol):
    """One worker process, seen from the driver."""

    def submit(self, message: str, count: int) -> None:
        """Hand over a message of some jobs, as many as it will answer. Raises WorkerDied."""

    def receive(self) -> str:
        """The next reply of a worker that `Engine.wait` named. Raises WorkerDied."""

    def stack(self) -> str:
        """Where a silent worker is stuck, as far as the engine can tell; else empty."""

    def kill(self) -> None:
        """End it at once. Harmless when it is gone."""


class Engine(Protocol):
    """Starts workers and waits for them."""

    def start(self, spec: WorkerSpec) -> Any:
        """Start a worker; it loads at once and replies when ready."""

    def wait(self, workers: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those that have something to say, or are dead, after at most `timeout_s`."""


@dataclass(frozen=True)
class Limits:
    """What a run may use."""

    workers: int
    deadline_s: float
    load_deadline_s: float
    in_flight_bytes: int
    recycle_after: int | None = None  # jobs
    recycle_bytes: int | None = None  # resident

    @property
    def share_bytes(self) -> int:
        """What one of several workers may hold in jobs of one message."""
        return self.in_flight_bytes // self.workers


@dataclass(eq=False)
class Seat:
    """A worker and what it is doing."""

    worker: Worker
    spec: WorkerSpec
    loading: bool = True
    answered: int = 0  # jobs
    jobs: deque[Job] = field(default_factory=deque)  # of its message, not answered yet
    since: float = field(default_factory=time.monotonic)  # when it began to load, to do its message, or last answered

    def allowed_s(self, limits: Limits) -> float:
        """How long it may be silent: jobs that are done together are answered together."""
        together = min(self.spec.jobs_at_once, len(self.jobs))
        return limits.load_deadline_s if self.loading else limits.deadline_s * together

    def deadline(self, limits: Limits) -> float:
        """When it should have answered."""
        return self.since + self.allowed_s(limits)


class Seats:
    """The workers of a pool; they outlive a run and are warm for the next."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine = engine
        self.limits = limits
        self.all: list[Seat] = []

    def free(self, spec: WorkerSpec) -> Seat | None:
        """A worker without a job, a loaded one first; started if there is room; none if all are at work."""
        idle = [seat for seat in self.all if not seat.jobs]
        own = sorted((seat for seat in idle if seat.spec == spec), key=lambda seat: seat.loading)
        if own:
            return own[0]
        if len(self.all) >= self.limits.workers:
            if not idle:
                return None
            self.drop(idle[0])  # it belongs to an earlier stage
        return self.start(spec)

    @property
    def busy(self) -> list[Seat]:
        """Workers with something to answer."""
        return [seat for seat in self.all if seat.jobs]

    @property
    def full(self) -> bool:
        """Whether every worker that there may be is at work."""
        return len(self.all) >= self.limits.workers and all(seat.jobs for seat in self.all)

    def start(self, spec: WorkerSpec) -> Seat:
        """One more worker."""
        seat = Seat(self.engine.start(spec), spec)
        self.all.append(seat)
        return seat

    def drop(self, seat: Seat) -> None:
        """Kill a worker."""
        self.all.remove(seat)
        seat.worker.kill()

    def clear(self) -> None:
        """Kill every worker."""
        while self.all:
            self.drop(self.all[-1])


class Dispatch:
    """One run of jobs through the seats."""

    def __init__(self, seats: Seats, spec: WorkerSpec, jobs: Iterable[Job]) -> None:
        self.seats, self.spec, self.limits = seats, spec, seats.limits
        self.source = iter(jobs)
        self.queue: deque[Job] = deque()  # taken from the source and not begun
        self.wary: set[str] = set()  # jobs that were with others when their worker was lost: in messages of their own
        self.suspects: deque[tuple[Job, FailureClass]] = deque()
        self.alone: Seat | None = None  # the seat of the suspect being tried
        self.load_deaths = 0

    def attempts(self) -> Iterator[Attempt]:
        """Every job's attempt, as they come."""
        while True:
            self._hand_out()
            busy = self.seats.busy
            if not busy:
                return
            found = self._listen(busy)
            self._hand_out()  # the workers go on while the caller looks at what was found
            yield from found

    def _hand_out(self) -> None:
        """Give work to whoever is free; a suspect only when nobody else works."""
        if self.alone is not None:
            return
        while jobs := self._next_jobs():
            seat = self.seats.free(self.spec) if self._fits(jobs) else None
            if seat is None:
                self._put_back(jobs)
                return
            self._assign(seat, jobs)
        if self.suspects and not self.seats.busy:
            job, failure = self.suspects.popleft()
            self.alone = self._fresh(failure)
            self._assign(self.alone, [job])

    def _next_jobs(self) -> list[Job]:
        """Jobs for one message: as many as its worker takes, and towards the end no more than there are for each."""
        if self.seats.full:
            return []  # the list may be endless: take jobs only when there is a hand for them
        most = self.spec.jobs_per_message
        ahead = self.limits.workers * most if most > 1 else 1
        while len(self.queue) < ahead and (job := next(self.source, None)) is not None:
            self.queue.append(job)
        if not self.queue:
            return []
        most = min(most, -(-len(self.queue) // self.limits.workers))
        jobs = [self.queue.popleft()]
        if self._goes_alone(jobs[0]):
            return jobs
        num_bytes = jobs[0].num_bytes
        while len(jobs) < most and self.queue and not self._goes_alone(self.queue[0]):
            num_bytes += self.queue[0].num_bytes
            if num_bytes > self.limits.share_bytes:
                break
            jobs.append(self.queue.popleft())
        return jobs

    def _goes_alone(self, job: Job) -> bool:
        return job.alone or job.job_id in self.wary

    def _put_back(self, jobs: Sequence[Job]) -> None:
        self.queue.extendleft(reversed(jobs))

    def _fits(self, jobs: Sequence[Job]) -> bool:
        flying = [job.num_bytes for seat in self.seats.all for job in seat.jobs]
        return not flying or sum(flying) + sum(job.num_bytes for job in jobs) <= self.limits.in_flight_bytes

    def _fresh(self, failure: FailureClass) -> Seat:
        """A worker for one suspect. Unless it merely took too long, it gets the machine's memory to itself."""
        if failure != FailureClass.TIMEOUT:
            self.seats.clear()
        while len(self.seats.all) >= self.limits.workers:
            self.seats.drop(self.seats.all[0])
        return self.seats.start(self.spec)

    def _assign(self, seat: Seat, jobs: Sequence[Job]) -> None:
        seat.jobs.extend(jobs)
        if not seat.loading:
            self._submit(seat)

    def _submit(self, seat: Seat) -> None:
        seat.since = time.monotonic()
        try:
            seat.worker.submit(message_of(seat.jobs), len(seat.jobs))
        except WorkerDied:  # it died idle: the jobs did nothing to it
            self._withdraw(seat, "it died before its first job")

    def _listen(self, busy: list[Seat]) -> list[Attempt]:
        """Wait for an answer or a deadline; deadlines count only for those that are silent."""
        by_worker = {id(seat.worker): seat for seat in busy}
        first = min(seat.deadline(self.limits) for seat in busy)
        timeout_s = min(max(0.0, first - time.monotonic()), LOOK_S)
        heard = [by_worker[id(worker)] for worker in self.seats.engine.wait([seat.worker for seat in busy], timeout_s)]
        late = [seat for seat in busy if seat not in heard and time.monotonic() > seat.deadline(self.limits)]
        found = [self._hear(seat) for seat in heard] + [self._expire(seat) for seat in late]
        return [attempt for attempt in found if attempt is not None]

    def _hear(self, seat: Seat) -> Attempt | None:
        try:
            reply = Reply.model_validate_json(seat.worker.receive())
        except WorkerDied as death:
            return self._lost(seat, death.failure, death.detail)
        assert seat.jobs, "only seats with a job are listened to"
        if seat.loading:
            if reply.unusable is not None:
                raise WorkerUnusable(f"{self.spec.target} cannot be loaded:\n{reply.unusable}")
            seat.loading = False
            self._submit(seat)
            return None
        attempt = reply.attempt
        assert attempt is not None, "a loaded worker answers with attempts"
        assert attempt.job_id == seat.jobs[0].job_id, "jobs are answered in their order"
        short = attempt.failure is not None and attempt.failure[0] == FailureClass.OUT_OF_MEMORY
        if short or attempt.crowded:
            return self._short(seat, attempt)
        seat.jobs.popleft()
        seat.since, seat.answered = time.monotonic(), seat.answered + 1
        self.alone, self.load_deaths = None, 0
        if not seat.jobs:
            self._recycle(seat, reply.resident_bytes)
        return attempt

    def _recycle(self, seat: Seat, resident_bytes: int) -> None:
        """End a worker that has done enough or grown too large; the next message starts another."""
        after, most = self.limits.recycle_after, self.limits.recycle_bytes
        if most is not None and resident_bytes > most:
            log.info("a worker holds %d MiB after %d jobs and is replaced", resident_bytes >> 20, seat.answered)
            self.seats.drop(seat)
        elif after is not None and seat.answered >= after:
            self.seats.drop(seat)

    def _short(self, seat: Seat, attempt: Attempt) -> Attempt | None:
        """Memory ran out over a job. The others of its message did nothing; this one is tried again with all of it."""
        job, *others = seat.jobs
        self.seats.drop(seat)
        if seat is self.alone:
            self.alone = None
            return attempt
        self._put_back(others)
        self.suspects.append((job, FailureClass.OUT_OF_MEMORY))
        return None

    def _expire(self, seat: Seat) -> Attempt | None:
        stack = seat.worker.stack()
        silent = f"{seat.allowed_s(self.limits):g} s"
        if seat.loading:
            raise WorkerUnusable(f"{self.spec.target} did not load within {silent}{stack}")
        return self._lost(seat, FailureClass.TIMEOUT, f"not done after {silent}, and killed{stack}")

    def _lost(self, seat: Seat, failure: FailureClass, detail: str) -> Attempt | None:
        """A worker is of no more use. Its only job becomes a suspect, or if it was alone with it, has failed."""
        jobs = list(seat.jobs)
        assert jobs, "only seats with a job are listened to"
        if seat.loading:
            self._withdraw(seat, detail)
            return None
        self.seats.drop(seat)
        if seat is self.alone:
            self.alone = None
            seconds = time.monotonic() - seat.since
            return Attempt(job_id=jobs[0].job_id, failure=(failure, detail), seconds=seconds)
        if len(jobs) > 1:
            self.wary.update(job.job_id for job in jobs)
            self._put_back(jobs)
        else:
            self.suspects.append((jobs[0], failure))
        return None

    def _withdraw(self, seat: Seat, detail: str) -> None:
        """Take the jobs back from a worker that died before it began."""
        self.load_deaths += not seat.answered
        if self.load_deaths >= LOAD_DEATHS:
            raise WorkerUnusable(f"{self.spec.target}: {LOAD_DEATHS} workers died before any job; the last: {detail}")
        self.seats.drop(seat)
        if seat is self.alone:
            self.alone = None
            self.suspects.appendleft((seat.jobs[0], FailureClass.CRASH))
        else:
            self._put_back(list(seat.jobs))
