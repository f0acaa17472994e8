"""Inception-v3 with the tensor names of `pt_inception-2015-12-05-6726825d.pth`, and how that file is read.

It is the net of TensorFlow's 2015 release, not the better known one: 1008 classes, averages that leave out the border,
and a maximum in the last block where all others average.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from dualforce_model.encoders.inception.pictures import net_pictures
from dualforce_model.encoders.published import fill

NUM_FEATURES = 2048
NUM_CLASSES = 1008
EPSILON = 1e-3  # of the normalisation; torch's own is 1e-5
CHUNK = 16  # pictures at once: what bounds the memory (about 0.5 GB)


class Unit(nn.Module):
    """Convolution without bias, normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int, padded: bool) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=EPSILON)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Numbers that are not negative."""
        return torch.relu(self.bn(self.conv(x)))


class Step(NamedTuple):
    """A unit of a block: its name in the file, channels it gives, kernel. With stride 2 nothing is padded."""

    name: str
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


class Fork(NamedTuple):
    """Two units that see the same and whose channels stand side by side."""

    steps: tuple[Step, Step]


Branch = Sequence[Step | Fork | nn.Module]  # a module has no weights: a pooling


class Mixed(nn.Module):
    """Branches that see the same and whose channels stand side by side."""

    def __init__(self, inputs: int, *branches: Branch) -> None:
        super().__init__()
        self._walks: list[list[list[nn.Module]]] = []
        self.outputs = 0
        for branch in branches:
            channels = inputs
            walk: list[list[nn.Module]] = []
            for each in branch:
                if isinstance(each, nn.Module):
                    walk.append([each])
                    continue
                steps = each.steps if isinstance(each, Fork) else (each,)
                walk.append([self._unit(channels, step) for step in steps])
                channels = sum(step.outputs for step in steps)
            self._walks.append(walk)
            self.outputs += channels

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Channels of the branches in their order."""
        found = []
        for walk in self._walks:
            y = x
            for side_by_side in walk:
                y = torch.cat([module(y) for module in side_by_side], dim=1)
            found.append(y)
        return torch.cat(found, dim=1)

    def _unit(self, inputs: int, step: Step) -> nn.Module:
        unit = Unit(inputs, step.outputs, step.kernel, step.stride, padded=step.stride == 1)
        self.add_module(step.name, unit)
        return unit


class Inception(nn.Module):
    """Pictures to 2048 numbers each, whose distribution the Frechet Inception Distance compares.

    Stages are run in the order in which they are registered; those with weights have the published names.
    """

    name: ClassVar[str] = "inception_2015"

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, (3, 3), 2, padded=False)
        self.Conv2d_2a_3x3 = Unit(32, 32, (3, 3), 1, padded=False)
        self.Conv2d_2b_3x3 = Unit(32, 64, (3, 3), 1, padded=True)
        self.pool_64 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = Unit(64, 80, (1, 1), 1, padded=False)
        self.Conv2d_4a_3x3 = Unit(80, 192, (3, 3), 1, padded=False)
        self.pool_192 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = _fine(192, pooled=32)
        self.Mixed_5c = _fine(256, pooled=64)
        self.Mixed_5d = _fine(288, pooled=64)
        self.Mixed_6a = _halved_after_fine(288)
        self.Mixed_6b = _middle(128)
        self.Mixed_6c = _middle(160)
        self.Mixed_6d = _middle(160)
        self.Mixed_6e = _middle(192)
        self.Mixed_7a = _halved_after_middle(768)
        self.Mixed_7b = _coarse(1280, _average())
        self.Mixed_7c = _coarse(2048, nn.MaxPool2d(3, 1, padding=1))
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)
        self.eval().requires_grad_(False)

    def forward(self, x: Float[Tensor, "n 3 299 299"]) -> Float[Tensor, "n 2048"]:
        """Means over the places of the last block; of `net_pictures`."""
        for stage in self.children():
            if stage is not self.fc:
                x = stage(x)
        return x.mean(dim=(2, 3))

    def logits(self, features: Float[Tensor, "n 2048"]) -> Float[Tensor, "n 1008"]:
        """Classes without their bias, as the Inception Score takes them."""
        return features @ self.fc.weight.T

    @torch.inference_mode()
    def features(self, pictures: UInt8[np.ndarray, "n H W 3"]) -> Float32[np.ndarray, "n 2048"]:
        """Features of RGB pictures of any size, on the device of the weights."""
        if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8 or 0 in pictures.shape:
            raise ValueError(
                f"pictures are {pictures.dtype} {pictures.shape}: expected uint8 [n, H, W, 3], none of them 0"
            )
        found = []
        for first in range(0, len(pictures), CHUNK):
            chunk = torch.from_numpy(pictures[first : first + CHUNK].copy())
            found.append(self(net_pictures(chunk.to(self.fc.weight.device))).cpu())
        return torch.cat(found).numpy()


def load_inception(path: Path) -> Inception:
    """The net with the weights of a file: `pt_inception-2015-12-05-6726825d.pth`, or safetensors of the same names.

    Raises WeightsError naming what is missing, has another shape, is no number, or is no weights at all. Nothing in
    the file is run.
    """
    net = Inception()
    fill(net, path, "Inception-v3 (2015-12-05)")
    return net


def _average() -> nn.Module:
    return nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)


def _fine(inputs: int, pooled: int) -> Mixed:
    """Blocks at 35 x 35 places."""
    return Mixed(
        inputs,
        [Step("branch1x1", 64)],
        [Step("branch5x5_1", 48), Step("branch5x5_2", 64, (5, 5))],
        [Step("branch3x3dbl_1", 64), Step("branch3x3dbl_2", 96, (3, 3)), Step("branch3x3dbl_3", 96, (3, 3))],
        [_average(), Step("branch_pool", pooled)],
    )


def _halved_after_fine(inputs: int) -> Mixed:
    return Mixed(
        inputs,
        [Step("branch3x3", 384, (3, 3), 2)],
        [Step("branch3x3dbl_1", 64), Step("branch3x3dbl_2", 96, (3, 3)), Step("branch3x3dbl_3", 96, (3, 3), 2)],
        [nn.MaxPool2d(3, 2)],
    )


def _middle(narrow: int) -> Mixed:
    """Blocks at 17 x 17 places; squares of 7 are a row after a column, or the other way round."""
    row, column = (1, 7), (7, 1)
    return Mixed(
        768,
        [Step("branch1x1", 192)],
        [Step("branch7x7_1", narrow), Step("branch7x7_2", narrow, row), Step("branch7x7_3", 192, column)],
        [
            Step("branch7x7dbl_1", narrow),
            Step("branch7x7dbl_2", narrow, column),
            Step("branch7x7dbl_3", narrow, row),
            Step("branch7x7dbl_4", narrow, column),
            Step("branch7x7dbl_5", 192, row),
        ],
        [_average(), Step("branch_pool", 192)],
    )


def _halved_after_middle(inputs: int) -> Mixed:
    return Mixed(
        inputs,
        [Step("branch3x3_1", 192), Step("branch3x3_2", 320, (3, 3), 2)],
        [
            Step("branch7x7x3_1", 192),
            Step("branch7x7x3_2", 192, (1, 7)),
            Step("branch7x7x3_3", 192, (7, 1)),
            Step("branch7x7x3_4", 192, (3, 3), 2),
        ],
        [nn.MaxPool2d(3, 2)],
    )


def _coarse(inputs: int, pool: nn.Module) -> Mixed:
    """Blocks at 8 x 8 places; squares of 3 are a row beside a column."""
    row, column = (1, 3), (3, 1)
    return Mixed(
        inputs,
        [Step("branch1x1", 320)],
        [Step("branch3x3_1", 384), Fork((Step("branch3x3_2a", 384, row), Step("branch3x3_2b", 384, column)))],
        [
            Step("branch3x3dbl_1", 448),
            Step("branch3x3dbl_2", 384, (3, 3)),
            Fork((Step("branch3x3dbl_3a", 384, row), Step("branch3x3dbl_3b", 384, column))),
        ],
        [pool, Step("branch_pool", 192)],
    )
