"""Train one run: `accelerate launch --config_file configs/accelerate/cpu.yaml -m dualforce_model.train --config CONFIG`

The run lives in the folder of the configuration file: checkpoints/, train_log.jsonl, tensorboard/, and run_state.json,
written last. The same command resumes from the newest whole checkpoint. SIGTERM saves and ends the run; with
DUALFORCE_DIE_WITH_PARENT=1 the launcher's death does the same. A folder has one trainer at a time: the next one waits.
"""

import argparse
import ctypes
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psutil

from dualforce_model.checkpoint import newest_checkpoint, verify_checkpoint
from dualforce_model.config import load_config
from dualforce_model.engine import make_accelerator
from dualforce_model.errors import InputError
from dualforce_model.train_config import TrainConfig, TrainSettings
from dualforce_model.train_state import RunState, StopSignal, write_run_state
from dualforce_model.trainer import Trainer, say

PR_SET_PDEATHSIG = 1
LOCK_NAME = ".trainer.lock"
LOGGER = logging.getLogger(__name__)
__all__ = ["TrainConfig", "TrainSettings", "main", "train"]


def train(config: TrainConfig, folder: Path, stop: StopSignal) -> RunState:
    """Train, or go on training, in a folder; returns and writes how it ended."""
    accelerator = make_accelerator(folder, config.precision)
    accelerator.wait_for_everyone()  # nobody looks for checkpoints before the main process holds the folder
    LOGGER.info(
        "%d process(es), %s, %s", accelerator.num_processes, accelerator.distributed_type.value, accelerator.device
    )
    accelerator.init_trackers("tensorboard")
    try:
        trainer = Trainer(config, folder, accelerator)
        finished = trainer.run(stop)
    except Exception as error:
        if accelerator.is_main_process:
            write_run_state(folder, _state(folder, "failed", resumable=not isinstance(error, InputError)))
        raise
    accelerator.end_training()
    state = _state(folder, "finished" if finished else "stopped", resumable=not finished)
    if accelerator.is_main_process:
        write_run_state(folder, state)
        saved = folder / state.checkpoint if state.checkpoint is not None else "no step done, nothing to save"
        say(f"training {state.reason} at step {state.step} of {config.steps}: {saved}")
    return state


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of each process."""
    if os.environ.get("DUALFORCE_DIE_WITH_PARENT") == "1":
        _die_with_parent()
    parser = argparse.ArgumentParser(description="Train DualForce on a snapshot.")
    parser.add_argument(
        "--config", type=Path, required=True, help="resolved configuration; the run lives in its folder"
    )
    path: Path = parser.parse_args(arguments).config
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    folder = path.resolve().parent
    with _only_trainer(folder):  # before we listen: a trainer that still waits has nothing to save and just ends
        stop = StopSignal()
        stop.listen()
        train(load_config(TrainConfig, path), folder, stop)


@contextmanager
def _only_trainer(folder: Path) -> Iterator[None]:
    """Hold the folder in the main process, after waiting for a trainer that still saves there.

    Whoever started that one may be dead, and its lock with it; the kernel frees ours however we end.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 256, 0).decode("utf-8", "replace") or "an unnamed process"
            LOGGER.warning("waiting for the trainer that still works in %s: %s", folder, holder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(handle)


def _state(folder: Path, reason: Literal["finished", "stopped", "failed"], resumable: bool) -> RunState:
    newest = newest_checkpoint(folder)
    step = verify_checkpoint(newest).step if newest is not None else 0
    name = newest.relative_to(folder).as_posix() if newest is not None else None
    return RunState(resumable=resumable, step=step, reason=reason, checkpoint=name)


def _die_with_parent() -> None:
    """Have the kernel tell this process to stop when its parent ends. Linux only; elsewhere nothing happens."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    supervisor = os.environ.get("DUALFORCE_SUPERVISOR")
    if supervisor and int(supervisor) not in {process.pid for process in psutil.Process().parents()}:
        os.kill(os.getpid(), signal.SIGTERM)  # the launcher died while we were still importing


if __name__ == "__main__":
    main()
