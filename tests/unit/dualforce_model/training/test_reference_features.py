"""Reference features all the way: from a snapshot through training into what a pipeline draws."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from dualforce_model import checkpoint
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.config import ConfigError
from dualforce_model.diffusion.window import SampleKey
from dualforce_model.encoders import EncoderChoice
from dualforce_model.model import DualForce
from dualforce_model.objective import WindowErrors, known, window_errors
from dualforce_model.pipeline import DualForcePipeline, GenerationInputError
from dualforce_model.train import train
from dualforce_model.train_config import Encoders, TrainConfig
from dualforce_model.train_state import StopSignal
from dualforce_model.trainer import Trainer, run_digest

SIDE_PX, WIDTH = 32, 3  # of the pictures and of their features
KEYS = [SampleKey(0, index) for index in range(40)]


def trainer_of(config: TrainConfig, folder: Path) -> Trainer:
    return Trainer(config, folder, Accelerator(cpu=True))


def windows(trainer: Trainer, count: int) -> TalkingHeadBatch:
    return TalkingHeadBatch.stack([trainer.dataset[0, index] for index in range(count)])


def moved(model: DualForce) -> DualForce:
    """Gates and heads start at zero: give everything something to say."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model


def weights_of(folder: Path, step: int) -> bytes:
    return (checkpoint.checkpoint_path(folder, step) / "model" / checkpoint.WEIGHTS_NAME).read_bytes()


# ------------------------------------------------------------------------------------------------------- training


def test_two_steps_teach_every_weight_that_reads_features(reference_config: TrainConfig, tmp_path: Path) -> None:
    config = reference_config.model_copy(update={"steps": 2, "feature_dropout": 0.0})
    assert train(config, tmp_path, StopSignal()).step == 2
    trainer = trainer_of(config, tmp_path)  # as it goes on
    assert trainer.objective.model.settings.video.feature_dim == WIDTH  # whatever number the configuration says
    trainer.objective(windows(trainer, 4), KEYS[:4], 0.0).losses.total.backward()
    reading = reading_gradients(trainer.objective.model)
    assert len(reading) == 8 + 2 * 5  # the embedder's, and each layer's keys, values and norm
    for name, gradient in reading.items():
        assert gradient is not None, name
        assert gradient.abs().max() > 1e-12, name


def reading_gradients(model: DualForce) -> dict[str, torch.Tensor | None]:
    """Of the weights that nothing but reference features passes through."""
    parts = ("image_embedder", ".add_", "norm_added_k")
    return {name: each.grad for name, each in model.named_parameters() if any(part in name for part in parts)}


def test_windows_that_all_go_without_still_give_gradients_of_zero(
    reference_config: TrainConfig, tmp_path: Path
) -> None:
    """A process whose windows all go without must take part in the others' sums."""
    trainer = trainer_of(reference_config.model_copy(update={"feature_dropout": 0.999}), tmp_path)
    moved(trainer.objective.model)
    trainer.objective(windows(trainer, 2), KEYS[:2], 0.0).losses.total.backward()
    for name, gradient in reading_gradients(trainer.objective.model).items():
        assert gradient is not None, name
        assert not gradient.any(), name


def test_a_run_with_features_resumes_bit_for_bit(reference_config: TrainConfig, tmp_path: Path) -> None:
    config = reference_config.model_copy(update={"steps": 4, "feature_dropout": 0.4})
    for name in ("whole", "broken"):
        train(config, tmp_path / name, StopSignal())
    shutil.rmtree(checkpoint.checkpoint_path(tmp_path / "broken", 4))
    train(config, tmp_path / "broken", StopSignal())
    assert weights_of(tmp_path / "whole", 4) == weights_of(tmp_path / "broken", 4)


def test_features_that_nobody_reads_change_nothing(
    config: TrainConfig, reference_config: TrainConfig, tmp_path: Path
) -> None:
    deaf = reference_config.model_copy(update={"model": config.model, "steps": 2, "feature_dropout": 0.5})
    train(deaf, tmp_path / "with", StopSignal())
    train(config.model_copy(update={"steps": 2}), tmp_path / "without", StopSignal())
    assert weights_of(tmp_path / "with", 2) == weights_of(tmp_path / "without", 2)


def test_a_snapshot_without_features_is_refused_by_name(
    config: TrainConfig, reference_config: TrainConfig, tmp_path: Path
) -> None:
    asking = config.model_copy(update={"model": reference_config.model})
    wanted = rf"feature_dim 1: snapshot {config.snapshot_id} has no modality 'reference' .*build one with them, or set"
    with pytest.raises(ConfigError, match=wanted):
        trainer_of(asking, tmp_path)


@pytest.mark.usefixtures("quarter_means")
def test_another_encoder_than_the_snapshot_s_is_refused(reference_config: TrainConfig, tmp_path: Path) -> None:
    def named(name: str) -> TrainConfig:
        return reference_config.model_copy(update={"encoders": Encoders(reference=EncoderChoice(name=name))})

    with pytest.raises(ConfigError, match=r"encoders\.reference: log_mel .* did not make the reference of snapshot"):
        trainer_of(named("log_mel"), tmp_path)
    trainer_of(named("quarter_means"), tmp_path)


def test_what_is_off_is_no_part_of_a_run_s_identity(config: TrainConfig, reference_config: TrainConfig) -> None:
    assert "feature_dropout" not in config.identity()
    assert "reference" not in config.identity()["encoders"]
    for settings, decides in ((config, False), (reference_config, True)):
        other = settings.model_copy(update={"feature_dropout": 0.7})
        assert (run_digest(other) != run_digest(settings)) == decides


# -------------------------------------------------------------------------------------------------------- dropout


def test_a_share_of_the_windows_goes_without(reference_config: TrainConfig, tmp_path: Path) -> None:
    trainer = trainer_of(reference_config, tmp_path)
    one = windows(trainer, 1)
    batch = TalkingHeadBatch(**{name: getattr(one, name).repeat(len(KEYS), *(1,) * (getattr(one, name).ndim - 1))
                                for name in one.__dataclass_fields__ if getattr(one, name) is not None})  # fmt: skip

    def kept(share: float, keys: list[SampleKey] = KEYS) -> list[bool]:
        found = known(batch, keys, reference_config.model_copy(update={"feature_dropout": share}))
        assert found is not None
        assert torch.equal(found.valid.all(1), found.valid.any(1))  # all of a window's features, or none
        return found.valid.all(1).tolist()

    assert all(kept(0.0))
    assert 10 <= sum(kept(0.5)) <= 30
    assert kept(0.5) == kept(0.5)
    assert kept(0.5, KEYS[::-1]) == kept(0.5)[::-1]  # by key, not by place
    assert kept(0.5) != kept(0.5, [SampleKey(1, key.index) for key in KEYS])


def test_a_window_without_features_learns_without(reference_config: TrainConfig, tmp_path: Path) -> None:
    config = reference_config.model_copy(update={"feature_dropout": 0.5})
    trainer = trainer_of(config, tmp_path)
    model, batch = moved(trainer.objective.model).eval(), windows(trainer, 4)
    assert batch.features is not None

    def errors(told: torch.Tensor) -> WindowErrors:
        return window_errors(model, changed(batch, told), KEYS[:4], config, trainer.reading)

    found = known(batch, KEYS[:4], config)
    assert found is not None
    kept = found.valid.all(1)
    assert 0 < int(kept.sum()) < 4
    before, after = (errors(told).video.errors for told in (batch.features, batch.features.flip(2) + 1))
    assert torch.equal(before[~kept], after[~kept])
    assert (before[kept] != after[kept]).any(1).all()


def changed(batch: TalkingHeadBatch, features: torch.Tensor | None) -> TalkingHeadBatch:
    given = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    return TalkingHeadBatch(**{**given, "features": features})


def test_a_model_that_takes_features_is_never_fed_without(reference_config: TrainConfig, tmp_path: Path) -> None:
    trainer = trainer_of(reference_config, tmp_path)
    with pytest.raises(ValueError, match="the batch has no features"):
        trainer.objective(changed(windows(trainer, 2), None), KEYS[:2], 0.0)


# ------------------------------------------------------------------------------------------------------- pipeline


@pytest.fixture(scope="module")
def checkpoint_folder(reference_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("knowing_run")
    state = train(reference_config.model_copy(update={"steps": 2}), folder, StopSignal())
    return folder / str(state.checkpoint)


@pytest.fixture(scope="module")
def pipe(checkpoint_folder: Path) -> DualForcePipeline:
    made = DualForcePipeline.from_pretrained(checkpoint_folder)
    moved(made.model)
    return made


def picture(number: int = 0) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)


def sound(frames: int = 9) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(640 * frames).astype(np.float32) * 0.1


def told(number: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((count, WIDTH)).astype(np.float32)


def differ(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_features_handed_over_decide_what_is_drawn(pipe: DualForcePipeline) -> None:
    one, other = (pipe(picture(), sound(), features=told(number)) for number in (1, 2))
    assert differ(one[0], other[0]) == 0  # the picture itself
    assert differ(one[1:], other[1:]) > 1
    assert np.array_equal(one, pipe(picture(), sound(), features=told(1)))
    without = pipe(picture(), sound(), without_features=True)
    assert min(differ(without, each) for each in (one, other)) > 1


def test_clips_of_one_batch_have_features_of_their_own(pipe: DualForcePipeline) -> None:
    """Also of different numbers: what is padded is absent."""
    given = [told(1), told(2, count=6)]
    together = pipe([picture()] * 2, [sound()] * 2, seed=[3, 3], features=given)
    for features, made in zip(given, together, strict=True):
        assert differ(made, pipe(picture(), sound(), seed=3, features=features)) <= 1
    assert differ(*together) > 1


def test_a_stream_with_features_equals_the_whole(pipe: DualForcePipeline) -> None:
    for options in ({"features": told(1)}, {"without_features": True}):
        chunks = list(pipe.stream(picture(), sound(), **options))
        assert np.array_equal(np.concatenate(chunks), pipe(picture(), sound(), **options))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {},
            r"takes reference features of width 3, none were given .*encoders\.reference.*hand over features, or allow",
        ),
        ({"features": told(1), "without_features": True}, "leave out one of them"),
        ({"features": [told(1), told(2)]}, "features of 2 pictures for 1"),
        ({"features": told(1)[:, :2]}, r"features \(4, 2\): expected an array \[features, 3\]"),
        ({"features": told(1)[:0]}, r"features \(0, 3\): expected"),
        ({"features": [[1.0, 2.0, 3.0]]}, "features list: expected an array"),
        ({"features": told(1).astype(np.int32)}, "features of int32: expected finite"),
        ({"features": np.full((4, 3), np.nan, np.float32)}, "expected finite"),
    ],
)
def test_features_that_do_not_fit_are_refused(pipe: DualForcePipeline, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(GenerationInputError, match=complaint):
        pipe(picture(), sound(), **options)


def test_a_model_without_features_is_given_none(config: TrainConfig, tmp_path: Path) -> None:
    state = train(config.model_copy(update={"steps": 1}), tmp_path, StopSignal())
    plain = DualForcePipeline.from_pretrained(tmp_path / str(state.checkpoint))
    with pytest.raises(GenerationInputError, match="takes no reference features: leave them out"):
        plain(picture(), sound(), features=told(1))
    made = plain(picture(), sound(), num_inference_steps=1)
    assert np.array_equal(made, plain(picture(), sound(), num_inference_steps=1, without_features=True))


def test_an_encoder_that_the_checkpoint_names_is_applied(
    quarter_means: type[Any], reference_config: TrainConfig, tmp_path: Path
) -> None:
    named = Encoders(reference=EncoderChoice(name="quarter_means"))
    state = train(reference_config.model_copy(update={"encoders": named, "steps": 1}), tmp_path, StopSignal())
    pipe = DualForcePipeline.from_pretrained(tmp_path / str(state.checkpoint))
    moved(pipe.model)
    made = pipe([picture(1), picture(2)], [sound()] * 2)
    own = [quarter_means()(picture(number)) for number in (1, 2)]
    assert np.array_equal(made[1], pipe([picture(1), picture(2)], [sound()] * 2, features=own)[1])
    assert differ(made[1], pipe([picture(1), picture(2)], [sound()] * 2, features=own[::-1])[1]) > 0
    pipe.save_pretrained(tmp_path / "copy")
    assert np.array_equal(made[0], DualForcePipeline.from_pretrained(tmp_path / "copy")(
        [picture(1), picture(2)], [sound()] * 2)[0])  # fmt: skip
