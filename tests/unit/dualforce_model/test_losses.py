"""Losses against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.losses import (
    TEMPERATURE,
    Judged,
    Losses,
    LossWeights,
    StepErrors,
    clear_steps,
    flame_alignment,
    flow_matching,
    lip_contrast,
    predicted_steps,
    total_loss,
    trusted_steps,
)


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


def nothing() -> StepErrors:
    return StepErrors(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 2))


def named(losses: Losses) -> dict[str, float]:
    return {name: value.item() for name, value in losses.named().items()}


def test_the_total_is_the_weighted_sum() -> None:
    losses = total_loss(errors(2.0), errors(4.0), None, None, LossWeights(video=3, structure=0.25))
    assert named(losses) == {"loss": 7.0, "loss_video": 2.0, "loss_structure": 4.0}
    assert total_loss(errors(2.0), None, None, None, LossWeights()).structure.item() == 0


def test_the_weights_are_those_of_the_design() -> None:
    weights = LossWeights()
    assert (weights.video, weights.structure, weights.flame, weights.lips) == (1.0, 0.5, 0.1, 0.3)


def test_judged_losses_count_with_their_lessons() -> None:
    judged = Judged(errors(3.0), errors(5.0))
    losses = total_loss(errors(2.0), None, judged, judged, LossWeights(flame=0.5, lips=2))
    assert named(losses) == {
        "loss": 2 + 0.5 * (3 + 5) + 2 * (3 + 5),
        "loss_video": 2,
        "loss_structure": 0,
        "loss_flame": 3,
        "lesson_flame": 5,
        "loss_lips": 3,
        "lesson_lips": 5,
    }


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.5, 0.6), (1.0, 0.2)])
def test_flame_counts_less_and_less_its_judge_does_not(progress: float, share: float) -> None:
    weights, judged = LossWeights(flame=1, lips=1, flame_at_end=0.2), Judged(errors(3.0), errors(5.0))
    assert total_loss(errors(0.0), None, judged, None, weights, progress).total.item() == pytest.approx(3 * share + 5)
    assert total_loss(errors(0.0), None, None, judged, weights, progress).total.item() == pytest.approx(3 + 5)


def test_learned_weights_settle_where_every_loss_counts_alike() -> None:
    """L exp(-v) + v is least at v = log L, where the weight exp(-v) is 1 / L."""
    variances = torch.tensor([math.log(2.0), math.log(4.0), 0.0, math.log(3.0)], requires_grad=True)
    lips = Judged(errors(3.0), nothing())
    losses = total_loss(errors(2.0), errors(4.0), None, lips, LossWeights(), log_variances=variances)
    assert losses.total.item() == pytest.approx(3 + math.log(2 * 4 * 3))
    losses.total.backward()
    assert variances.grad is not None
    torch.testing.assert_close(variances.grad, torch.zeros(4))


def test_learned_weights_ignore_what_is_not_there_or_turned_off() -> None:
    variances = torch.zeros(4, requires_grad=True)
    absent = Judged(nothing(), nothing())
    losses = total_loss(errors(2.0), errors(4.0), absent, absent, LossWeights(structure=0), 0.5, variances)
    assert losses.total.item() == 2
    losses.total.backward()
    assert variances.grad is not None
    assert variances.grad.tolist() == [-1, 0, 0, 0]


def test_estimates_count_less_with_noise() -> None:
    sigma = torch.tensor([[0.5, 0.0, 0.25, 1.0]])
    assert trusted_steps(sigma, 2).tolist() == [[0, 0, 0.5625, 0]]
    assert clear_steps(sigma, 0.3).tolist() == [[0, 0, 1, 0]]
    assert clear_steps(sigma, 1.0).tolist() == [[0, 0, 1, 1]]


def flame(error: torch.Tensor, weight: torch.Tensor) -> StepErrors:
    target = torch.randn(2, 3, 4, 56, generator=torch.Generator().manual_seed(1))
    return flame_alignment(target + error, target, torch.full((2, 3), 0.5), weight)


def test_expression_jaw_and_pose_count_alike() -> None:
    for part, error in ((slice(0, 50), 1.0), (slice(50, 53), 2.0), (slice(53, 56), 3.0)):
        off = torch.zeros(56)
        off[part] = error
        assert flame(off, torch.ones(2, 3)).loss().item() == pytest.approx(error**2 / 3, rel=1e-5)
    assert flame(torch.zeros(56), torch.ones(2, 3)).loss() == 0


def test_flame_of_masked_steps_costs_nothing_even_if_it_is_no_number() -> None:
    motion = torch.full((2, 3, 4, 56), 0.5)
    motion[0, 1] = float("nan")
    motion.requires_grad_()
    target = torch.zeros(2, 3, 4, 56)
    target[1] = float("nan")
    found = flame_alignment(motion, target, torch.full((2, 3), 0.5), torch.tensor([[0.0, 0, 2], [0, 0, 0]]))
    found.loss().backward()
    assert found.loss().item() == pytest.approx(2 * 0.25 / 2)  # one step of weight 2 in one sample of two
    assert motion.grad is not None
    assert motion.grad.isfinite().all()
    assert motion.grad[0, 2].all()
    assert motion.grad.count_nonzero() == 4 * 56


def contrast(seen: torch.Tensor, heard: torch.Tensor, audible: list[bool], weight: list[float]) -> torch.Tensor:
    row = torch.tensor([audible])
    return lip_contrast(seen, heard, row, torch.full(row.shape, 0.1), torch.tensor([weight])).loss()


def test_the_contrast_is_minus_log_of_the_right_share() -> None:
    apart = torch.eye(4)[None]
    right = math.exp(1 / TEMPERATURE)
    for scale in (1.0, 7.0):  # of directions only
        got = contrast(scale * apart, apart, [True] * 4, [0, 1, 1, 1])
        assert got.item() == pytest.approx(-math.log(right / (right + 3)), abs=1e-6)
    wrong = contrast(apart.roll(1, 1), apart, [True] * 4, [0, 1, 0, 0])
    assert wrong.item() == pytest.approx(-math.log(1 / (right + 3)), rel=1e-4)
    same = contrast(torch.ones(1, 4, 4), torch.ones(1, 4, 4), [True] * 4, [0, 1, 1, 1])
    assert same.item() == pytest.approx(math.log(4), rel=1e-5)


def test_silent_steps_are_no_candidates_and_have_no_loss() -> None:
    same = torch.ones(1, 4, 4)
    assert contrast(same, same, [False, True, True, False], [0, 1, 1, 1]).item() == pytest.approx(math.log(2), rel=1e-5)
    assert contrast(same, same, [False, True, False, False], [0, 1, 1, 1]).item() == 0


@pytest.mark.parametrize(("audible", "weight"), [([False] * 3, [0.0, 1, 1]), ([True] * 3, [0.0, 0, 0])])
def test_without_sound_or_clear_steps_the_contrast_is_exactly_zero(audible: list[bool], weight: list[float]) -> None:
    seen = torch.full((1, 3, 4), float("nan"), requires_grad=True)
    heard = torch.ones(1, 3, 4) if audible[0] else torch.full((1, 3, 4), float("nan"))
    heard.requires_grad_()
    loss = contrast(seen, heard, audible, weight)
    loss.backward()
    assert loss.item() == 0
    for side in (seen, heard):
        assert side.grad is not None
        assert torch.equal(side.grad, torch.zeros(1, 3, 4))


@given(st.integers(0, 2**31 - 1), st.integers(1, 3), st.integers(2, 6))
def test_a_window_hears_only_itself(seed: int, batch: int, steps: int) -> None:
    """So that any split over processes gives the same gradient."""
    draw = torch.Generator().manual_seed(seed)
    seen, heard = torch.randn(2, batch, steps, 5, generator=draw)
    audible = torch.rand(batch, steps, generator=draw) < 0.7
    sigma = torch.rand(batch, steps, generator=draw)
    weight = clear_steps(sigma, 0.6)
    whole = lip_contrast(seen, heard, audible, sigma, weight)
    assert whole.errors.isfinite().all()
    assert (whole.errors >= -1e-6).all()
    parts = [lip_contrast(*(each[i : i + 1] for each in (seen, heard, audible, sigma, weight))) for i in range(batch)]
    torch.testing.assert_close(whole.loss(), torch.stack([part.loss() for part in parts]).mean())


def test_errors_are_sorted_by_noise_level() -> None:
    sigma = torch.tensor([[0.0, 0.1, 0.15, 1.0], [0.0, 0.5, 0.19, 0.8]])
    weight = (sigma > 0).float() * 7  # weights do not enter, but for which steps count
    sums, counts = StepErrors(torch.arange(8.0).reshape(2, 4), sigma, weight).by_level().tolist()
    assert counts == [3, 0, 1, 0, 2]
    assert sums == [1 + 2 + 6, 0, 5, 0, 3 + 7]
