"""Video latents without weights: a block DCT with the shape of the Wan VAE (16 channels, stride 4x8x8, causal).

Legend: T frames, S steps (T = 4(S-1)+1), H W pixels, h = H/8, w = W/8.

A step's 4x8x8 blocks of pixels become 16 coefficients of an orthonormal DCT in an orthonormal luma/chroma space, each
divided by its usual spread so that all channels are of unit order. What the table keeps is kept exactly: apart from
rounding to uint8, `decode(encode(x))` is the orthogonal projection of x, so a second pass changes nothing.
Step 0 is one frame alone, taken as four equal frames: it has no temporal coefficients, and lives in the same space.
"""

from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from dualforce_model import clock
from dualforce_model.config import Frozen
from dualforce_model.encoders.base import Modality, WeightFree

BLOCK_PX = 8
FRAMES = clock.FRAMES_PER_STEP


class Coefficient(NamedTuple):
    """One kept DCT coefficient: colour axis (0 luma, 1 red-blue, 2 green-magenta), frequencies in t, y, x, spread."""

    colour: int
    t: int
    y: int
    x: int
    scale: float


# Chosen on talking heads at 96 px, by energy (blocks around the mouth weighing most) and then by how well the mouth's
# opening, as metrics/lips.py sees it, survives. Open lips are a vertical pattern, hence (1..3, 0); red lips around a
# dark gap give the vertical red-blue one; speech moves within the four frames of a step: without t = 1 the correlation
# with the true opening falls from 0.9 to 0.7. `scale` is the coefficient's measured spread.
TABLES: dict[str, tuple[Coefficient, ...]] = {
    "face16": (
        Coefficient(0, 0, 0, 0, 12.0),
        Coefficient(1, 0, 0, 0, 4.0),
        Coefficient(1, 0, 1, 0, 0.5),
        Coefficient(2, 0, 0, 0, 1.3),
        Coefficient(0, 0, 0, 1, 2.8),
        Coefficient(0, 0, 1, 0, 2.8),
        Coefficient(0, 0, 1, 1, 1.3),
        Coefficient(0, 0, 0, 2, 1.3),
        Coefficient(0, 0, 2, 0, 1.4),
        Coefficient(0, 0, 1, 2, 0.8),
        Coefficient(0, 0, 2, 1, 0.8),
        Coefficient(0, 0, 3, 0, 0.9),
        Coefficient(0, 1, 0, 0, 0.7),
        Coefficient(0, 1, 1, 0, 0.7),
        Coefficient(0, 1, 2, 0, 0.6),
        Coefficient(0, 2, 1, 0, 0.4),
    )
}

# Rows: luma, red against blue, green against magenta; orthonormal, so that decoding is the transpose.
COLOUR = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3.0], [2.0], [6.0]])


class DctVideoConfig(Frozen):
    """Settings of the block-DCT video codec."""

    table: Literal["face16"] = Field("face16", description="which coefficients are kept, a versioned list in the code")


def dct_matrix(size: int) -> Float32[np.ndarray, "size size"]:
    """Orthonormal DCT-II; row k is the k-th cosine."""
    k, n = np.arange(size)[:, None], np.arange(size)[None, :]
    rows = np.sqrt(2.0 / size) * np.cos(np.pi * (n + 0.5) * k / size)
    rows[0] /= np.sqrt(2.0)
    return rows.astype(np.float32)


def _basis(table: tuple[Coefficient, ...]) -> np.ndarray:
    """Orthonormal vectors [16, 4, 8, 8, 3] (t, y, x, rgb), one per kept coefficient."""
    time, space = dct_matrix(FRAMES), dct_matrix(BLOCK_PX)
    vectors = [np.einsum("t,y,x,c->tyxc", time[c.t], space[c.y], space[c.x], COLOUR[c.colour]) for c in table]
    return np.stack(vectors).astype(np.float32)


class DctVideoCodec(WeightFree):
    """Frames to latents and back. Linear, deterministic, causal: step i depends on its own four frames alone."""

    name: ClassVar[str] = "dct_video"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "video"
    config_type: ClassVar[type[Frozen]] = DctVideoConfig
    spatial_stride: ClassVar[int] = BLOCK_PX

    def __init__(self, config: DctVideoConfig | None = None) -> None:
        self._config = config or DctVideoConfig()
        table = TABLES[self._config.table]
        basis = _basis(table)
        scale = np.array([c.scale for c in table], np.float32)
        still = (
            basis[:, :1] * np.float32(FRAMES) * np.array([c.t == 0 for c in table], np.float32).reshape(-1, 1, 1, 1, 1)
        )
        self._encode_group = _flat(basis) / scale[:, None]  # [16, 768]
        self._decode_group = _flat(basis) * scale[:, None]
        self._encode_still = _flat(still) / scale[:, None]  # [16, 192]
        self._decode_still = _flat(still) * scale[:, None] / FRAMES

    @property
    def config(self) -> DctVideoConfig:
        """What this codec was built with."""
        return self._config

    @property
    def num_features(self) -> int:
        """Latent channels: 16."""
        return len(TABLES[self._config.table])

    def encode(self, frames: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "S C h w"]:
        """Latents of T = 4k+1 frames whose sides are multiples of 8. Raises ValueError for any other shape."""
        _check_frames(frames)
        clock.num_steps(len(frames))
        first = _analyse(frames[:1], 1, self._encode_still)
        return np.concatenate([first, _analyse(frames[1:], FRAMES, self._encode_group)])

    def encode_image(self, image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "C h w"]:
        """Latent of one picture alone, equal to step 0 of a clip that begins with it."""
        return self.encode(image[None])[0]

    def decode(self, latents: Float32[np.ndarray, "S C h w"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Frames of a whole clip."""
        return self.decoder()(latents)

    def decoder(self) -> "DctVideoDecoder":
        """For a clip that comes in parts."""
        return DctVideoDecoder(self._decode_still, self._decode_group)


class DctVideoDecoder:
    """Frames of one clip as its latents come. All that it remembers is whether the clip has begun."""

    def __init__(self, still: Float32[np.ndarray, "C 192"], group: Float32[np.ndarray, "C 768"]) -> None:
        self._still, self._group = still, group
        self._begun = False

    def __call__(self, latents: Float32[np.ndarray, "S C h w"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Frames of the next steps: one for the clip's first, four for every other."""
        channels = len(self._group)
        if latents.ndim != 4 or latents.shape[1] != channels or not len(latents):
            raise ValueError(f"latents of shape {latents.shape}: expected [S, {channels}, h, w] with S >= 1")
        x = latents.astype(np.float32, copy=False)
        if self._begun:
            return _synthesise(x, FRAMES, self._group)
        self._begun = True
        return np.concatenate([_synthesise(x[:1], 1, self._still), _synthesise(x[1:], FRAMES, self._group)])


def _flat(basis: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(basis.reshape(len(basis), -1))


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}: expected uint8 [T, H, W, 3]")
    height, width = frames.shape[1:3]
    if height % BLOCK_PX or width % BLOCK_PX or not height or not width:
        raise ValueError(f"frames of {width}x{height} px: both sides must be multiples of {BLOCK_PX}")


def _analyse(frames: np.ndarray, group: int, matrix: np.ndarray) -> np.ndarray:
    """Groups of frames [n*group, H, W, 3] -> [n, 16, h, w]."""
    count, (height, width) = len(frames) // group, frames.shape[1:3]
    h, w = height // BLOCK_PX, width // BLOCK_PX
    blocks = frames.reshape(count, group, h, BLOCK_PX, w, BLOCK_PX, 3).transpose(0, 2, 4, 1, 3, 5, 6)
    pixels = blocks.reshape(count, h * w, matrix.shape[1]).astype(np.float32) / np.float32(127.5) - np.float32(1)
    # One product per step: a product over all steps would round differently for other numbers of steps.
    latents: np.ndarray = np.matmul(pixels, matrix.T).transpose(0, 2, 1).reshape(count, len(matrix), h, w)
    return latents


def _synthesise(latents: np.ndarray, group: int, matrix: np.ndarray) -> np.ndarray:
    """[n, 16, h, w] -> uint8 [n*group, H, W, 3]."""
    count, channels, h, w = latents.shape
    pixels = np.matmul(latents.reshape(count, channels, h * w).transpose(0, 2, 1), matrix)
    rounded = np.clip(np.rint((pixels + np.float32(1)) * np.float32(127.5)), 0, 255).astype(np.uint8)
    blocks = rounded.reshape(count, h, w, group, BLOCK_PX, BLOCK_PX, 3).transpose(0, 3, 1, 4, 2, 5, 6)
    return blocks.reshape(count * group, h * BLOCK_PX, w * BLOCK_PX, 3)
