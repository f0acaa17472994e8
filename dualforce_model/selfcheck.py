"""Does the model work here? Six parts, each small and real: two streams, both together, cache, training, memory.

report = check_model("tiny", PRESETS["tiny"], torch.device("cpu"))

Weights are random. What starts at zero (gates, heads) is opened first: a new model predicts nothing at all.
"""

import math
import time
from collections.abc import Callable, Iterator

import psutil
import torch
from torch import Tensor

from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.config import Frozen
from dualforce_model.diffusion.prediction import Reading, measure_spread
from dualforce_model.diffusion.window import SampleKey
from dualforce_model.dry_run import (
    Meter,
    Workload,
    arguments,
    cast_parameters,
    gradients_leave,
    step_loss,
    training_step,
)
from dualforce_model.errors import InputError
from dualforce_model.estimate import GB
from dualforce_model.judges import Judges
from dualforce_model.layers.masks import StepMask
from dualforce_model.losses import LossWeights
from dualforce_model.model import DualForce, ModelConfig
from dualforce_model.objective import Objective
from dualforce_model.optimisation import OptimizerConfig, make_optimizer
from dualforce_model.towers import StructureTower, VideoTower
from dualforce_model.train_config import TrainSettings

WHOLE_CLIP = ("reference", "features", "canonical")  # arguments that are not per step
SIDE_TOKENS = 4  # tokens along a side of the small pictures that are checked with
STEPS = 5
TRAIN_STEPS = 4
TRAIN_BYTES = 16  # per parameter: fp32 weight, gradient, two moments
CACHE_TOLERANCE = 1e-5  # of the largest output, in fp32
MEMORY_TOLERANCE = {"cpu": 0.15, "cuda": 0.3}  # CUDA's kernels choose their own workspaces


class CheckFailed(Exception):
    """A part did not do what it must; the message says what it did instead."""


class Part(Frozen):
    """One part of the check."""

    name: str
    passed: bool
    found: str
    seconds: float


class SelfCheck(Frozen):
    """All of them."""

    model: str
    device: str
    torch_version: str = torch.__version__
    parts: tuple[Part, ...]

    @property
    def problems(self) -> tuple[Part, ...]:
        """Parts that did not pass."""
        return tuple(part for part in self.parts if not part.passed)

    def text(self) -> str:
        """For people."""
        lines = [f"{self.model} on {self.device}, torch {self.torch_version}"]
        for number, part in enumerate(self.parts, start=1):
            verdict = "ok" if part.passed else "PROBLEM"
            lines.append(f"  {number}  {part.name:<15}{verdict:<9}{part.seconds:>6.1f} s  {part.found}")
        return "\n".join(lines)


def check_model(
    name: str, config: ModelConfig, device: torch.device, tell: Callable[[str], None] = lambda line: None
) -> SelfCheck:
    """Run all parts; a part that fails does not keep the others from running. `tell` hears of each before it starts."""
    _enough_memory(config, device)
    parts = {
        "video": _check_video,
        "structure": _check_structure,
        "both, bridged": _check_bridge,
        "cache": _check_cache,
        "training": _check_training,
        "memory": _check_memory,
    }
    done = []
    for number, (part, check) in enumerate(parts.items(), start=1):
        tell(f"{number} of {len(parts)}: {part}")
        done.append(_attempt(part, check, config, device))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return SelfCheck(model=name, device=where, parts=tuple(done))


def _attempt(
    name: str, check: Callable[[ModelConfig, torch.device], str], config: ModelConfig, device: torch.device
) -> Part:
    started = time.monotonic()
    torch.manual_seed(0)
    try:
        passed, found = True, check(config, device)
    except Exception as error:  # the report is the handler: whatever a part raises is what was found
        passed, found = False, str(error) if isinstance(error, CheckFailed) else f"{type(error).__name__}: {error}"
    return Part(name=name, passed=passed, found=found, seconds=round(time.monotonic() - started, 2))


def _enough_memory(config: ModelConfig, device: torch.device) -> None:
    """Raises InputError where the training step would end in the operating system's killer."""
    with torch.device("meta"):
        needed = TRAIN_BYTES * sum(parameter.numel() for parameter in DualForce(config).parameters())
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"training one step takes {needed / GB:.1f} GB for weights and moments alone, and {free / GB:.1f} GB are "
            f"free on {device.type}: check a smaller preset, or on another device"
        )


# ---------------------------------------------------------------------------------------------------------- streams


def _check_video(config: ModelConfig, device: torch.device) -> str:
    tower = VideoTower.build(config.video).to(device).eval().requires_grad_(False)
    _open(tower)
    given, mask = _small(config, STEPS, device), StepMask.causal(STEPS, config.window_steps)

    def run(video: Tensor) -> Tensor:
        first = given["positions"] == 0
        state = tower.start(video, given["reference"], first, given["sigma_video"], mask)
        for layer in range(len(tower.blocks)):
            tower.advance(layer, state)
        return tower.finish(state)

    return _of_the_past_alone(run, given["video"])


def _check_structure(config: ModelConfig, device: torch.device) -> str:
    if config.structure is None:
        return "the model has no structure stream"
    tower = StructureTower.build(config.structure).to(device).eval().requires_grad_(False)
    _open(tower)
    given, mask = _small(config, STEPS, device), StepMask.causal(STEPS, config.window_steps)

    def run(structure: Tensor) -> Tensor:
        told = given.get("canonical")
        state = tower.start(structure, structure[:, 0, -1], given["sigma_structure"], mask, canonical=told)
        for layer in range(len(tower.blocks)):
            tower.advance(layer, state)
        return tower.finish(state)

    return _of_the_past_alone(run, given["structure"])


def _of_the_past_alone(run: Callable[[Tensor], Tensor], given: Tensor) -> str:
    """A stream's velocity: of its shape, finite, and that of a step unmoved, to the bit, by what comes after it."""
    before = run(given)
    if before.shape != given.shape:
        raise CheckFailed(f"velocities of shape {tuple(before.shape)} for inputs of shape {tuple(given.shape)}")
    _finite("velocities", before)
    later = given.clone()
    later[:, -1] += 1
    after = run(later)
    if not torch.equal(before[:, :-1], after[:, :-1]):
        raise CheckFailed("a change of the last step changed velocities of steps before it")
    if torch.equal(before[:, -1], after[:, -1]):
        raise CheckFailed("a change of the last step changed nothing")
    return f"{tuple(before.shape)} finite; the last step changes no step before it, to the bit"


def _check_bridge(config: ModelConfig, device: torch.device) -> str:
    if config.structure is None:
        return "the model has no structure stream, so no bridge"
    model = DualForce(config).to(device).eval().requires_grad_(False)
    given = _small(config, STEPS, device)
    for tower in (model.video, model.structure):
        _open(tower)
    closed = [told for _, told in _told(model, given)]
    if any(closed):
        raise CheckFailed("with closed gates one stream already heard of the other")
    _open(model)
    for name, told in _told(model, given):
        expected = config.bridge.direction != {"video": "video_to_structure", "structure": "structure_to_video"}[name]
        if told != (expected and bool(config.bridge.bridged(min(config.video.layers, config.structure.layers)))):
            raise CheckFailed(f"bridge {config.bridge.direction}: {name} was {'' if told else 'not '}told of the other")
    return f"closed gates change nothing, open ones tell ({config.bridge.direction}), and never what is to come"


def _told(model: DualForce, given: dict[str, Tensor]) -> Iterator[tuple[str, bool]]:
    """Of each stream, whether the other's last step reaches it; that it reaches no step before is required."""
    before = model(**given)
    for name, other, index in (("video", "structure", 0), ("structure", "video", 1)):
        changed = given[other].clone()
        changed[:, -1] += 1
        after = model(**{**given, other: changed})
        _finite(f"velocities of {name}", after[index])
        if not torch.equal(before[index][:, :-1], after[index][:, :-1]):
            raise CheckFailed(f"{other} of the last step changed {name} of steps before it")
        yield name, not torch.equal(before[index][:, -1], after[index][:, -1])


# ------------------------------------------------------------------------------------------------------------ cache


def _check_cache(config: ModelConfig, device: torch.device) -> str:
    """Streams run step by step far beyond the window equal one pass over all steps; memory stays what it was."""
    num_steps = config.window_steps + 4
    model = DualForce(config).to(device).eval().requires_grad_(False)
    _open(model)
    given = _small(config, num_steps, device)
    whole = model(**given)
    ahead = config.audio.look_ahead_steps if config.audio is not None else 0
    cache, worst, sizes = model.new_cache(given["video"].shape[0]), 0.0, []
    for step in range(num_steps):
        now = {
            name: value if name in WHOLE_CLIP or value is None else value[:, step : step + 1 + _reach(name, ahead)]
            for name, value in given.items()
        }
        out = model(**now, cache=cache, commit=True)
        sizes.append(cache.num_bytes())
        for streamed, at_once in zip(out, whole, strict=True):
            if streamed is not None:
                distance = (streamed[:, 0] - at_once[:, step]).abs().max() / at_once.abs().max()
                worst = max(worst, distance.item())
    if not worst <= CACHE_TOLERANCE:
        raise CheckFailed(f"step by step differs from one pass by {worst:.1e} of the largest velocity")
    if len(set(sizes[config.window_steps :])) > 1:
        raise CheckFailed(f"the cache grew beyond its window: {sizes[config.window_steps :]} bytes")
    return f"{num_steps} steps one by one differ from one pass by {worst:.1e}; {sizes[-1] / 1e6:.2f} MB, constant"


def _reach(name: str, ahead: int) -> int:
    return ahead if name in ("audio", "audio_mask") else 0


# --------------------------------------------------------------------------------------------- training and memory


def _check_training(config: ModelConfig, device: torch.device) -> str:
    """The trainer's own objective and optimizer, a few steps on one batch: all learns, and the loss falls."""
    settings = TrainSettings(model=config, optimizer=OptimizerConfig(learning_rate=1e-3))
    side = SIDE_TOKENS * math.lcm(*config.video.patch_px)
    batch = TalkingHeadBatch.fake(config, 2, STEPS, side, side)
    reading = Reading.of(settings.diffusion.prediction, measure_spread([batch]))
    judges = Judges(LossWeights(), config, knows_flame=False)
    objective = Objective(DualForce(config), judges, settings, reading).to(device)
    optimizer = make_optimizer(settings.optimizer, objective)
    keys = [SampleKey(0, index) for index in range(len(batch))]
    losses, still = [], {name for name, p in objective.named_parameters() if p.requires_grad}
    for _ in range(TRAIN_STEPS):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = objective(batch.to(device), keys, 0.0).losses.total
        loss.backward()
        idle = [name for name, p in objective.model.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            raise CheckFailed(f"{len(idle)} parameters have no gradient, the first is {idle[0]}")
        for name, parameter in objective.named_parameters():
            _finite(f"the gradient of {name}", parameter.grad)
            if parameter.grad is not None and parameter.grad.any():
                still.discard(name)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    if not losses[-1] < losses[0]:
        raise CheckFailed(f"the loss did not fall: {', '.join(f'{loss:.4f}' for loss in losses)}")
    if still:  # behind a gate that is zero at first, gradients come a step or two later than the gate's own
        raise CheckFailed(
            f"{len(still)} parameters had a gradient of zero in all {TRAIN_STEPS} steps, the first is {min(still)}"
        )
    fell = f"loss {losses[0]:.4f} -> {losses[-1]:.4f} in {TRAIN_STEPS} steps"
    return f"{fell}; every parameter had finite gradients, and not only zeros"


def _check_memory(config: ModelConfig, device: torch.device) -> str:
    """Activations of one training step, measured, against what `dualforce estimate` says of it."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    # Beyond the window queries are wider than values, for which the CPU has no fused attention.
    num_steps = min(STEPS, config.window_steps)
    work = Workload(crop_px=8 * 2 * SIDE_TOKENS * math.lcm(*config.video.patch_px), num_steps=num_steps)
    model = DualForce(config).to(device)
    cast_parameters(model, dtype)
    given = arguments(config, work, device.type, dtype)
    measure = _cuda_peak if device.type == "cuda" else _cpu_peak
    with gradients_leave(model):
        step_loss(model(**given)).backward()  # what is made once and kept is not the step's
        measured = measure(model, given)
    told = training_step(config, work, dtype, checkpointing=False).peak_bytes
    share = told / measured - 1
    if abs(share) > MEMORY_TOLERANCE[device.type]:
        raise CheckFailed(f"{measured / 1e6:.1f} MB measured, {told / 1e6:.1f} MB estimated: {share:+.0%}")
    found = f"{measured / 1e6:.1f} MB; estimated {told / 1e6:.1f} MB ({share:+.0%})"
    return f"a training step held, besides the weights, {found}"


def _cpu_peak(model: DualForce, given: dict[str, Tensor | None]) -> int:
    meter = Meter("cpu")
    meter.leave_out(*model.parameters(), *(value for value in given.values() if value is not None))
    with meter:
        step_loss(model(**given)).backward()
    return meter.peak


def _cuda_peak(model: DualForce, given: dict[str, Tensor | None]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step_loss(model(**given)).backward()
    return torch.cuda.max_memory_allocated() - before


# ------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _open(module: torch.nn.Module) -> None:
    """Small numbers where a new model has zeros: gates open, heads say something."""
    for parameter in module.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)


def _small(config: ModelConfig, num_steps: int, device: torch.device) -> dict[str, Tensor]:
    """Arguments of a small batch, the reference clean, the rest at a middling noise level."""
    work = Workload(crop_px=8 * SIDE_TOKENS * math.lcm(*config.video.patch_px), num_steps=num_steps, batch_per_gpu=2)
    given = arguments(config, work, device.type)
    for name in ("sigma_video", "sigma_structure"):
        levels = given[name]
        if levels is not None:
            levels[:, 0] = 0
    return given  # type: ignore[return-value]  # what a part asks of it is there


def _finite(what: str, x: Tensor | None) -> None:
    if x is not None and not torch.isfinite(x).all():
        raise CheckFailed(f"{what}: not finite")
