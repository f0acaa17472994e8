"""Clips through workers that are built once: Ray actors, or processes on this machine, under one contract.

    with make_pool(PoolConfig(engine="local", workers=2)) as pool:
        for attempt in pool.run(WorkerSpec(target="tasks.curation:Curator", kwargs={...}), jobs):
            ...

Every job comes back exactly once, in any order; `tasks.dispatch` has the rules. This is the only module that knows Ray.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dualforce_model.config import Frozen
from tasks.dispatch import Dispatch, Engine, Limits, Seats, WorkerDied, WorkerUnusable
from tasks.local_engine import LocalEngine
from tasks.records import Attempt, FailureClass
from tasks.scratch import scratch_folder
from tasks.worker import Job, Performer, WorkerSpec

__all__ = ["Job", "Pool", "PoolConfig", "WorkerSpec", "WorkerUnusable", "make_pool"]

# Read by Ray's own processes: no usage reports, no token written to the home folder, GPUs visible to every actor.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


NODES_EVERY_S = 5.0  # a silent Ray is asked whether it lives


class PoolConfig(Frozen):
    """Which engine runs the workers, how many, and what a job may cost."""

    engine: Literal["ray", "local"] = Field(
        "local", description="local: processes here; ray: actors, here or on a cluster"
    )
    workers: int = Field(2, ge=1, le=4096, description="worker processes")
    deadline_s: float = Field(600.0, gt=0.0, le=86400.0, description="a job that takes longer is killed")
    load_deadline_s: float = Field(900.0, gt=0.0, le=86400.0, description="a worker that loads longer ends the run")
    max_in_flight_bytes: int | None = Field(
        None,
        ge=1,
        description="memory of all jobs being done; a larger job goes alone. None: half of this machine's memory; with "
        "a cluster's address no bound but the number of workers",
    )
    address: str | None = Field(
        None, max_length=255, description="Ray cluster to join; none: Ray is started here, and ended"
    )
    object_store_mb: int = Field(
        80, ge=80, le=1_000_000, description="Ray's shared memory when it is started here, MiB"
    )
    gpus_per_worker: float = Field(
        0.0,
        ge=0.0,
        le=8.0,
        description="ray: GPU share of a worker, 0.25 for four workers to a GPU; 0: it sees every GPU",
    )
    gpus: tuple[Annotated[int, Field(ge=0, le=1023)], ...] = Field(
        (),
        max_length=1024,
        description="local: GPUs by number that workers take in turns, more workers than GPUs share them; none: every "
        "worker sees every GPU",
    )
    recycle_after: int | None = Field(
        None,
        ge=1,
        description="jobs after which a worker is replaced by a fresh one, once its message is done; none: never",
    )
    recycle_resident_mb: int | None = Field(
        None,
        ge=64,
        description="MiB of resident memory beyond which a worker is replaced between messages; well above what it has "
        "when loaded, or every message loads anew; none: never",
    )

    @model_validator(mode="after")
    def _of_the_engine(self) -> Self:
        if self.engine == "ray" and self.gpus:
            raise ValueError(f"gpus {list(self.gpus)} are for engine local; with ray say gpus_per_worker")
        if self.engine == "local" and self.gpus_per_worker:
            raise ValueError(f"gpus_per_worker {self.gpus_per_worker:g} is for engine ray; with local say gpus")
        return self

    @property
    def in_flight_bytes(self) -> int:
        """The bound on memory that holds."""
        if self.max_in_flight_bytes is not None:
            return self.max_in_flight_bytes
        if self.address is not None:
            return sys.maxsize
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


class Pool:
    """Workers of one flow run. They stay warm between runs of the same spec; another spec takes their place."""

    def __init__(self, config: PoolConfig, engine: Engine) -> None:
        limits = Limits(
            config.workers,
            config.deadline_s,
            config.load_deadline_s,
            config.in_flight_bytes,
            config.recycle_after,
            None if config.recycle_resident_mb is None else config.recycle_resident_mb * 2**20,
        )
        self._seats = Seats(engine, limits)
        self._running = False

    def run(self, spec: WorkerSpec, jobs: Iterable[Job]) -> Generator[Attempt, None, None]:
        """Attempts at all jobs, each exactly once, in any order. Jobs are taken from the iterable as workers fall free.

        An iterator that has none for the moment is asked again after every answer; the run ends when it has none and
        no job is left.

        Raises WorkerUnusable if the worker cannot be loaded. Leaving the loop early kills the workers.
        """
        if self._running:
            raise RuntimeError("the pool is in the middle of a run; finish or close that one first")
        self._running = True
        done = False
        try:
            yield from Dispatch(self._seats, spec, jobs).attempts()
            done = True
        finally:
            self._running = False
            if not done:
                self._seats.clear()

    def close(self) -> None:
        """Kill the workers."""
        self._seats.clear()


@contextmanager
def make_pool(config: PoolConfig) -> Iterator[Pool]:
    """A pool for the block. Ray takes seconds to start, and does so here; nothing of it is left after the block."""
    with ExitStack() as stack:
        engine: Engine = LocalEngine(config.gpus) if config.engine == "local" else stack.enter_context(_ray(config))
        pool = Pool(config, engine)
        stack.callback(pool.close)
        yield pool


@contextmanager
def _interruptible() -> Iterator[None]:
    """What a signal handler raises while Ray's compiled code runs comes out as SystemError; raise it as it was."""
    try:
        yield
    except SystemError as error:
        if error.__cause__ is None or isinstance(error.__cause__, Exception):
            raise
        raise error.__cause__ from None  # KeyboardInterrupt, SystemExit, or what Prefect makes of SIGTERM


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Starting, Ray turns SIGTERM into sys.exit. Put our handler back, and hand it a signal that came meanwhile."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        _handle_sigterm(ours)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        _handle_sigterm(ours)


def _handle_sigterm(handler: Any) -> None:
    """Set the handler where Python allows it, which is where Ray may have changed it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


class RayWorker:
    """One actor, seen from the driver."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        with _interruptible():
            self._answers = deque([actor.load.remote()])

    @property
    def answer(self) -> Any:
        """The answer that comes next."""
        return self._answers[0]

    def submit(self, message: str, count: int) -> None:
        """Hand over jobs and ask for all answers; a dead actor is noticed when the first is looked at."""
        with _interruptible():
            self._actor.begin.remote(message)
            self._answers.extend(self._actor.answer.remote() for _ in range(count))

    def receive(self) -> str:
        """The actor's next answer."""
        import ray

        try:
            with _interruptible():
                return str(ray.get(self._answers.popleft()))
        except ray.exceptions.OutOfMemoryError as error:  # Ray's memory monitor ended it
            raise WorkerDied(str(error), FailureClass.OUT_OF_MEMORY) from error
        except ray.exceptions.RayError as error:
            raise WorkerDied(f"{type(error).__name__}: {error}") from error

    def stack(self) -> str:
        """Ray does not tell."""
        return ""

    def kill(self) -> None:
        """End the actor's process."""
        import ray

        with _interruptible():
            ray.kill(self._actor, no_restart=True)


class RayEngine:
    """Starts actors on the Ray that this process is connected to."""

    def __init__(self, gpus_per_worker: float) -> None:
        import ray

        self._actors = ray.remote(Performer).options(
            num_cpus=1, num_gpus=gpus_per_worker, max_restarts=0, max_task_retries=0
        )
        self._looked_at = time.monotonic()

    def start(self, spec: WorkerSpec) -> RayWorker:
        """Create an actor; it loads as soon as the cluster has room for it."""
        with _interruptible():
            return RayWorker(self._actors.remote(spec.model_dump_json(), [path for path in sys.path if path]))

    def wait(self, workers: Sequence[RayWorker], timeout_s: float) -> list[RayWorker]:
        """Those whose answer, or death, is known."""
        import ray

        by_answer = {worker.answer: worker for worker in workers}
        with _interruptible():
            ray.wait(list(by_answer), num_returns=1, timeout=timeout_s)
            ready, _ = ray.wait(list(by_answer), num_returns=len(by_answer), timeout=0)  # all, not just the first
        if not ready and time.monotonic() - self._looked_at > NODES_EVERY_S:
            self._looked_at = time.monotonic()
            with _interruptible():
                living = any(node["Alive"] for node in ray.nodes())
            if not living:  # actors asked for now would be waited for until the deadline for loading
                raise WorkerUnusable("Ray has no living node left; what was done is kept: run the same again")
        return [by_answer[answer] for answer in ready]


@contextmanager
def _ray(config: PoolConfig) -> Iterator[RayEngine]:
    """Ray for the block: the one this process is connected to already, a cluster, or a private one on this machine."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray  # two seconds, and only this engine needs it

    if ray.is_initialized():
        yield RayEngine(config.gpus_per_worker)
        return
    settings: dict[str, Any] = {"address": config.address}
    with ExitStack() as stack:
        if config.address is None:
            settings = {
                "address": "local",
                "num_cpus": config.workers,
                "object_store_memory": config.object_store_mb * 2**20,
                "include_dashboard": False,
                "_temp_dir": str(stack.enter_context(scratch_folder("ray"))),
            }
        stack.callback(ray.shutdown)  # harmless when it did not come up
        with _own_sigterm(), _interruptible():
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **settings)
        yield RayEngine(config.gpus_per_worker)
