"""curate: downloaded videos become face crops with scores."""

from prefect import flow
from prefect.runtime import flow_run

from flows.preflight import FlowRun, check_begun, check_curate, checked
from tasks.artifacts import publish, stage_markdown
from tasks.curating import CurateWork
from tasks.curation import CurateConfig
from tasks.place import Place
from tasks.pool import PoolConfig
from tasks.records import Stage
from tasks.stages import NOTHING_AGAIN, Selection, StageConfig, StageSummary, run_stage
from tasks.stopwatch import spending


class CurateRun(FlowRun):
    """A complete curate run."""

    place: Place = Place()
    pool: PoolConfig = PoolConfig()
    stage: StageConfig = StageConfig()
    curate: CurateConfig = CurateConfig()

    def check(self) -> tuple[str, ...]:
        check_curate(self.curate)
        check_begun(self.place, "curate", "acquire")
        return ()


@flow(name="curate", flow_run_name="curate {config.place.dataset}")
def curate(config: CurateRun, selection: Selection = NOTHING_AGAIN) -> StageSummary:
    """Cut, crop and score every downloaded span; scores are stored, a policy judges them later."""
    checked(config)
    with spending(config.place.folder, "curate") as spent:
        summary = run_stage(
            Stage.CURATE,
            lambda ledger: CurateWork(config.curate, config.place, ledger),
            config.place,
            config.pool,
            config.stage,
            selection,
            run_id=str(flow_run.id),
        )
        spent.idle = not summary.planned
    publish("curate", stage_markdown(summary), "what curating came to, before any policy")
    return summary
