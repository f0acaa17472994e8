"""Both meanings of the network's output lead to the same velocity."""

import pytest
import torch

from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.diffusion.prediction import SMALLEST_SIGMA, SMALLEST_SPREAD, Reading, Spread, measure_spread
from dualforce_model.diffusion.schedule import add_noise
from dualforce_model.model import ModelConfig

SPREAD = Spread(video=(0.5, 2.0, 1.0), structure=(0.1, 1.0, 3.0, 0.7))


def test_a_perfect_residual_is_the_true_velocity() -> None:
    draw = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 3, 4, 5, generator=draw), torch.randn(2, 3, 3, 4, 5, generator=draw)
    reference, sigma = torch.randn(2, 3, 4, 5, generator=draw), torch.tensor([[0.1, 0.5, 1.0], [0.06, 0.9, 0.3]])
    x = add_noise(x0, noise, sigma)
    residual = (x0 - reference[:, None]) / torch.tensor(SPREAD.video)[:, None, None]
    got = Reading.of("residual", SPREAD).video.velocity(residual, x, reference, sigma)
    torch.testing.assert_close(got, noise - x0, rtol=1e-4, atol=1e-4)
    plain = Reading.of("velocity", SPREAD).video.velocity(noise - x0, x, reference, sigma)
    assert torch.equal(plain, noise - x0)


def test_structure_is_read_in_its_own_unit() -> None:
    x, reference = torch.randn(1, 2, 4, 4), torch.randn(1, 4, 4)
    stream = Reading.of("residual", SPREAD).structure
    velocity = stream.velocity(torch.ones(1, 2, 4, 4), x, reference, torch.tensor([[0.5, 1.0]]))
    sigma = torch.tensor([0.5, 1.0])[None, :, None, None]
    torch.testing.assert_close(x - sigma * velocity, reference[:, None] + torch.tensor(SPREAD.structure).expand_as(x))


def test_a_silent_network_repeats_the_reference() -> None:
    reference, x = torch.randn(1, 3, 2, 2), torch.randn(1, 1, 3, 2, 2)
    stream = Reading.of("residual", SPREAD).video
    velocity = stream.velocity(torch.zeros_like(x), x, reference, torch.tensor([[0.8]]))
    torch.testing.assert_close(x - 0.8 * velocity, reference[:, None])


@pytest.mark.parametrize("sigma", [0.0, 0.01])
def test_clean_steps_do_not_blow_up(sigma: float) -> None:
    x = torch.ones(1, 1, 3, 2, 2)
    stream = Reading.of("residual", SPREAD).video
    velocity = stream.velocity(torch.zeros_like(x), x, torch.zeros(1, 3, 2, 2), torch.tensor([[sigma]]))
    torch.testing.assert_close(velocity, x / SMALLEST_SIGMA)


def test_repeating_the_picture_costs_one() -> None:
    batch = TalkingHeadBatch.fake(ModelConfig(), batch=3, num_steps=5, height=4, width=4)
    spread = measure_spread([batch])
    for distance, weight in (
        (
            batch.video[:, 1:] - batch.reference[:, None],
            Reading.of("residual", spread).video.weight(torch.device("cpu")),
        ),
        (
            batch.structure[:, 1:] - batch.structure[:, :1],
            Reading.of("residual", spread).structure.weight(torch.device("cpu")),
        ),
    ):
        assert weight is not None
        assert (distance.square() * weight).mean().item() == pytest.approx(1, rel=1e-4)
    assert Reading.of("velocity", spread).video.weight(torch.device("cpu")) is None


def test_what_never_moves_has_a_floor() -> None:
    batch = TalkingHeadBatch.fake(ModelConfig(), batch=1, num_steps=3, height=4, width=4)
    batch.video[:] = batch.reference[:, None]
    assert measure_spread([batch]).video == pytest.approx([SMALLEST_SPREAD] * batch.video.shape[2])
