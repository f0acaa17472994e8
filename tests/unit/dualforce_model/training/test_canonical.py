"""Key points at rest all the way: from a snapshot through training into what a pipeline draws."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.checkpoint import CheckpointError
from dualforce_model.config import ConfigError
from dualforce_model.diffusion.window import SampleKey
from dualforce_model.encoders.structure import measure
from dualforce_model.model import DualForce, ModelConfig
from dualforce_model.pipeline import DualForcePipeline
from dualforce_model.train import train
from dualforce_model.train_config import TrainConfig
from dualforce_model.train_state import StopSignal
from dualforce_model.trainer import Trainer, run_digest

SIDE_PX, WIDTH = 32, 3
KEYS = [SampleKey(0, index) for index in range(4)]


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


def picture(number: int = 0, brighter: int = 0) -> np.ndarray:
    found = np.random.default_rng(number).integers(0, 200, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    return np.asarray(found + brighter, np.uint8)


def sound(frames: int = 9) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(640 * frames).astype(np.float32) * 0.1


# ------------------------------------------------------------------------------------------------------- training


def test_two_steps_teach_the_weight_that_reads_them(canonical_config: TrainConfig, tmp_path: Path) -> None:
    config = canonical_config.model_copy(update={"steps": 2})
    assert train(config, tmp_path, StopSignal()).step == 2
    trainer = trainer_of(config, tmp_path)  # as it goes on
    tower = trainer.objective.model.structure
    assert tower.config.canonical_dim == WIDTH  # whatever number the configuration says
    assert tower.canonical_embedding.weight.abs().max() > 0  # it began at zero
    trainer.objective(windows(trainer, 4), KEYS, 0.0).losses.total.backward()
    assert tower.canonical_embedding.weight.grad.abs().max() > 1e-12


def test_they_change_what_the_model_says(canonical_config: TrainConfig, tmp_path: Path) -> None:
    trainer = trainer_of(canonical_config, tmp_path)
    moved(trainer.objective.model).eval()
    batch = windows(trainer, 2)
    other = replace(batch, canonical=batch.canonical + 1)
    one, two = (trainer.objective(each, KEYS[:2], 0.0).losses.total for each in (batch, other))
    assert one != two


def test_rows_of_no_weight_may_hold_anything(canonical_config: TrainConfig, tmp_path: Path) -> None:
    trainer = trainer_of(canonical_config, tmp_path)
    moved(trainer.objective.model)
    batch = windows(trainer, 2)
    broken = torch.stack([batch.canonical[0], torch.full_like(batch.canonical[1], torch.nan)])
    told = replace(batch, canonical=broken, weights=torch.tensor([1.0, 0.0]))
    trainer.objective(told, KEYS[:2], 0.0).losses.total.backward()
    assert torch.isfinite(trainer.objective.model.structure.canonical_embedding.weight.grad).all()


def test_a_model_that_takes_them_is_never_fed_without(canonical_config: TrainConfig, tmp_path: Path) -> None:
    trainer = trainer_of(canonical_config, tmp_path)
    with pytest.raises(ValueError, match="the batch has no canonical"):
        trainer.objective(replace(windows(trainer, 2), canonical=None), KEYS[:2], 0.0)


def test_what_nobody_reads_changes_nothing(config: TrainConfig, canonical_config: TrainConfig, tmp_path: Path) -> None:
    blind, plain = canonical_config.model_copy(update={"model": config.model}), config
    losses = []
    for name, each in (("with", blind), ("without", plain)):
        trainer = trainer_of(each, tmp_path / name)
        assert (windows(trainer, 2).canonical is None) == (name == "without")
        losses.append(trainer.objective(windows(trainer, 2), KEYS[:2], 0.0).losses.total)
    assert losses[0] == losses[1]


def test_a_snapshot_without_them_is_refused_by_name(
    config: TrainConfig, canonical_config: TrainConfig, tmp_path: Path
) -> None:
    asking = config.model_copy(update={"model": canonical_config.model})
    wanted = rf"canonical_dim 1: the structure of snapshot {config.snapshot_id} has no key points at rest"
    with pytest.raises(ConfigError, match=wanted):
        trainer_of(asking, tmp_path)


def test_what_is_off_is_no_part_of_a_run_s_identity(config: TrainConfig, canonical_config: TrainConfig) -> None:
    """So runs and checkpoints of before there was a choice keep theirs."""
    assert "canonical_dim" not in config.identity()["model"]["structure"]
    assert canonical_config.identity()["model"]["structure"]["canonical_dim"] == 1
    assert run_digest(config) != run_digest(config.model_copy(update={"model": canonical_config.model}))


def test_the_settings_of_an_old_checkpoint_make_the_model_that_they_made(config: TrainConfig) -> None:
    old = config.model.model_dump(mode="json")
    del old["structure"]["canonical_dim"]
    model = DualForce(old)
    assert model.settings == config.model
    assert not [name for name in model.state_dict() if "canonical" in name]
    known = DualForce(ModelConfig.model_validate({**old, "structure": {**old["structure"], "canonical_dim": WIDTH}}))
    assert set(known.state_dict()) - set(model.state_dict()) == {"structure.canonical_embedding.weight"}


# ------------------------------------------------------------------------------------------------------- pipeline


@pytest.fixture
def checkpoint(canonical_config: TrainConfig, tmp_path: Path) -> Path:
    state = train(canonical_config.model_copy(update={"steps": 1}), tmp_path, StopSignal())
    return tmp_path / str(state.checkpoint)


@pytest.fixture
def pipe(resting_dct: type[Any], checkpoint: Path) -> DualForcePipeline:
    made = DualForcePipeline.from_pretrained(checkpoint)
    assert type(made.structure) is resting_dct
    moved(made.model)
    return made


def test_a_pipeline_takes_them_from_the_picture(pipe: DualForcePipeline) -> None:
    told = pipe._at_rest([measure(pipe.structure, picture(number)[None]) for number in (1, 2)])
    means = np.stack([picture(number).mean(axis=(0, 1), dtype=np.float32) / 255 for number in (1, 2)])
    np.testing.assert_allclose(told, pipe.record.statistics["structure.canonical"].standardise(means), atol=1e-6)
    made = pipe([picture(1), picture(2)], [sound()] * 2, seed=[3, 3])
    assert np.abs(made[1].astype(int) - pipe(picture(2), sound(), seed=3).astype(int)).max() <= 1
    guided = pipe(picture(1), sound(), seed=3, guidance=2.0)  # each stream has a twin with the same key points
    assert guided.shape == made[0].shape
    assert np.array_equal(np.concatenate(list(pipe.stream(picture(1), sound(), 3))), pipe(picture(1), sound(), 3))


def test_they_decide_what_is_drawn(pipe: DualForcePipeline) -> None:
    before = pipe(picture(), sound())
    with torch.no_grad():
        pipe.model.structure.canonical_embedding.weight.mul_(-3)
    assert np.abs(before.astype(int) - pipe(picture(), sound()).astype(int)).max() > 0


def test_an_encoder_that_tells_none_is_refused(checkpoint: Path) -> None:
    other = DualForcePipeline.from_pretrained(checkpoint)
    with pytest.raises(CheckpointError, match=r"encoders\.structure of the checkpoint is face_dct, which tells none"):
        other(picture(), sound())
