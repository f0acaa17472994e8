"""What `dualforce estimate` is asked about: a preset, a configuration of any flow that trains, or MOVA."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from dualforce_model.config import ConfigError, apply_override, read_settings, shipped, validate
from dualforce_model.dry_run import PX_PER_LATENT, Kernel, Workload
from dualforce_model.estimate import WORKLOADS
from dualforce_model.model import PRESETS, ModelConfig
from dualforce_model.train_config import TrainSettings

if TYPE_CHECKING:
    from dualforce_model.mova.estimate import MovaEstimate

MOVA = "mova-360p"  # a preset of `estimate` alone: it is run, never trained here
CUDA = torch.device("cuda")  # what is estimated, wherever it is asked
CROP_PX = 512  # the design's, where a configuration does not say


class Question(NamedTuple):
    """One run to be estimated."""

    name: str
    model: ModelConfig
    work: Workload
    precision: Literal["bf16", "fp32"]
    attention: Kernel = "flex"
    recompute: bool | None = None  # None: nothing says so

    def resized(self, changes: Mapping[str, int]) -> Workload:
        """The work with some of its numbers replaced. Raises ConfigError for sizes that do not divide into tokens."""
        work = validate(Workload, {**self.work.model_dump(), **changes}, "the size of the work")
        for side in self.model.video.patch_px:
            if work.latent_px % side:
                raise ConfigError(
                    f"crops of {work.crop_px} px: a token covers {PX_PER_LATENT * side} px, take multiples"
                )
        return work


def of_preset(name: str, *others: str) -> Question:
    """A preset at the size of data it was made for. `others`: names that the asker takes besides."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are {', '.join((*PRESETS, *others))}")
    return Question(name, PRESETS[name], WORKLOADS.get(name, Workload()), "bf16")


def of_file(path: Path, overrides: Sequence[str], gpus: int) -> Question:
    """The training settings of a YAML file: a trainer's own, or the `train` group of a flow's or of the demo's."""
    found = shipped(str(path))
    data: Mapping[str, Any] = read_settings(found, overrides)
    data = data["pipeline"] if isinstance(data.get("pipeline"), dict) else data
    curate = data["curate"] if isinstance(data.get("curate"), dict) else {}
    launch = data["launch"] if isinstance(data.get("launch"), dict) else {}
    plain = data["train"] if isinstance(data.get("train"), dict) else data
    own = {key: value for key, value in plain.items() if key not in ("store_url", "snapshot_id")}
    settings = validate(TrainSettings, own, str(found))
    if settings.batch_size % gpus:
        raise ConfigError(f"{found}: batch_size {settings.batch_size} cannot be shared by {gpus} GPUs")
    work = {
        "crop_px": curate.get("crop_px", CROP_PX),
        "num_steps": settings.window_steps,
        "batch_per_gpu": settings.batch_size // gpus,
    }
    return Question(
        str(path),
        settings.model,
        validate(Workload, work, str(found)),
        "fp32" if settings.precision == "fp32" else "bf16",
        "native" if settings.execution.on(CUDA).attention == "native" else "flex",
        _recomputes(settings.execution.recompute, launch.get("accelerate"), str(found)),
    )


def _recomputes(own: bool, accelerate: object, where: str) -> bool:
    """Whether a run computes activations again: by the trainer, or by FSDP as accelerate's own file has it."""
    if accelerate is None:
        return own
    if not isinstance(accelerate, str):
        raise ConfigError(
            f"{where}: launch.accelerate is {accelerate!r}: the name of accelerate's own file is expected"
        )
    path = shipped(accelerate)
    settings = read_settings(path)
    sharded = settings.get("distributed_type") == "FSDP"
    fsdp = settings.get("fsdp_config") if sharded else None
    by_fsdp = fsdp.get("fsdp_activation_checkpointing", False) if isinstance(fsdp, dict) else False
    if not isinstance(by_fsdp, bool):
        raise ConfigError(f"{path}: fsdp_activation_checkpointing is {by_fsdp!r}: true or false is expected")
    if own and by_fsdp:
        raise ConfigError(
            f"{where}: execution.recompute and fsdp_activation_checkpointing of {path} are both on, which the trainer "
            "refuses: turn one of them off"
        )
    return own or by_fsdp


def of_mova(checkpoint: Path | None, overrides: Sequence[str], gpus: int, limit_gb: float) -> "MovaEstimate":
    """MOVA as a checkpoint's own settings have it (CheckpointError where they are wrong), or as the release is known.

    `overrides` are those of the request: num_frames, height_px and so on.
    """
    from dualforce_model.mova.checkpoint import inspect  # these load the codec library
    from dualforce_model.mova.estimate import estimate
    from dualforce_model.mova.inference import MovaRequest
    from dualforce_model.mova.release import SOURCE, UNKNOWN, released

    asked: dict[str, Any] = {}
    for override in overrides:
        apply_override(asked, override)
    request = validate(MovaRequest, asked, "the video")
    if checkpoint is None:
        return estimate(MOVA, released(), request, gpus, limit_gb, SOURCE, UNKNOWN)
    return estimate(str(checkpoint), inspect(checkpoint, headers=False).whole(), request, gpus, limit_gb)
