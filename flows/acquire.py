"""acquire: a data set's list becomes downloaded videos."""

from prefect import flow
from prefect.runtime import flow_run

from flows.preflight import FlowRun, check_source, checked
from tasks.acquiring import AcquireConfig, AcquireWork
from tasks.artifacts import publish, stage_markdown
from tasks.place import Place
from tasks.pool import PoolConfig
from tasks.records import Stage
from tasks.stages import NOTHING_AGAIN, Selection, StageConfig, StageSummary, run_stage
from tasks.stopwatch import spending


class AcquireRun(FlowRun):
    """A complete acquire run."""

    place: Place = Place()
    pool: PoolConfig = PoolConfig()
    stage: StageConfig = StageConfig()
    acquire: AcquireConfig

    def check(self) -> tuple[str, ...]:
        check_source(self.acquire.source)
        return ()


@flow(name="acquire", flow_run_name="acquire {config.place.dataset}")
def acquire(config: AcquireRun, selection: Selection = NOTHING_AGAIN) -> StageSummary:
    """Download every video of the list that is not there yet, once each, however many clips it holds."""
    checked(config)
    with spending(config.place.folder, "acquire") as spent:
        summary = run_stage(
            Stage.ACQUIRE,
            lambda ledger: AcquireWork(config.acquire, config.place, ledger),
            config.place,
            config.pool,
            config.stage,
            selection,
            run_id=str(flow_run.id),
        )
        spent.idle = not summary.planned
    publish("acquire", stage_markdown(summary), "what the downloads came to")
    return summary
