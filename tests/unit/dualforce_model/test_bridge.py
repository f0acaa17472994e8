"""Which layers exchange, and that an exchange stays within its step and begins closed."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from dualforce_model.bridge import Bridge, BridgeConfig


def open_bridge(direction: str = "both") -> Bridge:
    torch.manual_seed(0)
    config = BridgeConfig.model_validate({"depth": 1, "condition_dim": 8, "direction": direction})
    bridge = Bridge(config, 2, (24, 2), (16, 1))
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.normal_(std=0.3)
    return bridge


def tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, 5, 24), torch.randn(2, 3, 4, 16), torch.randn(2, 3, 8)


def test_layer_lists_are_upstreams(shared: Path) -> None:
    golden = json.loads((shared / "golden" / "mova" / "bridge.json").read_text())
    for size, strategies in golden["interaction_layers"].items():
        num_layers = min(int(depth) for depth in size.split("x"))
        for strategy, lists in strategies.items():
            wanted = tuple(layer for layer, _ in lists["a2v"])
            layers = (0, 2, 4, 6, 8, 12, 16, 20) if strategy == "custom" else ()
            config = BridgeConfig.model_validate({"strategy": strategy, "depth": None, "layers": layers})
            assert config.bridged(num_layers) == wanted, f"{strategy} on {size}"


def test_depth_is_the_number_of_first_layers() -> None:
    assert BridgeConfig(depth=3).bridged(20) == (0, 1, 2)
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
    video, structure, condition = tokens()
    told_video, told_structure = bridge(0, video, structure, condition, (0, 1, 2))
    assert torch.equal(told_video, video)
    assert torch.equal(told_structure, structure)
    (told_video.square().sum() + told_structure.square().sum()).backward()
    assert all(
        way.modulation.weight.grad.any() for way in (bridge.exchanges["0"].to_video, bridge.exchanges["0"].to_structure)
    )


def test_an_exchange_stays_within_its_step() -> None:
    bridge = open_bridge()
    video, structure, condition = tokens()
    other_video, other_structure = video.clone(), structure.clone()
    other_video[:, 1] += 1
    other_structure[:, 1] += 1
    before = bridge(0, video, structure, condition, (0, 1, 2))
    after = bridge(0, other_video, other_structure, condition, (0, 1, 2))
    for side, changed in zip(before, after, strict=True):
        assert torch.equal(side[:, [0, 2]], changed[:, [0, 2]])
        assert not torch.equal(side[:, 1], changed[:, 1])


def test_frames_of_a_step_are_told_apart_by_their_times() -> None:
    """Structure tokens that swap their contents change what video hears, except in step 0 where all are one frame."""
    bridge = open_bridge()
    video, structure, condition = tokens()
    told, _ = bridge(0, video, structure, condition, (0, 1, 2))
    swapped, _ = bridge(0, video, structure.flip(2), condition, (0, 1, 2))
    torch.testing.assert_close(told[:, 0], swapped[:, 0])
    assert not torch.allclose(told[:, 1:], swapped[:, 1:], atol=1e-4)


def test_one_way_bridges_tell_one_side() -> None:
    video, structure, condition = tokens()
    told = open_bridge("video_to_structure")(0, video, structure, condition, (0, 1, 2))
    assert torch.equal(told[0], video)
    assert not torch.equal(told[1], structure)
    told = open_bridge("structure_to_video")(0, video, structure, condition, (0, 1, 2))
    assert not torch.equal(told[0], video)
    assert torch.equal(told[1], structure)


def test_layers_without_an_exchange_pass_both_sides_on() -> None:
    video, structure, condition = tokens()
    told = open_bridge()(1, video, structure, condition, (0, 1, 2))
    assert told[0] is video
    assert told[1] is structure
