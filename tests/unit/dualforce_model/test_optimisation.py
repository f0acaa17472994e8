"""Learning rate, moments by name, averaged weights."""

import pytest
import torch
from torch import nn

from dualforce_model.optimisation import (
    AveragedWeights,
    OptimizerConfig,
    learning_rate,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)


def test_the_rate_warms_up_then_falls_to_its_floor() -> None:
    config = OptimizerConfig(learning_rate=1e-3, warmup_steps=9, final_share=0.1)
    rates = [learning_rate(config, step, 109) for step in range(110)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == pytest.approx(1e-3)
    assert rates[59] == pytest.approx(0.55e-3)
    assert rates[109] == pytest.approx(1e-4)
    assert max(rates) == rates[9]


def test_only_matrices_are_decayed() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.3), model)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(model[0].weight)}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, make_optimizer(OptimizerConfig(), model)


def test_moments_come_back_by_name_and_training_goes_on_bit_exactly() -> None:
    model, optimizer = fresh()
    train(model, optimizer, range(6))
    other, half = fresh()
    train(other, half, range(3))
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(half, other.named_parameters()).items()}
    assert set(saved) == {f"{m}/{p}" for m in ("exp_avg", "exp_avg_sq", "step") for p in ("weight", "bias")}
    resumed, rest = fresh()
    resumed.load_state_dict(other.state_dict())
    load_optimizer_tensors(rest, resumed.named_parameters(), saved)
    train(resumed, rest, range(3, 6))
    for left, right in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)


def test_missing_moments_are_named() -> None:
    model, optimizer = fresh()
    with pytest.raises(ValueError, match="exp_avg, exp_avg_sq, step of weight"):
        load_optimizer_tensors(optimizer, model.named_parameters(), {})
    with pytest.raises(ValueError, match="lacks exp_avg_sq, step of weight"):
        load_optimizer_tensors(optimizer, model.named_parameters(), {"exp_avg/weight": torch.zeros(2, 3)})


def test_a_parameter_that_never_had_a_gradient_comes_back_without_moments() -> None:
    model, optimizer = fresh()
    model.bias.grad, model.weight.grad = torch.ones(2), None
    optimizer.step()
    saved = optimizer_tensors(optimizer, model.named_parameters())
    other, resumed = fresh()
    load_optimizer_tensors(resumed, other.named_parameters(), saved)
    assert set(resumed.state) == {other.bias}


def test_averaged_weights_follow_with_a_growing_horizon() -> None:
    ema = AveragedWeights([("w", torch.zeros(1))], decay=0.5)
    for step, value in enumerate([1.0, 1.0, 1.0]):
        ema.update([("w", torch.tensor([value]))], step)
    # shares of the old: 1/10, 2/11, 3/12, all below 0.5
    assert ema.tensors["w"].item() == pytest.approx(1 - (1 / 10) * (2 / 11) * (3 / 12), rel=1e-5)
    ema.update([("w", torch.tensor([5.0]))], 10_000)
    assert ema.tensors["w"].item() == pytest.approx(3, rel=1e-2)
