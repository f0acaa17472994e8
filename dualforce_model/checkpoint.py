"""Checkpoints: folders that are whole or not there, and say so.

    <run>/checkpoints/step-00000020/
        model/         what `DualForce.from_pretrained` reads: config.json, weights, averaged weights (variant "ema")
        judges.safetensors       what judged the model in training, if anything did
        optimizer.safetensors    moments, named "<moment>/<parameter>"
        *.json         records: training configuration, statistics, encoders, what the weights started from
        state.json     step, identity of the run, size and digest of every other file; written last

A checkpoint is written under a temporary name and renamed. It is valid when state.json is there and every file it names
has its size and digest; anything else is ignored by `newest_checkpoint` and replaced when its step is reached again.
Nothing here is ever unpickled.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualforce_model import faults
from dualforce_model.config import Frozen
from dualforce_model.errors import InputError
from dualforce_model.storage import atomic_folder, file_digest, write_json

LOGGER = logging.getLogger(__name__)
STATE_NAME = "state.json"
MODEL_FOLDER = "model"
EMA_VARIANT = "ema"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
EMA_NAME = f"diffusion_pytorch_model.{EMA_VARIANT}.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
JUDGES_NAME = "judges.safetensors"
_NAME = re.compile(r"^step-(\d{8,})$")


class CheckpointError(InputError):
    """A checkpoint that cannot be used; the message names folder, fault and remedy."""


class FileMark(Frozen):
    """What a file of a checkpoint must look like."""

    num_bytes: int = Field(ge=0, description="size of the file")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="digest of its bytes")


class CheckpointState(Frozen):
    """state.json: what the checkpoint is, and the proof that it is whole."""

    format: Literal[1] = Field(default=1, description="version of this layout")
    step: int = Field(ge=0, description="optimizer steps done")
    snapshot_id: str = Field(description="snapshot that it was trained on")
    config_digest: str = Field(description="digest of the training configuration")
    files: dict[str, FileMark] = Field(description="every other file, by path relative to the checkpoint")


@dataclass(frozen=True)
class Content:
    """What goes into a checkpoint: the model's configuration, weights, averaged weights, moments, records, judges."""

    save_config: Callable[[Path], None]
    weights: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    records: Mapping[str, Frozen]
    judges: Mapping[str, Tensor] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """All parts but state.json. The model's folder is what its `from_pretrained` reads, also with variant "ema"."""
        model = folder / MODEL_FOLDER
        model.mkdir()
        self.save_config(model)
        _save_tensors(self.weights, model / WEIGHTS_NAME)
        _save_tensors(self.ema, model / EMA_NAME)
        _save_tensors(self.optimizer, folder / OPTIMIZER_NAME)
        if self.judges:
            _save_tensors(self.judges, folder / JUDGES_NAME)
        for name, record in self.records.items():
            write_json(folder / f"{name}.json", record.model_dump(mode="json"))


def checkpoint_path(run_folder: Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return run_folder / "checkpoints" / f"step-{step:08d}"


def save_checkpoint(run_folder: Path, step: int, snapshot_id: str, config_digest: str, content: Content) -> Path:
    """Write the checkpoint of a step atomically; one that is already there and whole is kept."""
    target = checkpoint_path(run_folder, step)
    if target.exists():
        if is_valid(target):
            return target
        LOGGER.warning("%s is damaged; writing it anew", target)
        shutil.rmtree(target)
    with atomic_folder(target) as folder:
        content.write(folder)
        state = CheckpointState(step=step, snapshot_id=snapshot_id, config_digest=config_digest, files=_marks(folder))
        write_json(folder / STATE_NAME, state.model_dump(mode="json"))
        faults.point("checkpoint.before_rename")
    faults.point("checkpoint.after_rename")
    return target


def verify_checkpoint(folder: Path) -> CheckpointState:
    """State of a whole checkpoint. Raises CheckpointError naming the first thing that is wrong."""
    path = folder / STATE_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {STATE_NAME}, so it is not a checkpoint or was not finished; take another")
    try:
        state = CheckpointState.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as a checkpoint's state: {error}") from error
    for name, mark in state.files.items():
        _check_file(folder, name, mark)
    return state


def is_valid(folder: Path) -> bool:
    """Whether a checkpoint is whole."""
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        LOGGER.info("not usable: %s", error)
        return False
    return True


def newest_checkpoint(run_folder: Path) -> Path | None:
    """Newest valid checkpoint of a run; damaged ones are passed over with a warning."""
    for folder in reversed(list_checkpoints(run_folder)):
        if is_valid(folder):
            return folder
        LOGGER.warning("%s is damaged and is passed over", folder)
    return None


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Folders of checkpoints by step, valid or not; unfinished temporaries are not among them."""
    parent = run_folder / "checkpoints"
    if not parent.is_dir():
        return []
    return sorted((path for path in parent.iterdir() if _NAME.match(path.name)), key=lambda path: int(path.name[5:]))


def prune_checkpoints(run_folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for folder in list_checkpoints(run_folder)[:-keep]:
        shutil.rmtree(folder)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of one safetensors file of a checkpoint."""
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from error


def load_record(path: Path) -> Any:
    """JSON record of a checkpoint."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error


def _check_file(folder: Path, name: str, mark: FileMark) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"{folder}: {STATE_NAME} names {name!r}, which lies outside the checkpoint")
    if not path.is_file():
        raise CheckpointError(f"{folder}: {name} is missing; resume from another checkpoint")
    size = path.stat().st_size
    if size != mark.num_bytes:
        raise CheckpointError(f"{path}: {size} bytes, expected {mark.num_bytes}; resume from another checkpoint")
    if file_digest(path) != mark.sha256:
        raise CheckpointError(f"{path}: its bytes are not those that were saved; resume from another checkpoint")


def _marks(folder: Path) -> dict[str, FileMark]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): FileMark(num_bytes=path.stat().st_size, sha256=file_digest(path))
        for path in files
    }


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})
