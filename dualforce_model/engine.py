"""accelerate, set up so that the same configuration means the same thing on CPU and GPU.

accelerate 1.15 ignores FSDP on the CPU without a word and starts unconnected processes or DDP. `connect_cpu_processes`
makes it take the very path it takes on GPUs, over gloo: every claim about distributed training has a test on a laptop.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

Precision = Literal["auto", "fp32", "bf16"]


def connect_cpu_processes() -> None:
    """On a host without CUDA, let accelerate treat several CPU processes as it treats several GPUs. Else do nothing."""
    if torch.cuda.is_available() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    os.environ["ACCELERATE_USE_CPU"] = "true"
    state = PartialState(cpu=True)
    if state.distributed_type == DistributedType.MULTI_CPU and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        PartialState._shared_state["distributed_type"] = (
            DistributedType.MULTI_GPU
        )  # FSDP is only looked for on this kind


def make_accelerator(run_folder: Path, precision: Precision) -> Accelerator:
    """The accelerator of this process: trackers in the run's folder, bf16 arithmetic on CUDA unless told otherwise."""
    connect_cpu_processes()
    wanted = ("bf16" if torch.cuda.is_available() else "fp32") if precision == "auto" else precision
    accelerator = Accelerator(
        mixed_precision="no" if wanted == "fp32" else "bf16",
        log_with="tensorboard",
        project_dir=str(run_folder),
        cpu=not torch.cuda.is_available(),
        step_scheduler_with_optimizer=False,
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        _round_weights_alone(accelerator.state.fsdp_plugin)
    return accelerator


def _round_weights_alone(plugin: FullyShardedDataParallelPlugin) -> None:
    """FSDP would round all that enters or leaves a module to bf16: noise levels, positions, targets, losses."""
    if plugin.mixed_precision_policy is not None:
        exact = {"cast_forward_inputs": False, "output_dtype": None}
        plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, **exact)


def named_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters under the names of the bare model, whatever it is wrapped in. Sharded ones are DTensors."""
    for name, parameter in model.named_parameters():
        yield _bare(name), parameter


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one; all processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Full tensors on the CPU, one after the other."""
    return {name: whole(tensor.detach()).cpu() for name, tensor in tensors.items()}


def place_like(full: Tensor, like: Tensor) -> Tensor:
    """A full tensor on the device of another, and sharded as that one is."""
    if isinstance(like, DTensor):
        return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)
    return full.to(like.device)


def _bare(name: str) -> str:
    """Without what wrappers (DDP, compile, activation checkpointing) put into names."""
    wrappers = ("module", "_orig_mod", "_checkpoint_wrapped_module")
    return ".".join(part for part in name.split(".") if part not in wrappers)
