"""DECA (Feng et al., 2021) and EMOCA (Danecek et al., 2022): FLAME's parameters of a face in a picture.

Their weights are Max Planck's: non-commercial research, for who has registered. SMIRK is the default.

encoder = Deca(FlameNetConfig(weights=Path("deca_model.tar")))
encoder.load("cuda")
track = encoder.track(frames)              # parameters [T,159], seen [T]
"""

from dualforce_model.encoders.deca.encoder import Deca, Emoca
from dualforce_model.encoders.deca.landmarks import VERTICES, landmarks_68
from dualforce_model.encoders.deca.net import DecaFields, DecaNet, EmocaNet, load_deca, load_emoca

__all__ = [
    "VERTICES",
    "Deca",
    "DecaFields",
    "DecaNet",
    "Emoca",
    "EmocaNet",
    "landmarks_68",
    "load_deca",
    "load_emoca",
]
