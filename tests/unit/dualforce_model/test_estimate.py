"""`estimate`: sums that add up, sharding that divides, advice that is true."""

import math
from typing import Literal

import pytest
import torch

from dualforce_model import estimate as subject
from dualforce_model.dry_run import Workload, training_step
from dualforce_model.estimate import GB, NO_SINGLE_CHANGE, WORKLOADS, Estimate, Memory, estimate
from dualforce_model.model import PRESETS, DualForce, ModelConfig
from dualforce_model.towers import VideoTowerConfig

TINY = PRESETS["tiny"]
WORK = Workload(crop_px=96, num_steps=5, batch_per_gpu=4)
# One layer: a dry run takes milliseconds.
MICRO = ModelConfig(
    video=VideoTowerConfig(patch_px=(2, 2), heads=4, head_dim=16, layers=1, ffn_dim=128), structure=None, audio=None
)
WIDE = ModelConfig(video=VideoTowerConfig(patch_px=(2, 2), heads=8, head_dim=64, layers=2), structure=None, audio=None)


def sharded(memory: Memory) -> int:
    return memory.weights + memory.gradients + memory.optimizer + memory.averaged


def test_parameters_are_counted_by_component() -> None:
    found = estimate("tiny", TINY, WORK, gpus=1)
    model = DualForce(TINY)
    assert set(found.parameters) == {"video", "structure", "bridge", "listening"}
    assert sum(found.parameters.values()) == sum(p.numel() for p in model.parameters())
    assert found.parameters["video"] == sum(p.numel() for p in model.video.parameters())
    assert sharded(found.plain) == 20 * sum(found.parameters.values())


@pytest.mark.parametrize(("precision", "width"), [("bf16", 2), ("fp32", 4)])
def test_memory_is_what_it_says(precision: Literal["bf16", "fp32"], width: int) -> None:
    """Each part in closed form, of three GPUs: shards are fp32, whole layers are as wide as the computation."""
    found = estimate("wide", WIDE, Workload(crop_px=32, num_steps=2), gpus=3, precision=precision)
    model = DualForce(WIDE)
    count, layer = (sum(p.numel() for p in part.parameters()) for part in (model, model.video.blocks[0]))
    shard = math.ceil(count / 3)
    outside = count - 2 * layer
    for memory in (found.plain, found.checkpointed):
        assert (memory.weights, memory.gradients) == (4 * shard, 4 * shard)
        assert (memory.optimizer, memory.averaged) == (8 * shard, 4 * shard)  # two moments; one average
        assert memory.gathered == width * 2 * (outside + 2 * layer)  # weights and gradients, two layers at a time
        assert memory.context == 1_500_000_000
        assert memory.total == 20 * shard + memory.gathered + memory.activations + memory.context


def test_a_model_of_one_stream_is_estimated_as_one() -> None:
    config = TINY.model_copy(update={"structure": None, "audio": None})
    found = estimate("video", config, WORK, gpus=1)
    assert set(found.parameters) == {"video"}
    assert found.flops < estimate("tiny", TINY, WORK, gpus=1).flops


def test_gpus_share_what_fsdp_shards_and_nothing_else() -> None:
    one, four = (estimate("micro", MICRO, WORK, gpus=gpus) for gpus in (1, 4))
    assert sharded(four.plain) == pytest.approx(sharded(one.plain) / 4, abs=20)
    assert (four.plain.activations, four.plain.gathered) == (one.plain.activations, one.plain.gathered)
    assert four.flops == one.flops


def test_checkpointing_takes_memory_off_and_adds_work() -> None:
    found = estimate("tiny", TINY, WORK, gpus=1)
    assert found.checkpointed.activations < 0.5 * found.plain.activations
    assert 0.2 < found.recomputed_flops / found.flops < 0.34  # a forward pass is a third of a step


@pytest.mark.slow
def test_base_trains_on_eight_gpus_under_fifty_gigabytes() -> None:
    """At its own size of data: 512 px, a window of all that a step sees."""
    found = estimate("base", PRESETS["base"], WORKLOADS["base"], gpus=8)
    assert found.fits
    assert found.checkpointed.total < 50 * GB < found.plain.total
    assert "Fits in 50 GB per GPU with activation checkpointing" in found.text()


def test_what_does_not_fit_says_what_to_change_and_that_is_enough() -> None:
    work = Workload(crop_px=256, num_steps=8, batch_per_gpu=8)
    whole = estimate("micro", MICRO, work, gpus=2).checkpointed
    limit = (whole.total - 0.6 * whole.activations) / GB
    found = estimate("micro", MICRO, work, gpus=2, limit_gb=limit)
    assert not found.fits
    told = next(line for line in found.advice if "batch_size" in line)
    batch = int(told.split("batch_size ")[1].split()[0]) // 2
    assert 1 <= batch < 8
    smaller = estimate("micro", MICRO, work.model_copy(update={"batch_per_gpu": batch}), gpus=2, limit_gb=limit)
    assert smaller.fits
    assert not smaller.advice
    twice = work.model_copy(update={"batch_per_gpu": 2 * batch})
    assert not estimate("micro", MICRO, twice, gpus=2, limit_gb=limit).fits


def test_the_verdict_is_on_the_run_as_configured() -> None:
    work = Workload(crop_px=256, num_steps=8, batch_per_gpu=8)
    either = estimate("micro", MICRO, work, gpus=1)
    limit = (either.checkpointed.total + either.plain.total) / 2 / GB
    on, off, preset = (estimate("m", MICRO, work, 1, limit_gb=limit, recompute=each) for each in (True, False, None))
    assert (on.fits, off.fits, preset.fits) == (True, False, True)
    assert "as configured, with activation checkpointing" in on.text()
    assert "Does not fit without activation checkpointing" in off.text()
    assert off.advice[0] == subject.TURN_ON
    assert "Needed: train.execution.recompute" in preset.text()
    assert subject.NO_TEXT in preset.text()


def test_advice_for_a_run_that_keeps_its_activations_is_enough() -> None:
    work = Workload(crop_px=256, num_steps=8, batch_per_gpu=8)
    whole = estimate("micro", MICRO, work, gpus=1, recompute=False).plain
    limit = (whole.total - 0.6 * whole.activations) / GB
    told = estimate("micro", MICRO, work, 1, limit_gb=limit, recompute=False).advice
    batch = int(next(line for line in told if "batch_size" in line).split("batch_size ")[1].split()[0])
    smaller = work.model_copy(update={"batch_per_gpu": batch})
    assert estimate("micro", MICRO, smaller, 1, limit_gb=limit, recompute=False).fits


def test_more_gpus_are_advised_only_where_they_help() -> None:
    work = Workload(crop_px=32, num_steps=2)
    whole = estimate("wide", WIDE, work, gpus=1)
    limit = (whole.checkpointed.total - sharded(whole.checkpointed) // 2) / GB
    advice = " ".join(estimate("wide", WIDE, work, gpus=1, limit_gb=limit).advice)
    assert "more GPUs" in advice
    gpus = int(advice.split("on each: ")[1].split()[0])
    assert estimate("wide", WIDE, work, gpus=gpus, limit_gb=limit).fits


def test_where_nothing_helps_it_says_so() -> None:
    assert estimate("micro", MICRO, WORK, gpus=1, limit_gb=1.0).advice == (NO_SINGLE_CHANGE,)


def test_a_report_survives_json_and_reads_well() -> None:
    found = estimate("micro", MICRO, WORK, gpus=1)
    assert Estimate.model_validate_json(found.model_dump_json()) == found
    lines = found.text().splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.split()[:1] == ["total"] for line in lines)


def test_precision_decides_the_activations() -> None:
    half, full = (training_step(TINY, WORK, dtype, False).peak_bytes for dtype in (torch.bfloat16, torch.float32))
    assert 0.5 < half / full < 0.9  # norms and residuals are computed in full precision either way


def test_every_preset_has_a_size_of_data() -> None:
    assert set(PRESETS) == set(subject.WORKLOADS)
