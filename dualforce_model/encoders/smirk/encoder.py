"""FLAME parameters by SMIRK."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, UInt8
from torch import nn

from dualforce_model import flame
from dualforce_model.encoders.flame_crops import smirk_picture
from dualforce_model.encoders.flame_net import FlameNet, Said
from dualforce_model.encoders.flame_rows import flame_layout
from dualforce_model.encoders.smirk.net import SmirkFields, load_smirk
from dualforce_model.layout import Layout
from dualforce_model.pretrained import PRETRAINED, Weights

SHAPES = flame.LAYOUT["shape"].stop - flame.LAYOUT["shape"].start


class Smirk(FlameNet):
    """Of SMIRK's 300 shapes, which are in order of what they explain, a row keeps the first 100; eyelids go beside."""

    name: ClassVar[str] = "smirk"
    version: ClassVar[int] = 1
    weights: ClassVar[Weights] = PRETRAINED["smirk"]
    layout: ClassVar[Layout] = flame_layout("SMIRK")

    def _open(self, path: Path) -> nn.Module:
        return load_smirk(path)

    def _picture(
        self, frame: UInt8[np.ndarray, "H W 3"], points: Float32[np.ndarray, "478 3"]
    ) -> Float32[np.ndarray, "224 224 3"]:
        return smirk_picture(frame, points)

    def _read(self, said: Any) -> Said:
        assert isinstance(said, SmirkFields)
        fields = said._asdict()
        eyelids = fields.pop("eyelids")
        return Said({**fields, "shape": said.shape[:, :SHAPES]}, eyelids)
