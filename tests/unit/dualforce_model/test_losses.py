"""Losses against closed forms."""

import pytest
import torch

from dualforce_model.losses import LossWeights, StepErrors, flow_matching, predicted_steps, total_loss


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, 2, 5, generator=generator), torch.randn(3, 4, 2, 5, generator=generator)


def flow_loss(
    velocity: torch.Tensor,
    x0: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor,
    element_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    return flow_matching(velocity, x0, noise, weight, weight, element_weight).loss()


def test_the_true_velocity_costs_nothing() -> None:
    x0, noise = batch()
    assert flow_loss(noise - x0, x0, noise, torch.ones(3, 4)) == 0


def test_a_constant_error_costs_its_square() -> None:
    x0, noise = batch()
    weight = torch.tensor([[0.0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1]])
    assert flow_loss(noise - x0 + 3, x0, noise, weight).item() == pytest.approx(9, rel=1e-6)


def test_weights_count_per_step_and_samples_count_equally() -> None:
    x0, noise = batch()
    error = torch.zeros(3, 4)
    error[0, 2], error[1, 3] = 2, 4
    weight = torch.tensor([[0.0, 0, 0.5, 1], [0, 0, 0, 1], [0, 1, 1, 1]])
    got = flow_loss(noise - x0 + error[:, :, None, None], x0, noise, weight)
    assert got.item() == pytest.approx((0.5 * 4 / 2 + 16 / 1 + 0) / 3, rel=1e-6)


def test_elements_can_be_weighted() -> None:
    x0, noise = batch()
    error = torch.zeros(2, 5)
    error[1, 3] = 1
    got = flow_loss(noise - x0 + error, x0, noise, torch.ones(3, 4), element_weight=10 * error)
    assert got.item() == pytest.approx(1, rel=1e-6)


def test_a_masked_modality_is_exactly_zero_whatever_it_holds() -> None:
    x0, noise = batch()
    velocity = torch.full_like(x0, float("nan")).requires_grad_()
    loss = flow_loss(velocity, x0, noise, torch.zeros(3, 4))
    loss.backward()
    assert loss.item() == 0
    assert velocity.grad is not None
    assert torch.equal(velocity.grad, torch.zeros_like(x0))


def test_any_split_over_processes_gives_the_same_mean() -> None:
    x0, noise = batch()
    velocity, weight = torch.randn(3, 4, 2, 5), torch.tensor([[0.0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1]])
    whole = flow_loss(velocity, x0, noise, weight)
    parts = [flow_loss(velocity[i : i + 1], x0[i : i + 1], noise[i : i + 1], weight[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_given_steps_have_no_weight() -> None:
    weight = predicted_steps(torch.tensor([[0.3, 0.0, 0.4], [0.0, 1.0, 0.2]]))
    assert weight.tolist() == [[0, 0, 1], [0, 1, 1]]


def errors(value: float) -> StepErrors:
    ones = torch.ones(1, 2)
    return StepErrors(value * ones, ones, ones)


def test_the_total_is_the_weighted_sum() -> None:
    losses = total_loss(errors(2.0), errors(4.0), LossWeights(video=3, structure=0.25))
    assert {name: value.item() for name, value in losses.named().items()} == {
        "loss": 7.0,
        "loss_video": 2.0,
        "loss_structure": 4.0,
    }
    assert total_loss(errors(2.0), None, LossWeights()).structure.item() == 0


def test_errors_are_sorted_by_noise_level() -> None:
    sigma = torch.tensor([[0.0, 0.1, 0.15, 1.0], [0.0, 0.5, 0.19, 0.8]])
    weight = (sigma > 0).float() * 7  # weights do not enter, but for which steps count
    sums, counts = StepErrors(torch.arange(8.0).reshape(2, 4), sigma, weight).by_level().tolist()
    assert counts == [3, 0, 1, 0, 2]
    assert sums == [1 + 2 + 6, 0, 5, 0, 3 + 7]
