"""SyncNet (Chung and Zisserman, 2016): do lips and sound belong together, and how many frames apart are they?

net = load_syncnet(Path("syncnet_v2.model"))
faces = face_pictures(frames, boxes)                       # [T, 224, 224, 3]
curve = mean_distances(net.video_features(faces), net.audio_features(samples))
agreement = agree(curve)                                   # offset_frames, distance (Sync-D), confidence (Sync-C)
"""

from dualforce_model.encoders.syncnet.faces import FACE_PX, face_pictures
from dualforce_model.encoders.syncnet.mfcc import mfcc
from dualforce_model.encoders.syncnet.net import SyncNet, load_syncnet
from dualforce_model.encoders.syncnet.offset import (
    REACH,
    WINDOW_FRAMES,
    Agreement,
    agree,
    distances,
    mean_distances,
    num_windows,
)

__all__ = [
    "FACE_PX",
    "REACH",
    "WINDOW_FRAMES",
    "Agreement",
    "SyncNet",
    "agree",
    "distances",
    "face_pictures",
    "load_syncnet",
    "mean_distances",
    "mfcc",
    "num_windows",
]
