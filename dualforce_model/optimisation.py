"""Optimizer, learning rate and averaged weights, with their state as plain named tensors."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from dualforce_model.config import Frozen
from dualforce_model.engine import place_like

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class OptimizerConfig(Frozen):
    """AdamW with warmup and cosine decay, clipping, and averaged weights."""

    learning_rate: float = Field(default=3e-3, gt=0, le=1, description="peak learning rate")
    warmup_steps: int = Field(default=30, ge=0, le=100_000, description="steps of linear warmup")
    final_share: float = Field(default=0.05, ge=0, le=1, description="share of the peak left at the last step")
    weight_decay: float = Field(default=0.01, ge=0, le=1, description="decay of matrices; vectors are not decayed")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's first moment")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="AdamW's second moment")
    max_grad_norm: float = Field(default=1.0, gt=0, le=1000, description="gradients are scaled down to this norm")
    ema_decay: float = Field(default=0.98, ge=0, lt=1, description="averaged weights: share of the old at each step")


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Rate of step 0 .. num_steps - 1: linear warmup, then a cosine from the peak down to `final_share` of it."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    span = max(num_steps - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / span, 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.final_share + (1 - config.final_share) * cosine)


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; biases, gains and other vectors are not decayed."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group. The trainer does this itself: a prepared scheduler would run once per process."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_tensors(optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Moments by name: "exp_avg/<parameter>" and so on."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in named:
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{moment}/{name}"] = value
    return tensors


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, Tensor]], tensors: Mapping[str, Tensor]
) -> None:
    """Put moments back, sharded as their parameters are.

    A parameter that never had a gradient has no moments and gets none. Raises ValueError where some are missing.
    """
    for name, parameter in named:
        missing = [moment for moment in MOMENTS if f"{moment}/{name}" not in tensors]
        if not parameter.requires_grad or (len(missing) == len(MOMENTS) and tensors):
            continue
        if missing:
            raise ValueError(
                f"optimizer state lacks {', '.join(missing)} of {name}: was the model configured otherwise?"
            )
        state: dict[str, Any] = {moment: place_like(tensors[f"{moment}/{name}"], parameter) for moment in MOMENTS[:2]}
        optimizer.state[parameter] = {**state, "step": tensors[f"step/{name}"]}


class AveragedWeights:
    """Exponential moving average of the parameters in fp32, with a horizon that grows from the first step."""

    def __init__(self, named: Iterable[tuple[str, Tensor]], decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().float().clone() for name, value in named}

    @torch.no_grad()
    def update(self, named: Iterable[tuple[str, Tensor]], step: int) -> None:
        """Take in the weights after optimizer step `step` (from 0). Early steps average over fewer."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in named:
            self.tensors[name].lerp_(value.detach().float(), 1 - decay)
