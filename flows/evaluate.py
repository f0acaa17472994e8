"""evaluate: do the lips of generated videos follow the sound?"""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders import EncoderChoice, make_encoder
from flows.preflight import FlowRun, check_files, checked
from tasks.artifacts import publish
from tasks.evaluation import EvaluationReport, LipCase, evaluate_once
from tasks.place import Place
from tasks.progress import Progress
from tasks.stopwatch import spending


class EvaluateRun(FlowRun):
    """A complete evaluation."""

    place: Place = Place()
    folder: str = Field(min_length=1, description="where report and per-frame values go")
    cases: tuple[LipCase, ...] = Field(min_length=1, max_length=10_000, description="videos to judge")
    codec: EncoderChoice = Field(EncoderChoice(name="dct_video"), description="of the reconstruction row")

    def check(self) -> tuple[str, ...]:
        make_encoder(self.codec.name, self.codec.config)
        for number, case in enumerate(self.cases):
            named = {"sound": case.sound, "generated": case.generated, "shuffled": case.shuffled, "truth": case.truth}
            check_files({f"cases.{number}.{name}": path for name, path in named.items()})
        return ()


class EvaluateResult(Frozen):
    """The report and where it lies."""

    report: EvaluationReport
    folder: str
    computed: bool = Field(description="whether this call judged anything; otherwise it was judged already")
    failed_clips: int = 0

    def text(self) -> str:
        """For people."""
        return f"{self.report.text()}\nevaluate: in {self.folder}"


@task(name="measure", cache_policy=NO_CACHE)
def measure(config: EvaluateRun) -> tuple[EvaluationReport, bool]:
    """All cases, one after the other."""
    with Progress("evaluate", len(config.cases), "video") as progress:
        return evaluate_once(
            config.cases, Path(config.folder), lambda name: progress.ended([name], "done"), config.codec
        )


@flow(name="evaluate", flow_run_name="evaluate {config.folder}")
def evaluate(config: EvaluateRun) -> EvaluateResult:
    """Measure mouth openings from pixels alone and correlate them with the speech envelope."""
    checked(config)
    with spending(config.place.folder, "evaluate") as spent:
        report, computed = measure(config)
        spent.idle = not computed
    publish("lips", report.markdown(), "lips against sound")
    return EvaluateResult(report=report, folder=config.folder, computed=computed)
