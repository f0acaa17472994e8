"""Generation with a cache against generation that computes all earlier steps anew, at 8, 32 and 128 steps.

    python -m benchmarks.generation [--gpu]

Uncached, every denoising step of a latent runs the whole clip so far. Cached, it runs the new latent alone, and one
more clean pass writes the cache. A cache of all steps (window as long as the clip) and of the model's own window.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import Bench, Way, benchmark
from dualforce_model.dry_run import Workload, arguments, cast_parameters, training_step
from dualforce_model.model import PRESETS, DualForce, ModelConfig

LENGTHS = (8, 32, 128)
DENOISING = 4  # Euler steps per latent
CROP_PX = {True: 256, False: 64}
WHOLE_CLIP = ("reference", "features", "canonical")


@benchmark
def main(gpu: bool, rounds: int, out: Path | None) -> None:
    """Cached against uncached generation."""
    bench = Bench("generation", gpu, rounds, out)
    config = PRESETS["small" if gpu else "tiny"]
    for length in LENGTHS:
        whole = config.model_copy(update={"window_steps": length})
        model = make_model(whole, bench)
        workload = Workload(crop_px=CROP_PX[gpu], num_steps=length)
        given = arguments(config, workload, bench.device.type, bench.dtype)
        tokens = length * (CROP_PX[gpu] // 8) ** 2 // (config.video.patch_px[0] * config.video.patch_px[1])
        windowed = make_model(config, bench)
        if length == min(LENGTHS):
            same_result(generate_uncached(model, given), generate_cached(model, given))
        flops, fewer = (useful_flops(each, workload) for each in (whole, config))
        ways = [
            Way(
                name="uncached",
                run=lambda m=model, g=given: generate_uncached(m, g),
                tokens=tokens,
                useful_flops=flops,
            ),
            Way(name="cached", run=lambda m=model, g=given: generate_cached(m, g), tokens=tokens, useful_flops=flops),
            Way(
                name=f"cached, window {config.window_steps}",
                run=lambda m=windowed, g=given: generate_cached(m, g),
                tokens=tokens,
                useful_flops=fewer,
            ),
        ]
        bench.compare(f"{length} steps", ways, rounds=1 if length == max(LENGTHS) and not gpu else None)
    bench.finish()


def useful_flops(config: ModelConfig, work: Workload) -> int:
    """What generation cannot do without: every step denoised and kept once, seeing what the mask shows it."""
    step = training_step(config, work, torch.bfloat16, checkpointing=False, attention="flex").flops / 3  # no backward
    return round(step * ((work.num_steps - 1) * (DENOISING + 1) + 1) / work.num_steps)


def make_model(config: ModelConfig, bench: Bench) -> DualForce:
    """A model with random weights, none of them zero: a gate or head that is still closed hides what it computes."""
    torch.manual_seed(0)
    model = DualForce(config).eval().requires_grad_(False).to(bench.device)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    cast_parameters(model, bench.dtype)
    return model.requires_grad_(False)


def steps_of(given: dict[str, Tensor | None], first: int, stop: int) -> dict[str, Tensor | None]:
    """The arguments of some steps."""
    return {
        name: value if value is None or name in WHOLE_CLIP else value[:, first:stop] for name, value in given.items()
    }


def same_result(uncached: Tensor, cached: Tensor) -> None:
    """Both compute the same velocities, or their times say nothing."""
    distance = ((cached - uncached).float().norm() / uncached.float().norm()).item()
    if not distance <= (0.05 if cached.dtype == torch.bfloat16 else 1e-4):
        raise RuntimeError(f"with a cache the velocities differ by {distance:.1e}: the times cannot be compared")


def generate_uncached(model: DualForce, given: dict[str, Tensor | None]) -> Tensor:
    """Every pass is over all steps so far. Returns the video velocity of the last step."""
    num_steps = given["positions"].shape[1]  # type: ignore[union-attr]  # always there
    with torch.no_grad():
        for step in range(1, num_steps):
            for _ in range(DENOISING):
                velocities = model(**steps_of(given, 0, step + 1))
    return velocities.video[:, -1]


def generate_cached(model: DualForce, given: dict[str, Tensor | None]) -> Tensor:
    """Passes are over the new step; a last one, clean, is kept. Returns the video velocity of the last step."""
    num_steps = given["positions"].shape[1]  # type: ignore[union-attr]  # always there
    cache = model.new_cache(1)
    with torch.no_grad():
        model(**steps_of(given, 0, 1), cache=cache, commit=True)
        for step in range(1, num_steps):
            now = steps_of(given, step, step + 1)
            for _ in range(DENOISING):
                velocities = model(**now, cache=cache)
            model(**now, cache=cache, commit=True)
    return velocities.video[:, -1]


if __name__ == "__main__":
    main()
