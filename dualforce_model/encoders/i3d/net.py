"""I3D with the tensor names of `i3d_pretrained_400.pt`, and how that file is read.

Convolutions and poolings pad as TensorFlow does: as much as makes the output ceil(size / stride), and where that is
uneven the larger part behind.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional

from dualforce_model.encoders.i3d.clips import chunks, net_clips
from dualforce_model.encoders.published import fill

NUM_FEATURES = 400
NUM_CHANNELS = 1024
Size = tuple[int, int, int]  # time, height, width


class Unit(nn.Module):
    """Convolution without bias, normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (size,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, self.kernel, self.stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-5)  # of the code that goes with this file; other I3D has 1e-3

    def forward(self, x: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c2 t2 h2 w2"]:
        """Numbers that are not negative."""
        return torch.relu(self.bn(self.conv3d(pad_as_needed(x, self.kernel, self.stride))))


class Pool(nn.Module):
    """Maximum. Zeros are padded, which change nothing: what comes here is not negative."""

    def __init__(self, kernel: Size, stride: Size) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c t2 h2 w2"]:
        """The largest of every window."""
        return functional.max_pool3d(pad_as_needed(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches that see the same and whose channels stand side by side."""

    def __init__(self, inputs: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int) -> None:
        super().__init__()
        self.b0 = Unit(inputs, b0, 1)
        self.b1a, self.b1b = Unit(inputs, b1a, 1), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(inputs, b2a, 1), Unit(b2a, b2b, 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, b3b, 1)

    def forward(self, x: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c2 t h w"]:
        """Channels of the branches in their order."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class Classes(nn.Module):
    """A linear map at every place: the one part with a bias, and without normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(NUM_CHANNELS, NUM_FEATURES, 1)

    def forward(self, x: Float[Tensor, "n 1024 t h w"]) -> Float[Tensor, "n 400 t h w"]:
        """Scores of classes, not normalised."""
        return self.conv3d(x)


class I3D(nn.Module):
    """Clips to 400 numbers each, whose distribution the Frechet Video Distance compares.

    Stages are run in the order in which they are registered; those with weights have the published names.
    """

    name: ClassVar[str] = "i3d_kinetics400"

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, stride=2)
        self.pool_2a = Pool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        self.pool_3a = Pool((1, 3, 3), (1, 2, 2))
        self.Mixed_3b = Mixed(192, 64, 96, 128, 16, 32, 32)
        self.Mixed_3c = Mixed(256, 128, 128, 192, 32, 96, 64)
        self.pool_4a = Pool((3, 3, 3), (2, 2, 2))
        self.Mixed_4b = Mixed(480, 192, 96, 208, 16, 48, 64)
        self.Mixed_4c = Mixed(512, 160, 112, 224, 24, 64, 64)
        self.Mixed_4d = Mixed(512, 128, 128, 256, 24, 64, 64)
        self.Mixed_4e = Mixed(512, 112, 144, 288, 32, 64, 64)
        self.Mixed_4f = Mixed(528, 256, 160, 320, 32, 128, 128)
        self.pool_5a = Pool((2, 2, 2), (2, 2, 2))
        self.Mixed_5b = Mixed(832, 256, 160, 320, 32, 128, 128)
        self.Mixed_5c = Mixed(832, 384, 192, 384, 48, 128, 128)
        self.average = nn.AvgPool3d((2, 7, 7), stride=1)
        self.logits = Classes()
        self.eval().requires_grad_(False)

    def forward(self, x: Float[Tensor, "n 3 T 224 224"]) -> Float[Tensor, "n 400"]:
        """Scores of the 400 classes, mean over time; of `net_clips`."""
        for stage in self.children():
            x = stage(x)
        return x.mean(dim=(2, 3, 4))

    @torch.inference_mode()
    def features(self, clips: UInt8[np.ndarray, "n T H W 3"]) -> Float32[np.ndarray, "n 400"]:
        """Features of RGB clips of any size (published distances: 16 frames), on the device of the weights."""
        device = self.logits.conv3d.weight.device
        return torch.cat([self(net_clips(chunk.to(device))).cpu() for chunk in chunks(clips)]).numpy()


def load_i3d(path: Path) -> I3D:
    """The net with the weights of a file: `i3d_pretrained_400.pt`, or a safetensors file of the same names.

    Raises WeightsError naming what is missing, has another shape, is no number, or is no weights at all. Nothing in
    the file is run.
    """
    net = I3D()
    fill(net, path, "I3D (Kinetics-400, i3d_pretrained_400.pt)")
    return net


def pad_as_needed(x: Float[Tensor, "n c t h w"], kernel: Size, stride: Size) -> Float[Tensor, "n c t2 h2 w2"]:
    """Zeros around, so that every ceil(size / stride) has its window; the uneven one stands behind."""
    padding: list[int] = []
    for size, window, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        lacking = max((-(-size // step) - 1) * step + window - size, 0)
        padding += [lacking // 2, lacking - lacking // 2]
    return functional.pad(x, padding) if any(padding) else x
