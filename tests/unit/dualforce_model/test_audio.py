"""What a step may hear, and that a frame knows its own sound."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualforce_model import clock
from dualforce_model.audio import AudioConfig, AudioContext, AudioEncoder, Listening
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig

STEPS = 5


def encoder(past: int = 1, look_ahead: int = 0) -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(
        AudioConfig(features=6, past_steps=past, look_ahead_steps=look_ahead, slot_dim=8, context_dim=16)
    ).requires_grad_(False)


def hear(ears: AudioEncoder, audio: torch.Tensor, valid: torch.Tensor | None = None) -> AudioContext:
    batch, steps = audio.shape[:2]
    valid = torch.ones(batch, steps, 8, dtype=torch.bool) if valid is None else valid
    return ears(audio, valid, torch.arange(steps).expand(batch, -1), 0, steps)


@settings(max_examples=25, deadline=None)
@given(past=st.integers(0, 2), look_ahead=st.integers(0, 2), token=st.integers(0, 8 * STEPS - 1))
def test_a_token_reaches_exactly_the_steps_whose_window_holds_it(past: int, look_ahead: int, token: int) -> None:
    ears = encoder(past, look_ahead)
    audio = torch.randn(1, STEPS, 8, 6, generator=torch.Generator().manual_seed(token))
    other = audio.clone()
    other.view(1, -1, 6)[:, token] += 1
    for before, after in zip(hear(ears, audio), hear(ears, other), strict=True):
        moved = (before != after).any(-1).any(-1)[0].tolist()
        assert moved == [step - past <= token // 8 <= step + look_ahead for step in range(STEPS)]


def test_equal_sound_around_two_frames_gives_equal_contexts() -> None:
    """The same weights read every frame: a sound one frame later is the same context one frame later."""
    ears = encoder(past=1)
    sound = torch.randn(1, STEPS * 8, 6)
    valid = torch.zeros(1, STEPS * 8, dtype=torch.bool)
    valid[:, 18:22] = True  # two frames of sound around frames 1 and 2 of step 2
    first = hear(ears, sound.view(1, STEPS, 8, 6), valid.view(1, STEPS, 8)).frames
    later_sound, later_valid = sound.roll(2, 1), valid.roll(2, 1)
    later = hear(ears, later_sound.view(1, STEPS, 8, 6), later_valid.view(1, STEPS, 8)).frames
    torch.testing.assert_close(first[:, 2, 1], later[:, 2, 2])
    torch.testing.assert_close(first[:, 2, 2], later[:, 2, 3])
    assert not torch.allclose(first[:, 2, 1], later[:, 2, 1], atol=1e-3)


def test_a_frame_tells_its_own_two_tokens_apart() -> None:
    ears = encoder()
    audio = torch.randn(1, STEPS, 8, 6)
    swapped = audio.clone()
    swapped[:, 2, [2, 3]] = audio[:, 2, [3, 2]]
    assert not torch.allclose(hear(ears, audio).frames[:, 2, 1], hear(ears, swapped).frames[:, 2, 1], atol=1e-3)


def test_masked_tokens_are_not_heard() -> None:
    ears = encoder()
    valid = clock.audio_valid(STEPS)[None].clone()
    valid[:, 3, 5] = False
    audio = torch.randn(1, STEPS, 8, 6)
    other = torch.where(valid[..., None], audio, torch.randn_like(audio))
    for before, after in zip(hear(ears, audio, valid), hear(ears, other, valid), strict=True):
        assert torch.equal(before, after)


def listening() -> Listening:
    torch.manual_seed(0)
    towers = {
        "video": VideoTowerConfig(heads=2, head_dim=16, layers=3, patch_px=(2, 2)),
        "structure": StructureTowerConfig(heads=1, head_dim=16, layers=1),
    }
    return Listening(AudioConfig(features=6, layers=2, slot_dim=8, context_dim=16), towers)


def test_the_first_layers_of_both_towers_listen() -> None:
    ears = listening()
    assert (len(ears.towers["video"]), len(ears.towers["structure"])) == (2, 1)
    x, context = torch.randn(1, 2, 3, 32), AudioContext(torch.randn(1, 2, 4, 16), torch.randn(1, 2, 4, 16))
    assert ears("video", 2, x, context, (0, 1)) is x


def test_gates_are_exactly_closed_at_the_start_and_can_open() -> None:
    ears = listening()
    ears.initialise()
    context = hear(ears.encoder, torch.randn(1, 2, 8, 6))
    for tower, width in (("video", 32), ("structure", 16)):
        x = torch.randn(1, 2, 4, width)
        heard = ears(tower, 0, x, context, (0, 1))
        assert torch.equal(heard, x)
        heard.square().sum().backward(retain_graph=True)
        assert ears.towers[tower][0].gate.grad.any()


def test_structure_listens_to_its_own_frame_from_the_start() -> None:
    """Tokens of equal content hear different frames, each mostly its own."""
    ears = listening()
    ears.initialise()
    layer = ears.towers["structure"][0]
    with torch.no_grad():
        layer.gate.fill_(0.1)
    x = torch.randn(1, 1, 1, 16).expand(1, 2, 4, 16)
    heard = ears("structure", 0, x, AudioContext(torch.randn(1, 2, 4, 16), torch.randn(1, 2, 4, 16)), (0, 1))
    torch.testing.assert_close(heard[:, 0, 0], heard[:, 0, 3])  # step 0 is one frame, four times
    assert not torch.allclose(heard[:, 1, 0], heard[:, 1, 3], atol=1e-3)
    frames = torch.randn(1, 2, 4, 16)
    for frame in range(4):
        other = frames.clone()
        other[:, 1, frame] += torch.randn(16)
        moved = ears("structure", 0, x, AudioContext(other, other), (0, 1)) - ears(
            "structure", 0, x, AudioContext(frames, frames), (0, 1)
        )
        assert int(moved[0, 1].norm(dim=-1).argmax()) == frame
