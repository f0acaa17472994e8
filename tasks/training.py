"""Starts a training run under supervision and reports what it left behind. No mathematics here."""

import json
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from dualforce_model.config import Frozen, digest, shipped
from dualforce_model.errors import InfrastructureError
from dualforce_model.storage import write_text
from dualforce_model.train_config import RECORD_FORMAT, TrainSettings
from tasks.process import Supervised, folder_lock


class LaunchConfig(Frozen):
    """How `accelerate launch` is called."""

    accelerate: str = Field("configs/accelerate/cpu.yaml", description="accelerate's own configuration file")
    grace_s: float = Field(120.0, ge=1.0, le=3600.0, description="time to save a checkpoint when asked to stop")
    threads: int = Field(2, ge=1, le=256, description="CPU threads of each process (OMP_NUM_THREADS)")


class RunState(Frozen):
    """What the trainer wrote last: the flow believes this file, not an exit code."""

    resumable: bool
    step: int = Field(ge=0)
    reason: Literal["finished", "stopped", "failed"]
    checkpoint: str | None = None


class TrainingFailed(InfrastructureError):
    """Training ended without a finished checkpoint; the message carries the end of its log."""


def run_folder(root: Path, snapshot_id: str, settings: TrainSettings) -> Path:
    """Folder of the run of these settings on this snapshot: the same request finds the same run."""
    return root / f"{snapshot_id[:12]}-{digest(RECORD_FORMAT, snapshot_id, settings.identity())[:8]}"


def read_state(folder: Path) -> RunState | None:
    """State of an earlier run in this folder, if it wrote one."""
    path = folder / "run_state.json"
    return RunState.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def finished_checkpoint(folder: Path) -> Path | None:
    """Final checkpoint of a finished run."""
    state = read_state(folder)
    if state is None or state.reason != "finished" or state.checkpoint is None:
        return None
    checkpoint = folder / state.checkpoint
    return checkpoint if (checkpoint / "state.json").is_file() else None


def launch_training(
    folder: Path, resolved: Frozen, launch: LaunchConfig, on_line: Callable[[str], None] = lambda line: None
) -> Path:
    """Train (or resume) in `folder`; returns the final checkpoint. Raises TrainingFailed, FolderBusy."""
    with folder_lock(folder, "training"):
        done = finished_checkpoint(folder)
        if done is not None:
            return done
        (folder / "run_state.json").unlink(missing_ok=True)  # a stale word must not be taken for the new run's
        config_path = folder / "config.yaml"
        write_text(config_path, yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False))
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(shipped(launch.accelerate))]
        command += ["-m", "dualforce_model.train", "--config", str(config_path)]
        environment = {
            "OMP_NUM_THREADS": str(launch.threads),
            "PYTHONUNBUFFERED": "1",
            "DUALFORCE_DIE_WITH_PARENT": "1",
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),  # training never reaches for the network
        }
        tail: deque[str] = deque(maxlen=30)
        with (
            open(folder / "train.log", "a", encoding="utf-8") as log,
            Supervised(command, environment=environment, grace_s=launch.grace_s) as process,
        ):
            for line in process.lines():
                log.write(line + "\n")
                log.flush()
                tail.append(line)
                on_line(line)
            code = process.wait()
    checkpoint = finished_checkpoint(folder)
    if checkpoint is None:
        state = read_state(folder)
        said = f"run_state.json says {json.dumps(state.model_dump())}" if state else "it left no run_state.json"
        raise TrainingFailed(f"training in {folder} ended with code {code}; {said}\n" + "\n".join(tail))
    return checkpoint
