"""What happens inside a worker process, the same for both engines: build once, load once, answer jobs one by one.

Everything that crosses the process boundary is JSON: no pickle, no frames, and equal values whatever the engine. A
message holds one job or several; each is answered for itself, in the order of the message.

A worker is a class whose instances take a payload and return a dict. One that gains from seeing several jobs ahead has
`batch(payloads)` too, a generator of one result for each in their order: a dict, `ShortOfMemory`, or the exception that
ended that job alone.
"""

import errno
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, get_type_hints

import psutil
from pydantic import BaseModel, Field, TypeAdapter, field_validator
from pydantic_core import to_jsonable_python

from dualforce_model.batching import is_out_of_memory
from dualforce_model.config import Frozen, canonical_json
from tasks.records import Attempt, FailureClass, Impossible, Temporary

TRACEBACK_CHARS = 8000  # the end of a traceback says most
REPLY_CHARS = 4 * 2**20  # an answer is paths and numbers; whoever returns frames is told so

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_DISK = _NO_ROOM | {errno.EIO}


class WorkerSpec(Frozen):
    """Which worker to build: a class, and JSON-able arguments that are validated against its type hints."""

    target: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="module:Class, imported in the worker")
    kwargs: dict[str, Any] = Field({}, description="arguments of the class; models and paths become JSON")
    jobs_per_message: int = Field(1, ge=1, le=256, description="most jobs that a worker is handed at a time")
    jobs_at_once: int = Field(1, ge=1, le=256, description="jobs that it does together: as many times the deadline")

    @field_validator("kwargs", mode="before")
    @classmethod
    def _plain(cls, kwargs: Any) -> Any:
        return to_jsonable_python(kwargs)


@dataclass(frozen=True, slots=True)
class Job:
    """One item of work. `num_bytes` is the memory it may need, for the bound on bytes in flight.

    One that goes `alone` shares no message: it has cost others their worker before. `seconds` of media are what it
    reads, where that is known.
    """

    job_id: str
    payload: BaseModel | Mapping[str, Any]
    num_bytes: int = 0
    alone: bool = False
    seconds: float = 0.0


def message_of(jobs: Sequence[Job]) -> str:
    """Jobs as the worker reads them."""
    return json.dumps([{"job_id": job.job_id, "payload": to_jsonable_python(job.payload)} for job in jobs])


@dataclass(frozen=True, slots=True)
class ShortOfMemory:
    """A worker's result that lacks something for want of memory: the job is tried once more, alone."""

    value: dict[str, Any]


class Reply(Frozen):
    """What a worker says: ready (nothing set), unusable (`load` failed: the traceback), or the attempt at a job."""

    unusable: str | None = None
    attempt: Attempt | None = None
    resident_bytes: int = Field(0, ge=0, description="memory of the worker process")


class Performer:
    """A worker's inside. Built in the worker process, never in ours."""

    def __init__(self, spec: str, paths: list[str]) -> None:
        self._spec = WorkerSpec.model_validate_json(spec)
        self._worker: Callable[[Any], Any] | None = None
        self._payload: TypeAdapter[Any] = TypeAdapter(dict[str, Any])
        self._jobs: deque[tuple[str, Any]] = deque()  # of the message in hand, not answered
        self._results: Iterator[Any] = iter(())
        sys.path += [path for path in paths if path not in sys.path]
        os.environ["OMP_NUM_THREADS"] = "1"  # workers are the parallelism; set before the target brings its libraries
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle

    def load(self) -> str:
        """Import, build and load the target."""
        try:
            module, _, name = self._spec.target.partition(":")
            target = getattr(importlib.import_module(module), name)
            hints = get_type_hints(target.__init__)
            adapters = {name: TypeAdapter(hints.get(name, Any)) for name in self._spec.kwargs}
            worker = target(
                **{name: adapters[name].validate_python(value) for name, value in self._spec.kwargs.items()}
            )
            if hasattr(worker, "load"):
                worker.load()
            self._payload = _payload_adapter(target)
            self._worker = worker
        except BaseException:  # the driver decides; even SystemExit must become an answer
            return Reply(unusable=last_traceback()).model_dump_json()
        return Reply().model_dump_json()

    def begin(self, message: str) -> int:
        """Take up the jobs of a message; how many answers there will be."""
        self._jobs = deque((job["job_id"], self._validated(job["payload"])) for job in json.loads(message))
        self._results = self._work()
        return len(self._jobs)

    def answer(self) -> str:
        """The next job's outcome, in the order of the message; whatever it raises becomes one."""
        job_id, payload = self._jobs.popleft()
        start = time.perf_counter()
        try:
            result = self._result(payload)
            crowded = isinstance(result, ShortOfMemory)
            attempt = Attempt(job_id=job_id, value=self._plain(result), crowded=crowded)
        except BaseException as error:  # every outcome is an answer, also SystemExit
            attempt = _outcome(job_id, error)
        seconds = time.perf_counter() - start
        if not self._jobs:
            self._results = iter(())  # lets go of what the message held, so that an idle worker is small
        resident = psutil.Process().memory_info().rss
        return Reply(attempt=attempt.model_copy(update={"seconds": seconds}), resident_bytes=resident).model_dump_json()

    def _validated(self, payload: Any) -> Any:
        """The payload as the worker takes it, or why it cannot be taken."""
        try:
            return self._payload.validate_python(payload)
        except Exception as error:
            return _Refused(error)

    def _work(self) -> Iterator[Any]:
        """Results of the jobs that are left, made as they are asked for."""
        assert self._worker is not None, "load() comes first"
        payloads = [payload for _, payload in self._jobs if not isinstance(payload, _Refused)]
        batch = getattr(self._worker, "batch", None)
        return map(self._worker, payloads) if batch is None else iter(batch(payloads))

    def _result(self, payload: Any) -> Any:
        """What the worker makes of the next job."""
        if isinstance(payload, _Refused):
            raise payload.error
        try:
            result = next(self._results, None)
        except BaseException:
            self._results = self._work()  # the others of the message are begun anew
            raise
        if isinstance(result, Exception):
            raise result
        return result

    def _plain(self, result: Any) -> dict[str, Any]:
        value = result.value if isinstance(result, ShortOfMemory) else result
        if not isinstance(value, dict):
            raise TypeError(f"{self._spec.target} returned {type(value).__name__}; a worker returns a dict")
        text = canonical_json(to_jsonable_python(value))  # refuses NaN, which JSON cannot carry
        if len(text) > REPLY_CHARS:
            raise ValueError(
                f"{self._spec.target} returned {len(text)} characters; write the data to a file and return its path"
            )
        return dict(json.loads(text))


@dataclass(frozen=True, slots=True)
class _Refused:
    """A payload that its worker does not take."""

    error: Exception


def _payload_adapter(target: Any) -> TypeAdapter[Any]:
    """Validates what the worker's `__call__` says it takes; without a hint, a dict."""
    hints = [hint for name, hint in get_type_hints(target.__call__).items() if name != "return"]
    return TypeAdapter(hints[0] if hints else dict[str, Any])


def _outcome(job_id: str, error: BaseException) -> Attempt:
    if isinstance(error, Impossible):
        return Attempt(job_id=job_id, impossible=(error.reason, _clean(error.measured)), preview=error.preview)
    return Attempt(job_id=job_id, failure=(failure_class(error), last_traceback()), systemic=is_systemic(error))


def is_systemic(error: BaseException) -> bool:
    """Whether the next clip would fail alike."""
    if isinstance(error, Temporary):
        return error.systemic
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def failure_class(error: BaseException) -> FailureClass:
    """What kind of failure an exception is."""
    if isinstance(error, Temporary):
        return error.failure
    if is_out_of_memory(error):
        return FailureClass.OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in _DISK:
        return FailureClass.DISK
    return FailureClass.BUG


def is_device_lost(error: BaseException) -> bool:
    """Whether a GPU can no longer be used by this process: after such an error every call to it fails.

    That memory ran out is told by the same classes and words, and leaves the GPU as it was.
    """
    told = any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__)
    told = told or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
    return told and not is_out_of_memory(error)


def give_up(error: BaseException) -> NoReturn:
    """End this worker's process at once; the driver finds out what it died of, as of any that dies."""
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)


def last_traceback() -> str:
    """The exception being handled, and where it came from."""
    return _clean(traceback.format_exc())[-TRACEBACK_CHARS:]


def _clean(text: str) -> str:
    """Text that survives UTF-8: names of hostile files may hold lone surrogates."""
    return text.encode("utf-8", "replace").decode()
