"""What happens inside a worker process, the same for both engines: build once, load once, answer jobs one by one.

Everything that crosses the process boundary is JSON: no pickle, no frames, and equal values whatever the engine.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, Field, TypeAdapter, field_validator
from pydantic_core import to_jsonable_python

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

    @field_validator("kwargs", mode="before")
    @classmethod
    def _plain(cls, kwargs: Any) -> Any:
        return to_jsonable_python(kwargs)


@dataclass(frozen=True, slots=True)
class Job:
    """One item of work. `num_bytes` is the memory it may need, for the bound on bytes in flight."""

    job_id: str
    payload: BaseModel | Mapping[str, Any]
    num_bytes: int = 0

    def message(self) -> str:
        """The job as the worker reads it."""
        return json.dumps({"job_id": self.job_id, "payload": to_jsonable_python(self.payload)})


class Reply(Frozen):
    """What a worker says: ready (nothing set), unusable (`load` failed: the traceback), or the attempt at a job."""

    unusable: str | None = None
    attempt: Attempt | None = None


class Performer:
    """A worker's inside. Built in the worker process, never in ours."""

    def __init__(self, spec: str, paths: list[str]) -> None:
        self._spec = WorkerSpec.model_validate_json(spec)
        self._worker: Callable[[Any], Any] | None = None
        self._payload: TypeAdapter[Any] = TypeAdapter(dict[str, Any])
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
            return Reply(unusable=_traceback()).model_dump_json()
        return Reply().model_dump_json()

    def perform(self, message: str) -> str:
        """Answer one job; whatever it raises becomes an outcome."""
        job = json.loads(message)
        start = time.perf_counter()
        try:
            attempt = Attempt(job_id=job["job_id"], value=self._value(job["payload"]))
        except BaseException as error:  # every outcome is an answer, also SystemExit
            attempt = _outcome(job["job_id"], error)
        seconds = time.perf_counter() - start
        return Reply(attempt=attempt.model_copy(update={"seconds": seconds})).model_dump_json()

    def _value(self, payload: Any) -> dict[str, Any]:
        assert self._worker is not None, "load() comes first"
        value = self._worker(self._payload.validate_python(payload))
        if not isinstance(value, dict):
            raise TypeError(f"{self._spec.target} returned {type(value).__name__}; a worker returns a dict")
        text = canonical_json(to_jsonable_python(value))  # refuses NaN, which JSON cannot carry
        if len(text) > REPLY_CHARS:
            raise ValueError(
                f"{self._spec.target} returned {len(text)} characters; write the data to a file and return its path"
            )
        return dict(json.loads(text))


def _payload_adapter(target: Any) -> TypeAdapter[Any]:
    """Validates what the worker's `__call__` says it takes; without a hint, a dict."""
    hints = [hint for name, hint in get_type_hints(target.__call__).items() if name != "return"]
    return TypeAdapter(hints[0] if hints else dict[str, Any])


def _outcome(job_id: str, error: BaseException) -> Attempt:
    if isinstance(error, Impossible):
        return Attempt(job_id=job_id, impossible=(error.reason, _clean(error.measured)), preview=error.preview)
    return Attempt(job_id=job_id, failure=(_failure_class(error), _traceback()), systemic=_systemic(error))


def _systemic(error: BaseException) -> bool:
    """Whether the next clip would fail alike."""
    if isinstance(error, Temporary):
        return error.systemic
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def _failure_class(error: BaseException) -> FailureClass:
    if isinstance(error, Temporary):
        return error.failure
    # torch's and Ray's own out-of-memory errors are known by name, so that this module needs neither
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return FailureClass.OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in _DISK:
        return FailureClass.DISK
    return FailureClass.BUG


def _traceback() -> str:
    return _clean(traceback.format_exc())[-TRACEBACK_CHARS:]


def _clean(text: str) -> str:
    """Text that survives UTF-8: names of hostile files may hold lone surrogates."""
    return text.encode("utf-8", "replace").decode()
