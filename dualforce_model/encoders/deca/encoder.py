"""FLAME parameters by DECA and by EMOCA, for who holds the licence of their weights."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, UInt8
from torch import nn

from dualforce_model.encoders.deca.landmarks import landmarks_68
from dualforce_model.encoders.deca.net import DecaFields, load_deca, load_emoca
from dualforce_model.encoders.flame_crops import deca_picture
from dualforce_model.encoders.flame_net import FlameNet, Said
from dualforce_model.encoders.flame_rows import flame_layout
from dualforce_model.layout import Layout
from dualforce_model.pretrained import PRETRAINED, Weights


class Deca(FlameNet):
    """The crop is set by 68 of the mesh's points, in place of those of face-alignment (`landmarks_68`)."""

    name: ClassVar[str] = "deca"
    version: ClassVar[int] = 1
    weights: ClassVar[Weights] = PRETRAINED["deca"]
    layout: ClassVar[Layout] = flame_layout("DECA")

    def _open(self, path: Path) -> nn.Module:
        return load_deca(path)

    def _picture(
        self, frame: UInt8[np.ndarray, "H W 3"], points: Float32[np.ndarray, "478 3"]
    ) -> Float32[np.ndarray, "224 224 3"]:
        return deca_picture(frame, landmarks_68(points))

    def _read(self, said: Any) -> Said:
        assert isinstance(said, DecaFields)
        return Said(said._asdict(), None)


class Emoca(Deca):
    """DECA with EMOCA's expression and jaw."""

    name: ClassVar[str] = "emoca"
    version: ClassVar[int] = 1
    weights: ClassVar[Weights] = PRETRAINED["emoca"]
    layout: ClassVar[Layout] = flame_layout("EMOCA")

    def _open(self, path: Path) -> nn.Module:
        return load_emoca(path)
