"""Warm start: a Wan 2.1 checkpoint becomes the video tower's first weights.

Both published layouts are read, diffusers' and the original, as one file, shards with an index, or a folder of either.
The tower has fewer layers (which ones is configuration) and more input channels (the new ones start at zero, so the
tower first sees just what Wan saw); everything else goes by name. Whatever does not fit is an error that names file and
tensor, except for whole parts that one side does not have (text or image attention): those are reported.
"""

import logging
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from pydantic import Field, NonNegativeInt
from torch import Tensor

from dualforce_model.config import Frozen
from dualforce_model.storage import file_digest
from dualforce_model.towers import VideoTower
from dualforce_model.weight_files import (
    StoredTensor,
    WeightsError,
    find_files,
    listed,
    open_tensors,
    read_json,
    refuse,
    told_as,
)

Layout = Literal["diffusers", "original"]
Layers = Literal["even", "first"] | tuple[NonNegativeInt, ...]
Shapes = Mapping[str, tuple[int, ...]]
LOGGER = logging.getLogger(__name__)
CONFIG_NAME = "config.json"
PATCH = "patch_embedding.weight"

# Parts that a tower or a checkpoint may lack as a whole. The first that matches a tensor's name owns it.
PARTS: Mapping[str, re.Pattern[str]] = {
    "image attention": re.compile(r"image_embedder\.|\.add_[kv]_proj\.|\.norm_added_[kq]\."),
    "text attention": re.compile(r"text_embedder\.|\.attn2\.|^blocks\.\d+\.norm2\."),
    "learned sinks": re.compile(r"^sinks$"),
}
# Settings of a tower that no shape shows, and what the two layouts' config.json call them.
UNSEEN: Mapping[str, tuple[str, ...]] = {
    "num_attention_heads": ("num_attention_heads", "num_heads"),
    "patch_size": ("patch_size",),
    "eps": ("eps",),
    "qk_norm": ("qk_norm",),
    "cross_attn_norm": ("cross_attn_norm",),
}
_BLOCK = re.compile(r"^blocks\.(0|[1-9][0-9]{0,8})\.(.+)$")


class WarmStart(Frozen):
    """Where the video tower's first weights come from, and which layers it takes."""

    path: str = Field(
        min_length=1,
        description="Wan 2.1 1.3B: a folder in diffusers' or the original layout, or one .safetensors or .pth file",
    )
    layers: Layers = Field(
        default="even",
        description="even: spread from the first to the last layer; first: the shallowest; or a rising list of layers",
    )


class Started(Frozen):
    """What a warm start took from where; kept in every checkpoint of the run."""

    files: dict[str, str] = Field(description="file read -> its SHA-256")
    layout: Layout = Field(description="whose tensor names the files use")
    source_layers: int = Field(ge=1, description="layers of the checkpoint")
    layers: tuple[int, ...] = Field(description="layer of the checkpoint that became each layer of the tower")
    copied: int = Field(ge=1, description="tensors taken over")
    new_channels: int = Field(ge=0, description="input channels that the checkpoint has not; they start at zero")
    left_out: dict[str, tuple[str, ...]] = Field(description="part of the checkpoint that the tower has not -> tensors")
    fresh: dict[str, tuple[str, ...]] = Field(description="part of the tower that the checkpoint has not -> tensors")
    unconfirmed: tuple[str, ...] = Field(description="settings that no config.json beside the weights confirms")

    def text(self) -> str:
        """One line for the log."""
        parts = [
            f"the video tower starts from {', '.join(self.files)} ({self.layout} layout): {self.copied} tensors, "
            f"layers {', '.join(map(str, self.layers))} of {self.source_layers}"
        ]
        parts += [f"{self.new_channels} new input channels at zero"] if self.new_channels else []
        parts += [f"left out: {part} ({len(names)} tensors)" for part, names in self.left_out.items()]
        parts += [f"from scratch: {part} ({len(names)} tensors)" for part, names in self.fresh.items()]
        parts += [f"not confirmed by a {CONFIG_NAME}: {', '.join(self.unconfirmed)}"] if self.unconfirmed else []
        return "; ".join(parts)


@dataclass(frozen=True)
class Plan:
    """Which tensor of a checkpoint becomes which of the tower's."""

    layout: Layout
    source_layers: int
    layers: tuple[int, ...]
    taken: Mapping[str, str]
    new_channels: int
    left_out: Mapping[str, tuple[str, ...]]
    fresh: Mapping[str, tuple[str, ...]]


@torch.no_grad()
def start_video_tower(tower: VideoTower, start: WarmStart) -> Started:
    """Overwrite the tower's weights by a checkpoint's, one tensor in memory at a time. Raises WeightsError."""
    files = find_files(Path(start.path))
    with ExitStack() as stack:
        found = open_tensors(files, stack)
        try:
            plan = plan_start({name: each.shape for name, each in found.items()}, tower, start.layers)
        except WeightsError as error:
            raise WeightsError(f"{start.path}: {error}") from error
        unconfirmed = check_settings(files[0].parent / CONFIG_NAME, tower, plan.source_layers)
        state = dict(tower.state_dict())
        for target, source in plan.taken.items():
            _fill(state[target], found[source])
    started = Started(
        files={path.name: file_digest(path) for path in files},
        layout=plan.layout,
        source_layers=plan.source_layers,
        layers=plan.layers,
        copied=len(plan.taken),
        new_channels=plan.new_channels,
        left_out=dict(plan.left_out),
        fresh=dict(plan.fresh),
        unconfirmed=unconfirmed,
    )
    LOGGER.info("%s", started.text())
    return started


# ------------------------------------------------------------------------------------------------- what goes where


def plan_start(shapes: Shapes, tower: VideoTower, layers: Layers) -> Plan:
    """Match a checkpoint's tensors, by name and shape, with those of a tower (which may be on the meta device)."""
    layout, named = diffusers_names(shapes)
    source_layers = _count_layers(named)
    chosen = choose_layers(layers, source_layers, len(tower.blocks))
    wanted = {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    left_out, unknown = _nowhere_to_go(named, wanted)
    sources = {target: _in_checkpoint(target, chosen) for target in wanted}
    fresh, missing = _without_source(sources, named)
    taken = {target: named[source] for target, source in sources.items() if source in named}
    widths = shapes[taken[PATCH]][1:2] if PATCH in taken else ()
    channels = widths[0] if widths else 0
    accepted = {PATCH: (wanted[PATCH], (wanted[PATCH][0], tower.config.out_channels, *wanted[PATCH][2:]))}
    misshapen = [
        f"{source} is {list(shapes[source])}, expected {' or '.join(str(list(shape)) for shape in fitting)}"
        for target, source in taken.items()
        if shapes[source] not in (fitting := accepted.get(target, (wanted[target],)))
    ]
    faults = {"unknown": unknown, "missing": missing, "misshapen": misshapen}
    if any(faults.values()):
        told = [f"{len(names)} {fault}: {listed(names)}" for fault, names in faults.items() if names]
        raise WeightsError(
            f"the checkpoint does not fit the video tower; {'; '.join(told)}. Take Wan 2.1 weights of the tower's "
            "width, or change model.video"
        )
    return Plan(layout, source_layers, chosen, taken, wanted[PATCH][1] - channels, left_out, fresh)


def choose_layers(wanted: Layers, num_source: int, num_target: int) -> tuple[int, ...]:
    """Layers of the checkpoint, one for each of the tower's."""
    if num_target > num_source:
        raise WeightsError(f"the video tower has {num_target} layers, the checkpoint {num_source}: take at most those")
    if wanted == "first":
        return tuple(range(num_target))
    if wanted == "even":
        gaps = max(num_target - 1, 1)
        return tuple((2 * layer * (num_source - 1) + gaps) // (2 * gaps) for layer in range(num_target))
    rising = all(low < high for low, high in pairwise(wanted))
    if len(wanted) != num_target or not rising or wanted[-1] >= num_source:
        raise WeightsError(
            f"layers {list(wanted)}: expected {num_target} rising numbers under {num_source}, one for each layer of "
            "the video tower"
        )
    return wanted


def diffusers_names(shapes: Shapes) -> tuple[Layout, dict[str, str]]:
    """Layout of a checkpoint, and its names by diffusers' name of the same tensor."""
    bare = {name.removeprefix("model.diffusion_model."): name for name in shapes}
    if any(".self_attn." in name for name in bare):
        # The converter renames the keys of a mapping and never looks at its values: let it move names, not tensors.
        converted: dict[str, str] = convert_wan_transformer_to_diffusers({name: name for name in bare})
        return "original", {name: bare[old] for name, old in converted.items()}
    if any(".attn1." in name for name in bare):
        return "diffusers", bare
    raise WeightsError(
        f"no Wan transformer: none of the {len(shapes)} tensors ({listed(sorted(shapes))}) is a self-attention; "
        "point to the folder or file of the transformer itself"
    )


def _count_layers(names: Mapping[str, str]) -> int:
    found = {int(match[1]) for match in map(_BLOCK.match, names) if match}
    if not found:
        raise WeightsError(f"no layer, blocks.0 and so on, among the tensors {listed(sorted(names))}; point to the "
                           "folder or file of the transformer itself")  # fmt: skip
    if max(found) >= len(names):
        raise WeightsError(f"the checkpoint names a layer {max(found)} and has {len(names)} tensors in all; "
                           "download it again")  # fmt: skip
    absent = sorted(set(range(max(found) + 1)) - found)
    if absent:
        raise WeightsError(f"the checkpoint has no layer {listed(list(map(str, absent)))} of {max(found) + 1}; "
                           "is a shard missing?")  # fmt: skip
    return len(found)


def _in_checkpoint(target: str, layers: tuple[int, ...]) -> str:
    """Diffusers' name of the checkpoint's tensor for one of the tower's."""
    match = _BLOCK.match(target)
    return f"blocks.{layers[int(match[1])]}.{match[2]}" if match else target


def _nowhere_to_go(named: Mapping[str, str], wanted: Shapes) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Tensors that the tower has no place for: by part, where it lacks the whole part; else unknown ones."""
    places = {_any_layer(name) for name in wanted}
    own_parts = {_part(name) for name in wanted}
    left_out: dict[str, list[str]] = {}
    unknown = []
    for name, source in sorted(named.items()):
        if _any_layer(name) in places:
            continue
        part = _part(name)
        if part is not None and part not in own_parts:
            left_out.setdefault(part, []).append(source)
        else:
            unknown.append(source)
    return {part: tuple(names) for part, names in left_out.items()}, unknown


def _without_source(
    sources: Mapping[str, str], named: Mapping[str, str]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The tower's tensors that the checkpoint lacks: by part, where it lacks the whole part; else missing ones."""
    their_parts = {_part(name) for name in named}
    fresh: dict[str, list[str]] = {}
    missing = []
    for target, source in sources.items():
        if source in named:
            continue
        part = _part(target)
        if part is not None and part not in their_parts:
            fresh.setdefault(part, []).append(target)
        else:
            missing.append(source)
    return {part: tuple(names) for part, names in fresh.items()}, missing


def _part(name: str) -> str | None:
    return next((part for part, pattern in PARTS.items() if pattern.search(name)), None)


def _any_layer(name: str) -> str:
    return _BLOCK.sub(r"blocks.*.\2", name)


def check_settings(path: Path, tower: VideoTower, source_layers: int) -> tuple[str, ...]:
    """Compare a checkpoint's own config.json with the tower where shapes say nothing; returns what it is silent on."""
    told = read_json(path, told_as("not readable as settings", refuse)) if path.is_file() else None
    settings: dict[str, Any] = told or {}
    if settings.get("num_layers", source_layers) != source_layers:
        raise WeightsError(f"{path}: num_layers is {settings['num_layers']}, the weights have {source_layers} layers; "
                           "is a shard missing?")  # fmt: skip
    silent = []
    for name, theirs in UNSEEN.items():
        given = next((settings[key] for key in theirs if key in settings), None)
        ours = tower.config[name]
        if given is None:
            silent.append(name)
        elif (tuple(given) if isinstance(given, list) else given) != (tuple(ours) if name == "patch_size" else ours):
            raise WeightsError(f"{path}: {name} is {given}, the video tower has {ours}; change model.video to match")
    return tuple(silent)


def _fill(target: Tensor, source: StoredTensor) -> None:
    """Copy a tensor; input channels beyond the source's become zero."""
    tensor = source.read()
    if tensor.shape == target.shape:
        target.copy_(tensor)
    else:
        target.zero_()
        target[:, : tensor.shape[1]].copy_(tensor)
