"""Who sees whom, said once and lowered to what the attention kernel at hand wants.

Steps are counted by their place in the sequence: 0 is the reference (the sink), 1, 2, ... the window that follows it.
A step sees itself, the sink, and the `window - 1` steps before it. Seen from step q the sink lies min(q, window) steps
back: it stays where the window ends, however long the sequence, so that positions never leave the range of training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

FLEX_BLOCK = 128  # tokens per side of a FlexAttention block


@dataclass(frozen=True)
class Places:
    """Rotary places of queries and keys; `clamped`: the queries' places as the sink must see them, if those differ."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    clamped: tuple[int, ...] | None


@dataclass(frozen=True)
class StepMask:
    """Causal band over steps: sink and last `window` steps. Keys start with the sink (step 0)."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    window: int

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"a window of {self.window} steps: at least 1 (the step itself) is needed")
        if not self.queries or not self.keys or self.keys[0] != 0:
            raise ValueError(f"keys {self.keys[:3]}... for {len(self.queries)} queries: the sink, step 0, comes first")

    @classmethod
    def causal(cls, num_steps: int, window: int) -> "StepMask":
        """Mask of one uncached pass over all steps."""
        steps = tuple(range(num_steps))
        return cls(steps, steps, window)

    def sees(self, query: int, key: int) -> bool:
        """Whether step `query` sees step `key`."""
        return key <= query and (key == 0 or query - key < self.window)

    @cached_property
    def visible(self) -> Bool[Tensor, "q k"]:
        """The mask over steps."""
        return torch.tensor([[self.sees(query, key) for key in self.keys] for query in self.queries])

    @cached_property
    def places(self) -> Places:
        """Rotary places: the sink at 0, window steps at their distances from the queries."""
        clamped = tuple(min(query, self.window) for query in self.queries)
        shifts = {query - place for query, place in zip(self.queries, clamped, strict=True)}
        shift = shifts.pop()
        if not shifts:  # one shift serves all queries: every distance is right as it is
            return Places(clamped, self._shifted(shift), None)
        base = min((key for key in self.keys if key), default=1) - 1  # numbers stay small in endless sequences
        return Places(tuple(query - base for query in self.queries), self._shifted(base), clamped)

    def _shifted(self, by: int) -> tuple[int, ...]:
        return tuple(key - by if key else 0 for key in self.keys)

    def dense(
        self, tokens: int, sinks: int, device: torch.device, key_tokens: int | None = None
    ) -> Bool[Tensor, "lq lk"] | None:
        """Mask over tokens after `sinks` learned tokens that all see; None if all see all.

        Steps have `tokens` queries, and as many keys unless `key_tokens` says otherwise.
        """
        if bool(self.visible.all()):
            return None
        per_token = self.visible.repeat_interleave(tokens, 0).repeat_interleave(key_tokens or tokens, 1)
        return torch.nn.functional.pad(per_token, (sinks, 0), value=True).to(device)

    def flex(self, tokens: int, sinks: int, device: torch.device, key_tokens: int | None = None) -> BlockMask | None:
        """The same as FlexAttention's BlockMask; None if all see all."""
        if bool(self.visible.all()):
            return None
        return _block_mask(self, tokens, key_tokens or tokens, sinks, device)


@lru_cache(maxsize=32)  # every training step asks for the same few
def _block_mask(mask: StepMask, tokens: int, key_tokens: int, sinks: int, device: torch.device) -> BlockMask:
    visible = mask.visible.to(device)

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        step = torch.clamp(key - sinks, min=0) // key_tokens
        return (key < sinks) | visible[query // tokens, step]

    num_queries, num_keys = len(mask.queries) * tokens, len(mask.keys) * key_tokens + sinks
    return create_block_mask(mask_mod, None, None, num_queries, num_keys, device=device, BLOCK_SIZE=FLEX_BLOCK)


def band(cached: Sequence[int], num_new: int, next_step: int, window: int) -> StepMask:
    """Mask of new steps behind cached ones: no mask at all for a single new step."""
    new = tuple(range(next_step, next_step + num_new))
    return StepMask(new, (*cached, *new), window)
