"""What a stream remembers: keys (before rotation) and values of the reference and of a rolling window of clean steps.

Legend: b batch, p cached steps, n tokens per step, h heads, d head width.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dualforce_model.layers.masks import StepMask, band


class StepRing:
    """Steps in a buffer of constant size: slot 0 is the sink, the others take turns."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.num_slots = window  # the sink and the window - 1 steps before the next one

    def slot(self, step: int) -> int:
        """Where a step is kept."""
        return step if step < self.num_slots else 1 + (step - 1) % (self.num_slots - 1)

    def steps(self, length: int) -> tuple[int, ...]:
        """The steps kept after `length` steps, in the order of their slots."""
        kept = range(max(1, length - self.num_slots + 1), length)
        return (0, *sorted(kept, key=self.slot)) if length else ()


@dataclass
class LayerMemory:
    """Keys and values of one layer of one tower."""

    ring: StepRing
    keys: Float[Tensor, "b p n h d"] | None = None
    values: Float[Tensor, "b p n h d"] | None = None

    def read(self, num_kept: int) -> tuple[Float[Tensor, "b l h d"], Float[Tensor, "b l h d"]]:
        """Keys and values of the kept steps, in the order of `StepRing.steps`."""
        assert self.keys is not None, "read before the first commit"
        assert self.values is not None, "keys and values are written together"
        return self.keys[:, :num_kept].flatten(1, 2), self.values[:, :num_kept].flatten(1, 2)

    def write(self, key: Float[Tensor, "b s n h d"], value: Float[Tensor, "b s n h d"], first_step: int) -> None:
        """Keep the steps that the window still reaches."""
        if self.keys is None or self.values is None:
            shape = (key.shape[0], self.ring.num_slots, *key.shape[2:])
            self.keys, self.values = key.new_zeros(shape), value.new_zeros(shape)
        length = first_step + key.shape[1]
        for step in self.ring.steps(length):
            if step >= first_step:
                self.keys[:, self.ring.slot(step)] = key[:, step - first_step].detach()
                self.values[:, self.ring.slot(step)] = value[:, step - first_step].detach()


@dataclass(frozen=True)
class AudioMemory:
    """A run of audio steps: what was heard last, or what is heard now."""

    tokens: Float[Tensor, "b p 8 a"]
    valid: Bool[Tensor, "b p 8"]
    positions: Int[Tensor, "b p"]

    def then(self, following: "AudioMemory") -> "AudioMemory":
        """This run and the one after it."""
        return AudioMemory(
            torch.cat([self.tokens, following.tokens], dim=1),
            torch.cat([self.valid, following.valid], dim=1),
            torch.cat([self.positions, following.positions], dim=1),
        )

    def last(self, num_steps: int, upto: int) -> "AudioMemory":
        """The last steps before step `upto` of this run."""
        kept = slice(max(0, upto - num_steps), upto)
        return AudioMemory(self.tokens[:, kept].clone(), self.valid[:, kept].clone(), self.positions[:, kept].clone())


@dataclass
class StepCache:
    """State of a batch of streams in step. `length` counts committed steps, the reference included."""

    batch: int
    window: int
    length: int = 0
    audio: AudioMemory | None = None
    structure: Float[Tensor, "b m"] | None = None  # the reference's, a condition of every later step
    _memories: dict[tuple[str, int], LayerMemory] = field(default_factory=dict)

    def memory(self, tower: str, layer: int) -> LayerMemory:
        """Memory of a tower's layer, made at first use."""
        key = (tower, layer)
        if key not in self._memories:
            self._memories[key] = LayerMemory(StepRing(self.window))
        return self._memories[key]

    def mask(self, num_new: int) -> StepMask:
        """Mask of `num_new` steps that follow the committed ones."""
        return band(StepRing(self.window).steps(self.length), num_new, self.length, self.window)

    def num_bytes(self) -> int:
        """Memory held, in bytes: constant once the window and the audio's past are full."""
        kept = [tensor for memory in self._memories.values() for tensor in (memory.keys, memory.values)]
        kept += [self.audio.tokens, self.audio.valid, self.audio.positions] if self.audio is not None else []
        kept.append(self.structure)
        return sum(tensor.numel() * tensor.element_size() for tensor in kept if isinstance(tensor, torch.Tensor))
