"""A signal whose exception is swallowed on its way ends the program all the same."""

import subprocess
import sys

import pytest

LOST = """
import os, signal, time
from flows.interrupts import keep_interrupts

class Prefect(BaseException):  # what Prefect raises for SIGTERM while a flow runs
    def __init__(self, number):
        self.signal = number

def as_prefect_does(number, frame):
    raise Prefect(number)

class Swallowing:
    def __del__(self):  # an exception raised in here goes nowhere
        print("swallowing", flush=True)
        os.kill(os.getpid(), signal.{signal})
        for _ in range(1000):
            pass

keep_interrupts()
if {prefect}:
    signal.signal(signal.SIGTERM, as_prefect_does)
try:
    thing = Swallowing()
    del thing
    time.sleep(30)
    print("went on")
except (KeyboardInterrupt, Prefect) as error:
    print("ended by", type(error).__name__)
"""


@pytest.mark.parametrize(
    ("name", "prefect", "ended_by"),
    [("SIGINT", False, "KeyboardInterrupt"), ("SIGTERM", False, "Terminated"), ("SIGTERM", True, "Prefect")],
)
def test_a_swallowed_signal_comes_again(name: str, prefect: bool, ended_by: str) -> None:
    program = LOST.format(signal=name, prefect=prefect)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["swallowing", f"ended by {ended_by}"], done.stderr
    assert "ignored" not in done.stderr


def test_other_lost_exceptions_are_still_reported() -> None:
    program = """
from flows.interrupts import keep_interrupts

class Failing:
    def __del__(self):
        raise RuntimeError("a bug in a finaliser")

keep_interrupts()
Failing()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "a bug in a finaliser" in done.stderr
