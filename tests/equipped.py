"""Every encoder with what it needs to run: small nets of random weights as published ones are saved, and MediaPipe."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_umt5 import save_tiny_umt5
from tests.unit.dualforce_model.encoders.landmark_nets import save_motion_extractor
from tests.unit.dualforce_model.encoders.tiny import TINY

MESHED = ("mediapipe_structure", "mediapipe_flame")
FLAME_NETS = ("smirk", "deca", "emoca")


def equipment(name: str, folder: Path, models: Callable[[], Path]) -> dict[str, Any]:
    """Settings of an encoder whose weights are written below `folder`, once; {} for one without. Skips where it cannot.

    `models` is asked for the folder of MediaPipe's model by those that need it.
    """
    place = folder / name
    if name in TINY or name == "umt5":
        pytest.importorskip("transformers")
        if not place.exists():
            place.mkdir()
            (save_tiny_umt5 if name == "umt5" else TINY[name])(place)
        return {"weights": place}
    if name in MESHED:
        pytest.importorskip("mediapipe")
        return {"weights": models() / "face_landmarker.task"}
    if name in FLAME_NETS:
        pytest.importorskip("mediapipe")
        path = _once(place.with_suffix(".safetensors"), partial(_save_flame_net, name=name))
        return {"weights": path, "mesh": {"weights": models() / "face_landmarker.task"}}
    if name == "liveportrait":
        pytest.importorskip("mediapipe")
        mesh = {"landmarks": "mediapipe", "refine": False}
        path = _once(place.with_suffix(".safetensors"), save_motion_extractor)
        return {"weights": path, "landmark_weights": {"mesh": models() / "face_landmarker.task"}, **mesh}
    return {}


def _once(path: Path, save: Callable[[Path], Any]) -> Path:
    if not path.exists():
        save(path)
    return path


def _save_flame_net(path: Path, name: str) -> None:
    """All three in the plain form of the published names."""
    import torch
    from safetensors.torch import save_file

    from dualforce_model.encoders.deca import DecaNet, EmocaNet
    from dualforce_model.encoders.smirk import SmirkNet

    net, prefix = {"smirk": (SmirkNet, "smirk_encoder."), "deca": (DecaNet, ""), "emoca": (EmocaNet, "deca.")}[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = net().state_dict()
    save_file({f"{prefix}{key}": tensor for key, tensor in state.items()}, path)
