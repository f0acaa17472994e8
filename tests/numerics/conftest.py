"""Golden numbers: inputs and outputs of the parent model's modules, and weights that are functions of their names."""

import json
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "golden"
NORM = re.compile(r"(^|\.)[^.]*norm[^.]*\.weight$")


@dataclass(frozen=True)
class Golden:
    """One module's numbers (by name) and facts (configuration, parameters, checks)."""

    numbers: dict[str, Tensor]
    facts: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.numbers[name]

    def close(self, found: Tensor, name: str, atol: float) -> None:
        """Fail, with the distance, unless `found` is within `atol` of the number."""
        wanted = self.numbers[name]
        assert found.shape == wanted.shape, f"{name}: shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
        distance = (found.double() - wanted.double()).abs().max().item()
        assert distance <= atol, f"{name}: {distance:.2e} away, {atol:.0e} allowed"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Reads the numbers of a module by its name."""

    def read(module: str) -> Golden:
        path = FOLDER / f"{module}.safetensors"
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
        return Golden(load_file(path), facts)

    return read


def draw(name: str, shape: Iterable[int], std: float) -> Tensor:
    """The weight of a name: normal numbers seeded by the name's CRC-32; norms are centred on 1."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(tuple(shape), generator=generator) * std
    return 1 + noise if NORM.search(name) else noise


def check(weights: dict[str, Tensor], wanted: dict[str, Any]) -> None:
    """The weights themselves are right, before anything is said about a model."""
    total = sum(weight.double().sum().item() for weight in weights.values())
    assert total == pytest.approx(wanted["sum_float64"], rel=1e-6), "this torch draws other normal numbers"
    for name, values in wanted["first_values"].items():
        torch.testing.assert_close(weights[name].flatten()[:3], torch.tensor(values), atol=1e-6, rtol=0)


@pytest.fixture(scope="session")
def name_weights() -> Callable[..., dict[str, Tensor]]:
    """Weights of a parameter list [[name, shape], ...] at a std, checked where checks are given."""

    def make(parameters: list[Any], std: float, checks: dict[str, Any] | None = None) -> dict[str, Tensor]:
        weights = {name: draw(name, shape, std) for name, shape in parameters}
        if checks is not None:
            check(weights, checks)
        return weights

    return make


@pytest.fixture(scope="session")
def fill() -> Callable[..., Any]:
    """Puts weights under upstream's names into a module, each once and none left over; returns it frozen."""

    def load(module: nn.Module, weights: dict[str, Tensor], upstream: Callable[[str], str]) -> nn.Module:
        left = dict(weights)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(left.pop(upstream(name)).view_as(parameter))
        assert not left, f"no place for {sorted(left)[:3]}"
        return module.eval().requires_grad_(False)

    return load


def encoder_weight(name: str, shape: list[int], gain: float) -> Tensor:
    """The weight of a name, as the references of the encoders had it: the name's last part says what kind it is."""
    kind = name.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if kind in ("bias", "running_mean", "beta"):
        return 0.1 * noise
    if kind == "gamma":
        return 0.5 * noise
    if kind == "running_var" or len(shape) == 1:
        return 1 + 0.1 * (noise.abs() if kind == "running_var" else noise)
    return noise * (gain / torch.Size(shape[1:]).numel()) ** 0.5


@pytest.fixture(scope="session")
def encoder_weights() -> Callable[[dict[str, Any]], dict[str, Tensor]]:
    """All weights of an encoder, from its facts: names and shapes in order, and the gain."""

    def make(facts: dict[str, Any]) -> dict[str, Tensor]:
        return {name: encoder_weight(name, shape, facts["recipe_gain"]) for name, shape in facts["state_dict"]}

    return make
