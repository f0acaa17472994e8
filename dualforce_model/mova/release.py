"""The sizes of MOVA-360p as they are known without its files: what `estimate` answers by when there is no checkpoint.

`verify mova` and everything that loads or runs a checkpoint read its own files and never these.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualforce_model.mova.checkpoint import MovaCheckpoint, Part
from dualforce_model.mova.components import COMPONENTS
from dualforce_model.mova.files import Weights
from dualforce_model.mova.settings import IndexFile

NAME = "mova-360p"
_TOWER = {"freq_dim": 256, "text_dim": 4096, "eps": 1e-6, "require_clip_embedding": False}
_VIDEO_DIT = _TOWER | {
    "dim": 5120, "in_dim": 36, "out_dim": 16, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40,
    "patch_size": [1, 2, 2], "require_vae_embedding": True,
}  # fmt: skip
# component -> its settings: architecture, bridge and audio VAE as upstream's code was run with them; `vae_type` and the
# schedule's last two fields as others reported them.
RELEASE: Mapping[str, Mapping[str, Any]] = {
    "video_dit": _VIDEO_DIT,
    "video_dit_2": _VIDEO_DIT,
    "audio_dit": _TOWER | {
        "dim": 1536, "in_dim": 128, "out_dim": 128, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30,
        "patch_size": [1], "vae_type": "dac",
    },
    "dual_tower_bridge": {
        "visual_layers": 40, "audio_layers": 30, "visual_hidden_dim": 5120, "audio_hidden_dim": 1536, "audio_fps": 50,
        "head_dim": 128, "interaction_strategy": "full", "apply_cross_rope": True,
        "apply_first_frame_bias_in_rope": False, "trainable_condition_scale": False, "pooled_adaln": False,
    },
    "audio_vae": {
        "encoder_dim": 128, "encoder_rates": [2, 3, 4, 5, 8], "decoder_dim": 2048, "decoder_rates": [8, 5, 4, 3, 2],
        "latent_dim": 128, "sample_rate": 48000, "continuous": True,
    },
    # Wan 2.1's, which has MOVA's channels and strides; no size depends on the mean and deviation of its latents
    "video_vae": {
        "base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [],
        "temperal_downsample": [False, True, True], "latents_mean": [0.0] * 16, "latents_std": [1.0] * 16,
    },
    "scheduler": {
        "shift": 5, "sigma_max": 1.0, "sigma_min": 0.0, "extra_one_step": True, "num_train_timesteps": 1000,
    },
}  # fmt: skip
SOURCE = "sizes as known without the release's files; the video VAE's are Wan 2.1's, assumed"
BOUNDARY = 0.9
UNKNOWN = {
    "text_encoder": "only its width, 4096, is known here; --checkpoint DIR reads the rest",
}


def released() -> MovaCheckpoint:
    """MOVA-360p by its sizes alone: settings of the components that are known, no weights, no folder."""
    parts = {}
    for component in COMPONENTS:
        told = RELEASE.get(component.folder)
        if told is not None:
            settings = component.settings.model_validate(told)
            parts[component.folder] = Part(component, settings, told, Weights({}, ()))
    return MovaCheckpoint(Path(NAME), IndexFile(boundary_ratio=BOUNDARY, audio_vae_type="dac"), parts)
