"""Flow-matching schedule for two modalities at once: rows of (video level, audio level), Euler steps between them.

sigma = s*u / (1 + (s-1)*u); timestep = 1000 * sigma; noisy = (1-sigma)*x0 + sigma*noise; velocity = noise - x0.
A step looks its levels up in a table made at construction, as the release does: exact when the number of steps divides
the table, off by up to 1.6e-3 otherwise. Legend: n steps.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from dualforce_model.diffusion.schedule import shift_level
from dualforce_model.mova.settings import ScheduleSettings


@dataclass(frozen=True)
class Column:
    """One modality's part of a schedule."""

    shift: float
    strength: float = 1.0  # 1 starts at pure noise


@dataclass(frozen=True)
class PairSchedule:
    """The levels that a sampler visits, per modality."""

    settings: ScheduleSettings
    num_steps: int
    video: Column
    audio: Column

    @classmethod
    def equal(cls, settings: ScheduleSettings, num_steps: int) -> "PairSchedule":
        """Both modalities at the same level, with the checkpoint's own shift."""
        column = Column(settings.shift)
        return cls(settings, num_steps, column, column)

    @cached_property
    def sigmas(self) -> Float[Tensor, "n 2"]:
        """Levels of video and audio before each step."""
        return torch.stack([self._levels(self.num_steps, column) for column in (self.video, self.audio)], dim=1)

    @cached_property
    def timesteps(self) -> Float[Tensor, "n 2"]:
        """What the towers are told, before each step."""
        return self.sigmas * self.settings.num_train_timesteps

    @cached_property
    def table(self) -> Float[Tensor, " m"]:
        """The levels of training."""
        return self._levels(self.settings.num_train_timesteps, Column(self.settings.shift))

    @cached_property
    def table_sigmas(self) -> Float[Tensor, "n 2"]:
        """The nearest levels of the table: what a step moves between."""
        nearest = (self.table[None, None] - self.sigmas[..., None]).abs().argmin(dim=-1)
        return self.table[nearest]

    def switch(self, boundary: float) -> int:
        """The first step of the low-noise expert: the first whose video timestep lies under the boundary."""
        below = (self.timesteps[:, 0] < boundary * self.settings.num_train_timesteps).nonzero()
        return int(below[0]) if len(below) else self.num_steps

    def advance(self, index: int, video: tuple[Tensor, Tensor], audio: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One Euler step of both; each comes as (latents, velocity). The last step ends at level 0."""
        here = self.table_sigmas[index]
        there = self.table_sigmas[index + 1] if index + 1 < self.num_steps else torch.zeros(2)
        moves = (there - here).tolist()
        return video[0] + video[1] * moves[0], audio[0] + audio[1] * moves[1]

    def _levels(self, num: int, column: Column) -> Float[Tensor, " n"]:
        low, high = self.settings.sigma_min, self.settings.sigma_max
        start = low + (high - low) * column.strength
        u = (
            torch.linspace(start, low, num + 1)[:-1]
            if self.settings.extra_one_step
            else torch.linspace(start, low, num)
        )
        return shift_level(u, column.shift)
