"""Items through a net, some at once: as many as were asked for, and half as many where memory does not hold them.

size = BatchSize(16)  # kept as long as the net is
parts = in_batches(size, lambda some: net(some), items)
"""

import gc
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)


class Sliced(Protocol):
    """A list, an array, a range: what has a length and parts of its own kind."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Any: ...


ItemsT = TypeVar("ItemsT", bound=Sliced)
ResultT = TypeVar("ResultT")


class BatchSize:
    """How many items are tried at once: so many at most, and no more than were found to fit."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"batches of {most}: expected one item or more")
        self.items = most


def in_batches(size: BatchSize, run: Callable[[ItemsT], ResultT], items: ItemsT) -> list[ResultT]:
    """What `run` says of each batch, in order. `size` remembers what fitted.

    Raises what `run` raises; that memory ran out, only where it did so over one item alone.
    """
    found: list[ResultT] = []
    begin = 0
    while begin < len(items):
        part: ItemsT = items[begin : begin + size.items]
        said = _tried(run, part)
        if said is None:
            size.items = len(part) // 2
            _release()
            continue
        found += said
        begin += len(part)
    return found


def _tried(run: Callable[[ItemsT], ResultT], part: ItemsT) -> list[ResultT] | None:
    """The answer, or None where memory ran out. The exception is gone afterwards: it would hold on to memory."""
    try:
        return [run(part)]
    except OUT_OF_MEMORY:
        if len(part) == 1:
            raise
        return None


def _release() -> None:
    """Give back what the failed batch held."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
