"""The clock: one table, checked against its own definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model import clock

steps = st.integers(1, 200)


@given(steps)
def test_steps_and_frames_are_inverse(count: int) -> None:
    assert clock.num_steps(clock.num_frames(count)) == count


@given(st.integers(1, 2000))
def test_frames_that_are_not_4k_plus_1_are_refused_with_the_nearest(frames: int) -> None:
    if frames % 4 == 1:
        assert clock.num_steps(frames) == frames // 4 + 1
        return
    with pytest.raises(ValueError, match=f"{clock.floor_frames(frames)}.*{clock.ceil_frames(frames)}"):
        clock.num_steps(frames)


@given(st.integers(1, 5000))
def test_rounding_stays_within_three_frames_and_on_the_grid(frames: int) -> None:
    below, above = clock.floor_frames(frames), clock.ceil_frames(frames)
    assert below <= frames <= above
    assert above - below in (0, 4)
    assert below % 4 == above % 4 == 1


@given(steps)
def test_every_frame_belongs_to_exactly_one_step(count: int) -> None:
    frames = [frame for step in range(count) for frame in clock.frames_of_step(step)]
    assert frames == list(range(clock.num_frames(count)))


@given(steps)
def test_audio_tokens_and_structure_stand_in_the_step_of_their_frame(count: int) -> None:
    frames = np.arange(clock.num_frames(count))
    slots = clock.fold_audio(np.repeat(frames, 2) + 1) - 1  # empty slots become -1
    entries = clock.fold_structure(frames)
    for step in range(count):
        own = list(clock.frames_of_step(step))
        assert [frame for frame in slots[step].tolist() if frame >= 0] == [frame for frame in own for _ in range(2)]
        assert entries[step].tolist() == (own if step else [0, 0, 0, 0])


@given(steps, st.sampled_from(["numpy", "torch"]))
def test_folding_loses_nothing(count: int, kind: str) -> None:
    frames = clock.num_frames(count)
    motion = np.arange(frames * 3, dtype=np.float32).reshape(frames, 3)
    sound = np.arange(frames * 2 * 5, dtype=np.float32).reshape(frames * 2, 5) + 1
    as_kind = torch.from_numpy if kind == "torch" else np.asarray
    folded, slots = clock.fold_structure(as_kind(motion)), clock.fold_audio(as_kind(sound))
    assert tuple(folded.shape) == (count, 4, 3)
    assert tuple(slots.shape) == (count, 8, 5)
    np.testing.assert_array_equal(np.asarray(folded).reshape(-1, 3)[3:], motion)
    np.testing.assert_array_equal(np.asarray(slots).reshape(-1, 5)[6:], sound)
    np.testing.assert_array_equal(np.asarray(folded[0]), np.repeat(motion[:1], 4, axis=0))
    assert not np.asarray(slots[0, :6]).any()


@given(steps)
def test_valid_slots_are_those_that_hold_a_token(count: int) -> None:
    ones = torch.ones(clock.num_audio_tokens(clock.num_frames(count)), 1)
    torch.testing.assert_close(clock.fold_audio(ones)[..., 0].bool(), clock.audio_valid(count))


@given(st.integers(0, 300))
def test_video_sits_at_the_centre_of_its_frames(step: int) -> None:
    frames = clock.frames_of_step(step)
    assert clock.video_time(step) == sum(frames) / len(frames)
    assert clock.structure_times(step)[-1] == frames[-1]


def test_odd_numbers_of_tokens_and_empty_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="two per frame"):
        clock.fold_audio(np.zeros((3, 1)))
    for call in (clock.num_steps, clock.num_frames, clock.floor_frames):
        with pytest.raises(ValueError):
            call(0)
    with pytest.raises(ValueError):
        clock.frames_of_step(-1)


def test_a_second_of_frames_is_a_second_of_sound() -> None:
    assert clock.num_samples(clock.FPS) == clock.SAMPLE_RATE_HZ
