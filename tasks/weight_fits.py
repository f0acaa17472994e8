"""Whether files of weights are what their net takes: headers of safetensors, and nets of our own that are filled.

Nets that other packages build (ONNX, transformers, MediaPipe) are tried by whoever loads them.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

from dualforce_model.pretrained import Weights

SAFETENSORS, INDEX = ".safetensors", ".safetensors.index.json"
LOADERS = {  # model -> what reads its file; importing all of them would take seconds
    "syncnet": ("dualforce_model.encoders.syncnet", "load_syncnet"),
    "liveportrait": ("dualforce_model.encoders.liveportrait", "load_motion_extractor"),
    "smirk": ("dualforce_model.encoders.smirk.net", "load_smirk"),
    "deca": ("dualforce_model.encoders.deca.net", "load_deca"),
    "emoca": ("dualforce_model.encoders.deca.net", "load_emoca"),
    "i3d": ("dualforce_model.encoders.i3d", "load_i3d"),
    "inception": ("dualforce_model.encoders.inception", "load_inception"),
}


def misfits(weights: Weights, folder: Path, names: Sequence[str]) -> list[str]:
    """What is wrong with a model's files, in words; empty where they fit, or where nothing here looks into them.

    Raises UntrustedWeightsError for a file that is not opened, since nobody vouches for it.
    """
    if weights.model not in LOADERS and not any(name.endswith((SAFETENSORS, INDEX)) for name in names):
        return []
    from dualforce_model.weight_files import WeightsError, listed, read_header, read_index  # it imports torch

    told: list[str] = []

    def tell(path: Path, subject: str, message: str) -> None:
        told.append(f"{path.name}: {subject}: {message}" if subject else f"{path.name}: {message}")

    held = {name: {entry.name for entry in read_header(folder / name, tell)} for name in names
            if name.endswith(SAFETENSORS)}  # fmt: skip
    for name in (name for name in names if name.endswith(INDEX)):
        for shard, tensors in read_index(folder / name, tell).items():
            lacking = sorted(tensors - held.get(Path(name).with_name(shard).as_posix(), set()))
            if lacking:
                tell(folder / shard, "", f"no {listed(lacking)}, which {name} says it holds")
    if weights.model in LOADERS and len(names) == 1:
        module, loader = LOADERS[weights.model]
        try:
            getattr(importlib.import_module(module), loader)(folder / names[0])
        except WeightsError as error:
            told.append(str(error))
    return told
