"""Reading ahead keeps order and bound, whoever is slow."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from tasks.decoding import ReadAhead


@dataclass
class Item:
    name: int
    num_bytes: int


def reads(sizes: list[int], after: Callable[[int], None] = lambda number: None) -> list[partial[Item]]:
    def read(number: int) -> Item:
        after(number)
        if sizes[number] < 0:
            raise ValueError(f"{number} is broken")
        return Item(number, sizes[number])

    return [partial(read, number) for number in range(len(sizes))]


@given(st.lists(st.integers(-1, 12), max_size=12), st.integers(1, 5), st.integers(1, 20))
def test_every_item_once_in_its_order_and_chunks_depend_on_sizes_alone(sizes: list[int], most: int, bound: int) -> None:
    expected, chunk, held = [], list[int](), 0
    for number, size in enumerate(sizes):
        if chunk and (len(chunk) == most or held >= bound / 2):
            expected, chunk, held = [*expected, chunk], [], 0
        chunk, held = [*chunk, number], held + max(size, 0)
    expected += [chunk] if chunk else []
    with ReadAhead(reads(sizes), bound) as ahead:
        found = [[str(x) if isinstance(x, Exception) else x.name for x in each] for each in ahead.chunks(most)]
    assert found == [[f"{n} is broken" if sizes[n] < 0 else n for n in each] for each in expected]


def test_what_is_held_stays_under_the_bound_and_one_reading() -> None:
    read, worst, lock = [0], [0], threading.Lock()
    released = [0]

    def after(number: int) -> None:
        with lock:
            read[0] += 10
            worst[0] = max(worst[0], read[0] - released[0])

    with ReadAhead(reads([10] * 20, after), 30) as ahead:
        for chunk in ahead.chunks(1):
            time.sleep(0.005)
            with lock:
                released[0] += 10 * len(chunk)
    assert worst[0] <= 30 + 10, "released a moment late at most"
    assert worst[0] >= 20, "it did read ahead"


def test_the_next_is_read_while_one_is_in_use() -> None:
    second = threading.Event()
    with ReadAhead(reads([1, 1], lambda number: second.set() if number == 1 else None), 10) as ahead:
        for chunk in ahead.chunks(1):
            assert second.wait(20), f"nobody reads while {chunk} is in use"


def test_leaving_early_stops_reading() -> None:
    seen: list[int] = []
    with ReadAhead(reads([5] * 50, seen.append), 10) as ahead:
        next(ahead.chunks(1))
    assert len(seen) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name == "decode ahead"]


def test_a_reading_that_exits_is_an_error_of_its_own() -> None:
    def leave() -> Item:
        raise SystemExit(3)

    with ReadAhead([leave, *reads([1])], 10) as ahead:
        first, second = (item for chunk in ahead.chunks(1) for item in chunk)
    assert "SystemExit" in str(first)
    assert second == Item(0, 1)
