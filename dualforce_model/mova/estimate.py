"""What MOVA takes before anything is loaded: parameters, memory per GPU, FLOPs per step, out of settings alone.

The modules themselves run on torch's meta device, as everywhere in `estimate`. The stages are those of `inference`:
one after the other, each with the weights that it holds then. GB are 10^9 bytes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from dualforce_model.config import Frozen
from dualforce_model.dry_run import DryRun, FusedKernels, Meter, cast_parameters, checkpoint_layers, gradients_leave
from dualforce_model.errors import InputError
from dualforce_model.estimate import (
    CONTEXT_BYTES,
    GB,
    LIMIT_GB,
    MASTER_BYTES,
    MOMENT_BYTES,
    TERA,
    Memory,
    gathered_bytes,
)
from dualforce_model.mova.checkpoint import MovaCheckpoint, Part, declared_dtype, dtype_of
from dualforce_model.mova.components import expected
from dualforce_model.mova.inference import EXPERTS, MASK_CHANNELS, MovaRequest, latent_shapes, pixels
from dualforce_model.mova.prompts import PROMPT_TOKENS
from dualforce_model.mova.schedule import PairSchedule
from dualforce_model.mova.step import DualTower, Latents
from dualforce_model.weight_files import WIDTHS

TOWERS = ("audio_dit", "dual_tower_bridge")  # beside whichever expert runs
DENOISING = "denoising"
META = torch.device("meta")
Run = Callable[[], Any]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]  # of video and audio latents


class Stage(Frozen):
    """One stage of inference on one GPU."""

    name: str
    loaded: tuple[str, ...] = Field(description="components on the GPU while it runs")
    weights: int = Field(description="their bytes, in the types that they run in")
    activations: int | None = Field(description="bytes alive at the fullest moment, beside them; null: not estimated")
    context: int = Field(default=CONTEXT_BYTES, description="CUDA context and libraries, assumed; bytes")
    flops: int | None = Field(description="of one pass; denoising makes many, the others one; null: not estimated")

    @property
    def total(self) -> int:
        """Bytes in all that is estimated."""
        return self.weights + (self.activations or 0) + self.context


class TrainingStep(Frozen):
    """A step of upstream's recipe, one video per GPU, under FSDP2. Nothing in this project trains MOVA."""

    trained: tuple[str, ...] = Field(description="components with a gradient in one step; both experts keep moments")
    memory: Memory = Field(description="bytes per GPU, with activation checkpointing")
    flops: int = Field(description="of one step on one GPU, what checkpointing computes again included")


class MovaEstimate(Frozen):
    """The answer of `dualforce estimate` about MOVA."""

    model: str
    source: str = Field(description="where its settings come from")
    gpus: int
    request: MovaRequest = Field(description="the video that is made, or trained on")
    parameters: dict[str, int] = Field(description="per component")
    not_estimated: dict[str, str] = Field(description="component -> why nothing is said of it")
    video_tokens: int = Field(description="in the video towers")
    audio_tokens: int = Field(description="in the audio tower")
    stages: tuple[Stage, ...] = Field(description="of inference, in their order")
    passes_per_step: int = Field(description="passes through the towers in one Euler step: guidance takes two")
    high_noise_steps: int = Field(description="steps of video_dit; the others are video_dit_2's")
    step_flops: int = Field(description="of one Euler step")
    attention_flops: int = Field(description="the part of it that is attention")
    video_flops: int = Field(description="of one whole video: all steps, encoding and decoding")
    training: TrainingStep
    limit_gb: float

    @property
    def largest(self) -> Stage:
        """The stage that takes the most memory."""
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def fits(self) -> bool:
        """Whether a GPU holds every stage of inference that is estimated."""
        return self.largest.total <= self.limit_gb * GB

    @property
    def training_fits(self) -> bool:
        """Whether a GPU holds its share of a training step."""
        return self.training.memory.total <= self.limit_gb * GB

    def text(self) -> str:
        """For people."""
        return "\n".join([*self._sizes(), "", *self._inference(), "", *self._training(), "", *self._verdict()])

    def _sizes(self) -> Iterator[str]:
        partly = " in what is known of it" if self.not_estimated else ""
        yield f"{self.model}: {sum(self.parameters.values()) / 1e6:,.1f} million parameters{partly}"
        yield f"  ({self.source})"
        for name, count in self.parameters.items():
            yield f"  {name:<18}{count / 1e6:>10,.1f}"
        for name, why in self.not_estimated.items():
            yield f"  {name:<18}not estimated: {why}"
        asked = self.request
        size = f"{asked.num_frames} frames of {asked.height_px}x{asked.width_px} px at {asked.fps} per second"
        yield f"One video: {size}, {self.video_tokens:,} video and {self.audio_tokens:,} audio tokens"

    def _inference(self) -> Iterator[str]:
        yield f"{'Inference, GB per GPU':<24}{'weights':>9}{'activations':>13}{'total':>9}{'TFLOPs':>11}"
        for stage in self.stages:
            activations = "not known" if stage.activations is None else f"{stage.activations / GB:.3f}"
            flops = "not known" if stage.flops is None else f"{stage.flops / TERA:,.1f}"
            row = f"{stage.weights / GB:>9.3f}{activations:>13}{stage.total / GB:>9.3f}{flops:>11}"
            yield f"  {stage.name:<22}{row}"
        yield f"  (the total has {CONTEXT_BYTES / GB:g} GB for CUDA itself; denoising's TFLOPs are of one pass)"
        steps, share = self.request.num_steps, self.attention_flops / self.step_flops
        passes = f"{self.passes_per_step} pass{'es' if self.passes_per_step > 1 else ''}"
        yield f"TFLOPs per step: {self.step_flops / TERA:,.1f} in {passes}, attention {share:.0%} of them"
        yield f"  {steps} steps ({self.high_noise_steps} of video_dit): {self.video_flops / TERA:,.0f} for the video"
        if self.gpus > 1:
            yield f"  Inference is not split: each of {self.gpus} GPUs makes a video of its own"

    def _training(self) -> Iterator[str]:
        step = self.training
        yield f"Training on {self.gpus} GPUs, GB per GPU: one video each, FSDP2, activation checkpointing"
        for name, size in step.memory:
            yield f"  {name:<14}{size / GB:>10.3f}"
        yield f"  {'total':<14}{step.memory.total / GB:>10.3f}"
        yield f"  a step trains {', '.join(step.trained)}: {step.flops / TERA:,.0f} TFLOPs on each GPU"
        yield "  (latents and prompts made before; for the size alone: nothing here trains MOVA)"

    def _verdict(self) -> Iterator[str]:
        limit, most = self.limit_gb, self.largest
        needs = f"{most.total / GB:.1f} GB, when {most.name}"
        yield f"Inference {'fits' if self.fits else 'does not fit'} in {limit:g} GB per GPU ({needs})."
        verdict = "would fit" if self.training_fits else "would not fit"
        yield f"Training {verdict} in {limit:g} GB per GPU ({self.training.memory.total / GB:.1f} GB)."


def estimate(
    name: str,
    checkpoint: MovaCheckpoint,
    request: MovaRequest,
    gpus: int,
    limit_gb: float = LIMIT_GB,
    source: str = "the checkpoint's own settings",
    unknown: Mapping[str, str] | None = None,
) -> MovaEstimate:
    """Estimate inference and a training step out of a checkpoint's settings; its weights are not looked at.

    Raises InputError for settings out of which modules can be built, but none that run.
    """
    parts, settings = checkpoint.parts, checkpoint.settings
    passes = 1 if request.guidance == 1 else 2
    shapes = latent_shapes(request, settings("video_vae"), settings("audio_vae"))
    look, stages, training = _ran(name, checkpoint, request, shapes, gpus)
    once = sum(stage.flops or 0 for stage in stages if stage.name != DENOISING)
    schedule = PairSchedule.equal(settings("scheduler"), request.num_steps)
    _, rows, columns = settings("video_dit").patch_size
    (_, _, frames, height, width), (_, _, audio_tokens) = shapes
    return MovaEstimate(
        model=name,
        source=source,
        gpus=gpus,
        request=request,
        parameters={folder: count for folder, part in parts.items() if (count := _parameters(part))},
        not_estimated=dict(unknown or {}),
        video_tokens=frames * (height // rows) * (width // columns),
        audio_tokens=audio_tokens,
        stages=stages,
        passes_per_step=passes,
        high_noise_steps=schedule.switch(checkpoint.index.boundary_ratio),
        step_flops=passes * look.flops,
        attention_flops=passes * look.attention_flops,
        video_flops=request.num_steps * passes * look.flops + once,
        training=training,
        limit_gb=limit_gb,
    )


def _ran(
    name: str, checkpoint: MovaCheckpoint, request: MovaRequest, shapes: Shapes, gpus: int
) -> tuple[DryRun, tuple[Stage, ...], TrainingStep]:
    """One pass through the towers, the stages of inference, and a training step."""
    try:
        return *_stages(checkpoint, request, shapes), _training(checkpoint, request, shapes, gpus)
    except (RuntimeError, ValueError, TypeError) as error:  # on shapes alone only what does not go together fails
        raise InputError(f"{name}: a model of these settings does not run: {error}; correct its config.json") from error


def _stages(checkpoint: MovaCheckpoint, request: MovaRequest, shapes: Shapes) -> tuple[DryRun, tuple[Stage, ...]]:
    """One pass through the towers, and all stages in the order in which `inference` runs them."""
    parts = checkpoint.parts
    video, audio = (torch.empty(shape, device=META) for shape in shapes)
    film = (1, 3, request.num_frames, request.height_px, request.width_px)  # made by the stage itself: it counts
    expert, sound, bridge = (_module(parts[name], torch.bfloat16) for name in (EXPERTS[0], *TOWERS))
    pictures, voice = (_module(parts[name], torch.float32) for name in ("video_vae", "audio_vae"))
    inputs = _inputs(checkpoint, shapes)
    look = _dry((expert, sound, bridge), inputs, lambda: _look(DualTower(expert, sound, bridge), inputs, request))
    encode = _dry((pictures,), (), lambda: pictures.encode(torch.empty(film, device=META)).latent_dist.mode())
    decode = _dry((pictures,), (video,), lambda: pixels(pictures.decode(video).sample[0]))
    hear = _dry((voice,), (audio,), lambda: voice.decode(audio))
    text = parts.get("text_encoder")
    stages = [] if text is None else [_text_stage(text)]
    for name, modules, run in (
        ("encoding the picture", {"video_vae": pictures}, encode),
        (DENOISING, {"one video_dit": expert, **dict(zip(TOWERS, (sound, bridge), strict=True))}, look),
        ("decoding the video", {"video_vae": pictures}, decode),
        ("decoding the sound", {"audio_vae": voice}, hear),
    ):
        weights = sum(_bytes(module) for module in modules.values())
        loaded = tuple(modules)
        stages.append(Stage(name=name, loaded=loaded, weights=weights, activations=run.peak_bytes, flops=run.flops))
    return look, tuple(stages)


def _text_stage(text: Part) -> Stage:
    """The text encoder has no module here: its weights alone are known, in the type that its settings declare."""
    width = WIDTHS[declared_dtype(text.told) or "F32"]
    return Stage(
        name="reading the prompt", loaded=("text_encoder",), weights=width * _parameters(text), activations=None,
        flops=None,
    )  # fmt: skip


def _training(checkpoint: MovaCheckpoint, request: MovaRequest, shapes: Shapes, gpus: int) -> TrainingStep:
    """Forward and backward of one expert, the audio tower and the bridge; the other expert's state only lies there."""
    parts, meter, kernels = checkpoint.parts, Meter(), FusedKernels()
    model = _Trained(*(_module(parts[name], torch.float32) for name in (EXPERTS[0], *TOWERS))).requires_grad_(True)
    cast_parameters(model, torch.bfloat16)
    gathered = gathered_bytes(model, torch.bfloat16)
    count = sum(parameter.numel() for parameter in model.parameters())
    everything = sum(_parameters(parts[name]) for name in (*EXPERTS, *TOWERS))
    checkpoint_layers(model, recompute=kernels)
    inputs = _inputs(checkpoint, shapes)
    meter.leave_out(*model.parameters(), *model.buffers(), *inputs)
    with gradients_leave(model), meter, kernels:
        out = _look(DualTower(model.video, model.audio, model.bridge), inputs, request)
        torch.stack([each.square().mean() for each in (out.video, out.audio)]).sum().backward()
    return TrainingStep(
        trained=("one video_dit", *TOWERS),
        memory=Memory(
            weights=MASTER_BYTES * -(-everything // gpus),
            gradients=MASTER_BYTES * -(-count // gpus),
            optimizer=MOMENT_BYTES * -(-everything // gpus),
            averaged=0,
            gathered=gathered,
            activations=meter.peak,
        ),
        flops=meter.flops + kernels.attention_flops,
    )


class _Trained(nn.Module):
    """What one training step runs, with the layers that upstream shards one by one."""

    _no_split_modules = ["WanTransformerBlock", "Conditioner"]

    def __init__(self, video: Any, audio: Any, bridge: Any) -> None:
        super().__init__()
        self.video, self.audio, self.bridge = video, audio, bridge


def _module(part: Part, dtype: torch.dtype) -> Any:
    """A component on the meta device, in the types that it would have when loaded."""
    module = part.component.skeleton(part.settings, part.told)
    for name, parameter in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        cast = nn.Parameter(parameter.to(dtype_of(module, name, dtype)), requires_grad=False)
        setattr(module.get_submodule(owner), leaf, cast)
    return module.to(META)  # tables that are no parameters stand on the CPU


def _inputs(checkpoint: MovaCheckpoint, shapes: Shapes) -> tuple[Tensor, ...]:
    """Video with its condition channels, sound, one timestep, and a prompt, filled up as the release does."""
    batch, _, *sides = shapes[0]
    channels = 2 * checkpoint.settings("video_vae").z_dim + MASK_CHANNELS
    width = checkpoint.settings(EXPERTS[0]).text_dim
    sizes = ((batch, channels, *sides), shapes[1], (batch,), (batch, PROMPT_TOKENS, width))
    return tuple(torch.empty(size, device=META) for size in sizes)


def _look(towers: DualTower, inputs: tuple[Tensor, ...], request: MovaRequest) -> Latents:
    video, audio, timestep, text = inputs
    return towers.velocities(video, audio, (timestep, timestep), text, request.fps)


def _dry(modules: tuple[nn.Module, ...], inputs: tuple[Tensor, ...], run: Run) -> DryRun:
    """Run on shapes alone, without gradients; weights and inputs are not counted."""
    meter, kernels = Meter(), FusedKernels()
    meter.leave_out(*inputs, *(each for module in modules for each in (*module.parameters(), *module.buffers())))
    with torch.no_grad(), meter, kernels:
        run()
    flops = meter.flops + kernels.attention_flops
    return DryRun(peak_bytes=meter.peak, flops=flops, attention_flops=kernels.attention_flops)


def _parameters(part: Part) -> int:
    """Numbers in a component's tensors."""
    return sum(map(math.prod, expected(part.component, part.settings, part.told).values()))


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
