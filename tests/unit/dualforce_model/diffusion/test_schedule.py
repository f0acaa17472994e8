"""The noise schedule: closed forms, and that the sampler visits only what training has seen."""

import numpy as np
import pytest
import torch

from dualforce_model.diffusion.noise import keyed_generator
from dualforce_model.diffusion.regimes import REGIMES, draw_levels
from dualforce_model.diffusion.schedule import NoiseSchedule, add_noise, shift_level

WINDOW = 9


def test_shift_keeps_the_ends_and_has_the_stated_medians() -> None:
    u = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert shift_level(u, 3.0).tolist() == pytest.approx([0.0, 0.75, 1.0])
    assert shift_level(u, 0.54).tolist() == pytest.approx([0.0, 0.35065, 1.0], abs=1e-5)


def test_path_goes_from_noise_to_clean_and_falls() -> None:
    path = NoiseSchedule().path(7)
    for levels in (path.video, path.structure):
        assert levels[0] == 1
        assert levels[-1] == 0
        assert len(levels) == 8
        assert (levels.diff() < 0).all()
    assert (path.structure[1:-1] < path.video[1:-1]).all()


def test_path_needs_a_step() -> None:
    with pytest.raises(ValueError, match="at least one"):
        NoiseSchedule().path(0)


def test_noise_is_mixed_by_the_level_of_each_step() -> None:
    x0, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    sigma = torch.tensor([[0.0, 0.25, 1.0], [0.5, 0.0, 0.0]])
    x = add_noise(x0, noise, sigma)
    assert torch.equal(x[0, 0], x0[0, 0])
    assert torch.equal(x[0, 2], noise[0, 2])
    torch.testing.assert_close(x[0, 1], 0.75 * x0[0, 1] + 0.25 * noise[0, 1])


def training_states(regime: str, samples: int) -> np.ndarray:
    """(largest level in the history, sigma_v, sigma_s) of one random step after the reference, per sample."""
    generator, states = keyed_generator("states", regime), []
    for _ in range(samples):
        levels = draw_levels(regime, generator, WINDOW, NoiseSchedule())
        step = int(torch.randint(1, WINDOW, (1,), generator=generator))
        history = max(float(levels.video[:step].max()), float(levels.structure[:step].max()))
        states.append((history, float(levels.video[step]), float(levels.structure[step])))
    return np.array(states)


@pytest.mark.parametrize("num_inference_steps", [4, 10, 50])
def test_every_state_of_the_sampler_was_seen_in_training(seen: np.ndarray, num_inference_steps: int) -> None:
    path = NoiseSchedule().path(num_inference_steps)
    visited = [
        (0.0, float(v), float(s)) for v, s in zip(path.video, path.structure, strict=True)
    ]  # the last one: commit
    for state in visited:
        near = (np.abs(seen - state).max(axis=1) <= 0.05).sum()
        # 20 of 1e5 are asked for; a fifth of the samples is drawn, so a fifth of the neighbours is asked for
        assert near >= 4 * 3, f"{state}: {near} neighbours"


@pytest.fixture(scope="module")
def seen() -> np.ndarray:
    return training_states("clean_prefix", 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["clean_prefix", "stochastic_clean"])
def test_every_state_of_the_sampler_has_twenty_neighbours_in_1e5(regime: str) -> None:
    seen, path = training_states(regime, 100_000), NoiseSchedule().path(40)
    for v, s in zip(path.video.tolist(), path.structure.tolist(), strict=True):
        assert (np.abs(seen - (0.0, v, s)).max(axis=1) <= 0.05).sum() >= 20


@pytest.mark.parametrize("regime", sorted(REGIMES))
def test_the_reference_is_clean_and_the_last_step_is_noisy(regime: str) -> None:
    for index in range(200):
        levels = draw_levels(regime, keyed_generator(0, index), WINDOW, NoiseSchedule())
        assert levels.video[0] == 0
        assert levels.structure[0] == 0
        assert levels.video[-1] > 0
        assert levels.structure[-1] > 0
        assert ((levels.video > 0) == (levels.structure > 0)).all()
        assert levels.video.max() <= 1
        assert levels.structure.max() <= 1


def test_a_clean_prefix_has_every_length() -> None:
    lengths = set()
    for index in range(300):
        levels = draw_levels("clean_prefix", keyed_generator(1, index), WINDOW, NoiseSchedule())
        noisy = levels.video > 0
        assert (noisy.int().diff() >= 0).all(), "clean again after noise"
        lengths.add(int((~noisy).sum()))
    assert lengths == set(range(1, WINDOW))


def test_diffusion_forcing_leaves_only_the_reference_clean() -> None:
    assert (draw_levels("diffusion_forcing", keyed_generator(2), WINDOW, NoiseSchedule()).video[1:] > 0).all()


def test_a_capped_structure_stays_under_its_cap() -> None:
    schedule = NoiseSchedule(structure_cap=0.5)
    levels = [draw_levels("diffusion_forcing", keyed_generator(3, i), WINDOW, schedule) for i in range(100)]
    assert max(float(level.structure.max()) for level in levels) <= 0.5
    assert max(float(level.video.max()) for level in levels) > 0.9


def test_an_unknown_regime_is_answered_with_the_names() -> None:
    with pytest.raises(
        ValueError, match=r"clean_prefix, diffusion_forcing, stochastic_clean; did you mean 'clean_prefix'"
    ):
        draw_levels("clean_prefx", keyed_generator(0), 4, NoiseSchedule())


def test_a_window_of_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        draw_levels("clean_prefix", keyed_generator(0), 1, NoiseSchedule())
