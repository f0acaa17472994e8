"""Generation with a cache against generation that computes all earlier steps anew, at 8, 32 and 128 steps.

    python -m benchmarks.generation [--gpu]

Uncached, every denoising step of a latent runs the whole clip so far. Cached, it runs the new latent alone, and one
more clean pass writes the cache. A cache of all steps (window as long as the clip) and of the model's own window.
"""

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Bench, Way, benchmark
from dualforce_model.dry_run import Workload, arguments, cast_parameters
from dualforce_model.model import PRESETS, DualForce, ModelConfig

LENGTHS = (8, 32, 128)
DENOISING = 4  # Euler steps per latent
CROP_PX = {True: 256, False: 64}
WHOLE_CLIP = ("reference", "features")


@benchmark
def main(gpu: bool, rounds: int, out: Path | None) -> None:
    """Cached against uncached generation."""
    bench = Bench("generation", gpu, rounds, out)
    config = PRESETS["small" if gpu else "tiny"]
    for length in LENGTHS:
        model = make_model(config.model_copy(update={"window_steps": length}), bench)
        given = arguments(config, Workload(crop_px=CROP_PX[gpu], num_steps=length), bench.device.type, bench.dtype)
        tokens = length * (CROP_PX[gpu] // 8) ** 2 // (config.video.patch_px[0] * config.video.patch_px[1])
        windowed = make_model(config, bench)
        ways = [
            Way(name="uncached", run=lambda m=model, g=given: generate_uncached(m, g), tokens=tokens),
            Way(name="cached", run=lambda m=model, g=given: generate_cached(m, g), tokens=tokens),
            Way(
                name=f"cached, window {config.window_steps}",
                run=lambda m=windowed, g=given: generate_cached(m, g),
                tokens=tokens,
            ),
        ]
        bench.compare(f"{length} steps", ways, rounds=1 if length == max(LENGTHS) and not gpu else None)
    bench.finish()


def make_model(config: ModelConfig, bench: Bench) -> DualForce:
    """A model with random weights."""
    torch.manual_seed(0)
    model = DualForce(config).eval().requires_grad_(False).to(bench.device)
    cast_parameters(model, bench.dtype)
    return model.requires_grad_(False)


def steps_of(given: dict[str, Tensor | None], first: int, stop: int) -> dict[str, Tensor | None]:
    """The arguments of some steps."""
    return {
        name: value if value is None or name in WHOLE_CLIP else value[:, first:stop] for name, value in given.items()
    }


def generate_uncached(model: DualForce, given: dict[str, Tensor | None]) -> None:
    """Every pass is over all steps so far."""
    num_steps = given["positions"].shape[1]  # type: ignore[union-attr]  # always there
    with torch.no_grad():
        for step in range(1, num_steps):
            for _ in range(DENOISING):
                model(**steps_of(given, 0, step + 1))


def generate_cached(model: DualForce, given: dict[str, Tensor | None]) -> None:
    """Passes are over the new step; a last one, clean, is kept."""
    num_steps = given["positions"].shape[1]  # type: ignore[union-attr]  # always there
    cache = model.new_cache(1)
    with torch.no_grad():
        model(**steps_of(given, 0, 1), cache=cache, commit=True)
        for step in range(1, num_steps):
            now = steps_of(given, step, step + 1)
            for _ in range(DENOISING):
                model(**now, cache=cache)
            model(**now, cache=cache, commit=True)


if __name__ == "__main__":
    main()
