"""The dry run against the real thing: what torch's allocator and FLOP counter saw in the same step."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from dualforce_model.bridge import BridgeConfig
from dualforce_model.dry_run import (
    Meter,
    Workload,
    arguments,
    cast_parameters,
    checkpoint_layers,
    generation_cache_bytes,
    gradients_leave,
    on_shapes,
    step_loss,
    training_step,
)
from dualforce_model.model import PRESETS, DualForce, ModelConfig
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig

TINY = PRESETS["tiny"]
WIDE = ModelConfig(
    video=VideoTowerConfig(patch_px=(2, 2), heads=4, head_dim=48, layers=3, ffn_dim=512, freq_dim=64, text_dim=32),
    structure=StructureTowerConfig(heads=4, head_dim=32, layers=2, ffn_dim=256, freq_dim=64),
    bridge=BridgeConfig(strategy="full", depth=None, condition_dim=32),
    window_steps=8,
)
CASES = {
    "tiny": (TINY, Workload(crop_px=96, num_steps=9, batch_per_gpu=4)),
    "wide": (WIDE, Workload(crop_px=64, num_steps=6, batch_per_gpu=2)),
    "beyond the window": (WIDE, Workload(crop_px=64, num_steps=12, batch_per_gpu=1)),
    "video alone": (TINY.model_copy(update={"structure": None, "audio": None}), Workload(crop_px=128, num_steps=5)),
}
TOLERANCE = 0.15


def allocated_peak(run: Callable[[], None]) -> int:
    """Bytes above the start, at most, as torch's CPU allocator told the profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    live = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def real_step(config: ModelConfig, work: Workload, checkpointing: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    model = DualForce(config)
    if checkpointing:
        checkpoint_layers(model)
    given = arguments(config, work, "cpu")

    def run() -> None:
        with gradients_leave(model):
            step_loss(model(**given)).backward()

    run()  # what is made once and kept is not the step's
    return run


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("case", CASES)
def test_memory_is_what_the_allocator_gave(case: str, checkpointing: bool) -> None:
    config, work = CASES[case]
    measured = allocated_peak(real_step(config, work, checkpointing))
    told = training_step(config, work, torch.float32, checkpointing).peak_bytes
    assert told == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("case", CASES)
def test_flops_are_what_torch_counts(case: str, checkpointing: bool) -> None:
    config, work = CASES[case]
    run = real_step(config, work, checkpointing)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # as plain products, which it knows; of CPU kernels it does not
        run()
    told = training_step(config, work, torch.float32, checkpointing)
    assert told.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert 0 < told.attention_flops < told.flops


def test_flops_follow_the_textbook() -> None:
    """Six per weight and token, twelve per layer, width and pair of tokens; embeddings and heads are the rest."""
    video = VideoTowerConfig(patch_px=(2, 2), heads=8, head_dim=32, layers=4, ffn_dim=1024, freq_dim=64)
    config = ModelConfig(video=video, structure=None, audio=None)
    work = Workload(crop_px=128, num_steps=6)
    tokens, weights = 6 * 8 * 8, 4 * (4 * video.dim**2 + 2 * video.dim * video.ffn_dim)
    expected = 6 * weights * tokens + 12 * video.layers * video.dim * tokens**2
    assert training_step(config, work, torch.float32, False).flops == pytest.approx(expected, rel=0.03)


def test_flex_holds_no_mask_and_computes_the_pairs_that_are_seen() -> None:
    config = TINY.model_copy(update={"structure": None, "audio": None, "window_steps": 6})
    work = Workload(crop_px=128, num_steps=6)
    dense, flex = (training_step(config, work, torch.float32, False, kernel) for kernel in ("native", "flex"))
    assert flex.attention_flops == pytest.approx(dense.attention_flops * 21 / 36, rel=0.01)  # 6 + 5 + ... + 1
    assert dense.flops - flex.flops == dense.attention_flops - flex.attention_flops
    tokens = 6 * (work.latent_px // config.video.patch_px[0]) ** 2
    biases = 4 * config.video.layers * tokens**2  # each layer's call keeps its own
    assert dense.peak_bytes - flex.peak_bytes == pytest.approx(biases, rel=0.1)


def test_a_meter_sees_what_lives_and_forgets_what_dies() -> None:
    kept = torch.ones(1000)
    meter = Meter("cpu")
    meter.leave_out(kept)
    with meter:
        view = kept.view(10, 100)
        first = view + 1
        assert meter.live == 4000
        second = first + 1
        del first
        assert meter.live == 4000
        product = torch.mm(second, second.T)
        assert meter.flops == 2 * 10 * 10 * 100
        assert meter.live == 4400
        del second, product
    assert (meter.live, meter.peak) == (0, 8000)


def test_what_is_left_out_later_is_counted_no_more() -> None:
    meter = Meter("cpu")
    with meter:
        made = torch.ones(1000) + 1
        before = meter.live
        meter.leave_out(made)
        assert meter.live == before - 4000
        del made
        assert meter.live == before - 4000


def test_nothing_of_the_model_is_allocated() -> None:
    meter = Meter("cpu")
    with meter:
        model = on_shapes(PRESETS["base"], torch.bfloat16)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert meter.peak < 10_000_000


@pytest.mark.parametrize("past", [0, 1, 3])
def test_the_cache_is_as_large_as_a_real_one(past: int) -> None:
    work = Workload(crop_px=96, num_steps=9)
    config = ModelConfig.model_validate({**TINY.model_dump(), "audio": {**TINY.audio.model_dump(), "past_steps": past}})
    model = DualForce(config).requires_grad_(False)
    cache = model.new_cache(1)
    model(**arguments(config, work.model_copy(update={"num_steps": 8}), "cpu"), cache=cache, commit=True)
    assert generation_cache_bytes(config, work, torch.float32) == cache.num_bytes()


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_memory_is_what_cuda_gave(checkpointing: bool) -> None:
    config, work = PRESETS["small"], Workload(crop_px=256, num_steps=9)
    model = DualForce(config).to("cuda")
    cast_parameters(model, torch.bfloat16)
    if checkpointing:
        checkpoint_layers(model)
    given = arguments(config, work, "cuda", torch.bfloat16)
    for _ in range(2):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with gradients_leave(model):
            step_loss(model(**given)).backward()
    measured = torch.cuda.max_memory_allocated() - before
    told = training_step(config, work, torch.bfloat16, checkpointing).peak_bytes
    assert told == pytest.approx(measured, rel=TOLERANCE)
