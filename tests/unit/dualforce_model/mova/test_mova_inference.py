"""Two-stage inference out of a checkpoint's folder: upstream's numbers, one expert at a time, a video with sound."""

import gc
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderKLWan
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualforce_model import media
from dualforce_model.errors import InputError
from dualforce_model.mova.checkpoint import MovaCheckpoint
from dualforce_model.mova.inference import (
    Machine,
    MovaRequest,
    decode_sound,
    decode_video,
    denoise,
    first_frame_condition,
    generate,
    noise,
)
from dualforce_model.mova.prompts import Prompts, encode
from dualforce_model.mova.schedule import Column, PairSchedule
from dualforce_model.mova.step import DualTower, Latents
from dualforce_model.mova.towers import MovaTower
from dualforce_model.mova.trial import colour_card, fitted, trial
from flows.commands_model import verify as verify_command
from flows.terminal import PROBLEMS, Finish
from flows.verify import VerifyRun, _mova

GOLDEN = Path(__file__).resolve().parents[3] / "numerics" / "golden" / "dual_tower.safetensors"
SMALL = MovaRequest(height_px=48, width_px=64, num_frames=9, num_steps=4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def opened(checkpoint: Path) -> MovaCheckpoint:
    return MovaCheckpoint.open(checkpoint)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def words(seed: int) -> Prompts:
    """Embeddings of two prompts that differ."""
    generator = torch.Generator().manual_seed(seed)
    return Prompts(torch.randn(1, 7, 64, generator=generator), torch.randn(1, 5, 64, generator=generator))


def test_loaded_towers_give_upstreams_numbers(opened: MovaCheckpoint, golden: dict[str, Tensor]) -> None:
    """From files in the release's layout to the golden step: names, shapes and positions are all right."""
    model = DualTower(
        *(opened.load(name, torch.float32, CPU) for name in ("video_dit", "audio_dit", "dual_tower_bridge"))
    )
    channels = torch.cat([golden["in.visual_latents"], golden["in.visual_condition"]], dim=1)
    times = (golden["in.t_visual"], golden["in.t_audio"])
    out = model.velocities(channels, golden["in.audio_latents"], times, golden["in.context"], 24.0)
    torch.testing.assert_close(out.video, golden["full_rope/std0.08/out.visual"], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.audio, golden["full_rope/std0.08/out.audio"], atol=1e-5, rtol=0)


def test_denoising_gives_upstreams_numbers(make_checkpoint: Callable[..., Path], golden: dict[str, Tensor]) -> None:
    """The whole guided loop, both stages (here with equal experts, as the golden loop has one)."""
    root = make_checkpoint()
    shutil.copytree(root / "video_dit", root / "video_dit_2", dirs_exist_ok=True)
    opened = MovaCheckpoint.open(root)
    start = Latents(golden["in.visual_latents"], golden["in.audio_latents"])
    prompts = Prompts(golden["in.context"], golden["in.negative_context"])
    schedule = PairSchedule.equal(opened.settings("scheduler"), 4)
    lines: list[str] = []
    with torch.no_grad():
        end = denoise(opened, SMALL, schedule, start, golden["in.visual_condition"], prompts, Machine(), lines.append)
    torch.testing.assert_close(end.video, golden["cfg_loop/step3.visual"], atol=1e-4, rtol=0)
    torch.testing.assert_close(end.audio, golden["cfg_loop/step3.audio"], atol=1e-4, rtol=0)
    assert lines[0] == "video_dit: loading"
    assert lines[3] == "video_dit_2: loading"


def test_a_video_with_sound_by_one_expert_at_a_time(opened: MovaCheckpoint) -> None:
    """Shapes and lengths; equal seeds are equal, others are not; the first expert is gone when the second comes."""
    card = colour_card(48, 64)
    alive: dict[str, int] = {}

    def watch(line: str) -> None:
        if not line.endswith(("loading", "the video")):
            return
        gc.collect()
        alive[line] = sum(type(found) is MovaTower for found in gc.get_objects())

    brief = SMALL.model_copy(update={"num_frames": 5})
    made = generate(opened, brief, card, words(0), progress=watch)
    assert made.frames.shape == (5, 48, 64, 3)
    assert made.sound.shape == (5 * 2000,)
    assert made.switched_at == 2
    assert np.abs(made.sound).max() <= 1
    towers = {line: count for line, count in alive.items() if line.endswith("loading")}
    assert len(set(towers.values())) == 1, f"the audio tower alone when an expert comes: {alive}"
    assert alive["decoding the video"] == towers["video_dit: loading"] - 1
    again = generate(opened, brief, card, words(0))
    assert np.array_equal(again.frames, made.frames)
    assert np.array_equal(again.sound, made.sound)
    other = generate(opened, brief.model_copy(update={"seed": 1}), card, words(0))
    assert not np.array_equal(other.frames, made.frames)


def test_the_loop_step_by_step(opened: MovaCheckpoint) -> None:
    """Against the loop written out: the expert of each step, each modality's own level, the request's own guidance."""
    generator = torch.Generator().manual_seed(7)
    condition, start = torch.randn(1, 20, 3, 6, 8, generator=generator), noise(opened, SMALL, Machine())
    schedule = PairSchedule(opened.settings("scheduler"), 4, Column(5.0), Column(2.0))
    request, prompts = SMALL.model_copy(update={"guidance": 2.0}), words(0)
    high, low, audio, bridge = (
        opened.load(name, torch.float32, CPU) for name in ("video_dit", "video_dit_2", "audio_dit", "dual_tower_bridge")
    )
    video, sound, used = start.video, start.audio, []
    with torch.no_grad():
        end = denoise(opened, request, schedule, start, condition, prompts, Machine(), lambda line: None)
        for step, (level, sound_level) in enumerate(schedule.timesteps.tolist()):
            used.append("high" if level >= 900 else "low")
            tower = DualTower(high if level >= 900 else low, audio, bridge)
            times = (torch.tensor([level]), torch.tensor([sound_level]))
            channels = torch.cat([video, condition], dim=1)
            yes, no = (
                tower.velocities(channels, sound, times, text, 24) for text in (prompts.positive, prompts.negative)
            )
            velocities = (2 * yes.video - no.video, 2 * yes.audio - no.audio)
            video, sound = schedule.advance(step, (video, velocities[0]), (sound, velocities[1]))
    assert used == ["high", "high", "low", "low"]
    torch.testing.assert_close(low.proj_out.bias - high.proj_out.bias, torch.full_like(high.proj_out.bias, 0.25))
    torch.testing.assert_close(end.video, video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end.audio, sound, atol=1e-5, rtol=1e-5)


def test_noise_of_a_seed(opened: MovaCheckpoint) -> None:
    """Seed 42 in upstream's order: video first, audio out of the same generator after it."""
    drawn = noise(opened, SMALL, Machine())
    assert (drawn.video.shape, drawn.audio.shape) == ((1, 16, 3, 6, 8), (1, 128, 19))
    torch.testing.assert_close(
        drawn.video.flatten()[:4], torch.tensor([1.9269, 1.4873, 0.9007, -2.1055]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        drawn.audio.flatten()[:4], torch.tensor([-1.0124, -0.1467, -0.4966, 0.3638]), atol=1e-4, rtol=0
    )


def test_guidance(opened: MovaCheckpoint) -> None:
    """It does nothing without prompts, and something with them."""
    card = colour_card(48, 64)
    free = SMALL.model_copy(update={"guidance": 1.0, "num_steps": 1, "num_frames": 5})
    guided = free.model_copy(update={"guidance": 5.0})
    silent = [generate(opened, request, card).sound for request in (free, guided)]
    np.testing.assert_allclose(silent[0], silent[1], atol=1e-3)
    told = [generate(opened, request, card, words(0)).sound for request in (free, guided)]
    assert np.abs(told[0] - told[1]).max() > 1e-2


def test_the_picture_is_the_condition(opened: MovaCheckpoint) -> None:
    """Mask on the first latent frame alone; a longer video has the same beginning."""
    card = colour_card(48, 64)
    with torch.no_grad():
        short, long = (
            first_frame_condition(opened, SMALL.model_copy(update={"num_frames": frames}), card, Machine())
            for frames in (5, 9)
        )
    assert short.shape == (1, 20, 2, 6, 8)
    assert bool((long[:, :4, 0] == 1).all())
    assert bool((long[:, :4, 1:] == 0).all())
    torch.testing.assert_close(long[:, :, :2], short, atol=1e-5, rtol=0)


def wan_vae(opened: MovaCheckpoint) -> tuple[AutoencoderKLWan, Tensor, Tensor]:
    """The video VAE as diffusers itself reads it, with the mean and deviation of its latents."""
    vae = AutoencoderKLWan.from_pretrained(opened.root / "video_vae").eval()
    mean, std = (torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return vae, mean, std


def test_condition_is_the_picture_then_grey_normalised(opened: MovaCheckpoint) -> None:
    """Against diffusers' VAE: level 0 (grey) after the first frame, latents less their mean by their deviation."""
    card, (vae, mean, std) = colour_card(48, 64), wan_vae(opened)
    still = torch.zeros(1, 3, 9, 48, 64)
    still[0, :, 0] = torch.from_numpy(card).permute(2, 0, 1) / 127.5 - 1
    with torch.no_grad():
        wanted = (vae.encode(still).latent_dist.mean - mean) / std
        condition = first_frame_condition(opened, SMALL, card, Machine())
    torch.testing.assert_close(condition[:, 4:], wanted, atol=1e-5, rtol=0)


def test_decoding_undoes_the_normalisation(opened: MovaCheckpoint) -> None:
    """Against diffusers' VAE: [-1, 1] to bytes, of latents by their deviation and back at their mean."""
    latents, (vae, mean, std) = noise(opened, SMALL, Machine()).video, wan_vae(opened)
    with torch.no_grad():
        wanted = vae.decode(latents * std + mean).sample[0].clamp(-1, 1) * 127.5 + 127.5
        frames = decode_video(opened, latents, Machine())
    assert frames.shape == (9, 48, 64, 3)
    assert frames.std() > 1, "a picture, not one grey"
    np.testing.assert_allclose(frames, wanted.permute(1, 2, 3, 0).numpy(), atol=0.51)


def test_sound_latents_are_used_as_they_are(opened: MovaCheckpoint) -> None:
    latents = torch.randn(1, 128, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vae = opened.load("audio_vae", torch.float32, CPU)
        assert np.array_equal(decode_sound(opened, latents, Machine()), vae.decode(latents)[0, 0].numpy())


def test_trial_writes_a_file_and_reads_it_back(opened: MovaCheckpoint, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (100, 90, 3), dtype=np.uint8)
    request = SMALL.model_copy(update={"num_steps": 2})
    report = trial(opened, request, tmp_path / "out.mp4", picture, words(1))
    assert (report.num_frames, report.height_px, report.width_px) == (9, 48, 64)
    assert report.sound_s == pytest.approx(9 / 24, abs=0.03)
    assert report.high_noise_steps == 1
    assert np.abs(media.read_sound(tmp_path / "out.mp4", rate_hz=48_000)).max() > 0.01


def test_fitted_keeps_the_middle() -> None:
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 30:70] = 255
    assert fitted(picture, 16, 16).min() == 255
    assert fitted(picture, 16, 40).shape == (16, 40, 3)


def test_requests_that_cannot_be() -> None:
    with pytest.raises(ValidationError, match="multiple of 16"):
        MovaRequest(height_px=360)
    with pytest.raises(ValidationError, match="a multiple of 4, plus 1"):
        MovaRequest(num_frames=24)


def test_picture_of_another_size(opened: MovaCheckpoint) -> None:
    with pytest.raises(InputError, match="a picture of"):
        generate(opened, SMALL, colour_card(32, 32))


def test_prompts_out_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    save_file({"positive": torch.ones(3, 64), "negative": torch.zeros(2, 64)}, path)
    assert Prompts.read(path, 64).positive.shape == (1, 3, 64)
    with pytest.raises(InputError, match=r"expected prompt embeddings of shape \[tokens, 32\]"):
        Prompts.read(path, 32)
    path.write_bytes(b"no")
    with pytest.raises(InputError, match="not readable as safetensors"):
        Prompts.read(path, 64)


def test_prompts_in_words_need_a_package(opened: MovaCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(InputError, match="need the package transformers"):
        encode(opened, "a face speaks", "", CPU)


def test_prompts_in_words(opened: MovaCheckpoint) -> None:
    """UMT5 through transformers: 512 tokens of which only the prompt's own are not zero; other words, other numbers."""
    pytest.importorskip("transformers")
    told = encode(opened, "a face speaks", "grey", CPU)
    assert told.positive.shape == told.negative.shape == (1, 512, 64)
    lengths = [int(text[0].abs().amax(dim=-1).count_nonzero()) for text in (told.positive, told.negative)]
    assert lengths == [len("_a_face_speaks") + 1, len("_grey") + 1], "one token per letter, and the end"
    assert bool((told.positive[0, lengths[0] :] == 0).all())
    other = encode(opened, "a cat sleeps.", "grey", CPU)
    torch.testing.assert_close(other.negative, told.negative)
    assert not torch.allclose(other.positive, told.positive, atol=1e-2)


def test_command(checkpoint: Path, tmp_path: Path) -> None:
    """The report in text and JSON, and the video."""
    run = ["mova", "--checkpoint", str(checkpoint)]
    sizes = [f"--set={setting}" for setting in ("height_px=48", "width_px=64", "num_frames=5", "num_steps=2")]
    output = tmp_path / "tiny.mp4"
    done = CliRunner().invoke(verify_command, [*run, "--run", "--output", str(output), "--json", *sizes])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert report["trial"]["num_frames"] == media.probe(output).num_frames == 5
    plain = CliRunner().invoke(verify_command, [*run, "--no-load"])
    assert "video_dit_2" in plain.stdout
    assert ": works" in plain.stdout


def test_command_tells_what_a_run_lacks_before_reading(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that is none, a package that is not there: not after all weights have been read."""
    run = ["mova", "--checkpoint", str(checkpoint), "--run", "--output", str(tmp_path / "o.mp4")]
    (tmp_path / "no.jpg").write_text("no picture", encoding="utf-8")
    done = CliRunner().invoke(verify_command, [*run, "--image", str(tmp_path / "no.jpg")])
    assert isinstance(done.exception, media.MediaError)
    assert "reading settings" not in done.output
    monkeypatch.setitem(sys.modules, "transformers", None)
    done = CliRunner().invoke(verify_command, [*run, "--prompt", "a face"])
    assert isinstance(done.exception, InputError)
    assert "reading settings" not in done.output


def test_command_reports_even_if_the_run_fails(checkpoint: Path, tmp_path: Path) -> None:
    """Here on embeddings of another width, which only the checkpoint's settings tell."""
    save_file({"positive": torch.ones(3, 65), "negative": torch.zeros(2, 65)}, tmp_path / "words.safetensors")
    run = ["mova", "--checkpoint", str(checkpoint), "--no-load", "--run", "--output", str(tmp_path / "o.mp4")]
    for form in ([], ["--json"]):
        done = CliRunner().invoke(verify_command, [*run, *form, "--embeddings", str(tmp_path / "words.safetensors")])
        assert isinstance(done.exception, InputError)
        assert (json.loads(done.stdout)["problems"] == []) if form else (": works" in done.stdout)


def test_command_on_a_broken_checkpoint(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    root = make_checkpoint()
    (root / "video_dit" / "config.json").unlink()
    run = ["mova", "--checkpoint", str(root), "--no-load", "--run", "--output", str(tmp_path / "o.mp4")]
    done = CliRunner().invoke(verify_command, run)
    assert isinstance(done.exception, Finish)
    assert done.exception.code == PROBLEMS
    assert "video_dit/config.json: missing" in done.stdout
    assert not (tmp_path / "o.mp4").exists()


def test_flow(checkpoint: Path, make_checkpoint: Callable[..., Path]) -> None:
    """The flow's one check passes or names what is wrong."""
    report, text = _mova(checkpoint)
    assert not report.problems
    assert "dual_tower_bridge" in text
    root = make_checkpoint()
    (root / "audio_dit" / "config.json").unlink()
    (problem,) = _mova(root)[0].problems
    assert "audio_dit/config.json: missing" in problem.found
    with pytest.raises(ValidationError, match="what: mova, and only mova, takes a checkpoint"):
        VerifyRun(what="mova")


@pytest.mark.parametrize(
    ("extra", "words_"),
    [([], "needs --checkpoint"), (["--checkpoint", ".", "--run"], "--run needs --output")],
)
def test_command_refuses(extra: list[str], words_: str) -> None:
    done = CliRunner().invoke(verify_command, ["mova", *extra])
    assert done.exit_code == 2
    assert words_ in done.output
