"""Frozen encoders: pixels and sound to the numbers the model works with. `ENCODERS` lists them by name."""

import difflib
from collections.abc import Mapping
from typing import Any

from dualforce_model.config import ConfigError, Frozen, validate
from dualforce_model.encoders.base import (
    NO_WEIGHTS,
    Encoder,
    EncoderChoice,
    Landmarking,
    Modality,
    Placing,
    VideoCodec,
    VideoDecoder,
)
from dualforce_model.encoders.dct_codec import DctVideoCodec, DctVideoConfig
from dualforce_model.encoders.deca import Deca, Emoca
from dualforce_model.encoders.face_dct import FaceDctConfig, FaceDctStructure
from dualforce_model.encoders.hubert import Hubert, HubertConfig
from dualforce_model.encoders.liveportrait.encoder import LivePortraitConfig, LivePortraitStructure
from dualforce_model.encoders.log_mel import LogMel, LogMelConfig
from dualforce_model.encoders.mediapipe_flame import MediaPipeFlame
from dualforce_model.encoders.mediapipe_structure import MediaPipeStructure
from dualforce_model.encoders.pictures import Clip, ClipConfig, Dinov2, Dinov2Config
from dualforce_model.encoders.smirk import Smirk
from dualforce_model.encoders.umt5 import Umt5, Umt5Config
from dualforce_model.encoders.wan_vae import WanVae, WanVaeConfig

ENCODERS: dict[str, type[Any]] = {
    "dct_video": DctVideoCodec,
    "face_dct": FaceDctStructure,
    "log_mel": LogMel,
    "liveportrait": LivePortraitStructure,
    "mediapipe_structure": MediaPipeStructure,
    "smirk": Smirk,
    "deca": Deca,
    "emoca": Emoca,
    "mediapipe_flame": MediaPipeFlame,
    "wan_vae": WanVae,
    "hubert": Hubert,
    "dinov2": Dinov2,
    "clip": Clip,
    "umt5": Umt5,
}


def make_encoder(name: str, config: Frozen | Mapping[str, Any] | None = None) -> Any:
    """The named encoder, built from its config, from plain data, or with its defaults. Raises ConfigError."""
    if name not in ENCODERS:
        near = difflib.get_close_matches(name, ENCODERS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"encoder {name!r}: no such encoder; {hint}there are: {', '.join(ENCODERS)}")
    kind = ENCODERS[name]
    data = {} if config is None else config.model_dump() if isinstance(config, Frozen) else dict(config)
    return kind(validate(kind.config_type, data, f"encoder {name}"))


__all__ = [
    "ENCODERS",
    "NO_WEIGHTS",
    "Clip",
    "ClipConfig",
    "DctVideoCodec",
    "DctVideoConfig",
    "Dinov2",
    "Dinov2Config",
    "Encoder",
    "EncoderChoice",
    "FaceDctConfig",
    "FaceDctStructure",
    "Hubert",
    "HubertConfig",
    "Landmarking",
    "LivePortraitConfig",
    "LivePortraitStructure",
    "LogMel",
    "LogMelConfig",
    "MediaPipeStructure",
    "Modality",
    "Placing",
    "Umt5",
    "Umt5Config",
    "VideoCodec",
    "VideoDecoder",
    "WanVae",
    "WanVaeConfig",
    "make_encoder",
]
