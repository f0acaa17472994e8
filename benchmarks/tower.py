"""Our video tower against diffusers' `WanTransformer3DModel` of the same size, weights and work.

    python -m benchmarks.tower [--gpu]

Exit code 6: at some work the median ratio of our time over theirs exceeds 1.05.

Nobody is masked (every step sees every step), both have text attention, one noise level per clip in theirs and one per
step in ours. Then theirs with one noise level per token, the only way it has to tell steps apart, against ours.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from benchmarks.measure import Bench, Way, benchmark, fixed_gradients
from dualforce_model.dry_run import Workload, training_step
from dualforce_model.layers.masks import StepMask
from dualforce_model.model import ModelConfig
from dualforce_model.towers import TIMESTEPS, VideoTower, VideoTowerConfig

CPU_SIZE = VideoTowerConfig(patch_px=(2, 2), heads=4, head_dim=48, layers=4, ffn_dim=768, text_dim=64)
GPU_SIZE = VideoTowerConfig(patch_px=(2, 2), heads=12, head_dim=128, layers=20, ffn_dim=8960, text_dim=4096)
TEXT_TOKENS = 32
LATENT_PX = {True: 64, False: 16}
STEPS = {True: (9, 22), False: (5, 9)}
MANY_STEPS = 32
ALLOWED_RATIO = 1.05  # of our time over theirs at equal work


class Everyone(StepMask):
    """Every step sees every step, as in Wan."""

    def sees(self, query: int, key: int) -> bool:
        """Always."""
        return True


class Clip(NamedTuple):
    """The same clip for both."""

    video: Tensor
    reference: Tensor
    sigma: Tensor
    text: Tensor


@benchmark
def main(gpu: bool, rounds: int, out: Path | None) -> None:
    """Our video tower against diffusers' Wan transformer, forward and backward."""
    bench = Bench("tower", gpu, rounds, out)
    size, side = (GPU_SIZE if gpu else CPU_SIZE), LATENT_PX[gpu]
    ours, theirs = make_both(size, bench.device, bench.dtype)
    for num_steps in STEPS[gpu]:
        clip = make_clip(size, num_steps, side, bench)
        check_equal(ours, theirs, clip, per_token=False)
        compare(bench, f"{num_steps} steps, no mask", ours, theirs, size, clip, per_token=False)
    few = side // 2  # per-token modulation of more tokens is more than many a GPU holds
    clip = make_clip(size, MANY_STEPS, few, bench, levels=(0.1, 0.9))
    check_equal(ours, theirs, clip, per_token=True)
    compare(bench, f"{MANY_STEPS} steps, levels per step", ours, theirs, size, clip, per_token=True)
    bench.finish("ours", ALLOWED_RATIO)


def make_both(size: VideoTowerConfig, device: torch.device, dtype: torch.dtype) -> tuple[VideoTower, nn.Module]:
    """Both towers with the same weights; parameter names are the same."""
    torch.manual_seed(0)
    ours = VideoTower.build(size)
    theirs = WanTransformer3DModel(
        (1, *size.patch_px), size.heads, size.head_dim, 2 * size.latent_channels + 4, size.latent_channels,
        size.text_dim, size.freq_dim, size.ffn_dim, size.layers,
    )  # fmt: skip
    for parameter in ours.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    theirs.load_state_dict(ours.state_dict())
    for tower in (ours, theirs):
        for module in tower.modules():
            for name, parameter in module.named_parameters(recurse=False):
                module.register_parameter(name, nn.Parameter(parameter.detach().to(device, dtype)))
    return ours, theirs


def make_clip(
    size: VideoTowerConfig, num_steps: int, side: int, bench: Bench, levels: tuple[float, float] = (0.5, 0.5)
) -> Clip:
    """A noisy clip; noise levels go evenly from the first to the second."""
    draw = torch.Generator().manual_seed(num_steps)
    video = torch.randn(1, num_steps, size.latent_channels, side, side, generator=draw)
    text = torch.randn(1, TEXT_TOKENS, size.text_dim, generator=draw)
    sigma = torch.linspace(*levels, num_steps, device=bench.device)[None]
    video, text = video.to(bench.device, bench.dtype), text.to(bench.device, bench.dtype)
    return Clip(video, video[:, 0].clone(), sigma, text)


def run_ours(tower: VideoTower, clip: Clip) -> Tensor:
    """One forward pass of our tower."""
    steps = tuple(range(clip.video.shape[1]))
    first = torch.zeros_like(clip.sigma, dtype=torch.bool)
    mask = Everyone(steps, steps, len(steps))
    state = tower.start(clip.video, clip.reference, first, clip.sigma, mask, text=clip.text)
    for layer in range(len(tower.blocks)):
        tower.advance(layer, state)
    return tower.finish(state)


def run_theirs(tower: nn.Module, clip: Clip, per_token: bool) -> Tensor:
    """One forward pass of theirs on the same channels."""
    num_steps, side = clip.video.shape[1], clip.video.shape[-1]
    flag = clip.video.new_zeros(1, num_steps, 4, side, side)
    held = clip.reference[:, None].expand_as(clip.video)
    channels = torch.cat([clip.video, flag, held], dim=2).transpose(1, 2)
    levels = TIMESTEPS * clip.sigma
    tokens = side // tower.config.patch_size[1] * (side // tower.config.patch_size[2])
    timestep = levels.repeat_interleave(tokens, 1) if per_token else levels[:, 0]
    out: Tensor = tower(channels, timestep, clip.text, return_dict=False)[0].transpose(1, 2)
    return out


@torch.no_grad()
def check_equal(ours: VideoTower, theirs: nn.Module, clip: Clip, per_token: bool) -> None:
    """Same work: with nobody masked ours computes what theirs does, with one noise level or one a step."""
    a, b = run_ours(ours, clip).float(), run_theirs(theirs, clip, per_token).float()
    distance = ((a - b).norm() / b.norm()).item()
    if distance > (0.05 if clip.video.dtype == torch.bfloat16 else 1e-4):
        raise RuntimeError(f"the towers differ by {distance:.1e}: their times cannot be compared")


def compare(
    bench: Bench, work: str, ours: VideoTower, theirs: nn.Module, size: VideoTowerConfig, clip: Clip, per_token: bool
) -> None:
    """Forward, then forward and backward."""
    num_steps, side = clip.video.shape[1], clip.video.shape[-1]
    tokens = num_steps * (side // size.patch_px[0]) * (side // size.patch_px[1])
    config = ModelConfig(video=size, structure=None, audio=None, window_steps=num_steps)
    flops = training_step(config, Workload(crop_px=8 * side, num_steps=num_steps), torch.bfloat16, False).flops
    name = "theirs, level per token" if per_token else "theirs"

    def forward(ours_: bool) -> None:
        with torch.no_grad():
            _run(ours_)

    def both(ours_: bool) -> None:
        _run(ours_).float().square().mean().backward()

    def _run(ours_: bool) -> Tensor:
        return run_ours(ours, clip) if ours_ else run_theirs(theirs, clip, per_token)

    for what, run, share in (("forward", forward, 1 / 3), ("and back", both, 1.0)):
        with fixed_gradients(ours), fixed_gradients(theirs):
            useful = round(flops * share)
            ways = [
                Way(name=name, run=lambda run=run: run(False), tokens=tokens,
                    useful_flops=useful),
                Way(name="ours", run=lambda run=run: run(True), tokens=tokens,
                    useful_flops=useful),
            ]  # fmt: skip
            bench.compare(f"{work}, {what}", ways)


if __name__ == "__main__":
    main()
