"""Inception-v3 as the Frechet Inception Distance uses it (Heusel et al., 2017): pictures to 2048 numbers each.

net = load_inception(Path("pt_inception-2015-12-05-6726825d.pth"))
distance = frechet_distance(fit(net.features(real)), fit(net.features(made)))    # dualforce_model.metrics.frechet
"""

from dualforce_model.encoders.inception.net import NUM_FEATURES, Inception, load_inception
from dualforce_model.encoders.inception.pictures import PICTURE_PX, net_pictures

__all__ = ["NUM_FEATURES", "PICTURE_PX", "Inception", "load_inception", "net_pictures"]
