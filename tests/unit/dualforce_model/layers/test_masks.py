"""One mask, three forms, and the places that go with it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention

from dualforce_model.layers.masks import StepMask, band

CPU = torch.device("cpu")


@given(num_steps=st.integers(1, 12), window=st.integers(1, 12))
def test_a_step_sees_the_sink_itself_and_the_window_before_it(num_steps: int, window: int) -> None:
    visible = StepMask.causal(num_steps, window).visible
    for query in range(num_steps):
        expected = {0, *range(max(query - window + 1, 0), query + 1)}
        assert set(visible[query].nonzero().flatten().tolist()) == expected


@given(num_steps=st.integers(1, 14), window=st.integers(1, 6))
def test_places_give_true_distances_and_clamp_the_sink(num_steps: int, window: int) -> None:
    mask = StepMask.causal(num_steps, window)
    places = mask.places
    to_sink = places.clamped if places.clamped is not None else places.queries
    for row, query in enumerate(mask.queries):
        assert to_sink[row] - places.keys[0] == min(query, window)
        for column, key in enumerate(mask.keys):
            if key and mask.sees(query, key):
                assert places.queries[row] - places.keys[column] == query - key


@given(length=st.integers(1, 1000), window=st.integers(1, 8), num_new=st.integers(1, 5))
def test_places_of_a_stream_stay_small_however_long_it_is(length: int, window: int, num_new: int) -> None:
    cached = (0, *range(max(1, length - window + 1), length))
    places = band(cached, num_new, length, window).places
    assert max(places.queries) <= window + num_new
    assert min(places.keys) >= 0


def test_one_new_step_needs_no_mask() -> None:
    assert band((0, 5, 6), 1, 7, window=3).dense(4, 2, CPU) is None
    assert band((0, 5, 6), 2, 7, window=3).dense(4, 2, CPU) is not None


@pytest.mark.filterwarnings("ignore:flex_attention called without")  # the unfused form is what a CPU has
@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize(("num_steps", "window"), [(5, 9), (6, 2), (1, 1)])
def test_dense_and_flex_forms_agree_and_equal_the_unmasked_parts(num_steps: int, window: int, sinks: int) -> None:
    torch.manual_seed(0)
    tokens = 3
    mask = StepMask.causal(num_steps, window)
    query = torch.randn(1, 2, num_steps * tokens, 16)
    key, value = torch.randn(2, 1, 2, num_steps * tokens + sinks, 16)
    dense = mask.dense(tokens, sinks, CPU)
    by_dense = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=dense)
    by_flex = flex_attention(query, key, value, block_mask=mask.flex(tokens, sinks, CPU))
    torch.testing.assert_close(by_flex, by_dense, atol=1e-6, rtol=1e-5)
    for step in mask.queries:  # a cached step sees exactly its keys, without a mask
        kept = [
            *range(sinks),
            *(sinks + t + tokens * k for k in mask.keys if mask.sees(step, k) for t in range(tokens)),
        ]
        rows = slice(step * tokens, (step + 1) * tokens)
        alone = torch.nn.functional.scaled_dot_product_attention(query[:, :, rows], key[:, :, kept], value[:, :, kept])
        torch.testing.assert_close(alone, by_dense[:, :, rows], atol=1e-6, rtol=1e-5)


def test_impossible_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        StepMask.causal(3, 0)
    with pytest.raises(ValueError, match="sink"):
        StepMask((4,), (3, 4), 2)
