"""One look of both towers at noisy latents, and guidance: the whole of MOVA between the encoders and the decoders.

Legend: b batch, t latent frames, k audio latents, c channels.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dualforce_model.mova.bridge import MovaBridge
from dualforce_model.mova.towers import MovaTower


@dataclass(frozen=True)
class Latents:
    """Video and audio latents, or their velocities."""

    video: Float[Tensor, "b c t h w"]
    audio: Float[Tensor, "b c k"]


@dataclass(frozen=True)
class DualTower:
    """A video tower, the audio tower and the bridge between them."""

    video: MovaTower
    audio: MovaTower
    bridge: MovaBridge

    def velocities(
        self,
        video: Float[Tensor, "b c t h w"],
        audio: Float[Tensor, "b c k"],
        timesteps: tuple[Float[Tensor, " b"], Float[Tensor, " b"]],
        text: Float[Tensor, "b l e"],
        video_fps: float,
    ) -> Latents:
        """Velocities of both. `video` comes with its condition channels; `timesteps` are of video and audio.

        Layer by layer the bridge runs first, then both blocks; the video tower's further layers run alone.
        """
        seen = self.video.enter(video, timesteps[0], text)
        heard = self.audio.enter(audio[..., None, None], timesteps[1], text)
        turns = self.bridge.turns(seen.grid, audio.shape[2], video_fps, video.device)
        for layer in range(len(self.video.blocks)):
            seen.x, heard.x = self.bridge(layer, seen.x, heard.x, turns)
            self.video.advance(layer, seen)
            if layer < len(self.audio.blocks):
                self.audio.advance(layer, heard)
        return Latents(self.video.leave(seen).float(), self.audio.leave(heard)[..., 0, 0].float())


def guided(positive: Latents, negative: Latents, scale: float) -> Latents:
    """Classifier-free guidance of both: away from the negative prompt, by `scale`."""
    return Latents(
        negative.video + scale * (positive.video - negative.video),
        negative.audio + scale * (positive.audio - negative.audio),
    )
