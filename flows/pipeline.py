"""pipeline: all of it, from a list to a report, with a gate before the expensive part."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from prefect import flow
from pydantic import Field

from dualforce_model.config import ConfigError, Frozen, apply_override, read_settings, validate
from dualforce_model.storage import write_text
from dualforce_model.train_config import TrainSettings
from flows.acquire import AcquireRun, acquire
from flows.curate import CurateRun, curate
from flows.extract import ExtractRun, extract
from flows.preflight import (
    FlowRun,
    check_chain,
    check_curate,
    check_encoders,
    check_extract,
    check_launch,
    check_policy,
    check_source,
    checked,
    faceless_features,
)
from flows.train import TrainResult, TrainRun, train
from tasks.accounting import Account, account, fates
from tasks.acquiring import AcquireConfig, AcquireWork
from tasks.artifacts import account_markdown, gallery_markdown, publish
from tasks.curating import CurateWork
from tasks.curation import CurateConfig
from tasks.extract import ExtractConfig
from tasks.extracting import ExtractWork
from tasks.ledger import Ledger
from tasks.place import Place
from tasks.policy import load_policy
from tasks.pool import PoolConfig
from tasks.shared_pool import shared_pool
from tasks.snapshotting import SnapshotConfig, SnapshotView
from tasks.stages import StageConfig, StageSummary
from tasks.stopwatch import read_seconds
from tasks.text_notes import known_texts
from tasks.training import LaunchConfig
from tasks.work import Work

SAVED = "pipeline.yaml"


class Gate(Frozen):
    """What must hold before training starts."""

    min_clips: int = Field(1, ge=1, description="clips that passed")


class GateClosed(ConfigError):
    """The data are not fit for training; nothing was trained."""


class PipelineRun(FlowRun):
    """A complete pipeline run: the parts are those of the single flows."""

    place: Place = Place()
    pool: PoolConfig = PoolConfig()
    stage: StageConfig = StageConfig()
    acquire: AcquireConfig
    curate: CurateConfig = CurateConfig()
    policy: str = Field("configs/policy/default.yaml", description="which clips are used, and how often")
    extract: ExtractConfig = ExtractConfig()
    snapshot: SnapshotConfig = SnapshotConfig()
    gate: Gate = Gate()
    train: TrainSettings = TrainSettings()
    launch: LaunchConfig = LaunchConfig()

    def check(self) -> tuple[str, ...]:
        check_source(self.acquire.source)
        return self.check_beyond_source()

    def check_beyond_source(self) -> tuple[str, ...]:
        """All but the list, which the demo writes itself."""
        check_curate(self.curate)
        check_extract(self.extract)
        check_encoders(self.train.encoders)
        check_chain(self.extract, self.train)
        check_launch(self.launch)
        return check_policy(self.policy, self.curate) + faceless_features(self.curate, self.extract)

    def runs(self) -> dict[str, FlowRun]:
        """The configuration of each flow of the chain."""
        shared = {"place": self.place, "pool": self.pool, "stage": self.stage}
        return {
            "acquire": AcquireRun(**shared, acquire=self.acquire),
            "curate": CurateRun(**shared, curate=self.curate, policy=self.policy),
            "extract": ExtractRun(**shared, policy=self.policy, extract=self.extract, snapshot=self.snapshot),
            "train": TrainRun(place=self.place, snapshot=self.snapshot.tag, train=self.train, launch=self.launch),
        }

    def works(self, ledger: Ledger) -> Iterator[Work]:
        """The stages' work, as the ledger stands now; each is made when it is asked for."""
        yield AcquireWork(self.acquire, self.place, ledger)
        yield CurateWork(self.curate, self.place, ledger)
        yield ExtractWork(self.extract, load_policy(self.policy), self.place, ledger)


class PipelineResult(Frozen):
    """What the chain came to."""

    clips: Account
    summaries: tuple[StageSummary, ...]
    snapshot: SnapshotView
    training: TrainResult
    seconds: dict[str, float] = Field(description="of each part, over all calls on this folder")

    @property
    def computed(self) -> bool:
        """Whether anything was done; otherwise all of it was there."""
        return any(summary.planned for summary in self.summaries) or self.snapshot.written or self.training.trained

    @property
    def failed_clips(self) -> int:
        """Clips that ended as failed."""
        return sum(self.clips.failed.values())

    def text(self) -> str:
        """For people."""
        return "\n".join([*[summary.text() for summary in self.summaries], self.snapshot.line(), self.training.text()])


def load_saved(out: Path, overrides: Sequence[str] = ()) -> PipelineRun:
    """The pipeline that a run's folder keeps, wherever the folder is now. Raises ConfigError where none is."""
    settings = _read_saved(out).model_dump(mode="json")
    for override in overrides:
        apply_override(settings, override)
    run = validate(PipelineRun, settings, str(out / SAVED))
    return run.model_copy(update={"place": run.place.model_copy(update={"home": str(out)})})


def _read_saved(out: Path) -> PipelineRun:
    """What `save_config` wrote, with the source's paths as they are from here."""
    path = out / SAVED
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; {out} is not the folder of a run (give --out, or --config)")
    try:
        run = validate(PipelineRun, read_settings(path), str(path))
    except ConfigError as error:
        raise ConfigError(
            f"{error}; the file is damaged or of another version, and starting the run again writes it anew "
            f"(`dualforce demo --out {out}`, or `dualforce run pipeline --config YAML place.home={out}`)"
        ) from error
    return run.model_copy(update={"acquire": acquire_from(run.acquire, out)})


def acquire_from(config: AcquireConfig, home: Path) -> AcquireConfig:
    """What a folder keeps of its list, with the source's paths as they are from here."""
    found = {name: (home / path).resolve() for name, path in _source_paths(config.source).items()}
    return config.model_copy(update={"source": config.source.model_copy(update=found)})


def kept_settings(run: PipelineRun | AcquireRun) -> dict[str, Any]:
    """A resolved configuration as its folder keeps it.

    The folder is looked at from elsewhere and may be moved: the source's paths below it are kept relative to it, all
    others absolute.
    """
    settings, home = run.model_dump(mode="json"), run.place.folder.resolve()
    for name, path in _source_paths(run.acquire.source).items():
        there = path.resolve()
        kept = there.relative_to(home) if there.is_relative_to(home) else there
        settings["acquire"]["source"][name] = kept.as_posix()
    return settings


def save_config(run: PipelineRun) -> None:
    """Keep the resolved configuration in the run's folder, for status, plan, rerun and the UI."""
    write_text(run.place.folder / SAVED, yaml.safe_dump(kept_settings(run), sort_keys=False))


def _source_paths(source: Frozen) -> dict[str, Path]:
    """The settings of a source that are files or folders; other words are left alone, whatever they name."""
    return {name: value for name, value in source if isinstance(value, Path)}


@flow(name="pipeline", flow_run_name="pipeline {config.place.dataset}")
def pipeline(config: PipelineRun) -> PipelineResult:
    """acquire -> curate -> extract -> gate -> train. Each part does only what is missing."""
    checked(config)
    save_config(config)
    runs = config.runs()
    with shared_pool(config.pool):  # closed before training, which wants the machine for itself
        acquired = acquire(runs["acquire"])
        curated = curate(runs["curate"])
        extracted = extract(runs["extract"])
    clips = publish_account(config)
    check_gate(config.gate, clips)
    training = train(runs["train"])
    return PipelineResult(
        clips=clips,
        summaries=(acquired, curated, extracted.summary),
        snapshot=extracted.snapshot,
        training=training,
        seconds=read_seconds(config.place.folder),
    )


def publish_account(config: PipelineRun) -> Account:
    """Where every clip stands, also as a table and a gallery in the UI."""
    with Ledger(config.place.ledger_url) as ledger:
        texts = known_texts(config.place, config.extract)
        standing = fates(ledger, config.place.dataset, load_policy(config.policy), config.extract, texts)
    counts = account(standing)
    publish("clips", account_markdown(counts), "where every listed clip stands")
    publish("gallery", gallery_markdown(standing, config.place.media_root), "clips and what became of them")
    return counts


def check_gate(gate: Gate, clips: Account) -> None:
    """Stop before training on too little. Raises GateClosed with the counts."""
    if clips.passed < gate.min_clips:
        raise GateClosed(
            f"{clips.passed} of {clips.listed} clips passed, the gate asks for {gate.min_clips}: "
            f"quarantined {clips.quarantined}, failed {clips.failed}"
        )
