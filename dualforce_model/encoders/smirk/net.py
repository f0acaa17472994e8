"""SMIRK's encoder: three branches of MobileNetV3 in its minimal form, with the names of its published weights.

Legend: b pictures, c channels, h w places of a map. The published file also holds the net that SMIRK was trained with
(`smirk_generator.`), which nobody needs here.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dualforce_model.encoders.published import fill

PREFIX = "smirk_encoder."
EPSILON = 1e-3  # of the batch norms: TensorFlow's
STEM = 16
JAW_LIMIT = 0.2  # radians that the jaw may go sideways
EXPRESSION, EYELIDS, JAW = 50, 2, 3


class Turn(NamedTuple):
    """An inverted residual: inner channels, outer channels, stride."""

    inner: int
    outer: int
    stride: int = 1


class Plan(NamedTuple):
    """A backbone: stride of the first, separable block, then the stages, then the width of the last 1 x 1."""

    first_stride: int
    stages: tuple[tuple[Turn, ...], ...]
    last: int


LARGE = Plan(
    1,
    (
        (Turn(64, 24, 2), Turn(72, 24)),
        (Turn(72, 40, 2), Turn(120, 40), Turn(120, 40)),
        (Turn(240, 80, 2), Turn(200, 80), Turn(184, 80), Turn(184, 80)),
        (Turn(480, 112), Turn(672, 112)),
        (Turn(672, 160, 2), Turn(960, 160), Turn(960, 160)),
    ),
    960,
)
SMALL = Plan(
    2,
    (
        (Turn(72, 24, 2), Turn(88, 24)),
        (Turn(96, 40, 2), Turn(240, 40), Turn(240, 40)),
        (Turn(120, 48), Turn(144, 48)),
        (Turn(288, 96, 2), Turn(576, 96), Turn(576, 96)),
    ),
    576,
)


class SmirkFields(NamedTuple):
    """What SMIRK says of pictures, in FLAME's terms: rotations are axis-angle, in radians."""

    shape: Float[Tensor, "b 300"]
    expression: Float[Tensor, "b 50"]
    eyelids: Float[Tensor, "b 2"]  # 0 open, 1 shut
    jaw: Float[Tensor, "b 3"]
    pose: Float[Tensor, "b 3"]
    camera: Float[Tensor, "b 3"]  # scale, x, y: scale * (xy + t), of the picture


class SmirkNet(nn.Module):
    """Pictures of a face to FLAME's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.pose_encoder = Branch(SMALL, "pose_cam_layers", 6)
        self.shape_encoder = Branch(LARGE, "shape_layers", 300)
        self.expression_encoder = Branch(LARGE, "expression_layers", EXPRESSION + EYELIDS + JAW)
        self.eval().requires_grad_(False)

    def forward(self, pictures: Float[Tensor, "b 3 224 224"]) -> SmirkFields:
        """RGB, 0 to 1, no mean or deviation taken out."""
        pose, camera = self.pose_encoder(pictures).split(3, dim=1)
        expression, eyelids, jaw = self.expression_encoder(pictures).split((EXPRESSION, EYELIDS, JAW), dim=1)
        sideways = jaw[:, 1:].clamp(-JAW_LIMIT, JAW_LIMIT)
        return SmirkFields(
            shape=self.shape_encoder(pictures),
            expression=expression,
            eyelids=eyelids.clamp(0, 1),
            jaw=torch.cat([functional.relu(jaw[:, :1]), sideways], dim=1),
            pose=pose,
            camera=camera,
        )


class Branch(nn.Module):
    """A backbone and one linear map, which the file calls `head`."""

    def __init__(self, plan: Plan, head: str, outputs: int) -> None:
        super().__init__()
        self.encoder = Backbone(plan)
        self.add_module(head, nn.Sequential(nn.Linear(plan.last, outputs)))
        self.head = head

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """The map of `pooled`."""
        found: Tensor = self.get_submodule(self.head)(self.pooled(pictures))
        return found

    def pooled(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        """Mean over the last map."""
        return self.encoder(pictures).mean((2, 3))


class Backbone(nn.Module):
    """MobileNetV3, minimal: ReLU everywhere, kernels of 3, nothing squeezed."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.conv_stem = SameConv(3, STEM, 3, stride=2)
        self.bn1 = norm(STEM)
        stages: list[nn.Module] = [nn.Sequential(Separable(STEM, plan.first_stride))]
        width = STEM
        for turns in plan.stages:
            inputs = (width, *(turn.outer for turn in turns[:-1]))
            stages.append(nn.Sequential(*[Residual(n, turn) for n, turn in zip(inputs, turns, strict=True)]))
            width = turns[-1].outer
        stages.append(nn.Sequential(Last(width, plan.last)))
        self.blocks = nn.Sequential(*stages)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hh ww"]:
        """The last map, 32 times smaller."""
        found: Tensor = self.blocks(functional.relu(self.bn1(self.conv_stem(pictures))))
        return found


class Separable(nn.Module):
    """Each channel alone, then all at each place; the second half has no ReLU."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv(width, width, 3, stride=stride, groups=width)
        self.bn1 = norm(width)
        self.conv_pw = SameConv(width, width, 1)
        self.bn2 = norm(width)
        self.adds = stride == 1

    def forward(self, x_bchw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hh ww"]:
        """Same channels."""
        y_bchw: Tensor = self.bn2(self.conv_pw(functional.relu(self.bn1(self.conv_dw(x_bchw)))))
        return x_bchw + y_bchw if self.adds else y_bchw


class Residual(nn.Module):
    """More channels, each alone, fewer channels; added where the shape is kept."""

    def __init__(self, width: int, turn: Turn) -> None:
        super().__init__()
        self.conv_pw = SameConv(width, turn.inner, 1)
        self.bn1 = norm(turn.inner)
        self.conv_dw = SameConv(turn.inner, turn.inner, 3, stride=turn.stride, groups=turn.inner)
        self.bn2 = norm(turn.inner)
        self.conv_pwl = SameConv(turn.inner, turn.outer, 1)
        self.bn3 = norm(turn.outer)
        self.adds = turn.stride == 1 and turn.outer == width

    def forward(self, x_bchw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n hh ww"]:
        """`outer` channels."""
        y_bchw = functional.relu(self.bn1(self.conv_pw(x_bchw)))
        y_bchw = functional.relu(self.bn2(self.conv_dw(y_bchw)))
        y_bchw = self.bn3(self.conv_pwl(y_bchw))
        return x_bchw + y_bchw if self.adds else y_bchw


class Last(nn.Module):
    """A 1 x 1 that widens."""

    def __init__(self, width: int, outer: int) -> None:
        super().__init__()
        self.conv = SameConv(width, outer, 1)
        self.bn1 = norm(outer)

    def forward(self, x_bchw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        """`outer` channels."""
        return functional.relu(self.bn1(self.conv(x_bchw)))


class SameConv(nn.Conv2d):
    """TensorFlow's "same": of what is missing for ceil(n / stride) places, the odd one is added behind."""

    def __init__(self, width: int, outer: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(width, outer, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x_bchw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n hh ww"]:
        """ceil(h / stride) x ceil(w / stride) places."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        high, wide = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x_bchw.shape[-2:])
        return super().forward(functional.pad(x_bchw, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))


def norm(width: int) -> nn.BatchNorm2d:
    """A batch norm with TensorFlow's epsilon."""
    return nn.BatchNorm2d(width, eps=EPSILON)


def load_smirk(path: Path) -> SmirkNet:
    """The net with the weights of a file: `SMIRK_em1.pt` as published, or a safetensors file of the same names.

    Only names that begin with `smirk_encoder.` are read. Raises WeightsError naming what is missing, unknown, has
    another shape, is no number, or is no weights at all. Nothing in the file is run.
    """
    with torch.device("meta"):  # no random numbers are drawn for weights that are replaced
        net = SmirkNet()
    net = net.to_empty(device="cpu")
    fill(net, path, "SMIRK's encoder", PREFIX)
    return net
