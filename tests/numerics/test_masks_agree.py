"""The band mask's three forms (FlexAttention's, dense, none) are one mask, in a kernel and in the whole model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from dualforce_model.audio import AudioConfig
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.bridge import BridgeConfig
from dualforce_model.layers.attention import StepAttention
from dualforce_model.layers.masks import StepMask, band
from dualforce_model.model import DualForce, ModelConfig, Velocities
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")  # the unfused form is what a CPU has


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(0, 9),
    new=st.integers(1, 5),
    window=st.integers(1, 6),
    tokens=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    sinks=st.integers(0, 3),
)
def test_all_forms_are_one_mask(length: int, new: int, window: int, tokens: tuple[int, int], sinks: int) -> None:
    """Of streams and of whole sequences, with as many or other numbers of query and key tokens."""
    cached = (0, *range(max(1, length - window + 1), length)) if length else ()
    mask = band(cached, new, length, window)
    per_query, per_key = tokens
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(1, 2, new * per_query, 16, generator=draw)
    key, value = torch.randn(2, 1, 2, sinks + len(mask.keys) * per_key, 16, generator=draw)
    dense = mask.dense(per_query, sinks, CPU, per_key)
    by_dense = scaled_dot_product_attention(query, key, value, attn_mask=dense)
    by_flex = flex_attention(query, key, value, block_mask=mask.flex(per_query, sinks, CPU, per_key))
    torch.testing.assert_close(by_flex, by_dense, atol=1e-6, rtol=1e-5)
    for row, step in enumerate(mask.queries):  # one step needs no mask behind the keys it sees
        seen = [column for column, other in enumerate(mask.keys) if mask.sees(step, other)]
        kept = [*range(sinks), *(sinks + column * per_key + token for column in seen for token in range(per_key))]
        rows = slice(row * per_query, (row + 1) * per_query)
        alone = scaled_dot_product_attention(query[:, :, rows], key[:, :, kept], value[:, :, kept])
        torch.testing.assert_close(alone, by_dense[:, :, rows], atol=1e-6, rtol=1e-5)


def make_model(scope: str, window: int) -> DualForce:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"heads": 1, "head_dim": 16, "layers": 2, "ffn_dim": 32, "freq_dim": 32}
    model = DualForce(
        ModelConfig(
            video=VideoTowerConfig(patch_px=(2, 2), latent_channels=4, feature_dim=6, **sizes),
            structure=StructureTowerConfig(entries=5, **sizes),
            bridge=BridgeConfig.model_validate({"strategy": "full", "condition_dim": 16, "scope": scope}),
            audio=AudioConfig(features=6, layers=2, slot_dim=8, context_dim=16),
            window_steps=window,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def run(model: DualForce, num_steps: int, chunks: list[int]) -> Velocities:
    """All steps in one pass, or chunk by chunk with a cache."""
    fake = TalkingHeadBatch.fake(model.settings, 1, num_steps, height=4, width=4)
    sigma = torch.linspace(0, 1, num_steps)[None]
    timed = {
        "video": fake.video,
        "structure": fake.structure,
        "audio": fake.audio,
        "positions": fake.positions,
        "sigma_video": sigma,
        "sigma_structure": sigma.square(),
        "audio_mask": fake.audio_mask,
    }
    whole = {"reference": fake.reference, "features": torch.ones(1, 2, 6)}
    cache = model.new_cache(1) if chunks else None
    outs, first = [], 0
    for chunk in chunks or [num_steps]:
        part = {name: value[:, first : first + chunk] for name, value in timed.items()}
        outs.append(model(**part, **whole, cache=cache, commit=cache is not None))
        first += chunk
    return Velocities(*(torch.cat(parts, 1) for parts in zip(*outs, strict=True)))


@contextmanager
def masks_taken(model: DualForce) -> Iterator[list[type]]:
    """What kind of mask each attention over steps is given, in the order of the calls."""
    taken: list[type] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taken.extend(type(given.mask) for given in kwargs.values() if isinstance(given, StepAttention))

    attentions = [module for module in model.modules() if hasattr(module, "processor")]
    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in attentions]
    yield taken
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("scope", ["step", "causal"])
def test_the_whole_model_gives_the_same_under_every_form(scope: str) -> None:
    """Dense in one pass, FlexAttention in one pass, no mask (single cached steps), FlexAttention on cached chunks."""
    model = make_model(scope, window=2)
    dense, none = run(model, 5, []), run(model, 5, [1] * 5)
    with attention_backend("native"):  # diffusers also switches its default, for the whole process: put it back
        model.set_attention_backend("flex")
    with masks_taken(model) as taken:
        flex, cached = run(model, 5, []), run(model, 5, [2, 3])
    sites = 2 * 2 + (4 if scope == "causal" else 0)  # two towers of two layers; two layers of the bridge, both ways
    assert taken == [BlockMask] * 3 * sites  # one pass, then two chunks
    for other in (none, flex, cached):
        torch.testing.assert_close(other.video, dense.video, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other.structure, dense.structure, atol=1e-5, rtol=1e-5)


def test_the_dense_form_does_not_hide_behind_one_that_lets_all_pass() -> None:
    assert StepMask.causal(3, 9).dense(2, 0, CPU) is not None
    assert band((0, 5, 6), 1, 7, 3).dense(2, 0, CPU) is None
