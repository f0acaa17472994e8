"""Classifier-free guidance on the sound."""

from pydantic import Field

from dualforce_model.config import Frozen


class Guidance(Frozen):
    """v = v_silent + scale * (v_heard - v_silent). Both branches run in one batch; scale 1 runs one branch only."""

    audio_scale: float = Field(default=1.0, ge=0, le=20, description="1 = no guidance, cost of one branch")
    off_below_sigma: float = Field(default=0.0, ge=0, le=1, description="video level under which guidance is off")

    def active(self, sigma_video: float) -> bool:
        """Whether a sampler step at this level needs both branches."""
        return self.audio_scale != 1.0 and sigma_video >= self.off_below_sigma
