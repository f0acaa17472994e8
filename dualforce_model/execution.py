"""How a training step is carried out, not what it computes: attention kernel, compiled blocks, recomputed activations.

All choices give the same numbers up to rounding, so that a run may go on under others.
"""

from typing import Literal, Self

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from pydantic import Field, model_validator

from dualforce_model.bridge import BandProcessor, Exchange
from dualforce_model.config import ConfigError, Frozen
from dualforce_model.layers.attention import StepAttnProcessor
from dualforce_model.model import DualForce


class Execution(Frozen):
    """How to train; the defaults are right for the CPU and for CUDA."""

    attention: Literal["auto", "native", "flex"] = Field(
        default="auto",
        description="kernel of attention under a band mask, the towers' own and a causal bridge's: flex skips what "
        "the mask hides, native takes it as a dense mask; auto: flex on CUDA, native on the CPU, where flex has no "
        "backward",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="compile the towers' blocks and a causal bridge's; auto: with flex, slow and large without",
    )
    recompute: bool = Field(
        default=False,
        description="compute activations again in the backward instead of keeping them: less memory, a third more work",
    )

    @model_validator(mode="after")
    def _flex_is_compiled(self) -> Self:
        if self.attention == "flex" and self.compile == "off":
            raise ValueError(
                "attention flex with compile off: not compiled, it builds the whole matrix of scores; "
                "set compile to auto, or attention to native"
            )
        return self

    def on(self, device: torch.device) -> "Execution":
        """The same with every auto decided. Raises ConfigError for what cannot train on the device."""
        attention = self.attention
        if attention == "auto":
            attention = "flex" if device.type == "cuda" and self.compile != "off" else "native"
        if attention == "flex" and device.type != "cuda":
            raise ConfigError(
                f"execution.attention flex on {device.type}: FlexAttention has a backward on CUDA alone; "
                "set it to auto or native"
            )
        compiled = "on" if self.compile == "on" or (self.compile == "auto" and attention == "flex") else "off"
        return Execution(attention=attention, compile=compiled, recompute=self.recompute)

    def prepare(self, model: DualForce, device: torch.device) -> "Execution":
        """Set a model up in place, before it is sharded; returns what was decided."""
        decided = self.on(device)
        choose_kernel(model, AttentionBackendName(decided.attention))
        if decided.compile == "on":
            compile_blocks(model)
        if decided.recompute:
            model.enable_gradient_checkpointing()
        return decided


def choose_kernel(model: DualForce, kernel: AttentionBackendName) -> None:
    """Kernel of the attention under a band mask: the towers' own and a causal bridge's. What has no mask (text, sound,
    a same-step bridge) stays with torch's own choice; diffusers' `set_attention_backend` would change it too, and the
    default of the whole process."""
    for module in model.modules():
        processor = getattr(module, "processor", None)
        if isinstance(processor, StepAttnProcessor | BandProcessor):
            processor._attention_backend = kernel


def compile_blocks(model: DualForce) -> None:
    """Compile in place what `choose_kernel` may set to flex; a same-step bridge has no mask and stays as it is."""
    model.compile_repeated_blocks()
    if model.bridge is not None and model.bridge.causal:
        for module in model.bridge.modules():
            if isinstance(module, Exchange):
                module.compile()
