"""Decodes ahead: while a clip is encoded, a thread reads the next ones, in order and within a bound on memory."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar


class Sized(Protocol):
    """What a reading leaves in memory."""

    @property
    def num_bytes(self) -> int:
        """Its size."""
        ...


ItemT = TypeVar("ItemT", bound=Sized)


class ReadAhead(Generic[ItemT]):
    """Results of functions, in their order, each called by one thread of its own; an exception stands for itself.

        with ReadAhead(reads, bound_bytes=2**30) as ahead:
            for chunk in ahead.chunks(4):
                ...

    Reading pauses while what was read and not yet released takes the bound: at most one reading goes beyond it.
    """

    def __init__(self, reads: Iterable[Callable[[], ItemT]], bound_bytes: int) -> None:
        self.bound_bytes = bound_bytes
        self._reads = deque(reads)
        self._left = len(self._reads)  # not taken yet
        self._held_bytes = 0
        self._ready: deque[ItemT | Exception] = deque()
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="decode ahead", daemon=True)

    def chunks(self, most: int) -> Iterator[list[ItemT | Exception]]:
        """Consecutive results, `most` at a time, or fewer where they take half of the bound. A chunk is released when
        the next one is asked for: keep nothing of it. The chunks do not depend on how fast anything is."""
        while self._left:
            chunk: list[ItemT | Exception] = []
            while self._left and len(chunk) < most and _size(chunk) < self.bound_bytes / 2:
                chunk.append(self._take())
            num_bytes = _size(chunk)
            yield chunk
            chunk.clear()
            with self._change:
                self._held_bytes -= num_bytes
                self._change.notify_all()

    def _take(self) -> ItemT | Exception:
        with self._change:
            self._change.wait_for(lambda: self._ready)
            self._left -= 1
            return self._ready.popleft()

    def _run(self) -> None:
        while self._reads:
            with self._change:
                self._change.wait_for(lambda: self._closed or self._held_bytes < self.bound_bytes)
                if self._closed:
                    return
            item = _outcome(self._reads.popleft())
            with self._change:
                self._held_bytes += _size([item])
                self._ready.append(item)
                del item  # or the thread would keep it while it reads the next
                self._change.notify_all()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join()


def _outcome(read: Callable[[], ItemT]) -> ItemT | Exception:
    try:
        return read()
    except BaseException as error:  # whoever waits for the thread must hear of it, also of SystemExit
        return error if isinstance(error, Exception) else RuntimeError(f"reading ended with {error!r}")


def _size(items: Iterable[Sized | Exception]) -> int:
    return sum(0 if isinstance(item, Exception) else item.num_bytes for item in items)
