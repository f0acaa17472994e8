"""Rotations agree with diffusers' table and depend on distance alone."""

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from dualforce_model.layers.rotary import (
    angles,
    latent_rotation,
    offset_rotation,
    rotate,
    rotation,
    still,
    structure_rotation,
    video_rotation,
)

CPU = torch.device("cpu")


def test_video_rotation_is_wans_table() -> None:
    for dim in (24, 32, 64, 128):
        cos, sin = WanRotaryPosEmbed(dim, (1, 2, 2), 1024)(torch.zeros(1, 16, 5, 6, 8))
        ours = video_rotation(tuple(range(5)), 3, 4, dim, CPU).turns
        torch.testing.assert_close(ours.real, cos[0, :, 0, ::2].float())
        torch.testing.assert_close(ours.imag, sin[0, :, 0, 1::2].float())


def test_rotated_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 4, 1, 32)

    def product(at: int, to: int) -> torch.Tensor:
        turned = rotate(query, structure_rotation((at,), 32, CPU)), rotate(key, structure_rotation((to,), 32, CPU))
        return (turned[0] @ turned[1].mT).flatten()

    torch.testing.assert_close(product(9, 4), product(900, 895), atol=2e-3, rtol=1e-3)
    assert not torch.allclose(product(9, 4), product(9, 5), atol=1e-2)


def test_offsets_are_frames_around_the_latents_centre() -> None:
    turns = offset_rotation((0, 1, 77), 8, CPU).turns.view(3, 4, 4)
    torch.testing.assert_close(turns[0], torch.ones_like(turns[0]))
    torch.testing.assert_close(turns[1].angle()[:, 0], torch.tensor([-1.5, -0.5, 0.5, 1.5]))
    assert torch.equal(turns[1], turns[2])


@pytest.mark.parametrize(
    ("tokens", "times"),
    [
        (1, [18.5]),
        (2, [17.5, 19.5]),
        (4, [17, 18, 19, 20]),
        (8, [17, 17, 18, 18, 19, 19, 20, 20]),
    ],
)
def test_structure_tokens_stand_at_the_mean_time_of_their_frames(tokens: int, times: list[float]) -> None:
    steps = (0, 5)
    turns = structure_rotation(steps, 8, CPU, tokens).turns.view(2, tokens, 4)
    torch.testing.assert_close(turns[0], torch.ones_like(turns[0]))
    wanted = rotation(angles(times, 8), CPU).turns
    torch.testing.assert_close(turns[1], wanted)
    offsets = offset_rotation(steps, 8, CPU, tokens=tokens).turns.view(2, tokens, 4)
    torch.testing.assert_close(offsets[1], rotation(angles([time - 18.5 for time in times], 8), CPU).turns)


def test_video_tokens_of_a_step_share_its_time() -> None:
    turns = latent_rotation((0, 5), 8, CPU, tokens=3).turns.view(2, 3, 4)
    torch.testing.assert_close(turns, rotation(angles([0, 0, 0, 18.5, 18.5, 18.5], 8), CPU).turns.view(2, 3, 4))


def test_still_tokens_are_not_turned() -> None:
    x = torch.randn(1, 6, 2, 16)
    turned = rotate(x, still(2, structure_rotation((3,), 16, CPU)))
    assert torch.equal(turned[:, :2], x[:, :2])
    assert not torch.allclose(turned[:, 2:], x[:, 2:])
