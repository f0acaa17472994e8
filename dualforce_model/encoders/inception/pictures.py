"""What Inception-v3 sees: the whole picture, 299 px wide and high, from -1 to almost 1.

Resizing is that of TensorFlow 1, which the published distances were defined with: straight lines between the four
nearest pixels, whose places are their corners and not their centres, and nothing is averaged when it shrinks.
"""

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

PICTURE_PX = 299
MIDDLE = 128.0  # grey that becomes 0; what divides the rest


def net_pictures(pictures: UInt8[Tensor, "n H W 3"]) -> Float32[Tensor, "n 3 299 299"]:
    """RGB pictures of any size as the net takes them."""
    return (resize(pictures.permute(0, 3, 1, 2).float()) - MIDDLE) / MIDDLE


def resize(x: Float32[Tensor, "n c H W"]) -> Float32[Tensor, "n c 299 299"]:
    """The picture stretched or squeezed to 299 px in both directions."""
    return _stretch(_stretch(x, 3), 2)


def _stretch(x: Float32[Tensor, "n c h w"], axis: int) -> Float32[Tensor, "n c h2 w2"]:
    size = x.shape[axis]
    # Whole numbers until the division: a place that falls on a pixel is that pixel.
    places = torch.arange(PICTURE_PX, dtype=torch.int64) * size
    lower = (places // PICTURE_PX).to(x.device)
    upper = (lower + 1).clamp(max=size - 1)  # behind the last pixel there is the last pixel
    shares = ((places % PICTURE_PX).double() / PICTURE_PX).float().to(x.device)
    shares = shares if axis == 3 else shares[:, None]
    first, second = x.index_select(axis, lower), x.index_select(axis, upper)
    return first + (second - first) * shares
