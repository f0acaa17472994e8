"""extract: crops that the policy passes become features, and the features a snapshot."""

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from dualforce_model.config import Frozen
from flows.preflight import FlowRun, check_begun, check_extract, check_policy, checked
from tasks.artifacts import publish, stage_markdown
from tasks.captions import TextSummary, encode_texts
from tasks.extract import ExtractConfig
from tasks.extracting import ExtractWork
from tasks.feature_gallery import features_markdown
from tasks.ledger import Ledger
from tasks.place import Place
from tasks.policy import load_policy
from tasks.pool import PoolConfig
from tasks.records import Stage
from tasks.snapshotting import SnapshotConfig, SnapshotView, build_from_ledger
from tasks.stages import NOTHING_AGAIN, Selection, StageConfig, StageSummary, run_stage
from tasks.stopwatch import spending


class ExtractRun(FlowRun):
    """A complete extract run."""

    place: Place = Place()
    pool: PoolConfig = PoolConfig()
    stage: StageConfig = StageConfig()
    policy: str = Field("configs/policy/default.yaml", description="which clips are worth encoding")
    extract: ExtractConfig = ExtractConfig()
    snapshot: SnapshotConfig = SnapshotConfig()

    def check(self) -> tuple[str, ...]:
        check_extract(self.extract)
        notes = check_policy(self.policy)
        check_begun(self.place, "extract", "acquire and curate")
        return notes


class ExtractResult(Frozen):
    """What was encoded, and the version it became."""

    summary: StageSummary
    snapshot: SnapshotView
    captions: TextSummary | None = None

    @property
    def failed_clips(self) -> int:
        """Clips of which something failed in this run; one of which a feature and the caption did counts twice."""
        return self.summary.failed_clips + (self.captions.failed_clips if self.captions is not None else 0)

    def text(self) -> str:
        """For people."""
        captions = [] if self.captions is None else [self.captions.text()]
        return "\n".join([self.summary.text(), *captions, self.snapshot.text()])


@flow(name="extract", flow_run_name="extract {config.place.dataset}")
def extract(config: ExtractRun, selection: Selection = NOTHING_AGAIN) -> ExtractResult:
    """Encode what the keys say is missing or stale, then build a snapshot of all that passes."""
    checked(config)
    policy, works = load_policy(config.policy), list[ExtractWork]()

    def work(ledger: Ledger) -> ExtractWork:
        works.append(ExtractWork(config.extract, policy, config.place, ledger))
        return works[-1]

    with spending(config.place.folder, "extract") as spent:
        summary = run_stage(
            Stage.EXTRACT,
            work,
            config.place,
            config.pool,
            config.stage,
            selection,
            run_id=str(flow_run.id),
        )
        # Encoding takes hours, in which others may curate; a run with nothing to encode has just looked.
        across = None if summary.planned else works.pop().across
        works.clear()
        captions = None
        if config.extract.text is not None:
            captions = encode_texts(
                config.place,
                config.policy,
                config.extract,
                config.pool,
                config.stage,
                across,
                selection,
                run_id=str(flow_run.id),
            )
            across = across if captions.idle else None
        snapshot = build_from_ledger(config.place, config.policy, config.extract, config.snapshot, across)
        spent.idle = not (summary.planned or snapshot.written or (captions is not None and not captions.idle))
    tables = "\n\n".join([stage_markdown(summary), *([] if captions is None else [captions.markdown()])])
    publish("extract", f"{tables}\n\n```\n{snapshot.text()}\n```", "what encoding came to")
    if summary.done:
        pictures = features_markdown(config.place, config.extract, str(flow_run.id))
        publish("features", pictures, "crops with landmarks, motion and sound of clips that were encoded")
    return ExtractResult(summary=summary, snapshot=snapshot, captions=captions)
