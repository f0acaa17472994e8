"""Noise is a function of (seed, epoch, index), not of batch, order or split."""

import pytest
import torch

from dualforce_model.diffusion.noise import gaussian, keyed_generator
from dualforce_model.diffusion.schedule import NoiseSchedule
from dualforce_model.diffusion.window import NoisyWindow, SampleKey, make_noisy

VIDEO, STRUCTURE = torch.randn(4, 5, 3, 2, 2), torch.randn(4, 5, 4, 6)
KEYS = [SampleKey(epoch, index) for epoch, index in ((0, 3), (0, 1), (1, 3), (7, 0))]


def noisy(rows: list[int], seed: int = 5) -> NoisyWindow:
    return make_noisy(VIDEO[rows], STRUCTURE[rows], [KEYS[row] for row in rows], seed, "clean_prefix", NoiseSchedule())


def test_any_split_of_a_batch_gives_the_same_samples() -> None:
    whole = noisy([0, 1, 2, 3])
    for rows in ([2, 0], [1], [3]):
        part = noisy(rows)
        for name in vars(whole):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rows]), name


def test_epoch_index_and_seed_all_matter() -> None:
    whole = noisy([0, 2])
    assert not torch.equal(whole.noise_video[0], whole.noise_video[1])
    assert not torch.equal(whole.noise_video, noisy([0, 2], seed=6).noise_video)


def test_given_steps_are_untouched() -> None:
    whole = noisy([0, 1, 2, 3])
    given = whole.sigma_video == 0
    assert torch.equal(whole.video[given], VIDEO[given])
    assert given[:, 0].all()


def test_keys_are_told_apart_by_type_and_place() -> None:
    streams = [gaussian((4,), *key) for key in ((1, 12), (11, 2), (1, "12"), ("1", 12), (12, 1))]
    for i, left in enumerate(streams):
        assert all(not torch.equal(left, right) for right in streams[i + 1 :])
    assert keyed_generator(3, "video", 1).initial_seed() == keyed_generator(3, "video", 1).initial_seed()


def test_a_key_is_needed_for_each_sample() -> None:
    with pytest.raises(ValueError, match="3 sample keys for a batch of 4"):
        make_noisy(VIDEO, STRUCTURE, KEYS[:3], 0, "clean_prefix", NoiseSchedule())
