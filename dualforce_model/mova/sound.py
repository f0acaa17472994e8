"""The audio VAE of MOVA (a continuous DAC) out of diffusers' KVAE parts: no attention, weight norm folded in.

Legend: b batch, n samples, l latents, c channels.
"""

import torch
from diffusers.models.autoencoders.autoencoder_kl_kvae_audio import AutoencoderKLKVAEAudio
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dualforce_model.mova.settings import SoundVaeSettings


class SoundVae(nn.Module):
    """Waveforms to latents and back. Not causal: an output sample needs 200 ms of latents after it."""

    def __init__(self, settings: SoundVaeSettings) -> None:
        super().__init__()
        self.hop, self.sample_rate = settings.hop, settings.sample_rate
        whole = AutoencoderKLKVAEAudio(
            encoder_dim=settings.encoder_dim,
            encoder_rates=list(settings.encoder_rates),
            latent_dim=settings.latent_dim,
            codebook_dim=settings.latent_dim,
            decoder_dim=settings.decoder_dim,
            decoder_rates=list(settings.decoder_rates),
            sample_rate=settings.sample_rate,
            attn_num_heads=1,
        )
        self.encoder, self.decoder = whole.encoder, whole.decoder
        self.in_proj, self.out_proj = whole.in_proj, whole.out_proj
        with torch.enable_grad():  # without it torch would leave the folded weights as buffers
            for module in self.modules():
                if parametrize.is_parametrized(module, "weight"):
                    parametrize.remove_parametrizations(module, "weight")

    def encode(self, wave: Float[Tensor, "b 1 n"]) -> tuple[Float[Tensor, "b c l"], Float[Tensor, "b c l"]]:
        """Mean and log variance of the latents; the wave is filled up with silence to whole latents."""
        missing = -wave.shape[-1] % self.hop
        mean, logvar = self.in_proj(self.encoder(nn.functional.pad(wave, (0, missing)))).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, latents: Float[Tensor, "b c l"]) -> Float[Tensor, "b 1 n"]:
        """Waveform in [-1, 1], `hop` samples per latent."""
        wave: Tensor = self.decoder(self.out_proj(latents))
        return wave
