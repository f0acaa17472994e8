"""The towers are Wan transformers: same names, same numbers where Wan can do the same."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import attention_backend

from dualforce_model.layers.features import Features
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
    tower: VideoTower,
    video: torch.Tensor,
    sigma: torch.Tensor,
    mask: StepMask,
    text: torch.Tensor | None,
    features: Features | None = None,
) -> torch.Tensor:
    is_reference = torch.zeros(sigma.shape, dtype=torch.bool)
    state = tower.start(video, torch.zeros_like(video[:, 0]), is_reference, sigma, mask, text=text, features=features)
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


def with_features(text_dim: int = 10) -> VideoTower:
    torch.manual_seed(0)
    tower = VideoTower((1, 2, 2), **{**SIZES, "text_dim": text_dim}, image_dim=6, added_kv_proj_dim=48)
    return tower.eval().requires_grad_(False)


def test_reference_features_enter_as_wans_image_does() -> None:
    torch.manual_seed(0)
    wan = WanTransformer3DModel(patch_size=(1, 2, 2), **SIZES, image_dim=6, added_kv_proj_dim=48).eval()
    tower = with_features()
    tower.load_state_dict(wan.state_dict(), strict=True)
    video, sigma = torch.randn(2, 1, 4, 4, 6), torch.rand(2, 1)
    text, image = torch.randn(2, 512, 10), torch.randn(2, 5, 6)  # Wan finds the image before 512 tokens of text
    channels = torch.cat([video, torch.zeros(2, 1, 8, 4, 6)], dim=2).transpose(1, 2)
    features = Features(image, torch.ones(2, 5, dtype=torch.bool))
    with torch.no_grad():
        theirs = wan(channels, sigma[:, 0] * 1000, text, image, return_dict=False)[0].transpose(1, 2)
        ours = run(tower, video, sigma, StepMask.causal(1, 1), text, features)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("text_dim", [0, 10])
def test_masked_features_are_absent_exactly(text_dim: int) -> None:
    """A stream without any is what it is without the argument, bit for bit; what is masked may hold anything."""
    tower = with_features(text_dim)
    video, sigma, mask = torch.randn(3, 3, 4, 4, 4), torch.rand(3, 3), StepMask.causal(3, 2)
    text = torch.randn(3, 2, 10) if text_dim else None
    image = torch.randn(3, 5, 6)
    valid = torch.tensor([[True] * 5, [True, False, True, False, False], [False] * 5])
    wild = torch.where(valid[..., None], image, torch.nan)
    without, seen = run(tower, video, sigma, mask, text), run(tower, video, sigma, mask, text, Features(wild, valid))
    assert torch.equal(seen[2], without[2])
    assert not torch.allclose(seen[:2], without[:2], atol=1e-3)
    kept = Features(image[1:2, [0, 2]], torch.ones(1, 2, dtype=torch.bool))
    alone = run(tower, video[1:2], sigma[1:2], mask, text[1:2] if text is not None else None, kept)
    torch.testing.assert_close(seen[1:2], alone, atol=1e-5, rtol=1e-5)


def test_masked_features_have_gradients_of_exactly_zero() -> None:
    tower = with_features(0)
    video, sigma, mask = torch.randn(2, 2, 4, 4, 4), torch.rand(2, 2), StepMask.causal(2, 2)
    image = torch.randn(2, 3, 6, requires_grad=True)
    valid = torch.tensor([[True, False, True], [False] * 3])
    run(tower, video, sigma, mask, None, Features(image, valid)).square().sum().backward()
    assert torch.equal(image.grad.ne(0).any(-1), valid)


def test_a_new_tower_does_not_see_its_features_yet_but_learns_to() -> None:
    tower = VideoTower.build(
        VideoTowerConfig(patch_px=(2, 2), latent_channels=4, heads=1, head_dim=16, layers=2, ffn_dim=16, feature_dim=6)
    )
    torch.nn.init.normal_(tower.proj_out.weight)
    video, sigma, mask = torch.randn(1, 2, 4, 4, 4), torch.rand(1, 2), StepMask.causal(2, 2)
    features = Features(torch.randn(1, 3, 6), torch.ones(1, 3, dtype=torch.bool))
    seen = run(tower, video, sigma, mask, None, features)
    torch.testing.assert_close(seen, run(tower, video, sigma, mask, None))
    seen.square().sum().backward()
    assert all(block.attn2.add_v_proj.weight.grad.any() for block in tower.blocks)


def test_features_for_a_tower_that_takes_none_are_refused() -> None:
    tower = VideoTower.build(
        VideoTowerConfig(patch_px=(2, 2), latent_channels=4, heads=1, head_dim=16, layers=1, ffn_dim=16)
    )
    features = Features(torch.randn(1, 3, 6), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="takes no reference features"):
        run(tower, torch.randn(1, 1, 4, 4, 4), torch.rand(1, 1), StepMask.causal(1, 1), None, features)


def feel(tower: StructureTower, structure: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    state = tower.start(structure, structure[:, 0, -1], sigma, StepMask.causal(structure.shape[1], 9))
    for layer in range(len(tower.blocks)):
        tower.advance(layer, state)
    return tower.finish(state)


def structure_tower(tokens_per_step: int) -> StructureTower:
    torch.manual_seed(0)
    sizes = {"entries": 5, "heads": 1, "head_dim": 16, "layers": 2, "ffn_dim": 16, "tokens_per_step": tokens_per_step}
    tower = StructureTower.build(StructureTowerConfig.model_validate(sizes))
    torch.nn.init.normal_(tower.proj_out.weight)
    return tower.requires_grad_(False)


@pytest.mark.parametrize("tokens_per_step", [1, 2, 4, 8, 16])
def test_structure_is_per_frame_whatever_the_number_of_tokens(tokens_per_step: int) -> None:
    tower, structure, sigma = structure_tower(tokens_per_step), torch.randn(2, 3, 4, 5), torch.rand(2, 3)
    state = tower.start(structure, structure[:, 0, -1], sigma, StepMask.causal(3, 9))
    assert state.x.shape == (2, 3, tokens_per_step, 16)
    before = feel(tower, structure, sigma)
    assert before.shape == structure.shape
    for frame in range(4):
        other = structure.clone()
        other[:, 1, frame] += torch.randn(2, 5)
        moved = (feel(tower, other, sigma) - before)[:, 1].norm(dim=-1)
        assert (moved > 1e-4).all()  # all frames of a step see each other, however many tokens they are
        assert not torch.allclose(moved[:, frame], moved[:, frame - 1])


@pytest.mark.parametrize("tokens_per_step", [8, 16])
def test_several_tokens_of_a_frame_read_it_by_weights_of_their_own(tokens_per_step: int) -> None:
    tower, readers = structure_tower(tokens_per_step), tokens_per_step // 4
    structure = torch.randn(1, 2, 4, 5)
    state = tower.start(structure, structure[:, 0, -1], torch.zeros(1, 2), StepMask.causal(2, 9))
    per_frame = state.x.unflatten(2, (4, readers))
    weight, bias = tower.patch_embedding.weight.flatten(1), tower.patch_embedding.bias
    for frame in range(4):
        for reader in range(readers):
            own = weight[:, 10 * reader : 10 * (reader + 1)]
            read = own @ torch.cat([structure[0, 1, frame], structure[0, 0, -1]]) + bias
            torch.testing.assert_close(per_frame[0, 1, frame, reader], read)


def test_tokens_that_share_frames_read_them_in_order() -> None:
    tower, structure = structure_tower(2), torch.randn(1, 2, 4, 5)
    state = tower.start(structure, structure[:, 0, -1], torch.zeros(1, 2), StepMask.causal(2, 9))
    weight = tower.patch_embedding.weight[:, :, 0, :, 0]  # d, channels, frames
    held = structure[0, 0, -1]
    for token in range(2):
        frames = [torch.cat([structure[0, 1, 2 * token + place], held]) for place in range(2)]
        read = sum(weight[:, :, place] @ frame for place, frame in enumerate(frames)) + tower.patch_embedding.bias
        torch.testing.assert_close(state.x[0, 1, token], read)


def restful(canonical_dim: int) -> StructureTower:
    torch.manual_seed(0)
    sizes = {"heads": 2, "head_dim": 24, "layers": 2, "ffn_dim": 40, "freq_dim": 32, "entries": 6, "sink_tokens": 0}
    tower = StructureTower.build(StructureTowerConfig(**sizes, canonical_dim=canonical_dim))
    torch.nn.init.normal_(tower.proj_out.weight, generator=torch.Generator().manual_seed(3))
    return tower.eval()


def moved_by(tower: StructureTower, canonical: torch.Tensor | None) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    structure = torch.randn(2, 3, 4, 6, generator=draw)
    sigma = torch.rand(2, 3, generator=draw)
    with torch.no_grad():
        state = tower.start(structure, structure[:, 0, -1], sigma, StepMask.causal(3, 3), canonical=canonical)
        for layer in range(len(tower.blocks)):
            tower.advance(layer, state)
        return tower.finish(state)


def test_key_points_at_rest_say_nothing_at_first_and_reach_every_step_of_their_clip_later() -> None:
    plain, told = restful(0), restful(5)
    told.load_state_dict(plain.state_dict(), strict=False)
    canonical = torch.randn(2, 5, generator=torch.Generator().manual_seed(2))
    assert torch.equal(moved_by(told, canonical), moved_by(plain, None))
    torch.nn.init.normal_(told.canonical_embedding.weight, generator=torch.Generator().manual_seed(4))
    other = canonical.clone()
    other[1] += 1
    before, after = moved_by(told, canonical), moved_by(told, other)
    assert torch.equal(before[0], after[0])
    assert (before[1] != after[1]).flatten(1).any(1).all()


def test_key_points_at_rest_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"takes a canonical of shape \(2, 5\), none was given"):
        moved_by(restful(5), None)
    with pytest.raises(ValueError, match=r"takes a canonical of shape \(2, 5\), \(2, 63\) was given"):
        moved_by(restful(5), torch.zeros(2, 63))
    with pytest.raises(ValueError, match=r"takes no canonical \(canonical_dim 0\)"):
        moved_by(restful(0), torch.zeros(2, 63))
