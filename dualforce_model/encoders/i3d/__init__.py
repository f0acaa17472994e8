"""I3D as the Frechet Video Distance uses it (Carreira and Zisserman, 2017; Kinetics-400): clips to 400 numbers each.

net = load_i3d(Path("i3d_pretrained_400.pt"))
distance = frechet_distance(fit(net.features(real)), fit(net.features(made)))    # dualforce_model.metrics.frechet

`load_i3d_script` reads the other published form, `i3d_torchscript.pt`. Its weights are others: distances that the two
give do not compare, and each net has its own `name`.
"""

from dualforce_model.encoders.i3d.clips import CLIP_PX, MIN_FRAMES, net_clips
from dualforce_model.encoders.i3d.net import I3D, NUM_FEATURES, load_i3d
from dualforce_model.encoders.i3d.script import SCRIPT_SHA256, ScriptedI3D, load_i3d_script

__all__ = [
    "CLIP_PX",
    "I3D",
    "MIN_FRAMES",
    "NUM_FEATURES",
    "SCRIPT_SHA256",
    "ScriptedI3D",
    "load_i3d",
    "load_i3d_script",
    "net_clips",
]
