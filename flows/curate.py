"""curate: downloaded videos become face crops with scores."""

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.preflight import FlowRun, check_begun, check_curate, checked
from tasks.accounting import crop_fates
from tasks.artifacts import gallery_markdown, publish, stage_markdown
from tasks.curating import CurateWork
from tasks.curation import CurateConfig, unmeasured
from tasks.ledger import Ledger
from tasks.place import Place
from tasks.policy import load_policy, undecidable
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
    policy: str | None = Field(
        None, description="what the contact sheet, status, clips and failures judge by; crops do not depend on it"
    )

    def check(self) -> tuple[str, ...]:
        check_curate(self.curate)
        check_begun(self.place, "curate", "acquire")
        if self.policy is not None:
            load_policy(self.policy)
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
    if summary.planned:
        publish("previews", contact_sheet_markdown(config), "what was cut, and of what and why not")
    return summary


def contact_sheet_markdown(config: CurateRun) -> str:
    """Previews of clips by what became of them, under the policy where there is one that can tell."""
    policy = None if config.policy is None else load_policy(config.policy)
    head = "" if policy is None else f"Outcomes under the policy `{policy.name}`.\n\n"
    if policy is not None and (asked := undecidable(policy, unmeasured(config.curate))):
        head = f"The policy `{policy.name}` asks for {', '.join(asked)}, which is not measured here: no verdicts.\n\n"
        policy = None
    with Ledger(config.place.ledger_url) as ledger:
        return head + gallery_markdown(crop_fates(ledger, config.place.dataset, policy), config.place.media_root)
