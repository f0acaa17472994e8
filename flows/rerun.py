"""rerun: clips that failed run again from the stage that failed; then a new snapshot version."""

from prefect import flow
from pydantic import Field

from dualforce_model.config import ConfigError, Frozen
from dualforce_model.storage import Storage
from flows.acquire import acquire
from flows.curate import curate
from flows.extract import extract
from flows.pipeline import PipelineRun
from tasks.accounting import fates
from tasks.ledger import Ledger
from tasks.policy import load_policy
from tasks.shared_pool import shared_pool
from tasks.snapshot import list_tags
from tasks.snapshotting import SnapshotView, difference
from tasks.stages import Selection, StageSummary


class RerunRun(Frozen):
    """What to run again."""

    pipeline: PipelineRun
    clip_ids: tuple[str, ...] = Field(
        (), max_length=1000, description="these clips, also if impossible; empty: all that failed"
    )


class RerunResult(Frozen):
    """What was tried and what it changed."""

    tried: tuple[str, ...]
    summaries: tuple[StageSummary, ...] = ()
    snapshot: SnapshotView | None = None
    diff: str = ""

    @property
    def failed_clips(self) -> int:
        """Clips that failed again."""
        return sum(summary.failed_clips for summary in self.summaries)

    def text(self) -> str:
        """For people."""
        if not self.tried:
            return "rerun: nothing to do, no clip failed"
        lines = [f"rerun: {len(self.tried)} clips: {', '.join(self.tried)}"]
        lines += [summary.text() for summary in self.summaries if summary.planned]
        if self.snapshot is not None:
            lines += [f"snapshot {self.snapshot.line()}", self.diff]
            lines.append("Checkpoints and reports are still of the version before; the next run trains on this one.")
        return "\n".join(lines)


@flow(name="rerun", flow_run_name="rerun {config.pipeline.place.dataset}")
def rerun(config: RerunRun) -> RerunResult:
    """Try failed clips again, forgiving what they were charged with; whatever else is due runs along."""
    run = config.pipeline
    with Ledger(run.place.ledger_url) as ledger:
        standing = fates(ledger, run.place.dataset, load_policy(run.policy), run.extract)
        known = {clip.clip_id for clip in ledger.clips(run.place.dataset)}
    unknown = [clip_id for clip_id in config.clip_ids if clip_id not in known]
    if unknown:
        raise ConfigError(f"no clip {unknown[0]!r} in {run.place.dataset}; `dualforce failures` lists ids")
    tried = config.clip_ids or tuple(fate.clip_id for fate in standing if fate.outcome == "failed")
    if not tried:
        return RerunResult(tried=())
    before = list_tags(Storage(run.place.store_url)).get(run.snapshot.tag)
    again, runs = Selection(again=frozenset(tried)), run.runs()
    with shared_pool(run.pool):
        acquired = acquire(runs["acquire"], again)
        curated = curate(runs["curate"], again)
        extracted = extract(runs["extract"], again)
    view = extracted.snapshot
    diff = difference(run.place.store_url, before, view.snapshot.id).text() if before else "the first snapshot"
    summaries = (acquired, curated, extracted.summary)
    return RerunResult(tried=tried, summaries=summaries, snapshot=view, diff=diff)
