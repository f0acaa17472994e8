"""Regimes: how the noise levels of one training window are drawn, one level per step and modality.

Step 0 is the reference: level 0, no loss. A level of exactly 0 always means "given": such a step has no loss.
Half of the noisy steps draw both modalities at one time u, as the sampler visits them; the other half draw them
independently, so that either modality can be read given the other.
"""

import difflib
from typing import Protocol

import torch
from torch import Tensor

from dualforce_model.diffusion.schedule import Levels, NoiseSchedule

COUPLED_SHARE = 0.5


class Regime(Protocol):
    """Draws the levels of a window of `num_steps` steps (step 0 included)."""

    def __call__(self, generator: torch.Generator, num_steps: int, schedule: NoiseSchedule) -> Levels: ...


def clean_prefix(generator: torch.Generator, num_steps: int, schedule: NoiseSchedule) -> Levels:
    """A clean prefix of random length (at least step 0), then independent levels.

    The first noisy step of every window sees exactly what it sees in sampling: a clean history.
    """
    prefix = int(torch.randint(1, num_steps, (1,), generator=generator))
    return _noisy_where(torch.arange(num_steps) >= prefix, generator, schedule)


def diffusion_forcing(generator: torch.Generator, num_steps: int, schedule: NoiseSchedule) -> Levels:
    """Independent levels at every step but the reference (Chen et al. 2024)."""
    return _noisy_where(torch.arange(num_steps) >= 1, generator, schedule)


def stochastic_clean(generator: torch.Generator, num_steps: int, schedule: NoiseSchedule) -> Levels:
    """Each step is clean with probability one half, noisy otherwise; the last step is always noisy."""
    noisy = torch.rand(num_steps, generator=generator) < 0.5
    noisy[0], noisy[-1] = False, True
    return _noisy_where(noisy, generator, schedule)


REGIMES: dict[str, Regime] = {
    "clean_prefix": clean_prefix,
    "diffusion_forcing": diffusion_forcing,
    "stochastic_clean": stochastic_clean,
}


def find_regime(name: str) -> Regime:
    """Regime by name; an unknown name is answered with the names there are."""
    if name not in REGIMES:
        near = difflib.get_close_matches(name, REGIMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown noise regime {name!r}; there are: {', '.join(REGIMES)}{hint}")
    return REGIMES[name]


def draw_levels(regime: str, generator: torch.Generator, num_steps: int, schedule: NoiseSchedule) -> Levels:
    """Levels of one window by the named regime. A window of one step has nothing to predict and is refused."""
    if num_steps < 2:
        raise ValueError(f"a training window of {num_steps} step(s): step 0 is given, so at least 2 are needed")
    return find_regime(regime)(generator, num_steps, schedule)


def _noisy_where(noisy: Tensor, generator: torch.Generator, schedule: NoiseSchedule) -> Levels:
    num_steps = noisy.shape[0]
    # 1 - rand lies in (0, 1]: a noisy step never has level 0, which would mean "given"
    u_video, u_own = 1 - torch.rand(2, num_steps, generator=generator)
    coupled = torch.rand(num_steps, generator=generator) < COUPLED_SHARE
    levels = schedule.levels(u_video, torch.where(coupled, u_video, u_own))
    zero = torch.zeros(num_steps)
    return Levels(video=torch.where(noisy, levels.video, zero), structure=torch.where(noisy, levels.structure, zero))
