"""Frozen encoders: pixels and sound to the numbers the model works with. `ENCODERS` lists them by name."""

import difflib
from collections.abc import Mapping
from typing import Any

from dualforce_model.config import ConfigError, Frozen, validate
from dualforce_model.encoders.base import NO_WEIGHTS, Encoder, EncoderChoice, Modality, Placing, VideoCodec
from dualforce_model.encoders.dct_codec import DctVideoCodec, DctVideoConfig
from dualforce_model.encoders.face_dct import FaceDctConfig, FaceDctStructure
from dualforce_model.encoders.log_mel import LogMel, LogMelConfig

ENCODERS: dict[str, type[Any]] = {
    "dct_video": DctVideoCodec,
    "face_dct": FaceDctStructure,
    "log_mel": LogMel,
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
    "DctVideoCodec",
    "DctVideoConfig",
    "Encoder",
    "EncoderChoice",
    "FaceDctConfig",
    "FaceDctStructure",
    "LogMel",
    "LogMelConfig",
    "Modality",
    "Placing",
    "VideoCodec",
    "make_encoder",
]
