"""Frozen models and how a YAML file becomes one: the same model is file, override, flow parameter and form.

config = load_config(PipelineConfig, Path("configs/pipeline/demo.yaml"), ["train.steps=20"])
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from dualforce_model.errors import InputError


class Frozen(BaseModel):
    """Base of every config and record: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ConfigError(InputError):
    """A configuration that cannot be used; the message names file, field and remedy."""


ModelT = TypeVar("ModelT", bound=Frozen)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(*values: Any) -> str:
    """First 32 hex digits of the SHA-256 over the canonical JSON of all values."""
    return digest_after()(*values)


def digest_after(*head: Any) -> Callable[..., str]:
    """`digest` for many values that begin alike: `digest_after(*head)(*tail)` is `digest(*head, *tail)`."""
    begun = hashlib.sha256("".join(f"{canonical_json(value)}\n" for value in head).encode())

    def rest(*tail: Any) -> str:
        whole = begun.copy()
        whole.update("\n".join(canonical_json(value) for value in tail).encode())
        return whole.hexdigest()[:32]

    return rest


def load_config(model: type[ModelT], path: Path, overrides: Sequence[str] = ()) -> ModelT:
    """Read a YAML file, apply dotted overrides (`a.b=c`, c in YAML), validate.

    Raises ConfigError for a missing file, broken YAML, an unknown key (with the nearest right one) or a bad value.
    """
    return validate(model, read_settings(path, overrides), str(path))


def read_settings(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain mapping of a YAML file with its overrides, not validated yet."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; the configurations that ship are under configs/")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(data).__name__}")
    for override in overrides:
        apply_override(data, override)
    return data


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one dotted key in place. `train.steps=20`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {override!r}: expected KEY=VALUE with a dotted key, as in train.steps=20")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from error
    node: Any = data
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {part} is not a group of settings")
    node[parts[-1]] = value


def validate(model: type[ModelT], data: Any, origin: str) -> ModelT:
    """Validate plain data; every complaint carries its dotted path and, for unknown keys, the nearest right one."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_complaint(model, item["loc"], item["msg"], item["type"], item["input"]) for item in error.errors()]
        raise ConfigError(f"{origin}: " + "; ".join(lines)) from error


def _complaint(model: type[BaseModel], loc: tuple[int | str, ...], message: str, kind: str, found: Any) -> str:
    dotted = ".".join(str(part) for part in loc) or "the whole file"
    if kind == "extra_forbidden":
        known = _fields_at(model, loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "it takes: " + ", ".join(sorted(known))
        return f"{dotted}: unknown setting; {hint}"
    if kind == "missing":
        return f"{dotted}: missing, and it has no default"
    return f"{dotted}: {message[0].lower()}{message[1:]}, found {found!r}"


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the nested model that `loc` points into."""
    models: list[type[BaseModel]] = [model]
    for part in loc:
        nested: list[type[BaseModel]] = []
        for current in models:
            field = current.model_fields.get(str(part))
            if field is not None:
                nested += _models_in(field.annotation)
            elif current.__name__ == part:  # pydantic puts a union member's name into the path
                nested.append(current)
        models = nested or models
    return sorted({name for current in models for name in current.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]


def shipped(name: str) -> Path:
    """A file by its path; a relative path that does not exist from here is looked up in the project's own folder."""
    path = Path(name)
    ours = Path(__file__).resolve().parents[1] / name
    return ours if not path.is_absolute() and not path.exists() and ours.exists() else path
