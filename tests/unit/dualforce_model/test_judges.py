"""Judges learn on the truth, move the model's estimates and never themselves, and say exactly nothing without data."""

from dataclasses import replace

import pytest
import torch

from dualforce_model.audio import AudioConfig
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.diffusion.prediction import Reading, Spread
from dualforce_model.diffusion.schedule import add_noise
from dualforce_model.diffusion.window import SampleKey
from dualforce_model.judges import Counted, Estimates, FlameJudge, Judges, LipJudge
from dualforce_model.losses import Judged, LossWeights
from dualforce_model.model import DualForce, ModelConfig
from dualforce_model.objective import Objective, Outcome, estimate_x0
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig
from dualforce_model.train_config import Diffusion, TrainSettings

MODEL = ModelConfig(
    video=VideoTowerConfig(patch_px=(2, 2), latent_channels=2, heads=1, head_dim=8, layers=1, ffn_dim=8, freq_dim=8),
    structure=StructureTowerConfig(entries=6, heads=1, head_dim=8, layers=1, ffn_dim=8, freq_dim=8, sink_tokens=1),
    audio=AudioConfig(features=5, layers=1, slot_dim=4, context_dim=8),
)
STEPS = 5
KEYS = [SampleKey(0, 0), SampleKey(0, 1), SampleKey(0, 2)]
EVERYWHERE = LossWeights(lips_sigma=1.0)


def windows(flame: bool = True) -> TalkingHeadBatch:
    batch = TalkingHeadBatch.fake(MODEL, len(KEYS), STEPS, height=4, width=6)
    draw = torch.Generator().manual_seed(5)
    return replace(batch, flame=torch.randn(len(KEYS), STEPS, 4, 56, generator=draw) if flame else None)


def objective(weights: LossWeights = EVERYWHERE, knows_flame: bool = True, model: ModelConfig = MODEL) -> Objective:
    torch.manual_seed(0)
    settings = TrainSettings(
        model=model, losses=weights, window_steps=STEPS, regime="diffusion_forcing",
        diffusion=Diffusion(prediction="velocity"),
    )  # fmt: skip
    judges = Judges(weights, model, knows_flame)
    if judges.flame is not None:
        torch.nn.init.normal_(judges.flame.map.weight)
    network = DualForce(model)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reading = Reading.of("velocity", Spread(video=(1.0,) * 2, structure=(1.0,) * 6))
    return Objective(network, judges, settings, reading)


def judged(found: Judged | None) -> Judged:
    assert found is not None
    return found


def test_the_true_velocity_gives_the_true_x0() -> None:
    draw = torch.Generator().manual_seed(0)
    x0, noise, sigma = (torch.randn(2, 3, 4, generator=draw) for _ in range(3))
    sigma = sigma[..., 0].sigmoid()
    torch.testing.assert_close(estimate_x0(add_noise(x0, noise, sigma), noise - x0, sigma), x0)


def test_a_perfect_map_and_a_perfect_estimate_cost_nothing() -> None:
    judges = Judges(LossWeights(), MODEL, knows_flame=True)
    assert isinstance(judges.flame, FlameJudge)
    torch.nn.init.normal_(judges.flame.map.weight)
    structure, sigma = torch.randn(2, 3, 4, 6), torch.full((2, 3), 0.5)
    ones = torch.ones(2, 3)
    estimates = Estimates(torch.zeros(2, 3, 2, 4, 4), sigma, structure, sigma)
    target = judges.flame(structure).detach()
    found = judged(judges.judge_flame(estimates, structure, target, Counted(ones, ones)))
    assert found.estimate.loss() == 0
    assert found.lesson.loss() == 0


@pytest.mark.parametrize("term", ["flame", "lips"])
def test_the_estimate_teaches_the_model_and_the_truth_the_judge(term: str) -> None:
    whole = objective()
    found = judged(getattr(whole(windows(), KEYS, 0.0).errors, term))
    found.estimate.loss().backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in whole.judges.parameters())
    assert whole.model.get_submodule("structure" if term == "flame" else "video").proj_out.weight.grad.any()
    whole.zero_grad()
    found.lesson.loss().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in whole.model.parameters())
    judge = whole.judges.get_submodule(term)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in judge.parameters())


def gradients(whole: Objective, batch: TalkingHeadBatch) -> tuple[Outcome, dict[str, torch.Tensor]]:
    outcome = whole(batch, KEYS, 0.0)
    outcome.losses.total.backward()
    return outcome, {name: each.grad for name, each in whole.named_parameters() if each.grad is not None}


def test_data_without_flame_and_without_sound_change_nothing_at_all() -> None:
    silent = replace(windows(), audio_mask=torch.zeros(len(KEYS), STEPS, 8, dtype=torch.bool), flame=None)
    plain, judging = objective(LossWeights(flame=0, lips=0)), objective()
    judging.model.load_state_dict(plain.model.state_dict())
    (without, expected), (outcome, found) = gradients(plain, silent), gradients(judging, silent)
    assert torch.equal(outcome.losses.total, without.losses.total)
    assert outcome.losses.named()["loss_lips"] == outcome.losses.named()["lesson_lips"] == 0
    assert outcome.errors.flame is None
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    assert all(not gradient.any() for name, gradient in found.items() if name.startswith("judges."))


def test_what_a_masked_sample_holds_does_not_matter_even_if_it_is_no_number() -> None:
    batch = windows()
    assert batch.flame is not None
    weights = torch.tensor([1.0, 0.0, 1.0])
    nan = torch.tensor([False, True, False])
    broken = replace(
        batch,
        weights=weights,
        audio=batch.audio.masked_fill(nan[:, None, None, None], float("nan")),
        audio_mask=batch.audio_mask & ~nan[:, None, None],
        flame=batch.flame.masked_fill(nan[:, None, None, None], float("nan")),
    )
    zeroed = replace(broken, audio=broken.audio.nan_to_num(), flame=broken.flame.nan_to_num())  # type: ignore[union-attr]
    whole = objective(LossWeights(lips_sigma=1.0, balance="learned"))
    outcome, found = gradients(whole, broken)
    assert outcome.losses.total.isfinite()
    whole.zero_grad()
    clean, expected = gradients(whole, zeroed)
    assert torch.equal(outcome.losses.total, clean.losses.total)
    for name, gradient in expected.items():
        assert gradient.isfinite().all(), name
        assert torch.equal(found[name], gradient), name


def test_errors_come_on_the_grid_of_noise_levels() -> None:
    errors = objective()(windows(), KEYS, 0.0).errors
    for term in ("video", "structure", "flame", "lips"):
        _, counts = getattr(errors, term).by_level().tolist()
        assert sum(counts) == len(KEYS) * (STEPS - 1), term
    cautious = objective(LossWeights(lips_sigma=0.2))(windows(), KEYS, 0.0).errors
    _, counts = judged(cautious.lips).by_level().tolist()
    assert counts[0] > 0
    assert sum(counts[1:]) == 0


def test_a_run_has_only_the_judges_it_can_use() -> None:
    deaf, faceless = MODEL.model_copy(update={"audio": None}), MODEL.model_copy(update={"structure": None})
    assert {name.split(".")[0] for name in Judges(LossWeights(), MODEL, True).state_dict()} == {"flame", "lips"}
    assert not Judges(LossWeights(lips=0), MODEL, False).state_dict()
    assert not Judges(LossWeights(flame=0, lips=0), MODEL, True).state_dict()
    assert Judges(LossWeights(), deaf, True).lips is None
    assert Judges(LossWeights(), faceless, True).flame is None
    learned = Judges(LossWeights(balance="learned", lips=0), MODEL, False)
    assert learned.log_variances is not None
    torch.testing.assert_close(torch.exp(-learned.log_variances), torch.tensor([1.0, 0.5, 0.1, 1.0]))


def test_the_lip_judge_looks_at_the_lower_half_alone() -> None:
    torch.manual_seed(0)
    judge = LipJudge(latent_channels=2, audio_features=5)
    moved, audio = torch.randn(1, 3, 2, 6, 10), torch.randn(1, 3, 8, 5)
    above, below = moved.clone(), moved.clone()
    above[..., :3, :] += 1
    below[..., 3:, :] += 1
    seen, heard = judge(moved, audio)
    assert seen.shape == heard.shape == (1, 3, 256)
    assert torch.equal(judge(above, audio)[0], seen)
    assert not torch.equal(judge(below, audio)[0], seen)


def test_the_lip_judge_learns_who_belongs_together() -> None:
    torch.manual_seed(0)
    judges = Judges(LossWeights(lips_sigma=1.0), MODEL, False)
    optimizer = torch.optim.Adam(judges.parameters(), lr=3e-3)
    audio, shown = torch.randn(8, STEPS, 8, 5), torch.zeros(8, STEPS, 2, 4, 6)
    shown[:, :, 0, 2:] = audio[:, :, 0, :1, None]  # one channel of the mouth follows one number of the sound
    sigma, ones = torch.full((8, STEPS), 0.1), torch.ones(8, STEPS)
    ones[:, 0] = 0
    estimates = Estimates(shown, sigma, None, sigma)
    audible = torch.ones(8, STEPS, dtype=torch.bool)
    losses = []
    for _ in range(60):
        found = judged(judges.judge_lips(estimates, shown, audio, audible, Counted(ones, ones)))
        found.lesson.loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(found.lesson.loss().item())
    assert losses[-1] < 0.5 * losses[0]
    assert found.estimate.loss().item() == pytest.approx(losses[-1])  # the estimate is the truth here
