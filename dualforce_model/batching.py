"""Items through a net, some at once: as many as were asked for, and half as many where memory does not hold them.

size = BatchSize(16)  # kept as long as the net is
parts = in_batches(size, lambda some: net(some), items)
"""

import errno
import gc
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain
from typing import Any, Protocol, TypeVar

GROW_AFTER = 16  # batches of the reduced size that go well before a larger one is tried again

# Most libraries have no class of their own for an allocation that failed: torch hands on what the libraries below it
# say as RuntimeError, and onnxruntime and OpenCV have one class, or a few, for everything.
SPEAKERS = ("onnxruntime", "cv2")
SAID_OUT_OF_MEMORY = re.compile(
    "|".join(
        (
            r"CUDA (driver error|error|failure 2): out of memory",  # of torch twice, of onnxruntime; beside their pools
            r"CUDA out of memory",  # torch's pool, as TorchScript hands it on
            r"CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED",
            r"CUDNN_STATUS_INTERNAL_ERROR_(HOST|DEVICE)_ALLOCATION_FAILED",  # the same since cuDNN 9
            r"CUFFT_ALLOC_FAILED",
            r"DefaultCPUAllocator: can't allocate memory",
            r"std::bad_alloc",
            r"Failed to allocate memory for requested buffer",  # onnxruntime's pool
            r"is smaller than requested bytes",  # the same where it is bounded
            r"\(-4:Insufficient memory\)",  # OpenCV
        )
    )
)


class Sliced(Protocol):
    """A list, an array, a range: what has a length and parts of its own kind."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Any: ...


ItemsT = TypeVar("ItemsT", bound=Sliced)
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class BatchSize:
    """How many items go at once: halved where memory ran out, and tried upward again if it is told of success."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"batches of {most}: expected one item or more")
        self.most = most
        self.now = most
        self._went_well = 0

    def failed(self, number: int) -> None:
        """So many did not fit."""
        self.now, self._went_well = max(number // 2, 1), 0

    def went_well(self, number: int) -> None:
        """So many did."""
        if number < self.now or self.now == self.most:
            return
        self._went_well += 1
        if self._went_well >= GROW_AFTER:
            self.now, self._went_well = min(2 * self.now, self.most), 0


def in_batches(size: BatchSize, run: Callable[[ItemsT], ResultT], items: ItemsT) -> list[ResultT]:
    """What `run` says of each batch, in order. `size` remembers what fitted.

    Raises what `run` raises; that memory ran out, only where it did so over one item alone.
    """
    found: list[ResultT] = []
    begin = 0
    while begin < len(items):
        part: ItemsT = items[begin : begin + size.now]
        said = _tried(run, part)
        if said is None:
            size.failed(len(part))
            release_memory()
            continue
        found += said
        begin += len(part)
    return found


def in_like_batches(
    size: BatchSize,
    run: Callable[[list[ItemT]], Iterable[ResultT]],
    items: Sequence[ItemT],
    likeness: Callable[[ItemT], Hashable],
) -> list[ResultT]:
    """What `run` says of each item, in their order, where a batch may hold only items of one likeness."""
    alike: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        alike.setdefault(likeness(item), []).append(index)
    found: dict[int, ResultT] = {}
    for indices in alike.values():
        said = in_batches(size, run, [items[index] for index in indices])
        found.update(zip(indices, chain.from_iterable(said), strict=True))
    return [found[index] for index in range(len(items))]


def _tried(run: Callable[[ItemsT], ResultT], part: ItemsT) -> list[ResultT] | None:
    """The answer, or None where memory ran out. The exception is gone afterwards: it would hold on to memory."""
    try:
        return [run(part)]
    except Exception as error:
        if len(part) == 1 or not is_out_of_memory(error):
            raise
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, the machine's or a GPU's, did not hold what was asked for: less of it may fit.

    Classes of torch and Ray are known by name, so that who needs neither imports neither. What an error was raised from
    is not asked: who raised it may have made a fact of it, as the reader of media does of a header that asks for absurd
    amounts.
    """
    kinds = type(error).__mro__
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in kinds):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    speaks = isinstance(error, RuntimeError) or type(error).__module__.partition(".")[0] in SPEAKERS
    return speaks and SAID_OUT_OF_MEMORY.search(str(error)) is not None


def release_memory() -> None:
    """Give back what nothing holds any more, to a GPU as well."""
    gc.collect()
    torch = sys.modules.get("torch")  # a process that never imported it holds nothing of a GPU
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
