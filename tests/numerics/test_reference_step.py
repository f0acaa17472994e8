"""Step 0 is the reference: in the forward, in masks and places, in levels and losses, in the cache and the sampler."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.audio import AudioConfig
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.bridge import BridgeConfig
from dualforce_model.diffusion.noise import keyed_generator
from dualforce_model.diffusion.prediction import Reading, Spread
from dualforce_model.diffusion.regimes import REGIMES, draw_levels
from dualforce_model.diffusion.sampler import Conditions, Sampler, SamplerConfig
from dualforce_model.diffusion.schedule import NoiseSchedule
from dualforce_model.layers.cache import StepRing
from dualforce_model.layers.masks import StepMask
from dualforce_model.losses import flow_matching, predicted_steps
from dualforce_model.model import DualForce, ModelConfig
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig

CHANNELS, ENTRIES, FEATURES = 4, 5, 6


def make_model(scope: str = "step", window: int = 3) -> DualForce:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"heads": 2, "head_dim": 12, "layers": 2, "ffn_dim": 32, "freq_dim": 32}
    model = DualForce(
        ModelConfig(
            video=VideoTowerConfig(patch_px=(2, 2), latent_channels=CHANNELS, **sizes),
            structure=StructureTowerConfig(entries=ENTRIES, **sizes),
            bridge=BridgeConfig.model_validate({"strategy": "full", "condition_dim": 16, "scope": scope}),
            audio=AudioConfig(features=FEATURES, layers=2, slot_dim=8, context_dim=16),
            window_steps=window,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def arguments(model: DualForce, num_steps: int, start: int = 1) -> dict[str, torch.Tensor]:
    """A training window: the reference, then steps start, start + 1, ..."""
    fake = TalkingHeadBatch.fake(model.settings, 2, num_steps, height=4, width=4)
    sigma = torch.rand(2, num_steps, generator=torch.Generator().manual_seed(1))
    sigma[:, 0] = 0
    return {
        "video": fake.video,
        "structure": fake.structure,
        "audio": fake.audio,
        "reference": fake.reference,
        "sigma_video": sigma,
        "sigma_structure": sigma,
        "positions": torch.tensor([[0, *range(start, start + num_steps - 1)]]).expand(2, -1),
    }


class Told:
    """What goes into the patch embeddings of both towers."""

    def __init__(self, model: DualForce) -> None:
        self.video: list[torch.Tensor] = []
        self.structure: list[torch.Tensor] = []
        model.video.patch_embedding.register_forward_hook(lambda module, args, out: self.video.append(args[0]))
        model.structure.patch_embedding.register_forward_hook(  # type: ignore[union-attr]  # there is one
            lambda module, args, out: self.structure.append(args[0])
        )


# --------------------------------------------------------------------------------------------------- in the forward


@pytest.mark.parametrize("start", [1, 7])
def test_channels_say_which_step_is_the_reference_and_show_it_to_all(start: int) -> None:
    """Channels: noisy latent, mask (1 at step 0, 0 later), reference latent at every step; structure likewise."""
    model = make_model()
    told, inputs = Told(model), arguments(model, 4, start)
    model(**inputs)
    noisy, mask, reference = told.video[0].transpose(1, 2).split([CHANNELS, 4, CHANNELS], dim=2)
    assert torch.equal(noisy, inputs["video"])
    assert mask[:, 0].eq(1).all()
    assert mask[:, 1:].eq(0).all()
    assert all(torch.equal(reference[:, step], inputs["reference"]) for step in range(4))
    noisy, reference = told.structure[0][..., 0].permute(0, 2, 3, 1).split([ENTRIES, ENTRIES], dim=3)
    assert torch.equal(noisy, inputs["structure"])
    assert torch.equal(reference, inputs["structure"][:, :1, -1:].expand_as(reference))


def test_a_stream_tells_its_steps_the_same_as_one_pass() -> None:
    """No later chunk takes its own first step for the reference."""
    model = make_model()
    told, inputs = Told(model), arguments(model, 5)
    model(**inputs)
    cache = model.new_cache(2)
    for step in range(5):
        part = {name: value if name == "reference" else value[:, step : step + 1] for name, value in inputs.items()}
        model(**part, cache=cache, commit=True)
    assert torch.equal(torch.cat(told.video[1:], 2), told.video[0])
    assert torch.equal(torch.cat(told.structure[1:], 2), told.structure[0])


# ------------------------------------------------------------------------------------------------ in masks and places


@given(num_steps=st.integers(1, 20), window=st.integers(1, 8))
def test_every_step_sees_the_reference_and_the_reference_sees_itself_alone(num_steps: int, window: int) -> None:
    visible = StepMask.causal(num_steps, window).visible
    assert visible[:, 0].all()
    assert visible[0].tolist() == [True, *[False] * (num_steps - 1)]


@given(num_steps=st.integers(1, 20), window=st.integers(1, 8))
def test_the_reference_is_never_further_than_the_window(num_steps: int, window: int) -> None:
    places = StepMask.causal(num_steps, window).places
    queries = places.clamped if places.clamped is not None else places.queries
    assert [query - places.keys[0] for query in queries] == [min(step, window) for step in range(num_steps)]


# ------------------------------------------------------------------------------------------------ in levels and losses


@pytest.mark.parametrize("regime", REGIMES)
@given(seed=st.integers(0, 1000), num_steps=st.integers(2, 12))
def test_every_regime_leaves_the_reference_clean_and_unpredicted(regime: str, seed: int, num_steps: int) -> None:
    levels = draw_levels(regime, keyed_generator(seed), num_steps, NoiseSchedule())
    for sigma in (levels.video, levels.structure):
        assert sigma[0] == 0
        weight = predicted_steps(sigma[None], power=0.0)
        assert weight[0, 0] == 0
        assert weight.sum() > 0


def test_the_output_at_the_reference_costs_nothing_and_gets_no_gradient() -> None:
    """Whatever it is, NaN included."""
    draw = torch.Generator().manual_seed(0)
    velocity, x0, noise = torch.randn(3, 2, 4, 6, generator=draw)
    velocity[:, 0] = torch.nan
    velocity.requires_grad_()
    sigma = torch.tensor([[0.0, 0.3, 0.6, 1.0]]).expand(2, -1)
    loss = flow_matching(velocity, x0, noise, sigma, predicted_steps(sigma)).loss()
    loss.backward()
    assert loss.isfinite()
    assert velocity.grad[:, 0].eq(0).all()
    assert velocity.grad[:, 1:].ne(0).all()


# ---------------------------------------------------------------------------------------------------- in the cache


@given(window=st.integers(1, 9), length=st.integers(1, 200))
def test_the_reference_is_never_evicted(window: int, length: int) -> None:
    ring = StepRing(window)
    assert ring.steps(length)[0] == 0
    assert ring.slot(0) == 0
    assert all(ring.slot(step) > 0 for step in ring.steps(length)[1:])


@pytest.mark.parametrize("scope", ["step", "causal"])
def test_the_cache_holds_the_references_keys_untouched_for_the_whole_stream(scope: str) -> None:
    model = make_model(scope, window=2)
    inputs, cache = arguments(model, 8), model.new_cache(2)
    first: dict[Any, torch.Tensor] = {}
    for step in range(8):
        part = {name: value if name == "reference" else value[:, step : step + 1] for name, value in inputs.items()}
        model(**part, cache=cache, commit=True)
        now = {place: memory.keys[:, 0].clone() for place, memory in cache._memories.items()}
        first = first or now
        assert all(torch.equal(now[place], keys) for place, keys in first.items())
    assert len(first) == 4 + (4 if scope == "causal" else 0)  # two layers of two towers, and of two ways
    assert torch.equal(cache.structure, inputs["structure"][:, 0, -1])


def test_a_stream_that_begins_with_another_reference_is_another_stream() -> None:
    model = make_model(window=2)
    inputs = arguments(model, 8)
    other = {**inputs, "video": inputs["video"].clone()}
    other["video"][:, 0] += 1
    before, after = model(**inputs), model(**other)
    assert all(not torch.equal(before.video[:, step], after.video[:, step]) for step in range(8))


# ---------------------------------------------------------------------------------------------------- in the sampler


def test_a_sampled_clip_begins_with_the_given_picture_itself() -> None:
    model = make_model()
    fake = TalkingHeadBatch.fake(model.settings, 1, 4, height=4, width=4)
    conditions = Conditions(fake.reference, fake.structure[:, 0], fake.audio, fake.audio_mask)
    reading = Reading.of("velocity", Spread(video=(1.0,) * CHANNELS, structure=(1.0,) * ENTRIES))
    first = next(iter(Sampler(model, NoiseSchedule(), SamplerConfig(), reading).stream(conditions, [0])))
    assert first.first_step == 0
    assert torch.equal(first.video[:, 0], fake.reference)
    assert torch.equal(first.structure[:, 0], fake.structure[:, 0])
