"""Reference features (DINOv2, CLIP): Wan's image cross-attention, with a mask over the features.

They belong to the whole clip, as a prompt does, and know no time. What is masked out is absent exactly: the result is
that of the same tower without features. Legend: b batch, l tokens, r features, t text tokens, h heads, d width.
"""

from typing import NamedTuple

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from jaxtyping import Bool, Float
from torch import Tensor


class Features(NamedTuple):
    """Embedded reference features, and which of them are there."""

    tokens: Float[Tensor, "b r d"]
    valid: Bool[Tensor, "b r"]


class FeatureAttnProcessor:
    """Cross-attention of `WanAttention` to text and, by keys of their own, to reference features.

    Wan's processor tells them apart by a text of 512 tokens and has no mask; the arithmetic is the same.
    """

    _attention_backend: AttentionBackendName | None = None
    _parallel_config = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Float[Tensor, "b l d"],
        encoder_hidden_states: Float[Tensor, "b t d"] | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: None = None,
        features: Features | None = None,
    ) -> Float[Tensor, "b l d"]:
        query = self._heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        told: Tensor | None = None
        if encoder_hidden_states is not None:
            key = self._heads(attn, attn.norm_k(attn.to_k(encoder_hidden_states)))
            value = self._heads(attn, attn.to_v(encoder_hidden_states))
            backend = self._attention_backend or AttentionBackendName.NATIVE
            told = dispatch_attention_fn(query, key, value, backend=backend).flatten(2)
        if features is not None:
            seen = self._look(attn, query, features)
            told = seen if told is None else told + seen
        assert told is not None, "cross-attention with neither text nor features"
        out: Tensor = attn.to_out[1](attn.to_out[0](told))
        if encoder_hidden_states is None and features is not None:  # or the bias would tell of absent features
            out = torch.where(features.valid.any(1)[:, None, None], out, 0.0)
        return out

    @staticmethod
    def _heads(attn: WanAttention, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l h k"]:
        return x.unflatten(2, (attn.heads, -1))

    def _look(self, attn: WanAttention, query: Float[Tensor, "b l h k"], features: Features) -> Float[Tensor, "b l d"]:
        """Attention to the features that are there; exactly 0 where there are none."""
        key = self._heads(attn, attn.norm_added_k(attn.add_k_proj(features.tokens)))
        value = self._heads(attn, attn.add_v_proj(features.tokens))
        some = features.valid.any(1)
        mask = (features.valid | ~some[:, None])[:, None, None]  # a row that sees nothing has no softmax
        # Few keys and a mask: the native kernel, whatever the others use.
        seen = dispatch_attention_fn(query, key, value, attn_mask=mask, backend=AttentionBackendName.NATIVE)
        return torch.where(some[:, None, None], seen.flatten(2), 0.0)
