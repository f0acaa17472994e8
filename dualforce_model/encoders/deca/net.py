"""DECA's coarse encoder, a ResNet-50 and two linear maps, and EMOCA's two of them, with their published names.

Legend: b pictures, c channels, h w places of a map.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dualforce_model.encoders.deca.files import published_tensors
from dualforce_model.encoders.published import place

NetT = TypeVar("NetT", bound=nn.Module)
DEPTHS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)
GROWTH = 4  # of the channels, at the end of a block
HIDDEN = 1024
# What DECA's 236 numbers are, in their order.
PARTS: Mapping[str, int] = MappingProxyType(
    {"shape": 100, "texture": 50, "expression": 50, "pose": 6, "camera": 3, "light": 27}
)
NUM_COARSE = sum(PARTS.values())
NUM_EXPRESSION = 50
NUM_FINER = NUM_EXPRESSION + 3  # EMOCA's second net: expression and jaw


class DecaFields(NamedTuple):
    """What of DECA's or EMOCA's numbers is FLAME's; rotations are axis-angle, in radians."""

    shape: Float[Tensor, "b 100"]
    expression: Float[Tensor, "b 50"]
    pose: Float[Tensor, "b 3"]
    jaw: Float[Tensor, "b 3"]
    camera: Float[Tensor, "b 3"]  # scale, x, y: scale * (xy + t), of the picture


class DecaNet(nn.Module):
    """DECA: one net for everything."""

    def __init__(self) -> None:
        super().__init__()
        self.E_flame = Regressor(NUM_COARSE)
        self.eval().requires_grad_(False)

    def forward(self, pictures: Float[Tensor, "b 3 224 224"]) -> DecaFields:
        """RGB, 0 to 1, no mean or deviation taken out."""
        coarse = dict(zip(PARTS, self.E_flame(pictures).split(tuple(PARTS.values()), dim=1), strict=True))
        pose, jaw = coarse["pose"].split(3, dim=1)
        return DecaFields(coarse["shape"], coarse["expression"], pose, jaw, coarse["camera"])


class EmocaNet(DecaNet):
    """EMOCA: expression and jaw come from a net of their own, the rest stays DECA's."""

    def __init__(self) -> None:
        super().__init__()
        self.E_expression = Regressor(NUM_FINER)
        self.eval().requires_grad_(False)

    def forward(self, pictures: Float[Tensor, "b 3 224 224"]) -> DecaFields:
        """RGB, 0 to 1, no mean or deviation taken out."""
        expression, jaw = self.E_expression(pictures).split((NUM_EXPRESSION, 3), dim=1)
        return super().forward(pictures)._replace(expression=expression, jaw=jaw)


class Regressor(nn.Module):
    """A ResNet-50, then two linear maps."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.encoder = ResNet()
        self.layers = nn.Sequential(nn.Linear(GROWTH * WIDTHS[-1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))

    def forward(self, pictures: Float[Tensor, "b 3 224 224"]) -> Float[Tensor, "b n"]:
        """`outputs` numbers."""
        found: Tensor = self.layers(self.encoder(pictures))
        return found


class ResNet(nn.Module):
    """ResNet-50 with the stride on the 3 x 3, without its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        inputs = WIDTHS[0]
        for index, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
            blocks = [
                Block(inputs if i == 0 else GROWTH * width, width, 2 if i == 0 < index else 1) for i in range(depth)
            ]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            inputs = GROWTH * width

    def forward(self, pictures: Float[Tensor, "b 3 224 224"]) -> Float[Tensor, "b 2048"]:
        """Mean over the last map, which has 7 x 7 places."""
        x_bchw = functional.max_pool2d(functional.relu(self.bn1(self.conv1(pictures))), 3, stride=2, padding=1)
        for index in range(len(DEPTHS)):
            x_bchw = self.get_submodule(f"layer{index + 1}")(x_bchw)
        return x_bchw.mean((2, 3))


class Block(nn.Module):
    """Fewer channels, a look around, more channels; what comes of it is added."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = GROWTH * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if inputs != outputs or stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x_bchw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n hh ww"]:
        """Four times `width` channels."""
        y_bchw = functional.relu(self.bn1(self.conv1(x_bchw)))
        y_bchw = functional.relu(self.bn2(self.conv2(y_bchw)))
        y_bchw = self.bn3(self.conv3(y_bchw))
        return functional.relu(y_bchw + self.downsample(x_bchw))


def load_deca(path: Path) -> DecaNet:
    """The net with the weights of a file: `deca_model.tar` as published, or safetensors with names `E_flame.*`.

    Raises WeightsError naming what is missing, unknown, has another shape, is no number, or is no weights at all.
    Nothing in the file is run.
    """
    net = _empty(DecaNet)
    with ExitStack() as stack:
        place(net.E_flame, published_tensors(path, stack), path, "DECA's coarse encoder", "E_flame.")
    return net


def load_emoca(path: Path) -> EmocaNet:
    """The nets with the weights of a file: a checkpoint of EMOCA, or safetensors with names `deca.E_flame.*` and
    `deca.E_expression.*`. Raises WeightsError as `load_deca` does.
    """
    net = _empty(EmocaNet)
    with ExitStack() as stack:
        tensors = {name.removeprefix("state_dict."): each for name, each in published_tensors(path, stack).items()}
        place(net.E_flame, tensors, path, "DECA's coarse encoder as EMOCA keeps it", "deca.E_flame.")
        place(net.E_expression, tensors, path, "EMOCA's expression encoder", "deca.E_expression.")
    return net


def _empty(kind: type[NetT]) -> NetT:
    with torch.device("meta"):  # no random numbers are drawn for weights that are replaced
        net = kind()
    return net.to_empty(device="cpu")
