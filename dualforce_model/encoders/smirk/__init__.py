"""SMIRK (Retsinas et al., 2024): FLAME's shape, expression, eyelids, jaw, pose and camera of a face in a picture.

encoder = Smirk(FlameNetConfig(weights=Path("SMIRK_em1.pt")))
encoder.load("cuda")
track = encoder.track(frames)              # parameters [T,159], eyelids [T,2], seen [T]
"""

from dualforce_model.encoders.smirk.encoder import Smirk
from dualforce_model.encoders.smirk.net import SmirkFields, SmirkNet, load_smirk

__all__ = ["Smirk", "SmirkFields", "SmirkNet", "load_smirk"]
