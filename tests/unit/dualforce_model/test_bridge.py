"""Which layers exchange, and that an exchange stays within its step and begins closed."""

import pytest
import torch
from pydantic import ValidationError

from dualforce_model import clock
from dualforce_model.bridge import Bridge, BridgeConfig, Meeting, Way
from dualforce_model.layers.masks import StepMask
from dualforce_model.layers.rotary import angles, rotation

VIDEO_TOKENS, STRUCTURE_TOKENS = 5, 4

# Upstream's lists of layers (MOVA's bridge, run on two sizes), by the shallower tower's depth.
CUSTOM = (0, 2, 4, 6, 8, 12, 16, 20)
UPSTREAM = {
    30: {
        "shallow_focus": tuple(range(10)),
        "distributed": (0, 3, 6, 9, 12, 15, 18, 21, 24, 27),
        "progressive": (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 17, 20, 23, 26, 29),
        "custom": CUSTOM,
        "full": tuple(range(30)),
    },
    20: {
        "shallow_focus": (0, 1, 2, 3, 4, 5),
        "distributed": (0, 3, 6, 9, 12, 15, 18),
        "progressive": (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 17),
        "custom": (0, 2, 4, 6, 8, 12, 16),
        "full": tuple(range(20)),
    },
}


def open_bridge(direction: str = "both", scope: str = "step") -> Bridge:
    torch.manual_seed(0)
    config = BridgeConfig.model_validate({"depth": 1, "condition_dim": 8, "direction": direction, "scope": scope})
    bridge = Bridge(config, 2, (24, 2), (16, 1))
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.normal_(std=0.3)
    return bridge


def tokens(num_steps: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, num_steps, VIDEO_TOKENS, 24), torch.randn(2, num_steps, STRUCTURE_TOKENS, 16)


def meeting(bridge: Bridge, mask: StepMask) -> Meeting:
    torch.manual_seed(2)
    shape = (2, len(mask.queries))
    return bridge.meet(torch.randn(*shape, 24), torch.randn(*shape, 16), mask, (VIDEO_TOKENS, STRUCTURE_TOKENS))


def exchange(bridge: Bridge, sides: tuple[torch.Tensor, torch.Tensor], window: int = 9) -> tuple[torch.Tensor, ...]:
    told: tuple[torch.Tensor, ...] = bridge(0, *sides, meeting(bridge, StepMask.causal(sides[0].shape[1], window)))
    return told


@pytest.mark.parametrize("num_layers", UPSTREAM)
@pytest.mark.parametrize("strategy", UPSTREAM[20])
@pytest.mark.parametrize("depth", [None, 1, 4, 8, 100])
def test_layer_lists_are_upstreams_down_to_the_depth(num_layers: int, strategy: str, depth: int | None) -> None:
    layers = CUSTOM if strategy == "custom" else ()
    config = BridgeConfig.model_validate({"strategy": strategy, "depth": depth, "layers": layers})
    wanted = UPSTREAM[num_layers][strategy]
    if strategy == "shallow_focus" and depth is not None:
        wanted = tuple(range(num_layers))  # an explicit depth replaces upstream's formula
    assert config.bridged(num_layers) == wanted[: sum(layer < (depth or num_layers) for layer in wanted)]


def test_layers_that_a_tower_has_not_are_left_out() -> None:
    assert BridgeConfig(depth=8).bridged(4) == (0, 1, 2, 3)
    assert BridgeConfig(strategy="custom", layers=(0, 2, 30)).bridged(20) == (0, 2)


def test_custom_and_only_custom_lists_layers() -> None:
    with pytest.raises(ValidationError, match="lists layers"):
        BridgeConfig(strategy="custom")
    with pytest.raises(ValidationError, match="lists layers"):
        BridgeConfig(strategy="full", layers=(1,))


def test_a_new_bridge_is_closed_and_can_open() -> None:
    bridge = Bridge(BridgeConfig(depth=1, condition_dim=8), 1, (24, 2), (16, 1))
    bridge.initialise()
    sides = tokens()
    told = exchange(bridge, sides)
    assert torch.equal(told[0], sides[0])
    assert torch.equal(told[1], sides[1])
    (told[0].square().sum() + told[1].square().sum()).backward()
    assert all(
        way.modulation.weight.grad.any() for way in (bridge.exchanges["0"].to_video, bridge.exchanges["0"].to_structure)
    )


@pytest.mark.parametrize("scope", ["step", "causal"])
def test_who_is_told_about_a_step(scope: str) -> None:
    """Scope step: the step itself. Scope causal: also the steps whose window reaches back to it."""
    bridge = open_bridge(scope=scope)
    sides = tokens(6)
    changed = tuple(side.clone() for side in sides)
    for side in changed:
        side[:, 2] += torch.randn_like(side[:, 2])
    before, after = exchange(bridge, sides, window=3), exchange(bridge, changed, window=3)
    told = [2] if scope == "step" else [2, 3, 4]
    for side, other in zip(before, after, strict=True):
        assert [step for step in range(6) if not torch.equal(side[:, step], other[:, step])] == told


def test_all_steps_of_a_causal_bridge_see_the_reference() -> None:
    bridge = open_bridge("structure_to_video", "causal")
    video, structure = tokens(6)
    other = structure.clone()
    other[:, 0] += torch.randn_like(other[:, 0])
    before, after = exchange(bridge, (video, structure), window=2), exchange(bridge, (video, other), window=2)
    assert all(not torch.equal(before[0][:, step], after[0][:, step]) for step in range(6))


def test_a_causal_bridge_knows_times_not_only_contents() -> None:
    """The same structure one step earlier is another distance, hence another message."""
    bridge = open_bridge("structure_to_video", "causal")
    video, structure = tokens(5)
    structure[:] = structure[:, :1]
    structure[:, 2] += torch.randn_like(structure[:, 2])
    moved = structure.clone()
    moved[:, [2, 3]] = structure[:, [3, 2]]
    before, after = exchange(bridge, (video, structure)), exchange(bridge, (video, moved))
    assert torch.equal(before[0][:, 1], after[0][:, 1])
    assert not torch.allclose(before[0][:, 4], after[0][:, 4], atol=1e-4)


@pytest.mark.parametrize("scope", ["step", "causal"])
def test_frames_of_a_step_are_told_apart_by_their_times(scope: str) -> None:
    """Structure tokens that swap their contents change what video hears, except in step 0 where all are one frame."""
    bridge = open_bridge(scope=scope)
    video, structure = tokens()
    told, swapped = exchange(bridge, (video, structure))[0], exchange(bridge, (video, structure.flip(2)))[0]
    torch.testing.assert_close(told[:, 0], swapped[:, 0])
    assert not torch.allclose(told[:, 1:], swapped[:, 1:], atol=1e-4)


@pytest.mark.parametrize("scope", ["step", "causal"])
def test_one_way_bridges_tell_one_side(scope: str) -> None:
    sides = tokens()
    told = exchange(open_bridge("video_to_structure", scope), sides)
    assert torch.equal(told[0], sides[0])
    assert not torch.equal(told[1], sides[1])
    told = exchange(open_bridge("structure_to_video", scope), sides)
    assert not torch.equal(told[0], sides[0])
    assert torch.equal(told[1], sides[1])


@pytest.mark.parametrize("scope", ["step", "causal"])
@pytest.mark.parametrize("side", ["video", "structure"])
def test_each_sides_noise_level_steers_what_both_hear(side: str, scope: str) -> None:
    bridge, sides, mask = open_bridge(scope=scope), tokens(), StepMask.causal(3, 9)
    levels = {"video": torch.randn(2, 3, 24), "structure": torch.randn(2, 3, 16)}
    other = {**levels, side: levels[side].clone()}
    other[side][:, 2] += 1.0
    before, after = (
        bridge(0, *sides, bridge.meet(**given, mask=mask, tokens=(VIDEO_TOKENS, STRUCTURE_TOKENS)))
        for given in (levels, other)
    )
    for told, told_other in zip(before, after, strict=True):
        assert torch.equal(told[:, :2], told_other[:, :2])
        assert not torch.allclose(told[:, 2], told_other[:, 2], atol=1e-3)


def test_a_causal_bridge_puts_both_sides_at_their_frames() -> None:
    """Between any video and structure token lies the time between latent and frame, whoever asks."""
    bands = meeting(open_bridge(scope="causal"), StepMask.causal(4, 9)).bands
    assert set(bands) == {"to_video", "to_structure"}
    seen = torch.tensor([clock.video_time(step) for step in range(4) for _ in range(VIDEO_TOKENS)])
    felt = torch.tensor([time for step in range(4) for time in clock.structure_times(step, STRUCTURE_TOKENS)])
    widths: dict[Way, int] = {"to_video": 12, "to_structure": 16}
    for way, dim in widths.items():
        query, key = (seen, felt) if way == "to_video" else (felt, seen)
        apart = (query[:, None] - key).flatten()
        turned = bands[way].queries.turns[:, None] * bands[way].keys.turns.conj()
        wanted = rotation(angles(apart.tolist(), dim), torch.device("cpu")).turns
        torch.testing.assert_close(turned.flatten(0, 1), wanted, atol=1e-5, rtol=0)


def test_layers_without_an_exchange_pass_both_sides_on() -> None:
    bridge, (video, structure) = open_bridge(), tokens()
    told = bridge(1, video, structure, meeting(bridge, StepMask.causal(3, 9)))
    assert told[0] is video
    assert told[1] is structure
