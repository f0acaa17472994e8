"""Two-stage inference out of a checkpoint's folder: upstream's numbers, one expert at a time, a video with sound."""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
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
    denoise,
    first_frame_condition,
    generate,
    noise,
)
from dualforce_model.mova.prompts import Prompts, encode
from dualforce_model.mova.schedule import PairSchedule
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


def test_both_experts_are_used(opened: MovaCheckpoint) -> None:
    """The experts differ by a bias of the head, so by exactly that after one step on either side of the boundary."""
    condition = torch.zeros(1, 20, 3, 6, 8)
    start, ends = noise(opened, SMALL, Machine()), []
    for num_steps in (1, 4):
        schedule = PairSchedule.equal(opened.settings("scheduler"), num_steps)
        with torch.no_grad():
            ends.append(denoise(opened, SMALL, schedule, start, condition, words(0), Machine(), lambda line: None))
        assert schedule.switch(opened.index.boundary_ratio) == {1: 1, 4: 2}[num_steps]
    high, low = (opened.load(name, torch.float32, CPU).proj_out.bias for name in ("video_dit", "video_dit_2"))
    torch.testing.assert_close(low - high, torch.full_like(high, 0.25))
    assert not torch.allclose(ends[0].video, ends[1].video)


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


def test_prompts_in_words_need_a_package(opened: MovaCheckpoint) -> None:
    try:
        import transformers  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="need the package transformers"):
            encode(opened, "a face speaks", "", CPU)
    else:
        pytest.skip("the package transformers is installed: what happens without it cannot be seen here")


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
