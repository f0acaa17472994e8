"""The training loop: batch, noise, forward, losses, step, log, checkpoint. Resumes bit-exactly.

Every random number is keyed: windows and noise by (seed, epoch, sample index), dropout by (seed, step, process). So the
state of a run is its weights, moments, averaged weights and step, and nothing else.
"""

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from dualforce_model import checkpoint, engine, optimisation
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.config import ConfigError, Frozen, digest
from dualforce_model.data import SnapshotDataset
from dualforce_model.diffusion.noise import keyed_generator
from dualforce_model.diffusion.prediction import Reading, measure_spread
from dualforce_model.diffusion.window import SampleKey
from dualforce_model.errors import InputError
from dualforce_model.fitting import check_encoders, fitted, picture_size, wanted_modalities
from dualforce_model.judges import Judges
from dualforce_model.losses import Losses
from dualforce_model.model import DualForce
from dualforce_model.objective import Objective, Outcome, WindowErrors
from dualforce_model.schema import Split, load_snapshot
from dualforce_model.storage import Storage
from dualforce_model.train_config import RECORD_FORMAT, PipelineRecord, TrainConfig
from dualforce_model.train_log import append_log, progress_line, trim_log
from dualforce_model.train_state import StopSignal
from dualforce_model.weights import Started, start_video_tower

SPREAD_WINDOWS = 128
START_RECORD = "start"  # what the weights started from
LOGGER = logging.getLogger(__name__)


class TrainingDivergedError(InputError):
    """The loss is no number any more; the settings have to change."""


class KeyedBatch(NamedTuple):
    """One process's windows of one step, and their names."""

    windows: TalkingHeadBatch
    keys: Sequence[SampleKey]


class Trainer:
    """One run in one folder; every process of the run has one."""

    def __init__(self, config: TrainConfig, folder: Path, accelerator: Accelerator) -> None:
        self.config, self.folder, self.accelerator = config, folder, accelerator
        self.dataset = self._open("train")
        check_encoders(config.encoders, self.dataset.snapshot, self.dataset.modalities)
        self.validation = self._open("validation")
        self.spread = measure_spread(self._windows_for_spread())
        self.reading = Reading.of(config.diffusion.prediction, self.spread)
        self.step, self.saved = 0, 0  # before the first step there is nothing to save
        torch.manual_seed(config.seed)  # equal weights in every process
        model = DualForce(fitted(config.model, self.dataset.snapshot, self.dataset.modalities))
        judges = Judges(config.losses, model.settings, "flame" in self.dataset.modalities)
        found = checkpoint.newest_checkpoint(folder)
        if found is not None:
            self.step = self.saved = self._same_run(found)
            model.load_state_dict(checkpoint.load_tensors(found / checkpoint.MODEL_FOLDER / checkpoint.WEIGHTS_NAME))
            load_judges(judges, found)
        self.started = self._start(model, found)
        self._prepare(model)
        objective = Objective(model, judges, config, self.reading)
        optimizer = optimisation.make_optimizer(config.optimizer, objective)
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        self.ema = optimisation.AveragedWeights(self._parameters(), config.optimizer.ema_decay)
        if found is not None:
            self._load_state(found)
        self.objective.train()

    def run(self, stop: StopSignal) -> bool:
        """Train until the last step (True) or until asked to stop (False); the last step done has a checkpoint."""
        started, first = time.monotonic(), self.step
        pending: list[dict[str, float]] = []
        for batch in self._batches():
            if stop.asked(self.accelerator):
                break
            pending.append(self._train_step(batch))
            if self._due(self.config.log_every):
                self._log(pending, time.monotonic() - started, self.step - first)
                pending = []
            if self._due(self.config.validate_every):
                self._validate()
            if self._due(self.config.save_every):
                self.save()
        self.save()
        return self.step == self.config.steps

    def save(self) -> None:
        """Checkpoint of the current step, once; all processes take part, the first one writes."""
        if self.saved == self.step:
            return
        weights, judges = (engine.whole_tensors(dict(named)) for named in (self._parameters(), self._judging()))
        ema = engine.whole_tensors(self.ema.tensors)
        moments = engine.whole_tensors(optimisation.optimizer_tensors(self.optimizer.optimizer, self._learning()))
        if self.accelerator.is_main_process:
            plain = self.accelerator.unwrap_model(self.objective).model
            content = checkpoint.Content(plain.save_config, weights, ema, moments, self._records(), judges)
            checkpoint.save_checkpoint(
                self.folder, self.step, self.config.snapshot_id, run_digest(self.config), content
            )
            checkpoint.prune_checkpoints(self.folder, self.config.keep_checkpoints)
        self.saved = self.step
        self.accelerator.wait_for_everyone()

    # ------------------------------------------------------------------------------------------------------ steps

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _train_step(self, batch: KeyedBatch) -> dict[str, float]:
        config, accelerator = self.config.optimizer, self.accelerator
        rate = optimisation.learning_rate(config, self.step, self.config.steps)
        optimisation.set_learning_rate(self.optimizer, rate)
        dropout = keyed_generator(self.config.seed, "dropout", self.step, accelerator.process_index)
        torch.manual_seed(dropout.initial_seed())
        windows = batch.windows.to(accelerator.device)
        losses = self.objective(windows, batch.keys, self.step / self.config.steps).losses
        accelerator.backward(losses.total)
        norm = accelerator.clip_grad_norm_(self.objective.parameters(), config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self._parameters(), self.step)
        self.step += 1
        values = self._mean_over_processes(losses)
        if not math.isfinite(values["loss"]):
            raise TrainingDivergedError(
                f"step {self.step}: the loss is {values['loss']}; lower optimizer.learning_rate or max_grad_norm"
            )
        return {**values, "learning_rate": rate, "grad_norm": float(engine.whole(norm))}

    def _batches(self) -> Iterator[KeyedBatch]:
        """This process's share of the batch of every step that is left."""
        share = per_process(self.config.batch_size, self.accelerator.num_processes)
        start = self.accelerator.process_index * share
        steps = range(self.step, self.config.steps)
        keys = StepKeys(steps, self.config.batch_size, len(self.dataset), range(start, start + share))
        loader = DataLoader(
            self.dataset,  # type: ignore[arg-type]  # a map from (epoch, index), not from int
            batch_sampler=keys,
            collate_fn=TalkingHeadBatch.stack,
            num_workers=self.config.loader_workers,
            generator=keyed_generator(self.config.seed, "loader"),  # leaves torch's own generator alone
            worker_init_fn=outlive_first_terminate,
        )
        for step, windows in zip(steps, loader, strict=True):
            yield KeyedBatch(windows, keys.of(step))

    @torch.no_grad()
    def _validate(self) -> None:
        """Loss of fixed windows under fixed noise, so that values of different steps compare."""
        processes, index = self.accelerator.num_processes, self.accelerator.process_index
        share = self.config.validation_windows // processes
        if not len(self.validation) or not share:
            return
        count = len(self.validation)
        places = [(number // count, number % count) for number in range(index * share, (index + 1) * share)]
        windows = TalkingHeadBatch.stack([self.validation[place] for place in places])
        keys = [SampleKey(-1 - epoch, number) for epoch, number in places]  # epochs that training never has
        self.objective.eval()
        found: Outcome = self.objective(windows.to(self.accelerator.device), keys, 0.0)  # values of all steps compare
        self.objective.train()
        values = {**self._mean_over_processes(found.losses), **self._by_level(found.errors)}
        self._tell({f"validation_{name}": value for name, value in values.items()})

    # -------------------------------------------------------------------------------------------------- reporting

    def _log(self, pending: list[dict[str, float]], elapsed_s: float, done_here: int) -> None:
        values = {name: sum(row[name] for row in pending) / len(pending) for name in pending[0]}
        self._tell({**values, "seconds_per_step": elapsed_s / done_here})
        if self.accelerator.is_main_process:
            say(progress_line(self.step, self.config.steps, elapsed_s, done_here, values["loss"]))

    def _tell(self, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            append_log(self.folder, self.step, values)
        self.accelerator.log(values, step=self.step)

    def _by_level(self, errors: WindowErrors) -> dict[str, float]:
        """Mean error of each modality in each range of noise levels that came up, named by the range's upper end."""
        values: dict[str, float] = {}
        for name, each in errors._asdict().items():
            if each is None:
                continue
            sums, counts = self.accelerator.reduce(each.by_level(), "sum").tolist()
            values |= {
                f"{name}_to_sigma_{(level + 1) / len(sums):.1f}": sums[level] / counts[level]
                for level in range(len(sums))
                if counts[level]
            }
        return values

    def _mean_over_processes(self, losses: Losses) -> dict[str, float]:
        named = losses.named()
        stacked = torch.stack([value.detach().float() for value in named.values()])
        if self.accelerator.num_processes > 1:
            stacked = self.accelerator.reduce(stacked, "mean")
        return dict(zip(named, stacked.tolist(), strict=True))

    # ------------------------------------------------------------------------------------------------------ state

    def _open(self, split: Split) -> SnapshotDataset:
        config = self.config
        modalities = wanted_modalities(config, load_snapshot(Storage(config.store_url), config.snapshot_id))
        return SnapshotDataset(
            config.store_url, config.snapshot_id, config.window_steps, split, config.seed, modalities, config.in_memory
        )

    def _windows_for_spread(self) -> Iterator[TalkingHeadBatch]:
        """The first windows of the run, the same in every process and after every resume."""
        for key in sample_keys(0, SPREAD_WINDOWS, len(self.dataset)):
            yield TalkingHeadBatch.stack([self.dataset[key.epoch, key.index]])

    def _parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The model's, under its own names."""
        return _inside("model", self.objective)

    def _judging(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The judges', under their own names."""
        return _inside("judges", self.objective)

    def _learning(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All that the optimizer moves: the model's by their own names, the judges' behind "judges."."""
        yield from self._parameters()
        yield from ((f"judges.{name}", parameter) for name, parameter in self._judging())

    def _start(self, model: DualForce, found: Path | None) -> Started | None:
        """Put the warm start's weights into a new model; a run that goes on only remembers where they came from."""
        if self.config.start_from is None:
            return None
        if found is None:
            return start_video_tower(model.video, self.config.start_from)
        return Started.model_validate(checkpoint.load_record(found / f"{START_RECORD}.json"))

    def _prepare(self, model: DualForce) -> None:
        """Set the model up for this machine; FSDP may recompute activations itself, and twice would be in vain."""
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if self.config.execution.recompute and plugin is not None and plugin.activation_checkpointing:
            raise ConfigError(
                "execution.recompute and accelerate's fsdp_activation_checkpointing are both on: activations would be "
                "computed three times; turn one of them off"
            )
        decided = self.config.execution.prepare(model, self.accelerator.device)
        LOGGER.info("%s attention, compiled blocks %s", decided.attention, decided.compile)

    def _records(self) -> dict[str, Frozen]:
        config = self.config
        record = PipelineRecord(
            format=RECORD_FORMAT,
            encoders=config.encoders,
            size=picture_size(self.dataset.snapshot, config.encoders),
            diffusion=config.diffusion,
            sampler=config.sampler,
            spread=self.spread,
            statistics=dict(self.dataset.snapshot.statistics),
            snapshot_id=self.dataset.snapshot.id,
            text="text" in self.dataset.modalities,
        )
        records: dict[str, Frozen] = {"train": config, "pipeline": record}
        return records if self.started is None else {**records, START_RECORD: self.started}

    def _same_run(self, found: Path) -> int:
        """Step of a checkpoint of this very run; another configuration in the folder is refused."""
        state = checkpoint.verify_checkpoint(found)
        if state.config_digest != run_digest(self.config):
            raise ConfigError(
                f"{found} was made by another configuration (see its train.json); train in another folder, "
                "or remove the folder's checkpoints to start over"
            )
        return state.step

    def _load_state(self, found: Path) -> None:
        """Averaged weights and moments of a checkpoint; the log forgets what came after it."""
        averaged = checkpoint.load_tensors(found / checkpoint.MODEL_FOLDER / checkpoint.EMA_NAME)
        self.ema.tensors = {name: engine.place_like(averaged[name], like) for name, like in self.ema.tensors.items()}
        moments = checkpoint.load_tensors(found / checkpoint.OPTIMIZER_NAME)
        optimisation.load_optimizer_tensors(self.optimizer.optimizer, self._learning(), moments)
        if self.accelerator.is_main_process:
            trim_log(self.folder, self.step)
        LOGGER.info("resuming at step %d from %s", self.step, found)


def load_judges(judges: Judges, found: Path) -> None:
    """Weights of the judges of a checkpoint; a run without judges has no such file."""
    if judges.state_dict():
        judges.load_state_dict(checkpoint.load_tensors(found / checkpoint.JUDGES_NAME))


def _inside(part: str, objective: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in engine.named_parameters(objective):
        if name.startswith(f"{part}."):
            yield name.removeprefix(f"{part}."), parameter


def say(line: str) -> None:
    """One line for whoever reads our output; that nobody reads any more is no reason to end without saving."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def outlive_first_terminate(worker: int) -> None:
    """Make a loading process ignore one SIGTERM: a supervisor sends it to the whole tree, but a trainer whose loaders
    die raises in the middle of a step instead of saving. A second one, which is torch's own, ends it."""

    def on_terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, on_terminate)


def run_digest(config: TrainConfig) -> str:
    """Identity of a run."""
    return digest(config.identity())


class StepKeys:
    """One process's windows of each step, worked out when they are asked for: a run has millions of windows."""

    def __init__(self, steps: range, batch_size: int, num_samples: int, share: range) -> None:
        """`share`: which of a batch's windows are the process's."""
        self.steps, self.batch_size, self.num_samples, self.share = steps, batch_size, num_samples, share

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Their places in the data set, step after step, as a DataLoader's batch sampler gives them."""
        for step in self.steps:
            yield [(key.epoch, key.index) for key in self.of(step)]

    def of(self, step: int) -> list[SampleKey]:
        """Names of the windows of one step."""
        return sample_keys(step, self.batch_size, self.num_samples)[self.share.start : self.share.stop]


def sample_keys(step: int, batch_size: int, num_samples: int) -> list[SampleKey]:
    """Windows of one optimizer step: draws are numbered through the run, epoch after epoch, whatever the batch size."""
    draws = range(step * batch_size, (step + 1) * batch_size)
    return [SampleKey(draw // num_samples, draw % num_samples) for draw in draws]


def per_process(batch_size: int, processes: int) -> int:
    """Windows of a step that one process takes."""
    if batch_size % processes:
        raise ConfigError(
            f"batch_size {batch_size} cannot be shared by {processes} processes; take a multiple of {processes}"
        )
    return batch_size // processes
