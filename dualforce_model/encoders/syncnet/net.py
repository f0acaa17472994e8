"""SyncNet's two branches, with the tensor names of `syncnet_v2.model`, and how that file is read.

Legend: b batch, T frames, w windows, m mel windows (100 per second).
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from dualforce_model import clock
from dualforce_model.encoders.published import fill
from dualforce_model.encoders.syncnet.faces import FACE_PX
from dualforce_model.encoders.syncnet.mfcc import HERTZ, mfcc
from dualforce_model.encoders.syncnet.offset import WINDOW_FRAMES, num_windows

NUM_FEATURES = 1024
MELS_PER_FRAME = HERTZ // clock.FPS
WINDOW_MELS = MELS_PER_FRAME * WINDOW_FRAMES
CHUNK = 16  # windows at once: what bounds the memory (about 0.2 GB)


class SyncNet(nn.Module):
    """Lips and sound of five frames to 1024 numbers each, near each other where they belong together.

    Module names and places are those of the published weights: `netcnnaud.4.weight` is a convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv2(1, 64, (3, 3), 1),
            nn.Identity(),  # upstream's pooling of 1 x 1 had this place
            *_conv2(64, 192, (3, 3), 1),
            nn.MaxPool2d((3, 3), (1, 2)),
            *_conv2(192, 384, (3, 3), 1),
            *_conv2(384, 256, (3, 3), 1),
            *_conv2(256, 256, (3, 3), 1),
            nn.MaxPool2d((3, 3), (2, 2)),
            *_conv2(256, 512, (5, 4), 0),
        )
        self.netcnnlip = nn.Sequential(
            *_conv3(3, 96, (WINDOW_FRAMES, 7, 7), 2, 0),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3(96, 256, (1, 5, 5), 2, 1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1)),
            *_conv3(256, 256, (1, 3, 3), 1, 1),
            *_conv3(256, 256, (1, 3, 3), 1, 1),
            *_conv3(256, 256, (1, 3, 3), 1, 1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3(256, 512, (1, 6, 6), 1, 0),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        self.eval().requires_grad_(False)

    def hear(self, mels: Float[Tensor, "b 1 13 20"]) -> Float[Tensor, "b 1024"]:
        """Embeddings of windows of cepstra (times last)."""
        return self.netfcaud(self.netcnnaud(mels).flatten(1))

    def see(self, frames: Float[Tensor, "b 3 T 224 224"]) -> Float[Tensor, "b w 1024"]:
        """Embeddings of the T - 4 windows of five frames: BGR, 0 to 255, not normalised."""
        middle = self.netcnnlip(frames)[..., 0, 0].transpose(1, 2)
        return self.netfclip(middle.flatten(0, 1)).unflatten(0, middle.shape[:2])

    @torch.inference_mode()
    def video_features(self, faces: UInt8[np.ndarray, "T 224 224 3"]) -> Float32[np.ndarray, "w 1024"]:
        """Embeddings of RGB pictures (`face_pictures`), one per window of five, on the device of the weights."""
        if faces.shape[1:] != (FACE_PX, FACE_PX, 3) or faces.dtype != np.uint8 or len(faces) < WINDOW_FRAMES:
            raise ValueError(
                f"pictures are {faces.dtype} {faces.shape}: expected uint8 [T, {FACE_PX}, {FACE_PX}, 3] with "
                f"T >= {WINDOW_FRAMES}"
            )
        found = []
        for first in range(0, len(faces) - WINDOW_FRAMES + 1, CHUNK):
            chunk = torch.from_numpy(np.ascontiguousarray(faces[first : first + CHUNK + WINDOW_FRAMES - 1, ..., ::-1]))
            frames = chunk.to(self._device).permute(3, 0, 1, 2).float()
            found.append(self.see(frames[None])[0].cpu())
        return torch.cat(found).numpy()

    @torch.inference_mode()
    def audio_features(self, samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "w 1024"]:
        """Embeddings of sound at 16 kHz in [-1, 1], one per frame whose 0.2 s are heard to the end."""
        cepstra = torch.from_numpy(mfcc(samples)).float().T
        if cepstra.shape[1] < WINDOW_MELS:
            raise ValueError(f"{len(samples)} samples: expected at least {WINDOW_MELS / HERTZ:g} s at 16 kHz")
        windows = cepstra.unfold(1, WINDOW_MELS, MELS_PER_FRAME).transpose(0, 1)[:, None]
        return torch.cat([self.hear(chunk.to(self._device)).cpu() for chunk in windows.split(4 * CHUNK)]).numpy()

    def paired_features(
        self, faces: UInt8[np.ndarray, "T 224 224 3"], samples: Float[np.ndarray, " n"]
    ) -> tuple[Float32[np.ndarray, "w 1024"], Float32[np.ndarray, "w 1024"]]:
        """Embeddings of lips and sound in the windows that published scores compare. Raises ValueError for none."""
        count = num_windows(len(faces), len(samples))
        if not count:
            raise ValueError(f"{len(faces)} frames and {len(samples)} samples: expected {WINDOW_FRAMES + 1} frames")
        frames = faces[: count + WINDOW_FRAMES - 1]
        return self.video_features(frames), self.audio_features(samples)[:count]

    @property
    def _device(self) -> torch.device:
        return self.netfclip[0].weight.device


def load_syncnet(path: Path) -> SyncNet:
    """The net with the weights of a file: `syncnet_v2.model` as published, or a safetensors file of the same names.

    Raises WeightsError naming what is missing, has another shape, is no number, or is no weights at all. Nothing in
    the file is run.
    """
    net = SyncNet()
    fill(net, path, "SyncNet v2")
    return net


def _conv2(inputs: int, outputs: int, kernel: tuple[int, int], padding: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _conv3(inputs: int, outputs: int, kernel: tuple[int, int, int], stride: int, padding: int) -> tuple[nn.Module, ...]:
    """Stride and padding are those in space; in time both are none."""
    convolution = nn.Conv3d(inputs, outputs, kernel, stride=(1, stride, stride), padding=(0, padding, padding))
    return convolution, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, NUM_FEATURES))
