"""Hands jobs to workers and takes answers, whatever the engine: bounded, with deadlines, every job exactly once.

A worker that dies, passes the deadline or runs out of memory makes its job a suspect. Suspects wait until everything
else is through, then run one at a time in a fresh worker: only what fails alone has failed.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dualforce_model.errors import InfrastructureError
from tasks.records import Attempt, FailureClass
from tasks.worker import Job, Reply, WorkerSpec

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

    def submit(self, message: str) -> None:
        """Hand over one job. Raises WorkerDied."""

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


@dataclass(eq=False)
class Seat:
    """A worker and what it is doing."""

    worker: Worker
    spec: WorkerSpec
    loading: bool = True
    proven: bool = False  # it has answered a job
    job: Job | None = None
    since: float = field(default_factory=time.monotonic)  # when it began to load, or to do its job

    def late(self, limits: Limits) -> bool:
        """Whether it should have answered by now."""
        return time.monotonic() > self.since + (limits.load_deadline_s if self.loading else limits.deadline_s)


class Seats:
    """The workers of a pool; they outlive a run and are warm for the next."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine = engine
        self.limits = limits
        self.all: list[Seat] = []

    def free(self, spec: WorkerSpec) -> Seat | None:
        """A worker without a job, a loaded one first; started if there is room; none if all are at work."""
        idle = [seat for seat in self.all if seat.job is None]
        own = sorted((seat for seat in idle if seat.spec == spec), key=lambda seat: seat.loading)
        if own:
            return own[0]
        if len(self.all) >= self.limits.workers:
            if not idle:
                return None
            self.drop(idle[0])  # it belongs to an earlier stage
        return self.start(spec)

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
        self.returned: deque[Job] = deque()  # taken from the source and not begun
        self.suspects: deque[tuple[Job, FailureClass]] = deque()
        self.alone: Seat | None = None  # the seat of the suspect being tried
        self.load_deaths = 0

    def attempts(self) -> Iterator[Attempt]:
        """Every job's attempt, as they come."""
        while True:
            self._hand_out()
            busy = [seat for seat in self.seats.all if seat.job is not None]
            if not busy:
                return
            found = self._listen(busy)
            self._hand_out()  # the workers go on while the caller looks at what was found
            yield from found

    def _hand_out(self) -> None:
        """Give work to whoever is free; a suspect only when nobody else works."""
        if self.alone is not None:
            return
        while (job := self._next_job()) is not None:
            seat = self.seats.free(self.spec) if self._fits(job) else None
            if seat is None:
                self.returned.appendleft(job)
                return
            self._assign(seat, job)
        if self.suspects and not any(seat.job for seat in self.seats.all):
            job, failure = self.suspects.popleft()
            self.alone = self._fresh(failure)
            self._assign(self.alone, job)

    def _next_job(self) -> Job | None:
        if self.returned:
            return self.returned.popleft()
        if all(seat.job for seat in self.seats.all) and len(self.seats.all) >= self.limits.workers:
            return None  # the list may be endless: take a job only when there is a hand for it
        return next(self.source, None)

    def _fits(self, job: Job) -> bool:
        flying = [seat.job.num_bytes for seat in self.seats.all if seat.job]
        return not flying or sum(flying) + job.num_bytes <= self.limits.in_flight_bytes

    def _fresh(self, failure: FailureClass) -> Seat:
        """A worker for one suspect. Unless it merely took too long, it gets the machine's memory to itself."""
        if failure != FailureClass.TIMEOUT:
            self.seats.clear()
        while len(self.seats.all) >= self.limits.workers:
            self.seats.drop(self.seats.all[0])
        return self.seats.start(self.spec)

    def _assign(self, seat: Seat, job: Job) -> None:
        seat.job = job
        if not seat.loading:
            self._submit(seat, job)

    def _submit(self, seat: Seat, job: Job) -> None:
        seat.since = time.monotonic()
        try:
            seat.worker.submit(job.message())
        except WorkerDied:  # it died idle: the job did nothing to it
            self._withdraw(seat, "it died before its first job")

    def _listen(self, busy: list[Seat]) -> list[Attempt]:
        """Wait for an answer or a deadline; deadlines count only for those that are silent."""
        by_worker = {id(seat.worker): seat for seat in busy}
        ends = [seat.since + (self.limits.load_deadline_s if seat.loading else self.limits.deadline_s) for seat in busy]
        timeout_s = min(max(0.0, min(ends) - time.monotonic()), LOOK_S)
        heard = [by_worker[id(worker)] for worker in self.seats.engine.wait([seat.worker for seat in busy], timeout_s)]
        late = [seat for seat in busy if seat not in heard and seat.late(self.limits)]
        found = [self._hear(seat) for seat in heard] + [self._expire(seat) for seat in late]
        return [attempt for attempt in found if attempt is not None]

    def _hear(self, seat: Seat) -> Attempt | None:
        try:
            reply = Reply.model_validate_json(seat.worker.receive())
        except WorkerDied as death:
            return self._lost(seat, death.failure, death.detail)
        assert seat.job is not None, "only seats with a job are listened to"
        if seat.loading:
            if reply.unusable is not None:
                raise WorkerUnusable(f"{self.spec.target} cannot be loaded:\n{reply.unusable}")
            seat.loading = False
            self._submit(seat, seat.job)
            return None
        assert reply.attempt is not None, "a loaded worker answers with attempts"
        if reply.attempt.failure is not None and reply.attempt.failure[0] == FailureClass.OUT_OF_MEMORY:
            return self._lost(seat, *reply.attempt.failure)
        seat.job, seat.proven = None, True
        self.alone, self.load_deaths = None, 0
        return reply.attempt

    def _expire(self, seat: Seat) -> Attempt | None:
        stack = seat.worker.stack()
        if seat.loading:
            raise WorkerUnusable(f"{self.spec.target} did not load within {self.limits.load_deadline_s:g} s{stack}")
        return self._lost(seat, FailureClass.TIMEOUT, f"not done after {self.limits.deadline_s:g} s, and killed{stack}")

    def _lost(self, seat: Seat, failure: FailureClass, detail: str) -> Attempt | None:
        """A worker is of no more use. Its job becomes a suspect, or if it was alone with it, has failed."""
        job = seat.job
        assert job is not None, "only seats with a job are listened to"
        if seat.loading:
            self._withdraw(seat, detail)
            return None
        self.seats.drop(seat)
        if seat is not self.alone:
            self.suspects.append((job, failure))
            return None
        self.alone = None
        seconds = time.monotonic() - seat.since
        return Attempt(job_id=job.job_id, failure=(failure, detail), seconds=seconds)

    def _withdraw(self, seat: Seat, detail: str) -> None:
        """Take the job back from a worker that died before it began."""
        assert seat.job is not None, "there is a job to take back"
        self.load_deaths += not seat.proven
        if self.load_deaths >= LOAD_DEATHS:
            raise WorkerUnusable(f"{self.spec.target}: {LOAD_DEATHS} workers died before any job; the last: {detail}")
        self.seats.drop(seat)
        if seat is self.alone:
            self.alone = None
            self.suspects.appendleft((seat.job, FailureClass.CRASH))
        else:
            self.returned.append(seat.job)
