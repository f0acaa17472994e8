"""Causal attention over steps, on Wan's own projections and norms, and the block that holds it.

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

from dualforce_model.layers.cache import StepCache
from dualforce_model.layers.features import FeatureAttnProcessor, Features
from dualforce_model.layers.masks import StepMask
from dualforce_model.layers.modulation import add_gated, modulate
from dualforce_model.layers.norms import with_own_norms
from dualforce_model.layers.rotary import Rotation, rotate

KeysValues = tuple[Float[Tensor, "b l h d"], Float[Tensor, "b l h d"]]


@dataclass
class StepAttention:
    """All that attention of one layer needs besides its input; travels in diffusers' rotary arguments.

    Tensors alone, so that a compiled block takes any step of a stream.
    """

    mask: Bool[Tensor, "1 1 lq lk"] | BlockMask | None
    queries: Rotation
    keys: Rotation
    clamped: Rotation | None  # places of the queries as the first `num_sink` keys must see them, if those differ
    num_sink: int
    sinks: Float[Tensor, "r d"] | None
    past: KeysValues | None
    keep: bool
    fresh: tuple[Tensor, Tensor] | None = None  # keys and values [b, s, n, h, d] of new steps that are to be kept


@dataclass
class Band:
    """One pass's mask and positions, for all layers in which the same kinds of tokens attend to each other."""

    mask: StepMask
    tokens: int
    key_tokens: int
    queries: Rotation
    keys: Rotation
    clamped: Rotation | None
    cache: StepCache | None = None
    commit: bool = False
    sinks: int = 0
    _forms: dict[bool, Any] = field(default_factory=dict)

    def attention(
        self, name: str, layer: int, backend: AttentionBackendName, sinks: Float[Tensor, "r d"] | None = None
    ) -> StepAttention:
        """What one layer needs: the mask as its kernel wants it, and what the layer's memory holds."""
        num_kept, past = len(self.mask.keys) - len(self.mask.queries), None
        if self.cache is not None and num_kept:
            past = self.cache.memory(name, layer).read(num_kept)
        return StepAttention(
            mask=self._lowered(backend == AttentionBackendName.FLEX),
            queries=self.queries,
            keys=self.keys,
            clamped=self.clamped,
            num_sink=self.sinks + self.key_tokens,
            sinks=sinks,
            past=past,
            keep=self.cache is not None and self.commit,
        )

    def remember(self, name: str, layer: int, done: StepAttention) -> None:
        """Keep the keys and values of the new steps, if they are to be kept."""
        if self.cache is not None and done.fresh is not None:
            self.cache.memory(name, layer).write(*done.fresh, self.cache.length)
            done.fresh = None

    def _lowered(self, flex: bool) -> Bool[Tensor, "1 1 lq lk"] | BlockMask | None:
        """FlexAttention's form or a dense mask (None when every query sees every key), each made at most once."""
        if flex not in self._forms:
            lower = self.mask.flex if flex else self.mask.dense
            form = lower(self.tokens, self.sinks, self.keys.pairs.device, self.key_tokens)
            # diffusers takes a mask of two axes for one of (batch, keys) when there are as many queries as streams
            self._forms[flex] = form[None, None] if isinstance(form, Tensor) else form
        return self._forms[flex]


def backend_of(processor: Any) -> AttentionBackendName:
    """The kernel that `set_attention_backend` chose; without a choice not diffusers' global one, which may be any."""
    return processor._attention_backend or AttentionBackendName.NATIVE


def attend(
    query: Float[Tensor, "b s n h d"],
    key: Float[Tensor, "b s f h d"],
    value: Float[Tensor, "b s f h d"],
    sinks: KeysValues | None,
    steps: StepAttention,
    processor: Any,
) -> Float[Tensor, "b lq h d"]:
    """Attention of new steps to learned sinks, kept steps and themselves; keys and values may be left for a memory."""
    if steps.keep:
        steps.fresh = (key, value)
    before = [part for part in (sinks, steps.past) if part is not None]
    keys = torch.cat([*(past for past, _ in before), key.flatten(1, 2)], dim=1) if before else key.flatten(1, 2)
    values = torch.cat([*(past for _, past in before), value.flatten(1, 2)], dim=1) if before else value.flatten(1, 2)
    queries, scale = query.flatten(1, 2), query.shape[-1] ** -0.5
    turned_query, turned_key = rotate(queries, steps.queries), rotate(keys, steps.keys)
    if steps.clamped is not None:
        # Sink keys must see queries at another place: give both places half of a doubled head width each.
        turned_query = torch.cat([turned_query, rotate(queries, steps.clamped)], dim=-1)
        sink, rest = turned_key[:, : steps.num_sink], turned_key[:, steps.num_sink :]
        pad = torch.nn.functional.pad
        turned_key = torch.cat([pad(sink, (sink.shape[-1], 0)), pad(rest, (0, rest.shape[-1]))], dim=1)
    attended: Tensor = dispatch_attention_fn(
        turned_query,
        turned_key,
        values,
        attn_mask=steps.mask,
        scale=scale,
        backend=backend_of(processor),
        parallel_config=processor._parallel_config,
    )
    return attended


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
        query = self._heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        key, value = self._keys_values(attn, hidden_states)
        sinks = None
        if rotary_emb.sinks is not None:
            sinks = self._keys_values(attn, rotary_emb.sinks.expand(hidden_states.shape[0], -1, -1))
        attended = attend(query, key, value, sinks, rotary_emb, self)
        out: Tensor = attn.to_out[1](attn.to_out[0](attended.flatten(2).view_as(hidden_states)))
        return out

    @staticmethod
    def _heads(attn: WanAttention, x: Float[Tensor, "... d"]) -> Float[Tensor, "... h d"]:
        return x.unflatten(-1, (attn.heads, -1))

    def _keys_values(self, attn: WanAttention, x: Float[Tensor, "... d"]) -> tuple[Tensor, Tensor]:
        return self._heads(attn, attn.norm_k(attn.to_k(x))), self._heads(attn, attn.to_v(x))


class StepBlock(WanTransformerBlock):
    """Wan's block on [b, s, n, d] tokens with one modulation per step. Same parameters, same names."""

    attn2: Any
    norm2: Any

    def __init__(self, *args: Any, text: bool = True, features: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attn1.set_processor(StepAttnProcessor())
        with_own_norms(self.attn1)
        self.text = text
        if features:
            self.attn2.set_processor(FeatureAttnProcessor())
        if not text and not features:  # nothing to attend to: no parameters that never learn
            self.attn2 = None
            self.norm2 = None
        elif not text:
            self.attn2.to_k = self.attn2.to_v = self.attn2.norm_k = None

    def forward(
        self,
        hidden_states: Float[Tensor, "b s n d"],
        encoder_hidden_states: Float[Tensor, "b l d"] | None,
        temb: Float[Tensor, "b s 6 d"],
        rotary_emb: StepAttention,
        features: Features | None = None,
    ) -> Float[Tensor, "b s n d"]:
        """Self-attention, cross-attention to text and reference features (if there are any), feed-forward."""
        x = hidden_states
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.scale_shift_table + temb.float()).unbind(2)
        attended = self.attn1(modulate(self.norm1, x, shift, scale), rotary_emb=rotary_emb)
        x = add_gated(x, attended, gate)
        if self.text or features is not None:
            normed = self.norm2(x.float()).type_as(x).flatten(1, 2)
            seen = {} if features is None else {"features": features}
            x = x + self.attn2(normed, encoder_hidden_states, **seen).view_as(x)
        update: Tensor = self.ffn(modulate(self.norm3, x, ffn_shift, ffn_scale))
        return add_gated(x, update, ffn_gate)
