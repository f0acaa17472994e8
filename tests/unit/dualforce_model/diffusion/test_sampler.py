"""The sampler against a net whose answer is known, and against a real one cached and batched."""

import pytest
import torch

from dualforce_model.audio import AudioConfig
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.bridge import BridgeConfig
from dualforce_model.diffusion.guidance import Guidance
from dualforce_model.diffusion.prediction import Reading, Spread
from dualforce_model.diffusion.sampler import Chunk, Conditions, Sampler, SamplerConfig
from dualforce_model.diffusion.schedule import NoiseSchedule
from dualforce_model.model import DualForce, ModelConfig
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig

CONFIG = ModelConfig(
    video=VideoTowerConfig(heads=2, head_dim=8, layers=2, ffn_dim=16, freq_dim=8, latent_channels=3, patch_px=(2, 2)),
    structure=StructureTowerConfig(heads=2, head_dim=8, layers=2, ffn_dim=16, freq_dim=8, entries=5, sink_tokens=1),
    bridge=BridgeConfig(depth=2, condition_dim=8),
    audio=AudioConfig(layers=2, features=6, slot_dim=4, context_dim=8, look_ahead_steps=1),
    window_steps=3,
)
STEPS = 7
READING = Reading.of("velocity", Spread(video=(1.0,) * 3, structure=(1.0,) * 5))


@pytest.fixture(scope="module")
def model() -> DualForce:
    torch.manual_seed(0)
    made = DualForce(CONFIG).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # gates and heads start at zero: give everything something to say
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made


def conditions(batch: int = 2) -> Conditions:
    fake = TalkingHeadBatch.fake(CONFIG, batch, STEPS, 4, 4)
    return Conditions(fake.reference, fake.structure[:, 0], fake.audio, fake.audio_mask)


def sample(
    model: DualForce, given: Conditions, seeds: list[int], **config: object
) -> tuple[torch.Tensor, torch.Tensor]:
    settings = SamplerConfig(num_inference_steps=3, **config)  # type: ignore[arg-type]
    chunks = list(Sampler(model, NoiseSchedule(), settings, READING).stream(given, seeds))
    assert [chunk.first_step for chunk in chunks] == [0, *range(1, STEPS, settings.chunk_steps)]
    structures = [chunk.structure for chunk in chunks if chunk.structure is not None]
    return torch.cat([chunk.video for chunk in chunks], 1), torch.cat(structures, 1)


def row(given: Conditions, index: int) -> Conditions:
    assert given.structure is not None
    pick = slice(index, index + 1)
    return Conditions(given.reference[pick], given.structure[pick], given.audio[pick], given.audio_mask[pick])


def test_the_reference_comes_first_and_every_step_once(model: DualForce) -> None:
    given = conditions()
    video, structure = sample(model, given, [1, 2])
    assert video.shape == (2, STEPS, 3, 4, 4)
    assert structure.shape == (2, STEPS, 4, 5)
    assert torch.equal(video[:, 0], given.reference)
    assert torch.isfinite(video).all()


def test_a_clip_does_not_depend_on_its_batch(model: DualForce) -> None:
    given = conditions()
    together, _ = sample(model, given, [1, 2])
    for index, seed in enumerate([1, 2]):
        alone, _ = sample(model, row(given, index), [seed])
        torch.testing.assert_close(alone[0], together[index], rtol=1e-4, atol=1e-4)


def test_seeds_decide(model: DualForce) -> None:
    given = row(conditions(), 0)
    assert torch.equal(sample(model, given, [1])[0], sample(model, given, [1])[0])
    assert not torch.equal(sample(model, given, [1])[0], sample(model, given, [2])[0])


def test_later_sound_does_not_reach_earlier_steps(model: DualForce) -> None:
    given = row(conditions(), 0)
    before, _ = sample(model, given, [1])
    given.audio[:, 5] += 1.0
    after, _ = sample(model, given, [1])
    look_ahead = 1
    assert torch.equal(before[:, : 5 - look_ahead], after[:, : 5 - look_ahead])
    assert not torch.equal(before[:, 5 - look_ahead], after[:, 5 - look_ahead])


def test_a_chunk_of_two_is_another_sampler_of_the_same_length(model: DualForce) -> None:
    video, _ = sample(model, row(conditions(), 0), [1], chunk_steps=2)
    assert video.shape[1] == STEPS


def test_guidance_of_one_changes_nothing_and_two_does(model: DualForce) -> None:
    given = row(conditions(), 0)
    plain, _ = sample(model, given, [1])
    assert torch.equal(plain, sample(model, given, [1], guidance=Guidance(audio_scale=1.0))[0])
    off = sample(model, given, [1], guidance=Guidance(audio_scale=2.0, off_below_sigma=1.0))[0]
    assert not torch.equal(plain, off)  # at sigma 1 it is on
    assert not torch.equal(sample(model, given, [1], guidance=Guidance(audio_scale=2.0))[0], off)


def test_a_seed_is_needed_for_each_stream(model: DualForce) -> None:
    with pytest.raises(ValueError, match="1 seeds for 2 streams"):
        next(Sampler(model, NoiseSchedule(), SamplerConfig(), READING).stream(conditions(), [1]))


@pytest.fixture(scope="module")
def knowing() -> DualForce:
    torch.manual_seed(0)
    video = CONFIG.video.model_copy(update={"feature_dim": 4})
    made = DualForce(CONFIG.model_copy(update={"video": video})).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made


def told(features: torch.Tensor | None, mask: torch.Tensor | None = None) -> Conditions:
    """Two streams of the same picture and sound."""
    given = row(conditions(), 0)
    assert given.structure is not None
    twice = [torch.cat([x, x]) for x in (given.reference, given.structure, given.audio, given.audio_mask)]
    return Conditions(*twice, features, mask)


def test_features_decide_and_absent_ones_do_not(knowing: DualForce) -> None:
    features = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(5))
    video, _ = sample(knowing, told(features), [1, 1])
    assert torch.equal(video[0, 0], video[1, 0])  # the reference
    assert (video[0, 1:] - video[1, 1:]).abs().max() > 1e-3
    same, _ = sample(knowing, told(features[:1].expand(2, -1, -1)), [1, 1])
    torch.testing.assert_close(same[0], same[1], rtol=1e-4, atol=1e-4)
    without, _ = sample(knowing, told(None), [1, 1])
    masked, _ = sample(knowing, told(features, torch.tensor([[True] * 3, [False] * 3])), [1, 1])
    torch.testing.assert_close(masked[0], video[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(masked[1], without[1], rtol=1e-4, atol=1e-4)
    assert (without[0] - video[0]).abs().max() > 1e-3


def test_guidance_keeps_the_features_of_both_branches(knowing: DualForce) -> None:
    """Sound that is not there guides nowhere, so the twins must have been told the same."""
    features = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(5))
    given = told(features, torch.tensor([[True] * 3, [True, True, False]]))
    given.audio_mask[:] = False
    plain, _ = sample(knowing, given, [1, 2])
    guided, _ = sample(knowing, given, [1, 2], guidance=Guidance(audio_scale=3.0))
    torch.testing.assert_close(guided, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("features", "mask", "complaint"),
    [
        (torch.zeros(1, 3, 4), None, r"features \(1, 3, 4\): expected \[2 streams"),
        (torch.zeros(2, 4), None, r"features \(2, 4\): expected"),
        (torch.zeros(2, 3, 4), torch.ones(2, 2, dtype=torch.bool), r"features_mask \(2, 2\): expected \(2, 3\)"),
        (None, torch.ones(2, 3, dtype=torch.bool), r"features_mask \(2, 3\): expected no mask without features"),
    ],
)
def test_features_of_other_streams_are_refused(
    features: torch.Tensor | None, mask: torch.Tensor | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        told(features, mask)


class Oracle(torch.nn.Module):
    """Knows the answer: says the true velocity of a known clip, and notes the states it is asked about."""

    def __init__(self, real: DualForce, truth: Chunk) -> None:
        super().__init__()
        self.settings, self.truth, self.visited = real.settings, truth, []

    def new_cache(self, batch: int) -> None:
        return None

    def forward(self, **given: torch.Tensor) -> Chunk:
        step = int(given["positions"][0, 0])
        self.visited.append(
            (step, float(given["sigma_video"][0, 0]), float(given["sigma_structure"][0, 0]), given["commit"])
        )
        return Chunk(step, self._true(given, "video", step), self._true(given, "structure", step))

    def _true(self, given: dict[str, torch.Tensor], name: str, step: int) -> torch.Tensor:
        sigma, x = given[f"sigma_{name}"], given[name]
        x0 = getattr(self.truth, name)[:, step : step + x.shape[1]]
        return (x - x0) / sigma.clamp(min=1e-6).reshape(*sigma.shape, *(1,) * (x.ndim - 2))


def test_true_velocities_lead_to_the_true_clip_along_the_stated_path(model: DualForce) -> None:
    given = row(conditions(), 0)
    truth = Chunk(0, torch.randn(1, STEPS, 3, 4, 4), torch.randn(1, STEPS, 4, 5))
    oracle = Oracle(model, truth)
    video, structure = sample(oracle, given, [5])  # type: ignore[arg-type]
    torch.testing.assert_close(video[:, 1:], truth.video[:, 1:], rtol=1e-4, atol=1e-5)
    assert truth.structure is not None
    torch.testing.assert_close(structure[:, 1:], truth.structure[:, 1:], rtol=1e-4, atol=1e-5)
    path = NoiseSchedule().path(3)
    want = [(0, 0.0, 0.0, True)]
    for step in range(1, STEPS):
        want += [(step, float(v), float(s), False) for v, s in zip(path.video[:-1], path.structure[:-1], strict=True)]
        want.append((step, 0.0, 0.0, True))
    assert oracle.visited == want
