"""Batches that halve where memory runs out."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualforce_model.batching import BatchSize, in_batches, in_like_batches, is_out_of_memory
from tests.memory_errors import LOST, OTHERS, OUT_OF_MEMORY

ERRORS = [MemoryError, torch.OutOfMemoryError]
TOO_MANY = 1 << 50  # numbers: more bytes than a process can address, however much a system promises


def _onnxruntime(arena: bool) -> None:
    """A net that makes as many zeros as it is told to."""
    told = onnx.helper.make_tensor_value_info("told", onnx.TensorProto.INT64, [1])
    made = onnx.helper.make_tensor_value_info("made", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("ConstantOfShape", ["told"], ["made"])], "g", [told], [made])
    opset = onnx.helper.make_opsetid("", 17)
    content = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena, options.log_severity_level = arena, 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    session.run(None, {"told": np.array([TOO_MANY])})


REAL: dict[str, Callable[[], object]] = {
    "python": lambda: bytearray(TOO_MANY),
    "numpy": lambda: np.empty(TOO_MANY, np.float32),
    "torch": lambda: torch.empty(TOO_MANY),
    "onnxruntime": lambda: _onnxruntime(arena=True),
    "onnxruntime without an arena": lambda: _onnxruntime(arena=False),
    "OpenCV": lambda: cv2.resize(np.zeros((8, 8), np.uint8), (1 << 25, 1 << 25)),
}


@settings(max_examples=30)  # each may collect garbage, as what it is about does
@given(
    count=st.integers(0, 40),
    most=st.integers(1, 20),
    room=st.integers(1, 20),
    error=st.sampled_from(ERRORS),
)
def test_all_items_come_once_and_in_order_whatever_fits(
    count: int, most: int, room: int, error: type[Exception]
) -> None:
    size, tried = BatchSize(most), []

    def run(part: Sequence[int]) -> list[int]:
        tried.append(len(part))
        if len(part) > room:
            raise error("no room")
        return list(part)

    assert [item for part in in_batches(size, run, range(count)) for item in part] == list(range(count))
    assert max(tried, default=0) <= most
    assert size.now <= most
    failed = sum(each > room for each in tried)
    tried.clear()
    in_batches(size, run, range(count))
    assert all(each <= room for each in tried), "what did not fit is not tried again"
    assert failed <= np.log2(most) + 1


@pytest.mark.parametrize("error", ERRORS)
def test_one_item_that_does_not_fit_is_told(error: type[Exception]) -> None:
    size = BatchSize(8)

    def run(part: list[str]) -> None:
        if "large" in part:
            raise error("no room for it")

    with pytest.raises(error, match="no room for it"):
        in_batches(size, run, ["small"] * 4 + ["large", "small"])
    assert size.now == 1


@given(items=st.lists(st.integers(0, 30), max_size=20), most=st.integers(1, 6), room=st.integers(1, 6))
@settings(max_examples=30)
def test_only_items_of_one_likeness_share_a_batch(items: list[int], most: int, room: int) -> None:
    sizes: dict[int, list[int]] = {}

    def run(part: list[int]) -> list[int]:
        if len(part) > room:
            raise MemoryError("no room")
        (kind,) = {item % 3 for item in part}
        sizes.setdefault(kind, []).append(len(part))
        return [-item for item in part]

    assert in_like_batches(BatchSize(most), run, items, lambda item: item % 3) == [-item for item in items]
    for kind, batches in sizes.items():
        count = sum(item % 3 == kind for item in items)
        assert sum(batches) == count
        assert max(batches) <= min(most, room)
        assert room < most or len(batches) == -(-count // most), "no smaller than they have to be"


def test_a_batch_answers_for_each_of_its_items() -> None:
    with pytest.raises(ValueError, match="shorter"):
        in_like_batches(BatchSize(4), lambda part: part[1:], [1, 2, 3], lambda item: 0)


@pytest.mark.parametrize("name", OUT_OF_MEMORY)
def test_a_batch_is_halved_however_it_is_said_that_memory_ran_out(name: str) -> None:
    size = BatchSize(8)

    def run(part: list[int]) -> list[int]:
        if len(part) > 2:
            raise OUT_OF_MEMORY[name]
        return part

    assert in_batches(size, run, list(range(8))) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert size.now == 2


@pytest.mark.parametrize("name", REAL)
def test_the_installed_libraries_are_understood(name: str) -> None:
    with pytest.raises(Exception) as told:  # of any kind
        REAL[name]()
    assert is_out_of_memory(told.value), repr(told.value)


@pytest.mark.parametrize("error", [*LOST.values(), *OTHERS.values()], ids=[*LOST, *OTHERS])
def test_a_smaller_batch_would_not_help_against_other_errors(error: Exception) -> None:
    size, tried = BatchSize(8), []

    def run(part: list[int]) -> None:
        tried.append(len(part))
        raise error

    with pytest.raises(type(error)) as told:
        in_batches(size, run, list(range(8)))
    assert told.value is error
    assert (tried, size.now) == ([8], 8)


def test_other_errors_are_none_of_its_business() -> None:
    size = BatchSize(8)

    def run(part: np.ndarray) -> float:
        return 1 / int(part.sum())

    with pytest.raises(ZeroDivisionError):
        in_batches(size, run, np.zeros(4))
    assert size.now == 8


def test_what_the_failed_batch_held_is_gone_before_the_next() -> None:
    class Held:
        alive = 0

        def __init__(self) -> None:
            Held.alive += 1

        def __del__(self) -> None:
            Held.alive -= 1

    def run(part: list[int]) -> int:
        assert Held.alive == 0
        held = Held()
        if len(part) > 1:
            raise torch.OutOfMemoryError(f"no room beside {held}")
        return part[0]

    assert in_batches(BatchSize(4), run, [1, 2, 3, 4]) == [1, 2, 3, 4]


def test_batches_hold_something() -> None:
    with pytest.raises(ValueError, match="batches of 0: expected one item or more"):
        BatchSize(0)
