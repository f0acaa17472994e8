import errno

import pytest

from dualforce_model import faults


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_visits", {})


def test_without_a_wish_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DUALFORCE_DISK_FULL_AT", raising=False)
    monkeypatch.delenv("DUALFORCE_KILL_AT", raising=False)
    for name in faults.POINTS:
        faults.point(name)
    assert not faults._visits


def test_a_full_disk_stays_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALFORCE_DISK_FULL_AT", "shard.before_rename:2")
    faults.point("shard.before_rename")
    faults.point("crop.before_rename")
    for _ in range(2):
        with pytest.raises(OSError, match=r"simulated at shard\.before_rename") as caught:
            faults.point("shard.before_rename")
        assert caught.value.errno == errno.ENOSPC


def test_a_point_nobody_named_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALFORCE_DISK_FULL_AT", "shard.before_rename")
    with pytest.raises(AssertionError, match="not a named point"):
        faults.point("shard.afterwards")
