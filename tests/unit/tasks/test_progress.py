"""What progress tells people."""

import pytest

from tasks.progress import RATE_OVER_S, Progress, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands at its last entry."""
    now = [1000.0]
    monkeypatch.setattr("tasks.progress.time.monotonic", lambda: now[-1])
    return now


def test_counts_rate_and_what_is_left(clock: list[float]) -> None:
    with Progress("extract", 100) as progress:
        assert progress.text() == "extract: 0 of 100 clips"
        for number in range(20):
            clock.append(clock[-1] + 0.5)
            progress.ended([f"c{number}"], {0: "impossible", 1: "failed"}.get(number, "done"))
        assert progress.text() == (
            "extract: 20 of 100 clips: 18 done, 1 quarantined, 1 failed; 2.00 clips/s, 40 s left"
        )
        progress.ended(["c1"], "done")
        assert "20 of 100 clips: 19 done, 1 quarantined;" in progress.text(), "tried again, an item counts once"
        progress.ended([f"d{number}" for number in range(80)], "done")
        assert "left" not in progress.text()


def test_counts_are_those_of_the_last_ends_however_often_an_item_ends() -> None:
    ends = [("a", "failed"), ("b", "failed"), ("a", "impossible"), ("b", "done"), ("a", "done"), ("c", "failed")]
    with Progress("extract", 3) as progress:
        for item, state in ends:
            progress.ended([item], state)
        assert progress.counts() == "2 done, 1 failed"
        progress.ended(["c", "c"], "done")
        assert progress.counts() == "3 done"


def test_the_rate_forgets_a_slow_start(clock: list[float]) -> None:
    with Progress("extract", 1000) as progress:
        clock.append(clock[-1] + 600)  # weights are loaded
        for number in range(500):
            clock.append(clock[-1] + 1.0)
            progress.ended([f"c{number}"], "done")
        assert progress.rate() == pytest.approx(1.0)
        assert len(progress.marks) <= RATE_OVER_S + 3


def test_lengths_of_time_in_two_units() -> None:
    said = [duration(seconds) for seconds in (0.2, 59.4, 60, 3725, 90000, 200000)]
    assert said == ["0 s", "59 s", "1 min 0 s", "1 h 2 min", "1 d 1 h", "2 d 7 h"]
