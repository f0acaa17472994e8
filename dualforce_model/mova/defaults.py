"""What upstream's code assumes where nobody says otherwise, beside what a checkpoint says.

A loader that builds modules from these defaults gets other shapes, other clocks or other noise than the release was
trained with; the table shows where.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from dualforce_model.config import Frozen

# component -> field -> default, read in upstream's source at commit 595a976
CODE_DEFAULTS: dict[str, dict[str, Any]] = {
    "video_dit": {"require_clip_embedding": True},
    "video_dit_2": {"require_clip_embedding": True},
    "audio_dit": {"require_clip_embedding": True, "vae_type": "oobleck"},
    "dual_tower_bridge": {
        "visual_layers": 30,
        "visual_hidden_dim": 3072,
        "audio_fps": 44100 / 2048,
        "interaction_strategy": "shallow_focus",
        "apply_cross_rope": False,
        "apply_first_frame_bias_in_rope": False,
        "trainable_condition_scale": False,
        "pooled_adaln": False,
    },
    "audio_vae": {
        "encoder_dim": 64,
        "encoder_rates": [2, 4, 8, 8],
        "decoder_dim": 1536,
        "sample_rate": 44100,
        "continuous": False,
    },
    "scheduler": {"shift": 3.0, "sigma_min": 0.003 / 1.002, "extra_one_step": False},
}


class DefaultRow(Frozen):
    """One field of one component."""

    component: str = Field(description="folder of the checkpoint")
    field: str = Field(description="name in its settings")
    code: str = Field(description="what upstream's code assumes")
    checkpoint: str = Field(description="what the checkpoint says")
    wrong: bool = Field(description="whether the assumption would have been wrong")


def compare(told: Mapping[str, Mapping[str, Any]]) -> tuple[DefaultRow, ...]:
    """Every known default beside a checkpoint's own words (a component's JSON by its folder)."""
    return tuple(
        DefaultRow(
            component=component,
            field=name,
            code=str(default),
            checkpoint=str(told[component][name]),
            wrong=told[component][name] != default,
        )
        for component, defaults in CODE_DEFAULTS.items()
        if component in told
        for name, default in defaults.items()
        if name in told[component]
    )
