"""One training step on shapes alone: what it would compute and what it would hold, without a number being computed.

The model itself runs, forward and backward, on torch's meta device: nothing about it is written down a second time.
Two kernels that torch has no fused form of on that device, attention and RMS norm, are stood in for by what their
fused forms keep: queries, keys, values, output and one sum per row; input and one root per row.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.config import Frozen
from dualforce_model.layers.masks import StepMask
from dualforce_model.model import DualForce, ModelConfig, Velocities

Kernel = Literal["native", "flex"]  # of attention under a mask, as `Execution` decides it
PX_PER_LATENT = 8  # of every codec here: the Wan VAE's stride
FEATURE_TOKENS = 257  # of a reference picture, as CLIP and DINOv2 at 224 px give them


class Workload(Frozen):
    """What one GPU is given in one training step."""

    crop_px: int = Field(default=512, ge=32, le=4096, multiple_of=8, description="side of the square crops, pixels")
    num_steps: int = Field(default=9, ge=1, le=4096, description="steps of a training window, the reference included")
    batch_per_gpu: int = Field(default=1, ge=1, le=4096, description="windows that one GPU takes at a time")

    @property
    def latent_px(self) -> int:
        """Side of a video latent."""
        return self.crop_px // PX_PER_LATENT


@dataclass
class Meter(TorchDispatchMode):
    """Watches a block: bytes of the tensors made in it that are alive, now and at most, and FLOPs of its products.

    Not torch's FlopCounterMode, which keeps alive what it has seen.
    """

    device: str = "meta"
    live: int = 0
    peak: int = 0
    flops: int = 0
    _known: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def leave_out(self, *tensors: Tensor) -> None:
        """Not counted, nor are views of them: what stood before the block, or a real run would not make."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if isinstance(self._known.get(storage._cdata), weakref.ref):  # made in the block, and counted so far
                self.live -= storage.nbytes()
            self._known[storage._cdata] = storage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        self.flops += count(*args, **kwargs, out_val=out) if count is not None else 0
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.device.type == self.device:
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def freed(_: object) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)


class _Attention(torch.autograd.Function):
    """Shapes of a fused attention: keeps queries, keys, values, bias, output, and one sum per row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, bias, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


class _RootMeanSquare(torch.autograd.Function):
    """Shapes of a fused RMS norm: keeps its input, its weight and one root per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


@dataclass
class FusedKernels(TorchFunctionMode):
    """Stands in for fused kernels on the meta device and counts what attention computes.

    With `leave_out`, attention under a mask is FlexAttention's: no mask is held (`leave_out` is told of it), and of all
    pairs the `visible` share is computed. Without, masks are dense and all pairs are computed.
    """

    attention_flops: int = 0
    visible: float = 1.0
    leave_out: Callable[[Tensor], None] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is nn.functional.rms_norm and kwargs.get("weight") is not None:
            return _RootMeanSquare.apply(args[0], kwargs["weight"])
        return func(*args, **kwargs)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        bias, share = attn_mask, 1.0
        if attn_mask is not None and self.leave_out is not None:
            self.leave_out(attn_mask)
            bias, share = None, self.visible
        elif attn_mask is not None and attn_mask.dtype == torch.bool:  # kernels take a bias: each call makes its own
            bias = torch.empty(attn_mask.shape, dtype=query.dtype, device=query.device)
        rows = query.numel() // query.shape[-1]
        forward = round(share * 2 * rows * key.shape[-2] * (query.shape[-1] + value.shape[-1]))
        self.attention_flops += forward
        out: Tensor = _Attention.apply(query, key, value, bias)
        if out.requires_grad:
            out.register_hook(lambda _: self._count_backward(2 * forward))
        return out

    def _count_backward(self, flops: int) -> None:
        self.attention_flops += flops


class DryRun(Frozen):
    """What one step on one GPU takes, besides weights, gradients and optimiser."""

    peak_bytes: int = Field(description="activations and temporaries that are alive at the fullest moment")
    flops: int = Field(description="multiplications and additions of the step; of masked-out pairs as the kernel does")
    attention_flops: int = Field(description="the part of them that is attention between tokens")


def on_shapes(config: ModelConfig, dtype: torch.dtype = torch.float32) -> DualForce:
    """The model on the meta device with all parameters in one type, as FSDP hands them to the layers."""
    with torch.device("meta"):
        model = DualForce(config)
    cast_parameters(model, dtype)
    return model


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """All parameters in one type, also those that diffusers would keep in full precision."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(parameter.detach().to(dtype)))


def arguments(
    config: ModelConfig, work: Workload, device: str = "meta", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor | None]:
    """Arguments of the model for one batch of that size; streams that the model has not are None."""
    side = work.latent_px
    fake = TalkingHeadBatch.fake(config, work.batch_per_gpu, work.num_steps, side, side)
    sigma = torch.full((work.batch_per_gpu, work.num_steps), 0.5, device=device)
    sees, hears, knows = config.structure is not None, config.audio is not None, config.video.feature_dim > 0
    features = torch.randn(work.batch_per_gpu, FEATURE_TOKENS, config.video.feature_dim) if knows else None
    return {
        "video": fake.video.to(device, dtype),
        "structure": fake.structure.to(device, dtype) if sees else None,
        "audio": fake.audio.to(device, dtype) if hears else None,
        "reference": fake.reference.to(device, dtype),
        "sigma_video": sigma,
        "sigma_structure": sigma if sees else None,
        "positions": fake.positions.to(device),
        "audio_mask": fake.audio_mask.to(device) if hears else None,
        "features": features.to(device, dtype) if features is not None else None,
        "canonical": fake.canonical.to(device, dtype) if fake.canonical is not None else None,
    }


def step_loss(out: Velocities) -> Tensor:
    """A loss of the size of the real one: squares of both velocities."""
    return torch.stack([each.float().square().mean() for each in out if each is not None]).sum()


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that FSDP2 shards one by one, by name: those of the types that the model says may not be split."""
    types = tuple(getattr(model, "_no_split_modules", ()))
    return {name: module for name, module in model.named_modules() if type(module).__name__ in types}


def checkpoint_layers(model: nn.Module, recompute: AbstractContextManager[Any] | None = None) -> None:
    """Activation checkpointing exactly as accelerate's FSDP2 applies it: around each layer that it would shard.

    `recompute` holds while a layer runs a second time: the backward pass leaves torch's function modes.
    """
    for name, layer in layers_of(model).items():
        contexts = {"context_fn": lambda: (nullcontext(), recompute or nullcontext())}
        model.set_submodule(name, checkpoint_wrapper(layer, preserve_rng_state=False, **contexts))


@contextmanager
def gradients_leave(model: nn.Module) -> Iterator[None]:
    """Gradients go as soon as they are there: they are counted as shards, not as activations."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    hooks = [p.register_post_accumulate_grad_hook(drop) for p in model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def training_step(
    config: ModelConfig, work: Workload, dtype: torch.dtype, checkpointing: bool, attention: Kernel = "native"
) -> DryRun:
    """Forward and backward of one batch on shapes alone."""
    meter, kernels = Meter(), FusedKernels()
    if attention == "flex":
        share = StepMask.causal(work.num_steps, config.window_steps).visible.float().mean().item()
        kernels = FusedKernels(visible=share, leave_out=meter.leave_out)
    model = on_shapes(config, dtype)
    if checkpointing:
        checkpoint_layers(model, recompute=kernels)
    given = arguments(config, work, dtype=dtype)
    meter.leave_out(*model.parameters(), *(value for value in given.values() if value is not None))
    with gradients_leave(model), meter, kernels:
        step_loss(model(**given)).backward()
    return DryRun(
        peak_bytes=meter.peak,
        flops=meter.flops + kernels.attention_flops,
        attention_flops=kernels.attention_flops,
    )


def generation_cache_bytes(config: ModelConfig, work: Workload, dtype: torch.dtype) -> int:
    """Memory of one stream of cached generation, once the past of the sound is full; then it does not grow."""
    model = on_shapes(config, dtype)
    num_steps = 1 if config.audio is None else max(config.audio.past_steps, 1)
    given = arguments(config, work.model_copy(update={"num_steps": num_steps, "batch_per_gpu": 1}), dtype=dtype)
    cache = model.new_cache(1)
    with torch.no_grad(), FusedKernels():
        model(**given, cache=cache, commit=True)
    return cache.num_bytes()
