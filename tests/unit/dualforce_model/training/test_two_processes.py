"""One process and two sharded ones (FSDP2 over gloo) train the same model, and each resumes the other's checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dualforce_model import checkpoint
from dualforce_model.execution import Execution
from dualforce_model.losses import LossWeights
from dualforce_model.train import train
from dualforce_model.train_config import TrainConfig
from dualforce_model.train_log import read_log
from dualforce_model.train_state import StopSignal

ROOT = Path(__file__).resolve().parents[4]
pytestmark = pytest.mark.slow


def launch_two(folder: Path, config: TrainConfig) -> None:
    """Train with two CPU processes under the GPU configuration that ships, over gloo."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    accelerate = yaml.safe_load((ROOT / "configs/accelerate/gpu.yaml").read_text())
    accelerate.update(
        num_processes=2,
        use_cpu=True,
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        main_process_port=0,
    )
    (folder / "accelerate.yaml").write_text(yaml.safe_dump(accelerate))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / "accelerate.yaml")]
    command += ["-m", "dualforce_model.train", "--config", str(folder / "config.yaml")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("2 process(es), FSDP, cpu") == 2, "they trained side by side, not together"


def losses(folder: Path, name: str = "loss") -> torch.Tensor:
    rows = [row.values[name] for row in read_log(folder) if name in row.values]
    return torch.tensor(rows, dtype=torch.float64)


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return checkpoint.load_tensors(checkpoint.checkpoint_path(folder, step) / "model" / checkpoint.WEIGHTS_NAME)


def test_two_processes_train_as_one(config: TrainConfig, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(config, one, StopSignal())
    launch_two(two, config)
    assert json.loads((two / "run_state.json").read_text())["reason"] == "finished"
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-5, atol=1e-6)
    for name, value in weights(one, 6).items():
        torch.testing.assert_close(weights(two, 6)[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_compiled_blocks_are_sharded_and_train_the_same(config: TrainConfig, tmp_path: Path) -> None:
    """Another way to carry out the same run: it is the same run."""
    one, two = tmp_path / "one", tmp_path / "two"
    train(config, one, StopSignal())
    launch_two(two, config.model_copy(update={"execution": Execution(compile="on")}))
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-5, atol=1e-6)
    states = [checkpoint.verify_checkpoint(checkpoint.checkpoint_path(folder, 6)) for folder in (one, two)]
    assert states[0].config_digest == states[1].config_digest


def test_activations_are_not_recomputed_twice(config: TrainConfig, tmp_path: Path) -> None:
    twice = config.model_copy(update={"execution": Execution(recompute=True)})
    with pytest.raises(AssertionError, match="turn one of them off"):
        launch_two(tmp_path / "run", twice)


def test_two_processes_judge_as_one(flame_config: TrainConfig, tmp_path: Path) -> None:
    """FLAME map, lip contrast and learned weights: sharded, averaged and saved as the model is."""
    judging = LossWeights(balance="learned", lips_sigma=1.0, lips=1.0, flame=1.0)
    config = flame_config.model_copy(update={"losses": judging})
    one, two = tmp_path / "one", tmp_path / "two"
    train(config, one, StopSignal())
    launch_two(two, config)
    for name in ("loss", "loss_flame", "loss_lips", "lesson_flame", "lesson_lips"):
        torch.testing.assert_close(losses(two, name), losses(one, name), rtol=1e-5, atol=1e-5, msg=name)
    expected, found = (
        checkpoint.load_tensors(checkpoint.checkpoint_path(run, 6) / checkpoint.JUDGES_NAME) for run in (one, two)
    )
    for tensor_name, value in expected.items():  # Adam's first steps are of full size however small a gradient is
        assert (found[tensor_name] - value).norm() < 1e-3 * value.norm(), tensor_name


def test_half_precision_rounds_weights_and_nothing_else(flame_config: TrainConfig, tmp_path: Path) -> None:
    """Noise levels, positions, targets and losses stay exact, so that the losses are nearly those of full precision."""
    config = flame_config.model_copy(update={"steps": 3, "losses": LossWeights(lips_sigma=1.0)})
    one, two = tmp_path / "one", tmp_path / "two"
    train(config, one, StopSignal())
    launch_two(two, config.model_copy(update={"precision": "bf16"}))
    for name in ("loss", "loss_video", "loss_structure", "loss_flame", "loss_lips", "validation_loss"):
        torch.testing.assert_close(losses(two, name), losses(one, name), rtol=5e-3, atol=1e-4, msg=name)


def test_a_run_goes_on_with_another_number_of_processes(config: TrainConfig, tmp_path: Path) -> None:
    one, moved = tmp_path / "one", tmp_path / "moved"
    train(config, one, StopSignal())

    class StopAfterThree(StopSignal):
        """Asks for a stop after three steps."""

        steps = 0

        def asked(self, accelerator: object) -> bool:
            self.steps += 1
            return self.steps > 3

    train(config, moved, StopAfterThree())
    launch_two(moved, config)
    assert [row.step for row in read_log(moved) if "loss" in row.values] == [1, 2, 3, 4, 5, 6]
    torch.testing.assert_close(losses(moved), losses(one), rtol=1e-5, atol=1e-6)
