"""rerun: clips that failed, or lost what they had, run again from the stage that must; then a new snapshot version."""

from collections.abc import Sequence
from typing import Literal

from prefect import flow
from pydantic import Field

from dualforce_model.config import ConfigError, Frozen
from dualforce_model.storage import Storage
from flows.acquire import acquire
from flows.curate import curate
from flows.extract import extract
from flows.pipeline import PipelineRun
from flows.preflight import FlowRun, checked
from tasks.accounting import Fate, fates
from tasks.acquiring import AcquireWork
from tasks.captions import TextSummary
from tasks.curating import CurateWork
from tasks.extracting import ExtractWork
from tasks.healing import Lost, find_lost, find_lost_texts, selections, with_pieces
from tasks.ledger import Ledger
from tasks.policy import load_policy
from tasks.records import Stage
from tasks.shared_pool import shared_pool
from tasks.snapshot import list_tags
from tasks.snapshotting import SnapshotView, difference
from tasks.stages import Selection, StageSummary
from tasks.text_notes import known_texts

ALL = ("acquire", "curate", "extract")


class RerunRun(FlowRun):
    """What to run again."""

    pipeline: PipelineRun
    clip_ids: tuple[str, ...] = Field(
        (), max_length=1000, description="these clips, also if impossible; empty: all that failed"
    )
    damaged: bool = Field(
        False, description="read every crop, feature and text, and make again those that are gone or damaged"
    )
    stages: tuple[Literal["acquire", "curate", "extract"], ...] = Field(
        (), max_length=3, description="of a folder where stages ran by themselves: those it keeps; empty: a pipeline's"
    )

    def check(self) -> tuple[str, ...]:
        place = self.pipeline.place
        if place.ledger is None and not (place.folder / "ledger.db").is_file():
            raise ConfigError(f"{place.folder} is not the folder of a run (it has no ledger.db): nothing failed there")
        if not self.stages:
            return self.pipeline.check()
        runs = self.pipeline.runs()
        return tuple(note for stage in self.stages for note in runs[stage].check())


class RerunResult(Frozen):
    """What was tried and what it changed."""

    tried: tuple[str, ...]
    lost: tuple[str, ...] = Field((), description="those of them whose crop or features were gone or damaged")
    lost_texts: tuple[str, ...] = Field((), description="names of captions' texts that were gone or damaged")
    summaries: tuple[StageSummary, ...] = ()
    captions: TextSummary | None = None
    snapshot: SnapshotView | None = None
    diff: str = ""
    new_version: bool = Field(False, description="whether the snapshot is another than before")

    @property
    def failed_clips(self) -> int:
        """Clips that failed again."""
        untold = 0 if self.captions is None else self.captions.failed_clips
        return sum(summary.failed_clips for summary in self.summaries) + untold

    def text(self) -> str:
        """For people."""
        if not self.tried and not self.lost_texts:
            return "rerun: nothing to do, no clip failed and none was found lost"
        lines = [f"rerun: {len(self.tried)} clips: {', '.join(self.tried)}"] if self.tried else []
        if self.lost:
            lines.append(f"{len(self.lost)} of them had lost their crop or features: {', '.join(self.lost)}")
        if self.lost_texts:
            count, names = len(self.lost_texts), ", ".join(self.lost_texts)
            lines.append(f"rerun: {count} text{'' if count == 1 else 's'} of captions gone or damaged: {names}")
        lines += [summary.text() for summary in self.summaries if summary.planned]
        if self.captions is not None:
            lines.append(self.captions.text())
        if self.snapshot is not None:
            lines += [f"snapshot {self.snapshot.line()}", self.diff]
            if self.lost:
                lines.append("Older versions that name a lost shard stay broken: `dualforce snapshots verify` tells.")
            if self.new_version:
                lines.append("Checkpoints are still of the version before; the next run trains on this one.")
        return "\n".join(lines)


@flow(name="rerun", flow_run_name="rerun {config.pipeline.place.dataset}")
def rerun(config: RerunRun) -> RerunResult:
    """Try clips again, forgiving what they were charged with; whatever else is due runs along."""
    checked(config)
    run = config.pipeline
    with Ledger(run.place.ledger_url, missing="empty") as ledger:
        tried, lost, again = choose(config, ledger)
    if not tried and not lost.texts:
        return RerunResult(tried=())
    before = list_tags(Storage(run.place.store_url)).get(run.snapshot.tag)
    runs, stages = run.runs(), config.stages or ALL
    summaries, extracted = list[StageSummary](), None
    with shared_pool(run.pool):
        if "acquire" in stages:
            summaries.append(acquire(runs["acquire"], again[Stage.ACQUIRE]))
        if "curate" in stages:
            summaries.append(curate(runs["curate"], again[Stage.CURATE]))
        if "extract" in stages:
            extracted = extract(runs["extract"], again[Stage.EXTRACT])
            summaries.append(extracted.summary)
    result = RerunResult(
        tried=tried,
        lost=tuple(sorted(lost.clips)),
        lost_texts=tuple(sorted(lost.texts)),
        summaries=tuple(summaries),
        captions=None if extracted is None else extracted.captions,
    )
    return result if extracted is None else _with_version(result, run, before, extracted.snapshot)


def _with_version(result: RerunResult, run: PipelineRun, before: str | None, view: SnapshotView) -> RerunResult:
    diff = difference(run.place.store_url, before, view.snapshot.id).text() if before else "the first snapshot"
    return result.model_copy(update={"snapshot": view, "diff": diff, "new_version": view.snapshot.id != before})


def choose(config: RerunRun, ledger: Ledger) -> tuple[tuple[str, ...], Lost, dict[Stage, Selection]]:
    """Clips to try, what was found lost, and what each stage takes up for all that."""
    run, dataset = config.pipeline, config.pipeline.place.dataset
    policy, texts = load_policy(run.policy), known_texts(run.place, run.extract)
    known = {clip.clip_id for clip in ledger.clips(dataset)}
    unknown = [clip_id for clip_id in config.clip_ids if clip_id not in known]
    if unknown:
        raise ConfigError(f"no clip {unknown[0]!r} in the list of {dataset}; `dualforce failures` lists ids")
    failed = [fate for fate in fates(ledger, dataset, policy, run.extract, texts) if fate.outcome == "failed"]
    if not config.clip_ids:
        _refuse_unkept(config, failed)
    named = config.clip_ids or tuple(fate.clip_id for fate in failed)
    acquiring, curating = AcquireWork(run.acquire, run.place, ledger), CurateWork(run.curate, run.place, ledger)
    extracting = ExtractWork(run.extract, policy, run.place, ledger)
    lost = find_lost(curating, extracting, ledger) if config.damaged else Lost()
    if config.damaged and texts is not None and "extract" in (config.stages or ALL):
        lost_texts = find_lost_texts(extracting, ledger, texts, run.snapshot.tag)
        lost = lost.model_copy(update={"texts": lost_texts})
    tried = named + tuple(clip_id for clip_id in sorted(lost.clips) if clip_id not in named)
    if not tried and not lost.texts:
        return (), lost, {}
    again = selections(acquiring, curating, ledger, run.stage, with_pieces(ledger, dataset, named), lost)
    return tried, lost, again


def _refuse_unkept(config: RerunRun, failed: Sequence[Fate]) -> None:
    """Raises ConfigError for a clip that failed in a stage whose settings nobody has."""
    missing = [fate for fate in failed if str(fate.stage) not in (config.stages or ALL)]
    if missing:
        fate, home = missing[0], config.pipeline.place.home
        raise ConfigError(
            f"{len(missing)} clips ({fate.clip_id} first) failed in {fate.stage}, of which {home} keeps no settings; "
            f"run `dualforce run {fate.stage} --config FILE place.home={home}`, or name other clips with --clip"
        )
