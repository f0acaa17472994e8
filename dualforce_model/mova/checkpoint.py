"""A MOVA checkpoint: read its own settings, hold its files to them, load one component at a time.

`inspect` reads JSON and headers alone, so it takes seconds for 70 GB; `Part.load` builds a module on the meta
device and gives it its tensors one by one: memory is the component's own, never twice that.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dualforce_model.errors import InputError
from dualforce_model.mova.components import (
    COMPONENTS,
    EMBEDDINGS,
    OPTIONAL,
    Component,
    Shape,
    Told,
    expected,
    sources,
)
from dualforce_model.mova.files import Problem, Weights, into, read_weights
from dualforce_model.mova.settings import STRIDE_FRAMES, STRIDE_PX, IndexFile, Settings
from dualforce_model.mova.vocabulary import check_tokenizer
from dualforce_model.weight_files import read_json

STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # what weights may be
DECLARED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
INDEX_FILE = "model_index.json"
Seen = Callable[[str, Tensor], None]
SHOWN = 8  # tensors named per kind of problem and file; the rest are counted


class CheckpointError(InputError):
    """A checkpoint that cannot be used; `problems` names files and tensors."""

    def __init__(self, root: Path, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{root}: {len(problems)} problems; get these files again or correct them:\n{lines}")


@dataclass(frozen=True)
class Part:
    """A component as found: its settings and its weights."""

    component: Component
    settings: Settings
    told: Told
    weights: Weights

    def load(self, root: Path, dtype: torch.dtype, device: torch.device, seen: Seen | None = None) -> Any:
        """The component with its weights, frozen. Norms and tables that must stay in float32 do.

        `seen` is shown every tensor as stored. Raises CheckpointError naming file and tensor when one cannot be read.
        """
        module = self.component.skeleton(self.settings, self.told)
        rename = self.component.name(self.settings)
        with ExitStack() as stack:
            read = Reader(root, self.weights, stack)
            for name, parameter in list(module.named_parameters()):
                tensor = read.parameter(rename(name), seen)
                tensor = tensor.view(parameter.shape).to(device, dtype_of(module, name, dtype))
                owner, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
        return module.to(device)

    def tensors(self, root: Path) -> Iterator[tuple[str, Tensor]]:
        """Every tensor as stored, one at a time; for what has no module here."""
        with ExitStack() as stack:
            read = Reader(root, self.weights, stack)
            for name in self.weights.tensors:
                yield name, read.tensor(name)


@dataclass(frozen=True)
class Inspection:
    """All that JSON and headers tell."""

    root: Path
    index: IndexFile | None
    parts: dict[str, Part]
    problems: list[Problem] = field(default_factory=list)

    def whole(self) -> "MovaCheckpoint":
        """The checkpoint, if nothing is wrong with it. Raises CheckpointError otherwise."""
        if self.problems or self.index is None:
            raise CheckpointError(self.root, self.problems)
        return MovaCheckpoint(self.root, self.index, self.parts)


@dataclass(frozen=True)
class MovaCheckpoint:
    """A folder in which every file is as its settings say."""

    root: Path
    index: IndexFile
    parts: dict[str, Part]

    @classmethod
    def open(cls, root: Path) -> "MovaCheckpoint":
        """Check a folder by its JSON and headers. Raises CheckpointError."""
        return inspect(root).whole()

    def settings(self, folder: str) -> Any:
        """A component's settings."""
        return self.parts[folder].settings

    def load(self, folder: str, dtype: torch.dtype, device: torch.device) -> Any:
        """A component with its weights; see `Part.load`."""
        return self.parts[folder].load(self.root, dtype, device)


@dataclass
class Reader:
    """Reads tensors out of files that stay open as long as the stack."""

    root: Path
    weights: Weights
    stack: ExitStack
    _files: dict[Path, Any] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor:
        """A tensor as stored; on the CPU it is the mapped file until it is changed."""
        path = self.weights.tensors[name].path
        try:
            if path not in self._files:
                self._files[path] = self.stack.enter_context(safe_open(path, "pt"))
            stored: Tensor = self._files[path].get_tensor(name)
        except (OSError, SafetensorError, RuntimeError) as error:
            place = f"{path.parent.name}/{path.name}"
            raise CheckpointError(self.root, [Problem(file=place, subject=name, message=f"{error}")]) from error
        return stored

    def parameter(self, name: str, seen: Seen | None) -> Tensor:
        """A parameter, its weight norm folded in where the file has one."""
        found = [(source, self.tensor(source)) for source in sources(name, self.weights.tensors)]
        if seen is not None:
            for source, tensor in found:
                seen(source, tensor)
        if len(found) == 1:
            return found[0][1]
        gain, direction = (tensor.float() for _, tensor in found)
        return torch._weight_norm(direction, gain, 0)


def dtype_of(module: nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    """Type of a parameter in a component that runs in `dtype`: what must stay in float32 does."""
    exact = tuple(getattr(module, "_keep_in_fp32_modules", None) or ())
    return torch.float32 if any(word in exact for word in name.split(".")) else dtype


def inspect(root: Path, headers: bool = True) -> Inspection:
    """Read every JSON and every header, and hold them to each other. Raises nothing: problems are the result.

    Without `headers`, settings alone: the parts have no weights, and the tokenizer is not looked at.
    """
    problems: list[Problem] = []
    report = into(problems, root)
    told = read_json(root / INDEX_FILE, report) or {}
    index = _validated(IndexFile, told, INDEX_FILE, problems) if told else None
    assert index is None or isinstance(index, IndexFile)
    parts: dict[str, Part] = {}
    for component in COMPONENTS:
        part = _part(root, component, told, problems, headers)
        if part is not None:
            parts[component.folder] = part
    if headers:
        text = parts.get("text_encoder")
        check_tokenizer(root / "tokenizer", report, None if text is None else (text.settings, text.weights))
    problems += _disagreements({folder: part.settings for folder, part in parts.items()})
    return Inspection(root, index, parts, problems)


def _part(root: Path, component: Component, index: Told, problems: list[Problem], headers: bool) -> Part | None:
    """One component; None when its settings cannot be read."""
    folder = root / component.folder
    if index and component.folder not in index:
        problems.append(Problem(file=INDEX_FILE, subject=component.folder, message="missing"))
    if not folder.is_dir():
        problems.append(Problem(file=f"{component.folder}/", message="missing folder"))
        return None
    place = f"{component.folder}/{component.config}"
    told = read_json(folder / component.config, into(problems, root)) or {}
    settings = _validated(component.settings, told, place, problems) if told else None
    if settings is None:
        return None
    name = _class_name(told, component.class_name)
    if name != component.class_name:
        message = f"{name!r:.80}, expected {component.class_name!r}"
        problems.append(Problem(file=place, subject="_class_name", message=message))
        return None
    try:
        wanted = expected(component, settings, told)
    except (ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError, LookupError, MemoryError) as error:
        problems.append(Problem(file=place, message=f"no model can be built by these settings: {error}"))
        return None
    weights = read_weights(folder, into(problems, root)) if wanted and headers else Weights({}, ())
    if weights.tensors:
        problems += _differences(component.folder, wanted, weights, told)
    return Part(component, settings, told, weights)


def _class_name(told: Told, default: str) -> Any:
    """What diffusers, or else transformers, calls the class; `default` where the file does not say."""
    architectures = told.get("architectures", [])
    if "_class_name" in told or architectures == []:
        return told.get("_class_name", default)
    return architectures[0] if isinstance(architectures, list) else architectures


def _validated(model: type[Settings], told: Told, place: str, problems: list[Problem]) -> Settings | None:
    try:
        return model.model_validate(told)
    except ValidationError as error:
        for item in error.errors():
            field_name = ".".join(str(part) for part in item["loc"])
            missing = "missing; defaults are never taken, the release differs from them"
            message = missing if item["type"] == "missing" else f"{item['msg']}, found {item['input']!r:.80}"
            problems.append(Problem(file=place, subject=field_name, message=message))
        return None


def _differences(folder: str, wanted: dict[str, Shape], weights: Weights, told: Told) -> list[Problem]:
    """Missing, surplus, wrong-shaped and wrong-typed tensors, each with its file."""
    stored, kinds = weights.tensors, {"missing": [], "surplus": [], "shape": [], "dtype": []}  # type: dict, dict
    claimed: set[str] = set()
    for name, shape in wanted.items():
        used = sources(name, stored)
        claimed.update(used)
        shapes = (shape,) if len(used) == 1 else ((shape[0], *(1,) * (len(shape) - 1)), shape)
        for source, source_shape in zip(used, shapes, strict=True):
            kinds["missing" if source not in stored else "shape"] += _shaped(folder, source, source_shape, weights)
    for name, twin in OPTIONAL.get(folder, {}).items():
        if name in stored:
            claimed.add(name)
            kinds["shape"] += _shaped(folder, name, wanted[twin], weights)
    allowed = _allowed(told)
    for name, tensor in stored.items():
        place = f"{folder}/{tensor.path.name}"
        if name not in claimed:
            kinds["surplus"].append(Problem(file=place, subject=name, message="no part of this model"))
        elif tensor.dtype not in allowed:
            message = f"dtype {tensor.dtype}, expected {' or '.join(allowed)}"
            kinds["dtype"].append(Problem(file=place, subject=name, message=message))
    return [problem for found in kinds.values() for problem in _shortened(found)]


def _shaped(folder: str, name: str, shape: Shape, weights: Weights) -> list[Problem]:
    tensor = weights.tensors.get(name)
    if name in weights.unread:
        return []  # its file has been reported
    if tensor is None:
        return [Problem(file=f"{folder}/{weights.table}", subject=name, message=f"missing, expected {list(shape)}")]
    if tensor.shape == shape:
        return []
    named = f" ({EMBEDDINGS[name]})" if name in EMBEDDINGS else ""
    message = f"shape {list(tensor.shape)}, expected {list(shape)} by the settings{named}"
    return [Problem(file=f"{folder}/{tensor.path.name}", subject=name, message=message)]


def _allowed(told: Told) -> tuple[str, ...]:
    """What the settings declare, and float32; any of three where they declare nothing."""
    declared = declared_dtype(told)
    return tuple(STORED) if declared is None else tuple(dict.fromkeys((declared, "F32")))


def declared_dtype(told: Told) -> str | None:
    """The type of stored weights that settings declare, as headers spell it; None where they declare none."""
    return DECLARED.get(str(told.get("dtype") or told.get("torch_dtype") or "").removeprefix("torch."))


def _shortened(problems: list[Problem]) -> list[Problem]:
    """The first few; the last of them says how many more there are."""
    if len(problems) <= SHOWN:
        return problems
    last = problems[SHOWN - 1]
    more = last.model_copy(update={"message": f"{last.message}; and {len(problems) - SHOWN} more tensors like it"})
    return [*problems[: SHOWN - 1], more]


def _disagreements(settings: dict[str, Any]) -> list[Problem]:
    """Where two components' settings contradict each other. What is missing has been reported already."""
    if len(settings) < len(COMPONENTS):
        return []
    high, low, audio, bridge = (
        settings[name] for name in ("video_dit", "video_dit_2", "audio_dit", "dual_tower_bridge")
    )
    sound, pictures, text = (settings[name] for name in ("audio_vae", "video_vae", "text_encoder"))
    pairs = (
        ("video_dit_2", "(all)", low, "those of video_dit", high),
        ("dual_tower_bridge", "visual_layers", bridge.visual_layers, "video_dit num_layers", high.num_layers),
        ("dual_tower_bridge", "audio_layers", bridge.audio_layers, "audio_dit num_layers", audio.num_layers),
        ("dual_tower_bridge", "visual_hidden_dim", bridge.visual_hidden_dim, "video_dit dim", high.dim),
        ("dual_tower_bridge", "audio_hidden_dim", bridge.audio_hidden_dim, "audio_dit dim", audio.dim),
        (
            "dual_tower_bridge",
            "audio_fps",
            bridge.audio_fps,
            "audio_vae latents per second",
            sound.sample_rate / sound.hop,
        ),
        ("video_vae", "dim_mult (pixels per latent)", pictures.stride_px, "MOVA's", STRIDE_PX),
        ("video_vae", "temperal_downsample (frames per latent)", pictures.stride_frames, "MOVA's", STRIDE_FRAMES),
        ("audio_dit", "in_dim", audio.in_dim, "audio_vae latent_dim", sound.latent_dim),
        ("audio_dit", "out_dim", audio.out_dim, "audio_vae latent_dim", sound.latent_dim),
        ("video_dit", "out_dim", high.out_dim, "video_vae z_dim", pictures.z_dim),
        ("video_dit", "in_dim", high.in_dim, "twice video_vae z_dim and 4 mask channels", 2 * pictures.z_dim + 4),
        ("video_dit", "text_dim", high.text_dim, "text_encoder d_model", text.d_model),
        ("audio_dit", "text_dim", audio.text_dim, "text_encoder d_model", text.d_model),
    )
    found = [
        Problem(file=f"{folder}/config.json", subject=name, message=f"{value}, but {other} is {wanted}")
        for folder, name, value, other, wanted in pairs
        if value != wanted
    ]
    if audio.num_layers > high.num_layers:
        message = f"{audio.num_layers}, more than video_dit's {high.num_layers}: the last ones would never run"
        found.append(Problem(file="audio_dit/config.json", subject="num_layers", message=message))
    return found
