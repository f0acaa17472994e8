"""Nothing of step b, in any modality, reaches an output before b: bit for bit, and in the gradient."""

import pytest
import torch

from dualforce_model.audio import AudioConfig
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.bridge import BridgeConfig
from dualforce_model.model import DualForce, ModelConfig
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig

STEPS = 6


def make_model(strategy: str = "full", look_ahead: int = 0, window: int = 9) -> DualForce:
    torch.manual_seed(0)
    bridge = {"strategy": strategy, "condition_dim": 16, "layers": (0, 2) if strategy == "custom" else ()}
    model = DualForce(
        ModelConfig(
            video=VideoTowerConfig(
                latent_channels=4, heads=2, head_dim=12, layers=3, ffn_dim=32, freq_dim=32, patch_px=(2, 2)
            ),
            structure=StructureTowerConfig(entries=5, heads=2, head_dim=12, layers=3, ffn_dim=32, freq_dim=32),
            bridge=BridgeConfig.model_validate(bridge),
            audio=AudioConfig(features=6, look_ahead_steps=look_ahead, slot_dim=8, context_dim=16),
            window_steps=window,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_inputs(model: DualForce) -> dict[str, torch.Tensor]:
    fake = TalkingHeadBatch.fake(model.settings, 2, STEPS, height=4, width=4)
    sigma = torch.rand(2, STEPS, generator=torch.Generator().manual_seed(1))
    return {
        "video": fake.video,
        "structure": fake.structure,
        "audio": fake.audio,
        "reference": fake.reference,
        "sigma_video": sigma,
        "sigma_structure": sigma.flip(1),
        "positions": fake.positions,
    }


@pytest.mark.parametrize("strategy", ["shallow_focus", "distributed", "progressive", "custom", "full"])
@pytest.mark.parametrize(("look_ahead", "window"), [(0, 9), (1, 9), (0, 2)])
def test_a_changed_step_leaves_all_outputs_before_it_bit_equal(strategy: str, look_ahead: int, window: int) -> None:
    model = make_model(strategy, look_ahead, window)
    inputs = make_inputs(model)
    with torch.no_grad():
        before = model(**inputs)
        for step in range(1, STEPS):
            heard = min(step + look_ahead, STEPS)  # sound reaches this many steps back
            changed = {
                name: value.clone() for name, value in inputs.items() if name not in ("reference", "positions", "audio")
            }
            for value in changed.values():
                value[:, step] += 0.5
            audio = inputs["audio"].clone()
            audio[:, heard:] += 1.0
            after = model(**{**inputs, **changed, "audio": audio})
            assert torch.equal(before.video[:, :step], after.video[:, :step])
            assert torch.equal(before.structure[:, :step], after.structure[:, :step])
            assert not torch.equal(before.video[:, step], after.video[:, step])
            assert not torch.equal(before.structure[:, step], after.structure[:, step])


@pytest.mark.parametrize("look_ahead", [0, 1])
def test_gradients_of_an_output_by_later_inputs_are_exactly_zero(look_ahead: int) -> None:
    model = make_model(look_ahead=look_ahead)
    inputs = make_inputs(model)
    names = ["video", "structure", "audio", "sigma_video", "sigma_structure"]
    for name in names:
        inputs[name].requires_grad_()
    out = model(**inputs)
    for step in range(STEPS - 1):
        loss = out.video[:, step].square().sum() + out.structure[:, step].square().sum()
        for name, grad in zip(
            names, torch.autograd.grad(loss, [inputs[n] for n in names], retain_graph=True), strict=True
        ):
            reach = step + 1 + (look_ahead if name == "audio" else 0)
            assert not grad[:, reach:].any(), f"{name} of a later step moves step {step}"
            assert grad[:, step].any(), f"{name} of step {step} does not move its own output"
