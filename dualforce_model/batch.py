"""The one tensor record that training reads: all modalities of the same steps, or it cannot be built.

Legend: b batch, s steps, c latent channels, 4 structure entries and 8 audio slots per step, m and a their widths,
r reference features of width e, k numbers of key points at rest, l text tokens of
width d.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dualforce_model import clock
from dualforce_model.flame import NUM_MOTION
from dualforce_model.model import ModelConfig

Sample = Mapping[str, Tensor | np.ndarray]  # one clip's window: the batch's fields without the batch axis

STEPPED = ("video", "structure", "audio", "positions", "audio_mask")
FAKE_FEATURES = 5  # reference features of a made-up clip


@dataclass(frozen=True)
class TalkingHeadBatch:
    """Windows of clips. The first step is the reference (position 0), then come steps j, j + 1, ... of each clip."""

    video: Float[Tensor, "b s c h w"]
    structure: Float[Tensor, "b s 4 m"]
    audio: Float[Tensor, "b s 8 a"]
    reference: Float[Tensor, "b c h w"]
    positions: Int[Tensor, "b s"]
    audio_mask: Bool[Tensor, "b s 8"]
    weights: Float[Tensor, " b"]
    flame: Float[Tensor, "b s 4 56"] | None = None
    """FLAME motion, standardised; None: the data have no FLAME parameters."""
    features: Float[Tensor, "b r e"] | None = None
    """What a picture encoder says of the picture at step 0; None: the model takes no reference features."""
    canonical: Float[Tensor, "b k"] | None = None
    """Key points at rest of the face at step 0, standardised; None: the structure does not tell them from motion."""
    text: Float[Tensor, "b l d"] | None = None
    """What is said of the clip, filled up with zeros, in half precision; None: nothing is said of any."""

    def __post_init__(self) -> None:
        given = self._given()
        self._check_axis(1, "steps", tuple(name for name in (*STEPPED, "flame") if name in given))
        self._check_axis(0, "clips", tuple(given))
        if self.flame is not None and self.flame.shape[2:] != (clock.FRAMES_PER_STEP, NUM_MOTION):
            raise ValueError(
                f"flame has the shape {tuple(self.flame.shape)}: expected [clips, steps, {clock.FRAMES_PER_STEP}, "
                f"{NUM_MOTION}]"
            )
        if self.features is not None and (self.features.ndim != 3 or not self.features.numel()):
            raise ValueError(
                f"features has the shape {tuple(self.features.shape)}: expected [clips, reference features, width], "
                "at least one"
            )
        if self.canonical is not None and (self.canonical.ndim != 2 or not self.canonical.numel()):
            raise ValueError(
                f"canonical has the shape {tuple(self.canonical.shape)}: expected [clips, numbers], at least one number"
            )
        if self.text is not None and (self.text.ndim != 3 or not self.text.numel()):
            raise ValueError(
                f"text has the shape {tuple(self.text.shape)}: expected [clips, tokens, width], at least one token"
            )
        for name, entries in (("structure", clock.FRAMES_PER_STEP), ("audio", clock.SLOTS_PER_STEP)):
            found = getattr(self, name).shape
            if len(found) != 4 or found[2] != entries:
                raise ValueError(f"{name} has the shape {tuple(found)}: expected [clips, steps, {entries}, width]")
        if self.video.ndim != 5 or self.reference.shape[1:] != self.video.shape[2:]:
            shapes = tuple(self.video.shape), tuple(self.reference.shape)
            raise ValueError(
                f"video {shapes[0]} and reference {shapes[1]}: expected [clips, steps, c, h, w] and [clips, c, h, w]"
            )
        if self.audio_mask.shape != self.audio.shape[:3]:
            raise ValueError(f"audio_mask {tuple(self.audio_mask.shape)} is not audio's {tuple(self.audio.shape[:3])}")
        if self.positions.device.type == "cpu":  # values elsewhere would cost a wait for the device
            self._check_positions()

    def _check_axis(self, axis: int, what: str, names: tuple[str, ...]) -> None:
        counts = {name: getattr(self, name).shape[axis] for name in names if getattr(self, name).ndim > axis}
        if len(counts) < len(names) or len(set(counts.values())) > 1:
            found = ", ".join(f"{name} {counts.get(name, 'none')}" for name in names)
            raise ValueError(f"the modalities disagree about the number of {what}: {found}; cut all to the same {what}")

    def _check_positions(self) -> None:
        for row in self.positions.tolist():
            start = row[1] if len(row) > 1 else 1
            if row != [0, *range(start, start + len(row) - 1)] or start < 1:
                raise ValueError(f"positions {row}: expected 0 (the reference), then consecutive steps j, j+1, ...")

    @property
    def num_steps(self) -> int:
        """Steps of each window, the reference included."""
        return int(self.video.shape[1])

    def __len__(self) -> int:
        return int(self.video.shape[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TalkingHeadBatch":
        """The batch on another device."""
        moved = {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in self._given().items()}
        return replace(self, **moved)

    def _given(self) -> dict[str, Tensor]:
        """The fields that are there."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @classmethod
    def stack(cls, samples: Sequence[Sample]) -> "TalkingHeadBatch":
        """Batch of samples, each a mapping from field name to a tensor without the batch axis."""
        if not samples:
            raise ValueError("no samples: a batch has at least one")
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        names = [field.name for field in fields(cls) if field.name in needed | set(samples[0])]
        for sample in samples:
            if set(sample) != set(names):
                raise ValueError(f"a sample has the fields {sorted(sample)}: expected {sorted(names)}")
        columns = {name: [torch.as_tensor(sample[name]) for sample in samples] for name in names}
        for name, column in columns.items():
            shapes = sorted({tuple(tensor.shape) for tensor in column})
            if len(shapes) > 1:
                raise ValueError(f"samples disagree about the shape of {name}: {shapes}; cut windows of one length")
        return cls(**{name: torch.stack(column) for name, column in columns.items()})

    @classmethod
    def fake(
        cls, config: ModelConfig, batch: int = 2, num_steps: int = 4, height: int = 12, width: int = 12, seed: int = 0
    ) -> "TalkingHeadBatch":
        """Noise in the right shapes, from its own generator: for tests, warm-up and measurements."""
        draw = torch.Generator().manual_seed(seed)
        latent = (config.video.latent_channels, height, width)
        entries = config.structure.entries if config.structure is not None else 1
        heard = config.audio.features if config.audio is not None else 1
        width_e = config.video.feature_dim
        width_k = config.structure.canonical_dim if config.structure is not None else 0
        video = torch.randn(batch, num_steps, *latent, generator=draw)
        return cls(
            video=video,
            structure=torch.randn(batch, num_steps, clock.FRAMES_PER_STEP, entries, generator=draw),
            audio=torch.randn(batch, num_steps, clock.SLOTS_PER_STEP, heard, generator=draw),
            reference=video[:, 0].clone(),
            positions=torch.arange(num_steps).expand(batch, -1).clone(),
            audio_mask=clock.audio_valid(num_steps).expand(batch, -1, -1).clone(),
            weights=torch.ones(batch),
            # What is optional is drawn last, so that everything else is as it is without.
            features=torch.randn(batch, FAKE_FEATURES, width_e, generator=draw) if width_e else None,
            canonical=torch.randn(batch, width_k, generator=draw) if width_k else None,
        )
