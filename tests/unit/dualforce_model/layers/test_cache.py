"""The ring keeps the reference and the last steps, in a buffer that does not grow."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.layers.cache import LayerMemory, StepRing


@given(window=st.integers(1, 6), chunks=st.lists(st.integers(1, 7), min_size=1, max_size=8))
def test_memory_holds_the_reference_and_the_steps_that_the_next_one_sees(window: int, chunks: list[int]) -> None:
    ring = StepRing(window)
    memory = LayerMemory(ring)
    length = 0
    for chunk in chunks:
        numbered = (
            torch.arange(length, length + chunk, dtype=torch.float32).view(1, chunk, 1, 1, 1).expand(1, -1, 2, 1, 4)
        )
        memory.write(numbered, -numbered, length)
        length += chunk
        kept = ring.steps(length)
        assert set(kept) == {0, *range(max(1, length - window + 1), length)}
        keys, values = memory.read(len(kept))
        assert keys[0, ::2, 0, 0].tolist() == list(kept)
        assert torch.equal(values, -keys)
        assert memory.keys is not None
        assert memory.keys.shape[1] == window
