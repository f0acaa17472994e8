"""Nothing of step b, in any modality, reaches an output before b: bit for bit, and in the gradient.

For every strategy, scope and direction of the bridge, every reach of the sound, every number of structure tokens, and
both kernels; with a prompt and reference features, which belong to the whole clip.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch._functorch.config
from diffusers.models.attention_dispatch import AttentionBackendName

from dualforce_model.audio import AudioConfig
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.bridge import BridgeConfig
from dualforce_model.execution import Execution, choose_kernel
from dualforce_model.model import DualForce, ModelConfig
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig

STEPS, LAYERS = 6, 4
STRATEGIES = ["shallow_focus", "distributed", "progressive", "custom", "full"]
SCOPES = ["step", "causal"]
DIRECTIONS = ["both", "video_to_structure", "structure_to_video"]
NOISY = ["video", "structure", "sigma_video", "sigma_structure"]
Inputs = dict[str, torch.Tensor]


def make_model(
    look_ahead: int = 0,
    window: int = 9,
    tokens_per_step: int = 4,
    *,
    past: int = 1,
    layers: int = LAYERS,
    head_dim: int = 12,
    **bridge: Any,
) -> DualForce:
    """Small model with every gate open."""
    torch.manual_seed(0)
    bridge["layers"] = (0, 2) if bridge.get("strategy") == "custom" else ()
    sizes: dict[str, Any] = {
        "heads": 2,
        "layers": layers,
        "ffn_dim": 32,
        "freq_dim": 32,
        "text_dim": 3,
        "head_dim": head_dim,
    }
    sound = {"features": 6, "layers": 2, "slot_dim": 8, "context_dim": 16}
    model = DualForce(
        ModelConfig(
            video=VideoTowerConfig(latent_channels=4, feature_dim=7, patch_px=(2, 2), **sizes),
            structure=StructureTowerConfig.model_validate({"entries": 5, "tokens_per_step": tokens_per_step, **sizes}),
            bridge=BridgeConfig.model_validate({"condition_dim": 16, **bridge}),
            audio=AudioConfig.model_validate({"look_ahead_steps": look_ahead, "past_steps": past, **sound}),
            window_steps=window,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def make_inputs(model: DualForce) -> Inputs:
    fake = TalkingHeadBatch.fake(model.settings, 1, STEPS, height=4, width=4)
    draw = torch.Generator().manual_seed(1)
    sigma = torch.rand(1, STEPS, generator=draw)
    return {
        "video": fake.video,
        "structure": fake.structure,
        "audio": fake.audio,
        "reference": fake.reference,
        "sigma_video": sigma,
        "sigma_structure": sigma.flip(1),
        "positions": fake.positions,
        "text": torch.randn(1, 2, 3, generator=draw),
        "features": torch.randn(1, 3, 7, generator=draw),
        "features_mask": torch.tensor([[True, True, False]]),
    }


def changed_from(inputs: Inputs, step: int, look_ahead: int) -> Inputs:
    """All inputs of a step changed, and the sound that only it and later steps may hear."""
    draw = torch.Generator().manual_seed(step)
    changed = {name: inputs[name].clone() for name in (*NOISY, "audio")}
    for name in NOISY:
        changed[name][:, step] += 0.5 * torch.rand(changed[name][:, step].shape, generator=draw).to(changed[name])
    heard = min(step + look_ahead, STEPS)  # sound reaches this many steps back
    sound = changed["audio"][:, heard:]
    sound += torch.randn(sound.shape, generator=draw).to(sound)
    return {**inputs, **changed}


def assert_bit_equal_before_every_change(model: DualForce, inputs: Inputs, look_ahead: int) -> None:
    with torch.no_grad():
        before = model(**inputs)
        for step in range(1, STEPS):
            after = model(**changed_from(inputs, step, look_ahead))
            for old, new in zip(before, after, strict=True):
                assert torch.equal(old[:, :step], new[:, :step]), f"step {step} reaches back"
                assert not torch.equal(old[:, step], new[:, step])


def gradients(model: DualForce, inputs: Inputs) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """For every step but the last: gradients of both its outputs by all inputs in time."""
    names = [*NOISY, "audio"]
    given = {**inputs, **{name: inputs[name].clone().requires_grad_() for name in names}}
    out = model(**given)
    for step in range(STEPS - 1):
        loss = out.video[:, step].square().sum() + out.structure[:, step].square().sum()
        grads = torch.autograd.grad(loss, [given[name] for name in names], retain_graph=True)
        yield step, dict(zip(names, grads, strict=True))


def assert_gradients_end_at_the_present(model: DualForce, inputs: Inputs, look_ahead: int) -> None:
    for step, grads in gradients(model, inputs):
        for name, grad in grads.items():
            reach = step + 1 + (look_ahead if name == "audio" else 0)
            assert not grad[:, reach:].any(), f"{name} of a later step moves step {step}"
            assert grad[:, step].any(), f"{name} of step {step} does not move its own output"


@pytest.mark.parametrize(("look_ahead", "window"), [(0, 9), (1, 2), (2, 9)])
@pytest.mark.parametrize(("strategy", "scope", "direction"), list(product(STRATEGIES, SCOPES, DIRECTIONS)))
def test_no_output_knows_later_inputs(strategy: str, scope: str, direction: str, look_ahead: int, window: int) -> None:
    model = make_model(look_ahead, window, strategy=strategy, scope=scope, direction=direction)
    inputs = make_inputs(model)
    assert_bit_equal_before_every_change(model, inputs, look_ahead)
    assert_gradients_end_at_the_present(model, inputs, look_ahead)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("strategy", "depth", "bridged"), [("progressive", None, (*range(8), 8)), ("shallow_focus", None, (0, 1, 2))]
)
def test_no_output_of_ten_layers_knows_later_inputs(
    strategy: str, depth: int | None, bridged: tuple[int, ...], scope: str
) -> None:
    """With four layers progressive is full, and upstream's formula for shallow_focus leaves a single layer."""
    model = make_model(layers=10, strategy=strategy, depth=depth, scope=scope)
    assert model.settings.bridge.bridged(10) == bridged
    inputs = make_inputs(model)
    assert_bit_equal_before_every_change(model, inputs, 0)
    assert_gradients_end_at_the_present(model, inputs, 0)


@pytest.mark.parametrize("look_ahead", [0, 1])
@pytest.mark.parametrize("past", [0, 2])
def test_no_reach_of_past_sound_knows_later_inputs(past: int, look_ahead: int) -> None:
    model = make_model(look_ahead, past=past, strategy="full")
    assert model.listening is not None
    assert model.listening.encoder.window_steps == past + 1 + look_ahead
    inputs = make_inputs(model)
    assert_bit_equal_before_every_change(model, inputs, look_ahead)
    assert_gradients_end_at_the_present(model, inputs, look_ahead)


@pytest.mark.parametrize(("look_ahead", "past"), [(0, 1), (1, 0), (1, 2), (2, 1)])
def test_no_output_knows_which_later_sound_is_missing(look_ahead: int, past: int) -> None:
    model = make_model(look_ahead, past=past, strategy="full")
    inputs = make_inputs(model)
    valid = torch.rand(inputs["audio"].shape[:3], generator=torch.Generator().manual_seed(2)) < 0.7
    with torch.no_grad():
        before = model(**inputs, audio_mask=valid)
        for step in range(1, STEPS - look_ahead):
            flipped = valid.clone()
            flipped[:, step + look_ahead :] ^= True
            after = model(**inputs, audio_mask=flipped)
            for old, new in zip(before, after, strict=True):
                assert torch.equal(old[:, :step], new[:, :step]), f"what is missing at step {step} reaches back"
                assert not torch.equal(old[:, step], new[:, step])


@pytest.mark.filterwarnings("ignore:flex_attention called without")  # the unfused form is what a CPU has
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("look_ahead", "window"), [(0, 9), (1, 2)])
def test_no_output_under_flex_knows_later_inputs(look_ahead: int, window: int, scope: str) -> None:
    """No gradients: on the CPU FlexAttention has no backward."""
    model = make_model(look_ahead, window, strategy="full", scope=scope)
    choose_kernel(model, AttentionBackendName.FLEX)
    assert_bit_equal_before_every_change(model, make_inputs(model), look_ahead)


@pytest.mark.gpu
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("look_ahead", "window"), [(0, 9), (1, 2)])
def test_no_output_on_cuda_knows_later_inputs(look_ahead: int, window: int, scope: str) -> None:
    """As it is trained there: FlexAttention, compiled."""
    device = torch.device("cuda")
    torch._dynamo.reset()
    model = make_model(look_ahead, window, head_dim=16, strategy="full", scope=scope).to(device)
    assert Execution().prepare(model, device).attention == "flex"
    inputs = {name: value.to(device) for name, value in make_inputs(model).items()}
    assert_bit_equal_before_every_change(model, inputs, look_ahead)
    with torch._functorch.config.patch(donated_buffer=False):  # one graph is walked once for every step
        assert_gradients_end_at_the_present(model, inputs, look_ahead)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("tokens_per_step", [1, 2, 8, 16])
def test_no_number_of_structure_tokens_knows_later_inputs(tokens_per_step: int, scope: str) -> None:
    model = make_model(tokens_per_step=tokens_per_step, strategy="full", scope=scope)
    inputs = make_inputs(model)
    assert_bit_equal_before_every_change(model, inputs, 0)
    assert_gradients_end_at_the_present(model, inputs, 0)


def test_declared_look_ahead_is_really_heard() -> None:
    """Guards the tests above against a model that hears nothing: the declared step is heard, the next is not."""
    model = make_model(look_ahead=1, strategy="full")
    for step, grads in gradients(model, make_inputs(model)):
        assert grads["audio"][:, step + 1].any()
        assert not grads["audio"][:, step + 2 :].any()


def test_what_belongs_to_the_whole_clip_reaches_all_of_it() -> None:
    model = make_model(strategy="full")
    inputs = make_inputs(model)
    for name in ("text", "features"):
        with torch.no_grad():
            before, after = model(**inputs).video, model(**{**inputs, name: -inputs[name]}).video
        assert all(not torch.equal(before[:, step], after[:, step]) for step in range(STEPS))


@pytest.mark.parametrize("missing", ["structure", "audio"])
def test_models_without_a_stream_know_no_later_inputs(missing: str) -> None:
    full = make_model(strategy="full")
    torch.manual_seed(0)
    model = DualForce(full.settings.model_copy(update={missing: None}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = make_inputs(full)
    left_out = ["structure", "sigma_structure"] if missing == "structure" else ["audio"]
    without = dict.fromkeys(left_out)
    with torch.no_grad():
        before = model(**{**inputs, **without})
        for step in range(1, STEPS):
            after = model(**{**changed_from(inputs, step, 0), **without})
            assert torch.equal(before.video[:, :step], after.video[:, :step])
            assert not torch.equal(before.video[:, step], after.video[:, step])
