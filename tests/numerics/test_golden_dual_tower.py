"""Bridge, aligned positions, the step of both towers with guidance, and the audio VAE against upstream's numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_ltx2 import apply_split_rotary_emb
from torch import Tensor

from dualforce_model.mova.bridge import MovaBridge, interacting_layers, table, video_positions
from dualforce_model.mova.names import bridge_name, sound_name, tower_name
from dualforce_model.mova.schedule import PairSchedule
from dualforce_model.mova.settings import (
    AudioTowerSettings,
    BridgeSettings,
    ScheduleSettings,
    SoundVaeSettings,
    TowerSettings,
)
from dualforce_model.mova.sound import SoundVae
from dualforce_model.mova.step import DualTower, Latents, guided
from dualforce_model.mova.towers import MovaTower

Maker = Callable[..., Any]
OFF = {"apply_first_frame_bias_in_rope": False, "trainable_condition_scale": False, "pooled_adaln": False}
BRIDGE_ATOL, STEP_ATOL = 5e-6, {0.02: 5e-6, 0.08: 1e-5}


@pytest.fixture(scope="module")
def bridge_numbers(golden: Callable[[str], Any]) -> Any:
    return golden("bridge")


@pytest.fixture(scope="module")
def dual(golden: Callable[[str], Any]) -> Any:
    return golden("dual_tower")


@pytest.mark.parametrize(("variant", "std"), [("small", 0.08), ("hd128", 0.02), ("hd128", 0.08)])
def test_bridge(bridge_numbers: Any, fill: Maker, name_weights: Maker, variant: str, std: float) -> None:
    facts = bridge_numbers.facts["variants"][variant]
    weights = name_weights(facts["params"], std, facts["weight_checks"][f"std{std}"])
    bridge = fill(MovaBridge(BridgeSettings.model_validate(OFF | facts["config"])), weights, bridge_name)
    video, audio = bridge_numbers[f"{variant}/in.visual"], bridge_numbers[f"{variant}/in.audio"]
    turns = bridge.turns(tuple(facts["grid_size"]), audio.shape[1], facts["video_fps"])
    half = turns.video[0].shape[-1]
    for side, turn in (("visual", turns.video), ("audio", turns.audio)):
        for part, found in zip(("cos", "sin"), turn, strict=True):
            wanted = bridge_numbers[f"{variant}/rope.{side}_{part}"][..., :half]
            torch.testing.assert_close(found[0], wanted, atol=1e-6, rtol=0)
    layer, prefix = facts["layer_idx"], f"{variant}/std{std}/out"
    told = bridge(layer, video, audio, turns)
    for name, found in zip(("visual", "audio"), told, strict=True):
        bridge_numbers.close(found, f"{prefix}.rope.{name}", BRIDGE_ATOL)
    if variant == "small":
        for name, scales in (("scale0.5", (0.5, 0.5)), ("a2v0_v2a2", (0.0, 2.0))):
            for side, found in zip(("visual", "audio"), bridge(layer, video, audio, turns, scales), strict=True):
                bridge_numbers.close(found, f"{prefix}.rope.{name}.{side}", BRIDGE_ATOL)
    else:
        still = MovaBridge(BridgeSettings.model_validate(OFF | facts["config"] | {"apply_cross_rope": False}))
        plain = fill(still, weights, bridge_name)
        without = plain(layer, video, audio, plain.turns(tuple(facts["grid_size"]), audio.shape[1], 24.0))
        for name, found in zip(("visual", "audio"), without, strict=True):
            bridge_numbers.close(found, f"{prefix}.norope.{name}", BRIDGE_ATOL)


def test_layers_of_all_strategies(bridge_numbers: Any) -> None:
    """The layers of every strategy, for three sizes; both directions always share them."""
    base = BridgeSettings.model_validate(OFF | bridge_numbers.facts["variants"]["small"]["config"])
    for size, strategies in bridge_numbers.facts["interaction_layers"].items():
        visual, audio = map(int, size.split("x"))
        for strategy, wanted in strategies.items():
            chosen = {"visual_layers": visual, "audio_layers": audio, "interaction_strategy": strategy}
            layers = interacting_layers(base.model_copy(update=chosen))
            for direction in ("a2v", "v2a"):
                assert [[layer, layer] for layer in layers] == wanted[direction], (size, strategy, direction)


@pytest.mark.parametrize("case", ["r24", "r24_bias", "r25", "r25_bias", "r24_grid"])
def test_aligned_positions(golden: Callable[[str], Any], case: str) -> None:
    numbers = golden("aligned_rope")
    facts = numbers.facts["cases"][case]
    frames, rows, columns = facts["grid_size"]
    bias = facts["apply_first_frame_bias_in_rope"]
    positions = video_positions(frames, facts["video_fps"], facts["audio_fps"], bias)
    numbers.close(positions, f"{case}/visual_pos_per_frame", 1e-4)
    cos, sin = table(positions.repeat_interleave(rows * columns), facts["head_dim"])
    numbers.close(cos[0, 0], f"{case}/visual_cos", 1e-6)
    numbers.close(sin[0, 0], f"{case}/visual_sin", 1e-6)


def test_aligned_rotation_is_split_by_halves(golden: Callable[[str], Any]) -> None:
    numbers = golden("aligned_rope")
    x = numbers["apply/in"].unflatten(-1, (2, 128)).transpose(1, 2)
    cos, sin = table(torch.arange(9, dtype=torch.float32), 128)
    turned = apply_split_rotary_emb(x, (cos.expand(1, 2, -1, -1), sin.expand(1, 2, -1, -1)))
    numbers.close(turned.transpose(1, 2).flatten(2), "apply/out_audio_positions", 2e-6)


@pytest.fixture(scope="module")
def towers(dual: Any, fill: Maker, name_weights: Maker) -> Callable[[str, float], DualTower]:
    """The towers of a variant at a std."""

    def build(variant: str, std: float) -> DualTower:
        weights = dual.facts["variants"]["weights"]

        def named(part: str) -> dict[str, Tensor]:
            checks = weights[part]["weight_checks"] if std == 0.08 else None
            return name_weights(weights[part]["params"], std, checks)

        settings = BridgeSettings.model_validate(dual.facts["variants"][variant])
        audio_settings = AudioTowerSettings.model_validate(weights["audio_dit"]["config"])
        bridge = MovaBridge(settings)
        used = dict(bridge.named_parameters())
        bridge_weights = {name: value for name, value in named("bridge_full").items() if name in map(bridge_name, used)}
        return DualTower(
            fill(
                MovaTower.of_video(TowerSettings.model_validate(weights["video_dit"]["config"])),
                named("video_dit"), tower_name,
            ),
            fill(MovaTower.of_audio(audio_settings), named("audio_dit"), tower_name),
            fill(bridge, bridge_weights, bridge_name),
        )  # fmt: skip

    return build


@pytest.mark.parametrize(
    ("variant", "std"),
    [("full_rope", 0.08), ("full_rope", 0.02), ("full_norope", 0.08), ("full_rope_bias", 0.08), ("shallow_rope", 0.08)],
)
def test_step_of_both_towers(dual: Any, towers: Callable[..., DualTower], variant: str, std: float) -> None:
    model = towers(variant, std)
    channels = torch.cat([dual["in.visual_latents"], dual["in.visual_condition"]], dim=1)
    times = (dual["in.t_visual"], dual["in.t_audio"])
    out = model.velocities(channels, dual["in.audio_latents"], times, dual["in.context"], dual.facts["video_fps"])
    dual.close(out.video, f"{variant}/std{std}/out.visual", STEP_ATOL[std])
    dual.close(out.audio, f"{variant}/std{std}/out.audio", STEP_ATOL[std])


def test_guided_sampling(dual: Any, towers: Callable[..., DualTower]) -> None:
    """Four guided Euler steps; an error of one step would grow fivefold by guidance."""
    model = towers("full_rope", 0.08)
    settings = ScheduleSettings(shift=5, sigma_max=1, sigma_min=0, extra_one_step=True, num_train_timesteps=1000)
    schedule = PairSchedule.equal(settings, 4)
    video, audio = dual["in.visual_latents"], dual["in.audio_latents"]
    for step in range(4):
        channels = torch.cat([video, dual["in.visual_condition"]], dim=1)
        times = tuple(schedule.timesteps[step, side].reshape(1) for side in (0, 1))
        branches = [
            model.velocities(channels, audio, times, dual[f"in.{text}"], dual.facts["video_fps"])
            for text in ("context", "negative_context")
        ]
        velocity: Latents = guided(*branches, scale=5.0)
        video, audio = schedule.advance(step, (video, velocity.video), (audio, velocity.audio))
        if step in (0, 3):
            dual.close(video, f"cfg_loop/step{step}.visual", 1e-4)
            dual.close(audio, f"cfg_loop/step{step}.audio", 1e-4)


def test_audio_vae(golden: Callable[[str], Any], fill: Maker) -> None:
    numbers = golden("dac_vae")
    settings = SoundVaeSettings.model_validate(numbers.facts["config"])
    vae = fill(SoundVae(settings), _sound_weights(numbers), lambda name: sound_name(name, 5))
    mean, logvar = vae.encode(numbers["in.wave"])
    numbers.close(mean, "out.mean", 1e-5)
    numbers.close(logvar, "out.logvar", 1e-5)
    numbers.close(vae.decode(mean), "out.recon", 1e-5)
    numbers.close(vae.decode(numbers["in.latent"]), "out.decode", 1e-5)
    assert settings.hop == 960


def _sound_weights(numbers: Any) -> dict[str, Tensor]:
    """The audio VAE has its own rule for weights."""
    import zlib

    weights = {}
    for name, shape in numbers.facts["params"]:
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if name.endswith(".alpha"):
            weights[name] = 1 + 0.02 * noise
        elif name.endswith(".bias"):
            weights[name] = 0.02 * noise
        else:
            weights[name] = noise * 0.7 / (noise.numel() / shape[0]) ** 0.5
    total = sum(weight.double().sum().item() for weight in weights.values())
    assert total == pytest.approx(numbers.facts["weight_checks"]["sum_float64"], rel=1e-6)
    return weights
