"""What a worker makes of an exception: its class of failure, and whether its GPU is of any more use."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.records import FailureClass, Temporary
from tasks.worker import failure_class, is_device_lost
from tests.memory_errors import LOST, OTHERS, OUT_OF_MEMORY

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", OUT_OF_MEMORY)
def test_every_way_to_say_that_memory_ran_out_is_one_class(name: str) -> None:
    assert failure_class(OUT_OF_MEMORY[name]) == FailureClass.OUT_OF_MEMORY
    assert not is_device_lost(OUT_OF_MEMORY[name]), "the next clip, or half a batch, may fit"


@pytest.mark.parametrize("name", LOST)
def test_a_lost_gpu_is_noticed(name: str) -> None:
    assert is_device_lost(LOST[name])
    assert failure_class(LOST[name]) == FailureClass.BUG


@pytest.mark.parametrize("name", OTHERS)
def test_other_errors_are_taken_for_neither(name: str) -> None:
    assert not is_device_lost(OTHERS[name])
    assert failure_class(OTHERS[name]) == FailureClass.BUG


def test_what_a_worker_says_of_itself_stands() -> None:
    assert failure_class(Temporary(FailureClass.NETWORK, "CUDA error: out of memory")) == FailureClass.NETWORK


def test_a_worker_that_needs_neither_torch_nor_ray_brings_neither() -> None:
    asked = "import sys, tasks.worker; print(sorted({'torch', 'ray'} & {*sys.modules}))"
    found = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
