"""Causal self-attention over steps, on Wan's own projections and norms, and the block that holds it.

Legend: b batch, s steps, n tokens per step, l = s*n, h heads, d width (of a head, or of the model), r learned sinks.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformerBlock
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from dualforce_model.layers.cache import LayerMemory
from dualforce_model.layers.masks import StepMask
from dualforce_model.layers.modulation import add_gated, modulate
from dualforce_model.layers.norms import with_own_norms
from dualforce_model.layers.rotary import Rotation, rotate


@dataclass
class Lowered:
    """The mask of one pass of one tower as the attention kernels want it; each form is made at most once."""

    mask: StepMask
    tokens: int
    sinks: int
    device: torch.device
    _forms: dict[str, Any] = field(default_factory=dict)

    def dense(self) -> Bool[Tensor, "lq lk"] | None:
        """Dense mask, or None when every query sees every key."""
        if "dense" not in self._forms:
            self._forms["dense"] = self.mask.dense(self.tokens, self.sinks, self.device)
        form: Tensor | None = self._forms["dense"]
        return form

    def flex(self) -> BlockMask:
        """FlexAttention's form."""
        if "flex" not in self._forms:
            self._forms["flex"] = self.mask.flex(self.tokens, self.sinks, self.device)
        return self._forms["flex"]


@dataclass(frozen=True)
class StepAttention:
    """All that self-attention of one layer needs besides its input; travels in diffusers' `rotary_emb` argument."""

    mask: Lowered
    queries: Rotation
    keys: Rotation
    clamped: Rotation | None
    sinks: Float[Tensor, "r d"] | None = None
    memory: LayerMemory | None = None
    first_step: int = 0
    commit: bool = False


class StepAttnProcessor:
    """Attention processor of `WanAttention` for tokens in steps: band mask, learned sinks, memory."""

    _attention_backend: AttentionBackendName | None = None
    _parallel_config = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Float[Tensor, "b s n d"],
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: StepAttention | None = None,
    ) -> Float[Tensor, "b s n d"]:
        assert rotary_emb is not None, "self-attention over steps needs its StepAttention"
        steps = rotary_emb
        query = self._heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        key = self._heads(attn, attn.norm_k(attn.to_k(hidden_states)))
        value = self._heads(attn, attn.to_v(hidden_states))
        past_key, past_value = self._past(attn, steps, key, value)
        if steps.memory is not None and steps.commit:
            steps.memory.write(key, value, steps.first_step)
        keys = torch.cat([*past_key, key.flatten(1, 2)], dim=1) if past_key else key.flatten(1, 2)
        values = torch.cat([*past_value, value.flatten(1, 2)], dim=1) if past_value else value.flatten(1, 2)
        attended = self._attend(query.flatten(1, 2), keys, values, steps)
        out: Tensor = attn.to_out[1](attn.to_out[0](attended.flatten(2).view_as(hidden_states)))
        return out

    @staticmethod
    def _heads(attn: WanAttention, x: Float[Tensor, "... d"]) -> Float[Tensor, "... h d"]:
        return x.unflatten(-1, (attn.heads, -1))

    def _past(
        self, attn: WanAttention, steps: StepAttention, key: Tensor, value: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values before the new ones: learned sinks, then what the memory kept (read before it is written)."""
        keys: list[Tensor] = []
        values: list[Tensor] = []
        if steps.sinks is not None:
            tokens = steps.sinks.expand(key.shape[0], -1, -1)
            keys.append(self._heads(attn, attn.norm_k(attn.to_k(tokens))))
            values.append(self._heads(attn, attn.to_v(tokens)))
        num_kept = len(steps.mask.mask.keys) - len(steps.mask.mask.queries)
        if steps.memory is not None and num_kept:
            kept_key, kept_value = steps.memory.read(num_kept)
            # Copies where the memory is about to be overwritten by this very pass.
            keys.append(kept_key.clone() if steps.commit else kept_key)
            values.append(kept_value.clone() if steps.commit else kept_value)
        return keys, values

    def _attend(
        self,
        query: Float[Tensor, "b lq h d"],
        key: Float[Tensor, "b lk h d"],
        value: Float[Tensor, "b lk h d"],
        steps: StepAttention,
    ) -> Float[Tensor, "b lq h d"]:
        scale = query.shape[-1] ** -0.5
        turned_query, turned_key = rotate(query, steps.queries), rotate(key, steps.keys)
        if steps.clamped is not None:
            # Sink keys must see queries at another place: give both places half of a doubled head width each.
            num_sink = steps.mask.sinks + steps.mask.tokens
            turned_query = torch.cat([turned_query, rotate(query, steps.clamped)], dim=-1)
            sink, rest = turned_key[:, :num_sink], turned_key[:, num_sink:]
            turned_key = torch.cat(
                [
                    torch.nn.functional.pad(sink, (sink.shape[-1], 0)),
                    torch.nn.functional.pad(rest, (0, rest.shape[-1])),
                ],
                dim=1,
            )
        backend = self._attention_backend or AttentionBackendName.NATIVE  # mask and kernel must be of one kind
        return dispatch_attention_fn(
            turned_query,
            turned_key,
            value,
            attn_mask=steps.mask.flex() if backend == AttentionBackendName.FLEX else steps.mask.dense(),
            scale=scale,
            backend=backend,
            parallel_config=self._parallel_config,
        )


class StepBlock(WanTransformerBlock):
    """Wan's block on [b, s, n, d] tokens with one modulation per step. Same parameters, same names."""

    def __init__(self, *args: Any, text: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attn1.set_processor(StepAttnProcessor())
        with_own_norms(self.attn1)
        if not text:  # no prompt to attend to: no parameters that never learn
            self.attn2 = None
            self.norm2 = None

    def forward(
        self,
        hidden_states: Float[Tensor, "b s n d"],
        encoder_hidden_states: Float[Tensor, "b l d"] | None,
        temb: Float[Tensor, "b s 6 d"],
        rotary_emb: StepAttention,
    ) -> Float[Tensor, "b s n d"]:
        """Self-attention, text cross-attention (if there is text), feed-forward."""
        x = hidden_states
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.scale_shift_table + temb.float()).unbind(2)
        attended = self.attn1(modulate(self.norm1, x, shift, scale), rotary_emb=rotary_emb)
        x = add_gated(x, attended, gate)
        if self.attn2 is not None:
            normed = self.norm2(x.float()).type_as(x).flatten(1, 2)
            x = x + self.attn2(normed, encoder_hidden_states).view_as(x)
        update: Tensor = self.ffn(modulate(self.norm3, x, ffn_shift, ffn_scale))
        return add_gated(x, update, ffn_gate)
