"""What a training run will take, before anything is launched: parameters, memory per GPU, FLOPs per step.

The layers' part is a dry run of the model itself (dry_run.py); around it stands what FSDP2 keeps on each GPU. GB are
10^9 bytes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from dualforce_model.config import Frozen
from dualforce_model.dry_run import (
    PX_PER_LATENT,
    DryRun,
    Kernel,
    Workload,
    generation_cache_bytes,
    layers_of,
    on_shapes,
    training_step,
)
from dualforce_model.model import DualForce, ModelConfig

GB, TERA = 1e9, 1e12
LIMIT_GB = 50.0  # of an 80 GB GPU: what is left is for fragments of the allocator and longer clips
MASTER_BYTES, MOMENT_BYTES, AVERAGE_BYTES = 4, 8, 4  # per parameter: fp32 weight or gradient, AdamW's two, the EMA
CONTEXT_BYTES = 1_500_000_000  # CUDA context, cuBLAS and NCCL buffers: assumed, not computed
HALVINGS = 6
NO_TEXT = "Attention to the words of a clip is not counted."
TURN_ON = "activation checkpointing: train.execution.recompute=true is enough"
NO_SINGLE_CHANGE = "no single change is enough: take a smaller model, or several of: windows, crops, GPUs"

# What the presets were sized for. A window is the reference and all that a step sees.
WORKLOADS: Mapping[str, Workload] = {
    "tiny": Workload(crop_px=96, num_steps=9, batch_per_gpu=8),
    "small": Workload(crop_px=256, num_steps=22, batch_per_gpu=2),
    "base": Workload(crop_px=512, num_steps=22, batch_per_gpu=1),
}


class Memory(Frozen):
    """Bytes on one GPU at the fullest moment of a training step."""

    weights: int = Field(description="this GPU's shard of the fp32 weights")
    gradients: int = Field(description="its shard of the fp32 gradients")
    optimizer: int = Field(description="its shard of AdamW's two moments")
    averaged: int = Field(description="its shard of the averaged weights")
    gathered: int = Field(description="whole layers while they compute: this one, the next, and their gradients")
    activations: int = Field(description="what the backward pass needs, and temporaries")
    context: int = Field(default=CONTEXT_BYTES, description="CUDA context and libraries, assumed")

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dict(self).values())


class Estimate(Frozen):
    """The answer of `dualforce estimate`."""

    model: str
    gpus: int
    workload: Workload
    precision: Literal["bf16", "fp32"]
    attention: Kernel = Field(description="kernel of attention under a mask; flex is what CUDA trains with by default")
    recompute: bool | None = Field(description="activation checkpointing as configured; null: of a preset, either way")
    parameters: dict[str, int] = Field(description="per component")
    video_tokens: int = Field(description="of one window, in the video tower")
    checkpointed: Memory = Field(description="with activation checkpointing, by either setting of it")
    plain: Memory = Field(description="without")
    flops: int = Field(description="of one training step on one GPU, nothing recomputed; masked pairs only if native")
    attention_flops: int = Field(description="the part that is attention")
    recomputed_flops: int = Field(description="what activation checkpointing adds")
    cache_bytes: int = Field(description="memory of one stream of generation, whatever its length")
    limit_gb: float
    advice: tuple[str, ...] = Field(description="changes that bring the run under the limit; empty: it fits")

    @property
    def judged(self) -> Memory:
        """What is held against the limit: the run as configured; of a preset, with activation checkpointing."""
        return self.plain if self.recompute is False else self.checkpointed

    @property
    def fits(self) -> bool:
        """Whether a GPU holds the run."""
        return self.judged.total <= self.limit_gb * GB

    def text(self) -> str:
        """For people."""
        return "\n".join([*self._sizes(), "", *self._memory(), "", *self._work(), "", *self._verdict()])

    def _sizes(self) -> Iterator[str]:
        yield f"{self.model}: {sum(self.parameters.values()) / 1e6:,.1f} million parameters"
        for name, count in self.parameters.items():
            yield f"  {name:<12}{count / 1e6:>10,.1f}"
        work = self.workload
        yield f"On each of {self.gpus} GPUs: a batch of {work.batch_per_gpu}, windows of {work.num_steps} steps"
        size = f"{work.crop_px}x{work.crop_px} px"
        yield f"  at {size} ({self.video_tokens:,} video tokens in a window), {self.precision}"

    def _memory(self) -> Iterator[str]:
        yield f"{'GB per GPU':<16}{'checkpointed':>14}{'plain':>10}"
        for name, saved in self.checkpointed:
            yield f"  {name:<14}{saved / GB:>14.3f}{getattr(self.plain, name) / GB:>10.3f}"
        yield f"  {'total':<14}{self.checkpointed.total / GB:>14.3f}{self.plain.total / GB:>10.3f}"

    def _work(self) -> Iterator[str]:
        share = self.attention_flops / self.flops
        yield f"TFLOPs per step: {self.flops / TERA:,.3f} on each GPU, {self.gpus * self.flops / TERA:,.3f} in all"
        again = self.recomputed_flops / self.flops
        pairs = "masked pairs included" if self.attention == "native" else "masked pairs skipped"
        yield f"  attention ({self.attention}) {share:.0%} of them, {pairs}; checkpointing computes another {again:.0%}"
        yield f"  {NO_TEXT}"
        weights = 2 * sum(self.parameters.values()) / GB
        yield f"Generation: weights {weights:.3f} GB in bf16, and {self.cache_bytes / GB:.3f} GB of cache per stream"

    def _verdict(self) -> Iterator[str]:
        total, plain, limit = self.judged.total / GB, self.plain.total / GB, self.limit_gb
        way = f"{'without' if self.recompute is False else 'with'} activation checkpointing"
        if self.fits and self.recompute is not None:
            yield f"Fits in {limit:g} GB per GPU as configured, {way} ({total:.1f} GB)."
        elif plain <= limit:
            yield f"Fits in {limit:g} GB per GPU even without activation checkpointing ({plain:.1f} GB)."
        elif self.fits:
            yield f"Fits in {limit:g} GB per GPU with activation checkpointing ({total:.1f} GB), not without."
            yield "  Needed: train.execution.recompute, or accelerate's fsdp_activation_checkpointing; not both."
        else:
            yield f"Does not fit {way}: {total:.1f} GB, and {limit:g} GB per GPU are allowed. What to change:"
            yield from (f"  - {line}" for line in self.advice)


def parameters_of(model: DualForce) -> dict[str, int]:
    """Number of parameters of each component that the model has."""
    return {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}


def estimate(
    name: str,
    config: ModelConfig,
    work: Workload,
    gpus: int,
    precision: Literal["bf16", "fp32"] = "bf16",
    limit_gb: float = LIMIT_GB,
    attention: Kernel = "flex",
    recompute: bool | None = None,
) -> Estimate:
    """Estimate a run of `gpus` GPUs, each with its own `work`, sharded by FSDP2. Allocates no weight of the model.

    `recompute` is what the run's configuration says; None judges it with activation checkpointing.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = on_shapes(config, dtype)
    checkpointed, plain = (training_step(config, work, dtype, saving, attention) for saving in (True, False))
    found = Estimate(
        model=name,
        gpus=gpus,
        workload=work,
        precision=precision,
        attention=attention,
        recompute=recompute,
        parameters=parameters_of(model),
        video_tokens=work.num_steps * work.latent_px**2 // math.prod(config.video.patch_px),
        checkpointed=_memory(model, checkpointed, gpus, dtype),
        plain=_memory(model, plain, gpus, dtype),
        flops=plain.flops,
        attention_flops=plain.attention_flops,
        recomputed_flops=checkpointed.flops - plain.flops,
        cache_bytes=generation_cache_bytes(config, work, dtype),
        limit_gb=limit_gb,
        advice=(),
    )
    if found.fits:
        return found
    return found.model_copy(update={"advice": tuple(_advice(config, found, dtype)) or (NO_SINGLE_CHANGE,)})


def _memory(model: DualForce, run: DryRun, gpus: int, dtype: torch.dtype) -> Memory:
    shard = -(-_count(model) // gpus)
    return Memory(
        weights=MASTER_BYTES * shard,
        gradients=MASTER_BYTES * shard,
        optimizer=MOMENT_BYTES * shard,
        averaged=AVERAGE_BYTES * shard,
        gathered=gathered_bytes(model, dtype),
        activations=run.peak_bytes,
    )


def gathered_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Whole layers on one GPU at the fullest moment of a step under FSDP2, and their gradients."""
    units = [_count(layer) for layer in layers_of(model).values()]
    largest, rest = max(units), _count(model) - sum(units)
    # FSDP2 holds the layer at work and the next one, and their gradients until they are reduced; what belongs to no
    # layer stays from the first use to the last.
    return dtype.itemsize * (2 * rest + 4 * largest)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _advice(config: ModelConfig, found: Estimate, dtype: torch.dtype) -> Iterator[str]:
    """Single changes that bring a run under the limit, each computed, not guessed."""
    work, gpus, memory, limit = found.workload, found.gpus, found.judged, found.limit_gb * GB
    if found.recompute is False and found.checkpointed.total <= limit:
        yield TURN_ON
    room = limit - (memory.total - memory.activations)

    def enough(smaller: Workload) -> bool:
        run = training_step(config, smaller, dtype, found.recompute is not False, found.attention)
        return run.peak_bytes <= room

    for field, what, least in (
        ("batch_per_gpu", "fewer windows at a time: batch_size", 1),
        ("num_steps", "shorter windows: window_steps", 2),
        ("crop_px", "smaller crops: crop_px", 64),
    ):
        now = _halved_until_it_fits(config, work, field, least, enough)
        if now is not None:
            factor = gpus if field == "batch_per_gpu" else 1  # the setting counts the windows of all GPUs
            yield f"{what} {factor * now} instead of {factor * getattr(work, field)} is enough"
    sharded = memory.weights + memory.gradients + memory.optimizer + memory.averaged
    left = limit - (memory.total - sharded)
    if left > 0:
        yield f"more GPUs, as many windows on each: {-int(-sharded * gpus // left)} instead of {gpus} are enough"


def _halved_until_it_fits(
    config: ModelConfig, work: Workload, field: str, least: int, enough: Callable[[Workload], bool]
) -> int | None:
    """The largest half, quarter, ... of a workload's number that is `enough`; None if none is."""
    value: int = getattr(work, field)
    for _ in range(HALVINGS):
        value //= 2
        if value < least or (field == "crop_px" and not _divides(config, value)):
            return None
        smaller = work.model_copy(update={field: value})
        if enough(smaller):
            return value
    return None


def _divides(config: ModelConfig, crop_px: int) -> bool:
    return all(crop_px % (PX_PER_LATENT * side) == 0 for side in config.video.patch_px)
