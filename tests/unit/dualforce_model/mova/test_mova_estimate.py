"""What MOVA takes, out of settings alone: against the same passes really computed, and against known sizes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from dualforce_model.config import ConfigError
from dualforce_model.dry_run import Meter
from dualforce_model.errors import InputError
from dualforce_model.estimate import GB
from dualforce_model.mova.checkpoint import CheckpointError, MovaCheckpoint, inspect
from dualforce_model.mova.components import COMPONENTS
from dualforce_model.mova.estimate import MovaEstimate, estimate
from dualforce_model.mova.inference import Machine, MovaRequest, noise, pixels
from dualforce_model.mova.release import RELEASE, SOURCE, UNKNOWN, released
from dualforce_model.mova.step import DualTower
from flows.commands_model import estimate as estimate_command
from flows.terminal import PROBLEMS, Finish

Make = Callable[..., Path]
CPU = torch.device("cpu")
SMALL = MovaRequest(height_px=96, width_px=128, num_frames=17, num_steps=4)


@pytest.fixture(scope="module")
def opened(checkpoint: Path) -> MovaCheckpoint:
    return MovaCheckpoint.open(checkpoint)


@pytest.fixture(scope="module")
def small(opened: MovaCheckpoint) -> MovaEstimate:
    return estimate("tiny", opened, SMALL, gpus=2)


@pytest.fixture(scope="module")
def answered() -> tuple[dict[str, Any], int]:
    """What the command says of the release at its own size of video on eight GPUs, and bytes that it allocated."""
    meter = Meter("cpu")
    with meter:
        done = CliRunner().invoke(estimate_command, ["--preset", "mova-360p", "--gpus", "8", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), meter.peak


@pytest.fixture(scope="module")
def whole(answered: tuple[dict[str, Any], int]) -> MovaEstimate:
    """The same as a record."""
    told = answered[0]
    return MovaEstimate.model_validate({name: told[name] for name in MovaEstimate.model_fields})


def real_stages(
    opened: MovaCheckpoint, dtype: torch.dtype, request: MovaRequest = SMALL
) -> dict[str, Callable[[], Any]]:
    """The stages with numbers, on the CPU."""
    film = torch.zeros(1, 3, request.num_frames, request.height_px, request.width_px)
    video, audio, bridge = (opened.load(name, dtype, CPU) for name in ("video_dit", "audio_dit", "dual_tower_bridge"))
    pictures, voice = (opened.load(name, torch.float32, CPU) for name in ("video_vae", "audio_vae"))
    start = noise(opened, request, Machine())
    channels = torch.randn(1, 36, *start.video.shape[2:])
    told, level = torch.randn(1, 512, 64), torch.tensor([500.0])
    towers = DualTower(video, audio, bridge)
    return {
        "encoding the picture": lambda: pictures.encode(film.clone()).latent_dist.mode(),
        "denoising": lambda: towers.velocities(channels, start.audio, (level, level), told, 24),
        "decoding the video": lambda: pixels(pictures.decode(start.video).sample[0]),
        "decoding the sound": lambda: voice.decode(start.audio),
    }


def test_flops_are_what_torch_counts(opened: MovaCheckpoint, small: MovaEstimate) -> None:
    real = real_stages(opened, torch.float32)
    for stage in small.stages[1:]:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
            real[stage.name]()
        assert stage.flops == pytest.approx(counter.get_total_flops(), rel=0.01), stage.name


def allocated_peak(run: Callable[[], Any]) -> int:
    """Bytes above the start, at most, as torch's CPU allocator told the profiler."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    live = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def test_activations_of_the_towers_are_what_the_allocator_gave(opened: MovaCheckpoint) -> None:
    """In bfloat16, at a size at which the CPU kernels' own buffers, which are of a fixed size, are small."""
    wide = MovaRequest(height_px=256, width_px=384, num_frames=33)
    run = real_stages(opened, torch.bfloat16, wide)["denoising"]
    with torch.no_grad():
        run()  # what is made once and kept is not the stage's
    (told,) = (stage for stage in estimate("tiny", opened, wide, gpus=1).stages if stage.name == "denoising")
    assert told.activations == pytest.approx(allocated_peak(run), rel=0.15)


@pytest.mark.parametrize("name", ["encoding the picture", "decoding the video", "decoding the sound"])
def test_activations_of_the_vaes_are_the_tensors_that_lived(
    opened: MovaCheckpoint, small: MovaEstimate, name: str
) -> None:
    """Tensors alone: the CPU's convolutions take three times as much for themselves, CUDA's do not."""
    run, meter = real_stages(opened, torch.float32)[name], Meter("cpu")
    with torch.no_grad(), meter:
        run()
    (told,) = (stage for stage in small.stages if stage.name == name)
    assert told.activations == pytest.approx(meter.peak, rel=0.01)


def test_a_checkpoint_is_estimated_by_its_own_settings(opened: MovaCheckpoint, small: MovaEstimate) -> None:
    counted = {
        name: sum(tensor.num_bytes for tensor in part.weights.tensors.values()) // 4
        for name, part in opened.parts.items()
        if part.weights.tensors
    }
    assert small.parameters == counted
    assert small.not_estimated == {}
    assert (small.video_tokens, small.audio_tokens) == (5 * 6 * 8, -(-17 * 2000 // 960))
    assert small.stages[0].name == "reading the prompt"
    assert (small.stages[0].weights, small.stages[0].activations) == (4 * counted["text_encoder"], None)
    assert "not known" in small.text()


def test_settings_are_enough(make_checkpoint: Make, small: MovaEstimate) -> None:
    """A checkpoint without a single weight or tokenizer gives the same numbers; one with wrong settings gives none."""
    root = make_checkpoint()
    for path in (*root.rglob("*.safetensors"), root / "tokenizer" / "tokenizer.json"):
        path.unlink()
    assert estimate("tiny", inspect(root, headers=False).whole(), SMALL, gpus=2) == small
    config = root / "audio_dit" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dim": 63}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"audio_dit/config\.json.*does not divide"):
        inspect(root, headers=False).whole()


def test_settings_that_build_and_do_not_run_are_named(opened: MovaCheckpoint) -> None:
    """A tower for other prompts than the checkpoint's; `inspect` would have said so before."""
    audio = opened.parts["audio_dit"]
    other = replace(audio, settings=audio.settings.model_copy(update={"text_dim": 32}))
    mixed = replace(opened, parts=opened.parts | {"audio_dit": other})
    with pytest.raises(InputError, match=r"tiny: a model of these settings does not run: .*correct its config\.json"):
        estimate("tiny", mixed, SMALL, gpus=1)


def test_the_release_has_its_known_sizes(whole: MovaEstimate) -> None:
    """Parameters and tokens as counted in upstream's own modules; 18 of 50 steps are the first expert's."""
    millions = {name: round(count / 1e6, 1) for name, count in whole.parameters.items()}
    assert millions == {
        "video_dit": 14288.9, "video_dit_2": 14288.9, "audio_dit": 1419.2, "dual_tower_bridge": 2659.7,
        "audio_vae": 371.5, "video_vae": 126.9,
    }  # fmt: skip
    assert (whole.video_tokens, whole.audio_tokens, whole.high_noise_steps) == (43_120, 403, 18)
    assert whole.not_estimated.keys() == {"text_encoder"}
    assert "text_encoder      not estimated: only its width, 4096, is known" in whole.text()
    assert "the video VAE's are Wan 2.1's, assumed" in whole.text()
    assert max(map(len, whole.text().splitlines())) <= 110


def test_the_releases_work_follows_the_textbook(whole: MovaEstimate) -> None:
    """Two per weight and token, four per layer, width and pair of tokens; audio, text and heads are the rest."""
    blocks = 40 * (4 * 5120**2 + 2 * 5120 * 13824 + 2 * 5120**2)  # attention, feed-forward, and a text's q and o
    weights = blocks + 30 * (2 * 5120**2 + 2 * 5120 * 1536)  # the bridge: q and o, and the audio's keys and values
    tokens = 43_120
    once = 2 * weights * tokens + 4 * 40 * 5120 * tokens**2
    assert whole.passes_per_step == 2
    assert whole.step_flops == pytest.approx(2 * once, rel=0.02)
    others = sum(stage.flops or 0 for stage in whole.stages if stage.name != "denoising")
    assert whole.video_flops == 50 * whole.step_flops + others
    assert 3.7 < whole.training.flops / (whole.step_flops / 2) < 4.05  # forward, again, and twice backward


def test_the_releases_memory(whole: MovaEstimate) -> None:
    """An expert, the audio tower and the bridge in bfloat16; of a training step 16 bytes per number over the GPUs."""
    (denoising,) = (stage for stage in whole.stages if stage.name == "denoising")
    towers = sum(whole.parameters[name] for name in denoising.loaded[1:]) + whole.parameters["video_dit"]
    assert denoising.weights == pytest.approx(2 * towers, rel=0.01)  # norms and tables stay in float32
    assert denoising.weights > 2 * towers
    assert whole.largest is denoising
    memory, both = whole.training.memory, towers + whole.parameters["video_dit_2"]
    assert memory.weights + memory.optimizer == pytest.approx(12 * both / 8, abs=20)
    assert memory.gradients == pytest.approx(4 * towers / 8, abs=8)
    assert memory.averaged == 0
    assert whole.fits
    assert not whole.training_fits
    assert "Training would not fit in 50 GB per GPU" in whole.text()


def test_gpus_share_training_and_not_inference(opened: MovaCheckpoint, small: MovaEstimate) -> None:
    eight = estimate("tiny", opened, SMALL, gpus=8)
    assert eight.stages == small.stages
    assert eight.training.memory.weights == pytest.approx(small.training.memory.weights / 4, abs=4)
    assert "each of 8 GPUs makes a video of its own" in eight.text()


def test_guidance_takes_a_second_pass(opened: MovaCheckpoint, small: MovaEstimate) -> None:
    free = estimate("tiny", opened, SMALL.model_copy(update={"guidance": 1.0}), gpus=2)
    assert (free.passes_per_step, 2 * free.step_flops) == (1, small.step_flops)


def test_a_limit_decides_and_the_report_survives_json(small: MovaEstimate) -> None:
    assert MovaEstimate.model_validate_json(small.model_dump_json()) == small
    least = small.largest.total / GB
    assert small.model_copy(update={"limit_gb": least * 1.001}).fits
    tight = small.model_copy(update={"limit_gb": least * 0.999})
    assert not tight.fits
    assert "Inference does not fit" in tight.text()


def test_the_command_says_what_fits_and_allocates_nothing(
    answered: tuple[dict[str, Any], int], whole: MovaEstimate
) -> None:
    told, allocated = answered
    assert (told["fits"], told["training_fits"]) == (True, False)
    assert told["total_bytes"]["denoising"] == whole.largest.total
    assert told["total_bytes"]["training"] == whole.training.memory.total
    assert told["source"] == SOURCE
    assert allocated < 50_000_000


def test_the_command_on_a_checkpoint(checkpoint: Path) -> None:
    """By its own settings, the video changed by words; a limit that it passes is exit code 6 after the report."""
    sizes = ["height_px=48", "width_px=64", "num_frames=5", "num_steps=2"]
    asked = ["--checkpoint", str(checkpoint), *sizes]
    done = CliRunner().invoke(estimate_command, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["request"]["num_frames"] == 5
    assert told["parameters"]["video_dit"] == 576_928
    assert told["fits"] is told["training_fits"] is True
    tight = CliRunner().invoke(estimate_command, [*asked, "--limit-gb", "1"])
    assert isinstance(tight.exception, Finish)
    assert tight.exception.code == PROBLEMS
    assert "Inference does not fit in 1 GB per GPU" in tight.stdout


def test_the_command_on_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    done = CliRunner().invoke(estimate_command, ["--checkpoint", str(tmp_path)])
    assert isinstance(done.exception, CheckpointError)
    assert "model_index.json: missing" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "mova-360p", "--checkpoint", "."], "give exactly one of --preset, --config and --checkpoint"),
        (["--preset", "mova-360p", "--crop-px", "96"], "are not for MOVA"),
        (["--checkpoint", ".", "--batch-size", "2"], "are not for MOVA"),
    ],
)
def test_the_command_refuses(words: list[str], said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        estimate_command.main(words, standalone_mode=False)


def test_the_command_refuses_videos_that_cannot_be() -> None:
    done = CliRunner().invoke(estimate_command, ["--preset", "mova-360p", "height_px=360"])
    assert isinstance(done.exception, ConfigError)
    assert "height_px" in str(done.exception)


def test_the_release_is_valid_by_the_models_that_read_checkpoints() -> None:
    found = released()
    assert found.parts.keys() == RELEASE.keys()
    assert UNKNOWN.keys() == {component.folder for component in COMPONENTS} - RELEASE.keys()
    assert not any(part.weights.tensors for part in found.parts.values())
