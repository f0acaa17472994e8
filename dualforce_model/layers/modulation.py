"""Adaptive layer norm per step: one shift, scale and gate for all tokens of a step, never one per token."""

from jaxtyping import Float
from torch import Tensor, nn


def modulate(
    norm: nn.Module, x: Float[Tensor, "b s n d"], shift: Float[Tensor, "b s d"], scale: Float[Tensor, "b s d"]
) -> Float[Tensor, "b s n d"]:
    """norm(x) * (1 + scale) + shift, in float32."""
    return (norm(x.float()) * (1 + scale[:, :, None]) + shift[:, :, None]).type_as(x)


def add_gated(
    x: Float[Tensor, "b s n d"], update: Float[Tensor, "b s n d"], gate: Float[Tensor, "b s d"]
) -> Float[Tensor, "b s n d"]:
    """x + gate * update, in float32."""
    return (x.float() + update.float() * gate[:, :, None]).type_as(x)
