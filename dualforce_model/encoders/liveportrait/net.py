"""The motion extractor's net (ConvNeXt V2 tiny and seven heads), with the names of its published weights.

Legend: b pictures, c channels, h w places of a stage's map. The published file is `motion_extractor.pth` of the human
models. Those for animals have the same names and shapes: only the file's digest tells them apart.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional

from dualforce_model.encoders.liveportrait.crops import PICTURE_PX
from dualforce_model.encoders.liveportrait.motion import HEADS, Motion, assemble
from dualforce_model.encoders.published import fill
from dualforce_model.pretrained import check_vouched

DEPTHS = (3, 3, 9, 3)
WIDTHS = (96, 192, 384, 768)
EPSILON = 1e-6
LOOKALIKES = "LivePortrait's nets for animals have the same names and shapes: only the digest tells them apart"
CHUNK = 8  # pictures at once, unless told otherwise: what bounds the memory (about 0.3 GB)


class MotionExtractor(nn.Module):
    """Pictures of a face to key points at rest, expression, turn, place and size."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = Detector()
        self.eval().requires_grad_(False)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b n"]]:
        """What every head of `HEADS` says: RGB, 0 to 1, no mean or deviation taken out."""
        return self.detector(pictures)

    @torch.inference_mode()
    def raw(
        self, pictures: UInt8[np.ndarray, "T 256 256 3"], chunk: int = CHUNK
    ) -> dict[str, Float32[np.ndarray, "T n"]]:
        """The heads' numbers for RGB pictures, computed on the device of the weights, `chunk` pictures at once."""
        expected = (PICTURE_PX, PICTURE_PX, 3)
        if pictures.shape[1:] != expected or pictures.dtype != np.uint8 or not len(pictures):
            raise ValueError(
                f"pictures are {pictures.dtype} {pictures.shape}: expected uint8 [T, {PICTURE_PX}, {PICTURE_PX}, 3] "
                "with T >= 1"
            )
        weight = self.detector.norm.weight
        found: list[dict[str, Tensor]] = []
        for first in range(0, len(pictures), chunk):
            some = torch.from_numpy(np.ascontiguousarray(pictures[first : first + chunk])).to(weight.device)
            said = self(some.permute(0, 3, 1, 2).to(weight.dtype) / 255)
            found.append({name: numbers.float().cpu() for name, numbers in said.items()})
        return {name: torch.cat([said[name] for said in found]).numpy() for name in HEADS}

    def motion(self, pictures: UInt8[np.ndarray, "T 256 256 3"], chunk: int = CHUNK) -> Motion:
        """Motion in RGB pictures; every frame's numbers are its own."""
        return assemble(self.raw(pictures, chunk))


class Detector(nn.Module):
    """The net itself, under the name that starts every name of the file."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 4, stride=4), PlaneNorm(WIDTHS[0], eps=EPSILON))
        halving = [
            nn.Sequential(PlaneNorm(WIDTHS[i], eps=EPSILON), nn.Conv2d(WIDTHS[i], WIDTHS[i + 1], 2, stride=2))
            for i in range(len(WIDTHS) - 1)
        ]
        self.downsample_layers = nn.ModuleList([stem, *halving])
        self.stages = nn.ModuleList(
            nn.Sequential(*[Block(width) for _ in range(depth)]) for depth, width in zip(DEPTHS, WIDTHS, strict=True)
        )
        self.norm = nn.LayerNorm(WIDTHS[-1], eps=EPSILON)
        for name, width in HEADS.items():
            self.add_module(f"fc_{name}", nn.Linear(WIDTHS[-1], width))

    def pooled(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 768"]:
        """What the heads read: the mean over the last map, normalised."""
        x_bchw = pictures
        for halve, stage in zip(self.downsample_layers, self.stages, strict=True):
            x_bchw = stage(halve(x_bchw))
        return self.norm(x_bchw.mean((2, 3)))

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b n"]]:
        """What every head says."""
        x_bc = self.pooled(pictures)
        return {name: self.get_submodule(f"fc_{name}")(x_bc) for name in HEADS}


class Block(nn.Module):
    """Looks around (7 x 7 in each channel), then thinks at each place; what comes of it is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.grn = ResponseNorm(4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)

    def forward(self, x_bchw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Same shape."""
        seen_bhwc = self.norm(self.dwconv(x_bchw).permute(0, 2, 3, 1))
        thought_bhwc = self.pwconv2(self.grn(functional.gelu(self.pwconv1(seen_bhwc))))
        return x_bchw + thought_bhwc.permute(0, 3, 1, 2)


class ResponseNorm(nn.Module):
    """Channels compete: each is scaled by its strength over the whole map, against that of the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, x_bhwc: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Same shape."""
        strength = torch.linalg.vector_norm(x_bhwc, dim=(1, 2), keepdim=True)
        share = strength / (strength.mean(dim=-1, keepdim=True) + EPSILON)
        return self.gamma * (x_bhwc * share) + self.beta + x_bhwc


class PlaneNorm(nn.LayerNorm):
    """A layer norm over the channels of a map."""

    def forward(self, x_bchw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Same shape."""
        return super().forward(x_bchw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def load_motion_extractor(path: Path) -> MotionExtractor:
    """The net with the weights of a file: `motion_extractor.pth` as published, or a safetensors file of the same names.

    Raises WeightsError naming what is missing, unknown, has another shape, is no number, or is no weights at all, and
    UntrustedWeightsError where nobody vouches for the file, whatever its form. Nothing in it is run.
    """
    with torch.device("meta"):  # no random numbers are drawn for weights that are replaced
        net = MotionExtractor()
    net = net.to_empty(device="cpu")
    fill(net, path, "LivePortrait's motion extractor")
    check_vouched([path], LOOKALIKES)  # a file that is no such net at all was named for what it is
    return net
