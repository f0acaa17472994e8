"""The towers are Wan transformers: same names, same numbers where Wan can do the same."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import attention_backend

from dualforce_model.layers.masks import StepMask
from dualforce_model.towers import StructureTower, StructureTowerConfig, VideoTower, VideoTowerConfig

SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 12,
    "out_channels": 4,
    "text_dim": 10,
    "freq_dim": 32,
    "ffn_dim": 40,
    "num_layers": 2,
}


def run(
    tower: VideoTower, video: torch.Tensor, sigma: torch.Tensor, mask: StepMask, text: torch.Tensor | None
) -> torch.Tensor:
    is_reference = torch.zeros(sigma.shape, dtype=torch.bool)
    state = tower.start(video, torch.zeros_like(video[:, 0]), is_reference, sigma, mask, text=text)
    for layer in range(len(tower.blocks)):
        tower.advance(layer, state)
    return tower.finish(state)


def wan_and_ours() -> tuple[WanTransformer3DModel, VideoTower]:
    torch.manual_seed(0)
    wan, tower = WanTransformer3DModel(patch_size=(1, 2, 2), **SIZES), VideoTower(patch_size=(1, 2, 2), **SIZES)
    tower.load_state_dict(wan.state_dict(), strict=True)
    return wan.eval(), tower.eval()


def test_one_step_equals_wan_with_wans_own_weights() -> None:
    wan, tower = wan_and_ours()
    video, sigma, text = torch.randn(3, 1, 4, 4, 6), torch.rand(3, 1), torch.randn(3, 7, 10)
    channels = torch.cat([video, torch.zeros(3, 1, 8, 4, 6)], dim=2).transpose(1, 2)
    with torch.no_grad():
        theirs = wan(channels, sigma[:, 0] * 1000, text, return_dict=False)[0].transpose(1, 2)
        ours = run(tower, video, sigma, StepMask.causal(1, 1), text)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


def test_no_text_equals_wans_padding_with_zeros() -> None:
    _, tower = wan_and_ours()
    video, sigma, mask = torch.randn(1, 3, 4, 4, 4), torch.rand(1, 3), StepMask.causal(3, 3)
    with torch.no_grad():
        padded = run(tower, video, sigma, mask, torch.zeros(1, 512, 10))
        torch.testing.assert_close(run(tower, video, sigma, mask, None), padded, atol=2e-6, rtol=1e-5)


def test_equal_noise_levels_are_embedded_once_per_step() -> None:
    tower = VideoTower.build(
        VideoTowerConfig(latent_channels=4, heads=1, head_dim=16, layers=1, ffn_dim=16, patch_px=(2, 2))
    )
    state = tower.start(
        torch.randn(2, 3, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.zeros(2, 3, dtype=torch.bool), torch.rand(2, 3),
        StepMask.causal(3, 3),
    )  # fmt: skip
    assert state.modulation.shape == (2, 3, 6, 16)
    assert state.x.shape == (2, 3, 4, 16)


def test_half_precision_keeps_nearby_noise_levels_apart() -> None:
    """bfloat16 would round 873.25 to 872; the sinusoid is made in float32."""
    tower = VideoTower.build(
        VideoTowerConfig(latent_channels=4, heads=1, head_dim=16, layers=1, ffn_dim=16, patch_px=(2, 2))
    ).bfloat16()
    sigma = torch.tensor([[0.872, 0.87325]])
    video = torch.randn(1, 2, 4, 4, 4, dtype=torch.bfloat16)
    state = tower.start(video, video[:, 0], torch.zeros(1, 2, dtype=torch.bool), sigma, StepMask.causal(2, 2))
    assert state.embedded.dtype == torch.bfloat16
    assert not torch.equal(state.embedded[:, 0], state.embedded[:, 1])


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("window", [2, 8])
def test_flex_attention_gives_the_same_tower(window: int) -> None:
    torch.manual_seed(0)
    tower = StructureTower.build(StructureTowerConfig(entries=5, heads=1, head_dim=16, layers=2, ffn_dim=16))
    torch.nn.init.normal_(tower.proj_out.weight)
    structure, sigma, mask = torch.randn(1, 5, 4, 5), torch.rand(1, 5), StepMask.causal(5, window)

    def velocity() -> torch.Tensor:
        state = tower.start(structure, structure[:, 0, 0], sigma, mask)
        for layer in range(2):
            tower.advance(layer, state)
        return tower.finish(state)

    with torch.no_grad():
        dense = velocity()
        with attention_backend("native"):  # diffusers also switches its default, for the whole process: put it back
            tower.set_attention_backend("flex")
        torch.testing.assert_close(velocity(), dense, atol=1e-5, rtol=1e-5)


def test_activation_checkpointing_changes_no_gradient() -> None:
    torch.manual_seed(0)
    tower = StructureTower.build(StructureTowerConfig(entries=5, heads=1, head_dim=16, layers=2, ffn_dim=16))
    torch.nn.init.normal_(tower.proj_out.weight)
    structure, sigma = torch.randn(1, 3, 4, 5), torch.rand(1, 3)
    grads = []
    for wanted in (False, True):
        tower.zero_grad()
        if wanted:
            tower.enable_gradient_checkpointing()
        state = tower.start(structure, structure[:, 0, 0], sigma, StepMask.causal(3, 3))
        for layer in range(2):
            tower.advance(layer, state)
        tower.finish(state).square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in tower.parameters() if parameter.grad is not None])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again)


def test_latents_that_do_not_divide_into_patches_are_refused() -> None:
    tower = VideoTower.build(
        VideoTowerConfig(latent_channels=4, heads=1, head_dim=16, layers=1, ffn_dim=16, patch_px=(2, 2))
    )
    with pytest.raises(ValueError, match="5x4 pixels do not divide into patches of 2x2"):
        run(tower, torch.randn(1, 1, 4, 5, 4), torch.rand(1, 1), StepMask.causal(1, 1), None)


def test_text_for_a_tower_without_text_is_refused() -> None:
    tower = VideoTower.build(
        VideoTowerConfig(latent_channels=4, heads=1, head_dim=16, layers=1, ffn_dim=16, patch_px=(2, 2))
    )
    with pytest.raises(ValueError, match="no text attention"):
        run(tower, torch.randn(1, 1, 4, 4, 4), torch.rand(1, 1), StepMask.causal(1, 1), torch.randn(1, 2, 8))
