"""How a run ends: asked to stop or finished, and the last word that it leaves."""

import signal
from pathlib import Path
from types import FrameType
from typing import Literal

import torch
from accelerate import Accelerator
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.storage import write_json

RUN_STATE_NAME = "run_state.json"


class RunState(Frozen):
    """run_state.json, written last: what a supervisor believes, since launchers forward no exit codes."""

    resumable: bool = Field(description="whether the same command goes on where this run ended")
    step: int = Field(ge=0, description="optimizer steps done")
    reason: Literal["finished", "stopped", "failed"]
    checkpoint: str | None = Field(description="newest checkpoint, relative to the run's folder")


def write_run_state(folder: Path, state: RunState) -> None:
    """Leave the last word."""
    write_json(folder / RUN_STATE_NAME, state.model_dump(mode="json"))


class StopSignal:
    """Remembers that SIGTERM or SIGINT came; the loop asks between steps."""

    def __init__(self) -> None:
        self._came = False

    def listen(self) -> None:
        """Handle the signals from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._came = True

    def asked(self, accelerator: Accelerator) -> bool:
        """Whether any process was told to stop; all processes get the same answer at the same step."""
        if accelerator.num_processes == 1:
            return self._came
        flag = torch.tensor(float(self._came), device=accelerator.device)
        return bool(accelerator.reduce(flag, "sum") > 0)
