"""A sample without weight changes nothing, whatever it holds; samples with weight reach the network untouched."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dualforce_model.audio import AudioConfig
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.diffusion.prediction import Reading, Spread
from dualforce_model.diffusion.window import SampleKey, make_noisy
from dualforce_model.judges import Judges
from dualforce_model.losses import LossWeights
from dualforce_model.model import DualForce, ModelConfig
from dualforce_model.objective import Objective
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig
from dualforce_model.train_config import Diffusion, TrainSettings

SIZES: dict[str, Any] = {"heads": 1, "head_dim": 8, "layers": 1, "ffn_dim": 8, "freq_dim": 8}
MODEL = ModelConfig(
    video=VideoTowerConfig(patch_px=(2, 2), latent_channels=2, feature_dim=3, **SIZES),
    structure=StructureTowerConfig(entries=6, sink_tokens=1, **SIZES),
    audio=AudioConfig(features=5, layers=1, slot_dim=4, context_dim=8),
)
STEPS = 5
KEYS = [SampleKey(0, 0), SampleKey(0, 1)]
STEPPED = ("video", "structure", "audio", "flame")
WHOLE = ("reference", "features")


def windows(weights: list[float]) -> TalkingHeadBatch:
    batch = TalkingHeadBatch.fake(MODEL, len(KEYS), STEPS, height=4, width=6)
    flame = torch.randn(len(KEYS), STEPS, 4, 56, generator=torch.Generator().manual_seed(5))
    heard = torch.ones_like(batch.audio_mask)
    return replace(batch, flame=flame, audio_mask=heard, weights=torch.tensor(weights))


def objective() -> Objective:
    """Every gate open, every loss there."""
    torch.manual_seed(0)
    losses = LossWeights(lips_sigma=1.0)
    settings = TrainSettings(
        model=MODEL, losses=losses, window_steps=STEPS, regime="diffusion_forcing",
        diffusion=Diffusion(prediction="velocity"), feature_dropout=0.0, audio_dropout=0.0,
    )  # fmt: skip
    reading = Reading.of("velocity", Spread(video=(1.0,) * 2, structure=(1.0,) * 6))
    whole = Objective(DualForce(MODEL), Judges(losses, MODEL, knows_flame=True), settings, reading)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return whole


def gradients(whole: Objective, batch: TalkingHeadBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    whole.zero_grad()
    total = whole(batch, KEYS, 0.0).losses.total
    total.backward()
    return total, {name: each.grad.clone() for name, each in whole.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*STEPPED, *WHOLE])
def test_no_gradient_knows_what_a_sample_without_weight_holds(name: str, broken: float) -> None:
    batch, whole = windows([0.0, 1.0]), objective()
    holding, zeroed = getattr(batch, name).clone(), getattr(batch, name).clone()
    place = (0, slice(1, None)) if name in STEPPED else (0,)
    holding[place], zeroed[place] = broken, 0
    total, found = gradients(whole, replace(batch, **{name: holding}))
    wanted, expected = gradients(whole, replace(batch, **{name: zeroed}))
    assert torch.equal(total, wanted)
    assert total > 0
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        assert found[parameter].isfinite().all(), parameter
        assert torch.equal(found[parameter], gradient), parameter
    assert all(any(gradient.any() for key, gradient in found.items() if part in key) for part in ("model", "judges"))


def test_samples_with_weight_reach_the_network_bit_for_bit() -> None:
    batch, whole = windows([0.25, 2.0]), objective()
    given: dict[str, torch.Tensor] = {}
    whole.model.register_forward_pre_hook(lambda module, args, named: given.update(named), with_kwargs=True)
    whole(batch, KEYS, 0.0)
    settings = whole.settings
    noisy = make_noisy(batch.video, batch.structure, KEYS, settings.seed, settings.regime, settings.diffusion.schedule)
    wanted = {
        "video": noisy.video,
        "structure": noisy.structure,
        "audio": batch.audio,
        "reference": batch.reference,
        "features": batch.features,
    }
    for name, stream in wanted.items():
        assert torch.equal(given[name], stream), name
