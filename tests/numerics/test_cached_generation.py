"""Generation with a cache is one uncached pass with the band mask, whatever the lengths, windows and chunks."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualforce_model.audio import AudioConfig
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.bridge import BridgeConfig
from dualforce_model.layers.masks import StepMask
from dualforce_model.model import DualForce, ModelConfig, Velocities
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig


def make_model(
    window: int,
    past: int = 1,
    look_ahead: int = 0,
    scope: str = "step",
    sinks: int = 2,
    tokens: int = 4,
    feature_dim: int = 0,
    **settings_: object,
) -> DualForce:
    """Small model with every gate open: at its start a model is deaf and its towers do not talk."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"ffn_dim": 32, "freq_dim": 32}
    structure = {"entries": 5, "heads": 1, "head_dim": 16, "layers": 2, "sink_tokens": sinks, "tokens_per_step": tokens}
    config = ModelConfig(
        video=VideoTowerConfig(
            latent_channels=4, heads=2, head_dim=12, layers=3, patch_px=(2, 2), feature_dim=feature_dim, **sizes
        ),
        structure=StructureTowerConfig.model_validate({**structure, **sizes}),
        bridge=BridgeConfig.model_validate({"strategy": "full", "condition_dim": 16, "scope": scope}),
        audio=AudioConfig(
            features=6, layers=2, past_steps=past, look_ahead_steps=look_ahead, slot_dim=8, context_dim=16
        ),
        window_steps=window,
    )
    model = DualForce(config.model_copy(update=settings_)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_inputs(model: DualForce, num_steps: int, batch: int = 2) -> dict[str, torch.Tensor]:
    """Arguments of one uncached pass; the reference at noise level 0, the rest anywhere."""
    fake = TalkingHeadBatch.fake(model.settings, batch, num_steps, height=4, width=6, seed=num_steps)
    sigma = torch.rand(2, batch, num_steps, generator=torch.Generator().manual_seed(1))
    sigma[:, :, 0] = 0
    return {
        "video": fake.video,
        "structure": fake.structure,
        "audio": fake.audio,
        "reference": fake.reference,
        "sigma_video": sigma[0],
        "sigma_structure": sigma[1],
        "positions": fake.positions,
        "audio_mask": fake.audio_mask,
    }


def part(inputs: dict[str, torch.Tensor], first: int, stop: int, ahead: int = 0) -> dict[str, torch.Tensor]:
    """Steps first .. stop - 1 of the arguments, with the sound that these steps may hear ahead."""
    ends = {"audio": stop + ahead, "audio_mask": stop + ahead}
    whole = ("reference", "features", "features_mask")
    return {name: value if name in whole else value[:, first : ends.get(name, stop)] for name, value in inputs.items()}


def generate(model: DualForce, inputs: dict[str, torch.Tensor], chunks: list[int], window: int) -> Velocities:
    """Committed chunk after chunk; every chunk is also run once without commit, which must leave no trace."""
    ahead = model.settings.audio.look_ahead_steps if model.settings.audio is not None else 0
    cache = model.new_cache(inputs["video"].shape[0], window)
    outs: list[Velocities] = []
    first = 0
    for chunk in chunks:
        given_steps = part(inputs, first, first + chunk, ahead)
        model(**{**given_steps, "video": given_steps["video"] + 1}, cache=cache)
        outs.append(model(**given_steps, cache=cache, commit=True))
        first += chunk
    return Velocities(torch.cat([out.video for out in outs], 1), torch.cat([out.structure for out in outs], 1))


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A window, and chunks that go well beyond it: at least two windows and some."""
    window = draw(st.integers(1, 5))
    chunks = draw(st.lists(st.integers(1, 7), min_size=2, max_size=6))
    while sum(chunks) < 2 * window + 3:
        chunks.append(draw(st.integers(1, 4)))
    return window, chunks


@pytest.mark.parametrize("scope", ["step", "causal"])
@settings(max_examples=20, deadline=None)
@given(
    stream=streams(),
    past=st.integers(0, 2),
    look_ahead=st.integers(0, 2),
    sinks=st.integers(0, 3),
    tokens=st.sampled_from([1, 2, 4, 8]),
)
def test_cached_generation_is_one_uncached_pass(
    scope: str, stream: tuple[int, list[int]], past: int, look_ahead: int, sinks: int, tokens: int
) -> None:
    window, chunks = stream
    model = make_model(window, past, look_ahead, scope, sinks, tokens)
    inputs = make_inputs(model, sum(chunks))
    whole = model(**inputs)
    streamed = generate(model, inputs, chunks, window)
    torch.testing.assert_close(streamed.video, whole.video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(streamed.structure, whole.structure, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scope", ["step", "causal"])
def test_a_stream_far_beyond_the_window_equals_the_uncached_pass(scope: str) -> None:
    model = make_model(window=4, scope=scope)
    inputs = make_inputs(model, 40, batch=1)
    whole, streamed = model(**inputs), generate(model, inputs, [1] * 40, window=4)
    torch.testing.assert_close(streamed.video, whole.video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(streamed.structure, whole.structure, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scope", ["step", "causal"])
def test_as_many_streams_as_query_tokens_are_no_special_case(scope: str) -> None:
    """diffusers takes a mask of (queries, keys) for one of (streams, keys) where the numbers agree."""
    model = make_model(window=1, scope=scope, tokens=1)
    inputs = make_inputs(model, 5, batch=2)
    whole, streamed = model(**inputs), generate(model, inputs, [1, 1, 1, 2], window=1)
    torch.testing.assert_close(streamed.structure, whole.structure, atol=1e-5, rtol=1e-5)
    alone = model(**{name: value[:1] for name, value in inputs.items()})
    torch.testing.assert_close(whole.structure[:1], alone.structure, atol=1e-5, rtol=1e-5)


def test_reference_features_are_seen_by_cached_steps_too() -> None:
    model = make_model(window=2, feature_dim=7)
    inputs = make_inputs(model, 7)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    known = {**inputs, "features": torch.randn(2, 3, 7), "features_mask": mask}
    whole, streamed, without = model(**known), generate(model, known, [1, 2, 3, 1], window=2), model(**inputs)
    torch.testing.assert_close(streamed.video, whole.video, atol=1e-5, rtol=1e-5)
    assert all(not torch.equal(whole.video[0, step], without.video[0, step]) for step in range(7))
    assert torch.equal(whole.video[1], without.video[1])  # this stream's are all masked out


def test_the_clamp_of_the_sink_matters_only_beyond_the_window() -> None:
    """Guards the tests above against a mask that lets everything pass: other windows give other outputs, late."""
    model = make_model(window=4)
    inputs = make_inputs(model, 9)
    narrow = model(**inputs).video
    wide = model(**inputs, mask=StepMask.causal(9, 8)).video
    torch.testing.assert_close(narrow[:, :4], wide[:, :4], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(narrow[:, 5:], wide[:, 5:], atol=1e-4)


@pytest.mark.parametrize("scope", ["step", "causal"])
def test_memory_is_constant_once_the_window_is_full(scope: str) -> None:
    model = make_model(window=3, scope=scope)
    inputs = make_inputs(model, 12)
    cache = model.new_cache(2)
    sizes = []
    for step in range(12):
        model(**part(inputs, step, step + 1), cache=cache, commit=True)
        sizes.append(cache.num_bytes())
    assert cache.length == 12
    assert sizes[0] > 0
    assert len(set(sizes[1:])) == 1


def test_memory_is_constant_once_the_sound_of_the_past_is_full_too() -> None:
    model = make_model(window=2, past=3)
    inputs = make_inputs(model, 8)
    cache, sizes = model.new_cache(2), []
    for step in range(8):
        model(**part(inputs, step, step + 1), cache=cache, commit=True)
        sizes.append(cache.num_bytes())
    assert len(set(sizes[:3])) == 3
    assert len(set(sizes[2:])) == 1


def test_what_is_remembered_of_the_reference_counts_as_memory() -> None:
    model = make_model(window=2)
    cache = model.new_cache(2)
    model(**part(make_inputs(model, 1), 0, 1), cache=cache, commit=True)
    held = cache.num_bytes()
    assert cache.structure is not None
    size, cache.structure = cache.structure.nbytes, None
    assert held - cache.num_bytes() == size > 0


def test_a_training_window_is_placed_like_a_stream_that_starts_there() -> None:
    """Positions [0, j, ...] see the reference as [0, 1, ...] do; only the sound before them differs."""
    model = make_model(window=4, past=0)
    inputs = make_inputs(model, 5)
    shifted = {**inputs, "positions": torch.tensor([[0, 7, 8, 9, 10]]).expand(2, -1)}
    assert torch.equal(model(**inputs).video, model(**shifted).video)


def test_sound_before_a_training_window_is_not_the_reference() -> None:
    """Step j's past is step j - 1, which is not in the window; the reference, which stands before it, is not heard."""
    model = make_model(window=4, past=1)
    inputs = make_inputs(model, 3)
    later = {**inputs, "positions": torch.tensor([[0, 5, 6]]).expand(2, -1)}
    other = {**later, "audio": inputs["audio"].clone()}
    other["audio"][:, 0] += 1
    same, changed = model(**later), model(**other)
    assert not torch.equal(same.video[:, 0], changed.video[:, 0])
    heard = model.listening.encoder  # type: ignore[union-attr]  # the model has ears
    contexts = [heard(x["audio"], x["audio_mask"], x["positions"], 0, 3).frames[:, 1] for x in (later, other)]
    assert torch.equal(*contexts)


@pytest.mark.parametrize("missing", ["structure", "audio"])
def test_models_without_a_stream_generate_too(missing: str) -> None:
    model = make_model(window=2, **{missing: None})
    inputs = {**make_inputs(model, 5), missing: None}
    if missing == "structure":
        inputs["sigma_structure"] = None
    else:
        inputs["audio_mask"] = None
    whole = model(**inputs)
    cache = model.new_cache(2)
    outs = []
    for step in range(5):
        now = {
            name: value if name == "reference" or value is None else value[:, step : step + 1]
            for name, value in inputs.items()
        }
        outs.append(model(**now, cache=cache, commit=True).video)
    torch.testing.assert_close(torch.cat(outs, 1), whole.video, atol=1e-5, rtol=1e-5)
