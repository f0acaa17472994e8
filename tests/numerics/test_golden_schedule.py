"""Flow matching and the schedule of pairs against upstream's numbers; our own schedule is the same formula."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dualforce_model.diffusion.schedule import add_noise, shift_level
from dualforce_model.mova.schedule import Column, PairSchedule
from dualforce_model.mova.settings import ScheduleSettings


@pytest.fixture(scope="module")
def single(golden: Callable[[str], Any]) -> Any:
    return golden("flow_match")


@pytest.fixture(scope="module")
def pair(golden: Callable[[str], Any]) -> Any:
    return golden("flow_match_pair")


def settings(facts: dict[str, Any], **written: Any) -> ScheduleSettings:
    """Upstream's class defaults under what a case sets."""
    sigma_min = facts["sigma_min_default"]
    defaults = {"shift": 3.0, "sigma_max": 1.0, "sigma_min": sigma_min, "extra_one_step": False}
    chosen = {name: written[name] for name in defaults if name in written}
    return ScheduleSettings(**(defaults | chosen), num_train_timesteps=1000)


@pytest.mark.parametrize(
    "name",
    [
        *(f"ckpt_{called}" for called in ("infer1", "infer4", "infer10", "infer25", "infer40", "infer50", "train1000")),
        "infer10_shift1", "infer10_shift3", "infer10_shift5", "infer10_shift5_extra_one_step",
        "infer10_shift5_strength0.6", "infer50_shift5", "train1000_shift5",
    ],
)  # fmt: skip
def test_levels_and_timesteps(single: Any, name: str) -> None:
    """All cases that have numbers and whose options we have."""
    case = single.facts["cases"][name]
    called = case["set_timesteps"]
    column = Column(case["ctor"]["shift"], called.get("denoising_strength", 1.0))
    schedule = PairSchedule(settings(single.facts, **case["ctor"]), called["num_inference_steps"], column, column)
    single.close(schedule.sigmas[:, 0], f"{name}/sigmas", 1e-6)
    single.close(schedule.timesteps[:, 0], f"{name}/timesteps", 1e-3)


def test_our_levels_are_the_same_formula(single: Any) -> None:
    u = torch.linspace(1, 0, 51)[:-1]
    single.close(shift_level(u, 5.0), "ckpt_infer50/sigmas", 1e-6)


def test_noise_and_target(single: Any) -> None:
    x0, noise = single["ckpt_train1000/in.x0"], single["ckpt_train1000/in.noise"]
    sigmas = single["ckpt_train1000/sigmas"][single["ckpt_train1000/in.index"]]
    noisy = add_noise(x0.expand(6, -1, -1, -1), noise.expand(6, -1, -1, -1), sigmas[:, None].expand(-1, 2))
    single.close(noisy, "ckpt_train1000/out.add_noise", 1e-6)
    single.close(noise - x0, "ckpt_train1000/out.target", 1e-6)


@pytest.mark.parametrize("name", ["ckpt_infer10", "infer10_shift5"])
def test_euler(single: Any, name: str) -> None:
    schedule = PairSchedule.equal(settings(single.facts, **single.facts["cases"][name]["ctor"]), 10)
    x, levels = single[f"{name}/in.xT"], [*schedule.sigmas[:, 0].tolist(), 0.0]
    states = []
    for step, velocity in enumerate(single[f"{name}/in.velocity"]):
        x = x + velocity * (levels[step + 1] - levels[step])
        states.append(x)
    single.close(torch.stack(states), f"{name}/out.trajectory", 1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "ckpt_infer10", "ckpt_infer50", "ckpt_infer10_dual_v5_a3", "infer10_default", "infer50_default",
        "infer10_dual_v5_a3", "infer10_dual_v5_a5", "infer10_dual_v5_a1_strength",
    ],
)  # fmt: skip
def test_pairs(single: Any, pair: Any, name: str) -> None:
    case = pair.facts["cases"][name]
    chosen = settings(single.facts, **case["ctor"])
    shifts = case["kwargs"]
    video = Column(shifts.get("visual_shift", chosen.shift))
    audio = Column(shifts.get("audio_shift", chosen.shift), shifts.get("audio_denoising_strength", 1.0))
    schedule = PairSchedule(chosen, case["ctor"]["num_inference_steps"], video, audio)
    pair.close(schedule.sigmas, f"{name}/pair_sigmas", 1e-6)
    pair.close(schedule.timesteps, f"{name}/pair_timesteps", 1e-3)
    pair.close(schedule.table_sigmas, f"{name}/table_sigma", 1e-6)
    if schedule.num_steps == 10:
        seen, heard, states = pair["steps/in.visual_xT"], pair["steps/in.audio_xT"], []
        velocities = zip(pair["steps/in.visual_velocity"], pair["steps/in.audio_velocity"], strict=True)
        for step, (video_velocity, audio_velocity) in enumerate(velocities):
            seen, heard = schedule.advance(step, (seen, video_velocity), (heard, audio_velocity))
            states.append((seen, heard))
        pair.close(torch.stack([state[0] for state in states]), f"{name}/out.visual_trajectory", 1e-5)
        pair.close(torch.stack([state[1] for state in states]), f"{name}/out.audio_trajectory", 1e-5)


def test_where_the_experts_change(single: Any) -> None:
    boundary = single.facts["boundary_ratio"]
    for kind, ctor in (("ckpt", {"sigma_min": 0.0, "extra_one_step": True}), ("class_defaults_shift5", {})):
        chosen = settings(single.facts, shift=5.0, **ctor)
        for num_steps, wanted in single.facts["boundary"][kind]["high_noise_steps"].items():
            assert PairSchedule.equal(chosen, int(num_steps)).switch(boundary) == wanted
        high = (PairSchedule.equal(chosen, 1).table * 1000 >= 900).sum()
        assert high == single.facts["boundary"][kind]["train_indices_at_or_above_900"]
