"""What `plan`, `status` and `failures` say about a pipeline's folder. Reads only."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field

from dualforce_model.config import Frozen
from flows.extract import ExtractRun
from flows.pipeline import PipelineRun
from tasks.accounting import Account, Fate, account, each_fate
from tasks.acquiring import AcquireWork
from tasks.captions import captions_of, plan_texts
from tasks.extracting import ExtractWork
from tasks.ledger import Ledger
from tasks.ledger_tables import Holding
from tasks.place import Place
from tasks.planning import GROUPS, Plan, PlanPart, TextPlan, meanings
from tasks.policy import load_policy
from tasks.records import FailureClass, Reason, Stage, last_line
from tasks.stages import clips, plan_stage
from tasks.staleness import plan_parts
from tasks.tables import table
from tasks.text_notes import KnownTexts, known_texts, read_failure, read_refusal, shown

BRIEF = 60  # letters of what was measured that a table has room for


class StatusReport(Frozen):
    """Where everything stands."""

    dataset: str
    policy: str = Field(description="name of the policy that judged")
    clips: Account
    waits_for: dict[Stage, int] = Field({}, description="clips that wait, by the stage that has not reached them")
    holders: tuple[Holding, ...]
    snapshots: tuple[str, ...]
    checkpoints: tuple[str, ...]

    def text(self) -> str:
        """For people."""
        rows = [("passed", self.clips.passed)]
        rows += [(f"quarantined: {reason}", count) for reason, count in self.clips.quarantined.items()]
        rows += [(f"failed: {failure}", count) for failure, count in self.clips.failed.items()]
        rows += [(f"waiting for {stage}", count) for stage, count in self.waits_for.items()]
        rows += [("listed", self.clips.listed)]
        lines = [f"data set {self.dataset}, policy {self.policy}", table(("clips", "count"), rows)]
        for held in self.holders:
            since = time.strftime("%H:%M:%S", time.localtime(held.since))
            lines.append(f"{held.stage}: held by {held.holder} since {since}, run {held.run_id}")
        lines += [f"snapshot   {line}" for line in self.snapshots] + [f"checkpoint {line}" for line in self.checkpoints]
        return "\n".join(lines)


def _brief(fate: Fate) -> str:
    """What was measured, cut to the width of a table; the id of the clip that one is a duplicate of is not cut."""
    measured = fate.measured
    if len(measured) > BRIEF and fate.reason != Reason.DUPLICATE:
        measured = f"{measured[: BRIEF - 3]}..."
    return f"{measured} {fate.threshold}".strip()


class CaptionFate(Frozen):
    """A caption that has no text."""

    caption: str
    outcome: Literal["refused", "failed"]
    failure: FailureClass | None = None
    why: str = Field(description="of one that failed the traceback")

    def row(self) -> tuple[str, ...]:
        """Cells of a table."""
        return shown(self.caption), self.outcome, self.failure or "", last_line(self.why, self.failure)


class FailureReport(Frozen):
    """Clips that did not pass, and captions without a text."""

    policy: str = Field(description="name of the policy that judged")
    fates: tuple[Fate, ...]
    tracebacks: dict[str, str]
    captions: tuple[CaptionFate, ...] = ()

    def text(self, with_traceback: bool) -> str:
        """For people."""
        parts = [self._clips()]
        if self.captions:
            rows = [each.row() for each in self.captions]
            parts.append(table(("caption", "outcome", "why", "said"), rows))
            parts.append("clips are told the prompt where their caption was refused, and left out where it failed")
        if with_traceback:
            failed = [(shown(each.caption), each.why) for each in self.captions if each.outcome == "failed"]
            parts += [f"{name}\n{trace.rstrip()}" for name, trace in (*self.tracebacks.items(), *failed)]
        return "\n\n".join(parts)

    def _clips(self) -> str:
        if not self.fates:
            return f"no clip failed and none is quarantined (policy {self.policy})"
        rows = [(f.clip_id, f.outcome, f.stage, f.reason, _brief(f)) for f in self.fates]
        text = table(("clip", "outcome", "stage", "why", "measured"), rows)
        return f"{text}\n\nquarantined by policy {self.policy}, where it is not a fact"


class StagePlan(Plan):
    """What a stage would do now and why, and what may come on top."""

    waits_for: dict[Stage, int] = Field({}, description="earlier stages and how many clips each has yet to bring")
    parts: tuple[PlanPart, ...] = Field(
        (), description="the same in numbers, of extract by feature; why what changed did"
    )
    why: dict[str, str] = Field({}, description="what groups mean that have any and whose name does not say it")

    def text(self) -> str:
        """For people: a line for the stage, and below it what is to be said of its parts."""
        brought = " and ".join(f"{stage} has brought {clips(number)}" for stage, number in self.waits_for.items())
        head = f"{self}; more when {brought}" if brought else str(self)
        return "\n".join([head, *[f"  {part.text()}" for part in self.parts if part.text()]])


class PipelinePlan(Frozen):
    """The plan of each stage, from what the ledger knows now."""

    stages: dict[Stage, StagePlan]
    leaving: int = Field(0, ge=0, description="clips that are no longer on the list")
    captions: TextPlan | None = Field(None, description="of the clips that pass; none: no text features are made")

    def text(self) -> str:
        """For people: a few lines a stage, and at the end what groups mean, once for all stages."""
        lines = [f"{stage:<8} {planned.text()}" for stage, planned in self.stages.items()]
        if self.leaving:
            lines.insert(0, f"{'list':<8} {clips(self.leaving)} left it")
        if self.captions is not None:
            lines.append(f"{'text':<8} {self.captions.text()}")
        told = self.captions is not None and self.captions.todo
        if self.leaving or told or any(planned.todo for planned in self.stages.values()):
            lines.append("then a snapshot; if it is a new version, training, generation and evaluation on it")
        why = {group: words for planned in self.stages.values() for group, words in planned.why.items()}
        lines += [f"{group}: {words}" for group, words in why.items()]
        return "\n".join(lines)


def plan_pipeline(run: PipelineRun) -> PipelinePlan:
    """Plan every stage. Later stages see what earlier ones brought so far; what these would bring now is announced."""
    stages: dict[Stage, StagePlan] = {}
    waits_for: dict[Stage, int] = {}
    with Ledger(run.place.ledger_url, missing="empty") as ledger:
        leaving, captions = 0, None
        for work in run.works(ledger):
            if isinstance(work, AcquireWork):
                leaving = work.leaving()
            planned, todo = plan_stage(work, ledger, run.stage)
            stages[work.stage] = StagePlan(
                **planned.model_dump(),
                waits_for=dict(waits_for),
                parts=plan_parts(work, ledger, planned),
                why=meanings([group for group in GROUPS if getattr(planned, group)]),
            )
            if todo:
                waits_for[work.stage] = len({target.clip_id for target in todo})
            if isinstance(work, ExtractWork) and (known := known_texts(run.place, run.extract)) is not None:
                said = captions_of(ledger.clips(run.place.dataset), work.crops, known.names)
                captions, _ = plan_texts(known, said)
            del work, todo  # of a large data set, two stages' work at once may not fit into memory
    return PipelinePlan(stages=stages, leaving=leaving, captions=captions)


def pipeline_status(run: PipelineRun | ExtractRun) -> StatusReport:
    """Clips, holders, snapshots, checkpoints."""
    from tasks.snapshotting import listing

    policy, waits_for = load_policy(run.policy), Counter[Stage]()
    with Ledger(run.place.ledger_url, missing="empty") as ledger:
        texts = known_texts(run.place, run.extract)
        standing = each_fate(ledger, run.place.dataset, policy, run.extract, texts=texts)
        counts = account(_counted(standing, waits_for))
        holders = tuple(ledger.holders(run.place.dataset))
    checkpoints = sorted(str(path.parent) for path in run.place.folder.glob("training/*/checkpoints/*/state.json"))
    return StatusReport(
        dataset=run.place.dataset,
        policy=policy.name,
        clips=counts,
        waits_for={stage: waits_for[stage] for stage in Stage if waits_for[stage]},
        holders=holders,
        snapshots=tuple(listing(run.place.store_url, required=False).lines()),
        checkpoints=tuple(checkpoints),
    )


def _counted(fates: Iterable[Fate], waits_for: Counter[Stage]) -> Iterator[Fate]:
    """The same fates; those that wait are counted on their way."""
    for fate in fates:
        if fate.outcome == "waiting":
            waits_for[fate.stage] += 1
        yield fate


def failed_clips(run: PipelineRun | ExtractRun, *, quarantined: bool) -> FailureReport:
    """Clips and captions that failed, and on request clips that are quarantined and captions that were refused."""
    wanted = {"failed", "quarantined"} if quarantined else {"failed"}
    policy, texts = load_policy(run.policy), known_texts(run.place, run.extract)
    with Ledger(run.place.ledger_url, missing="empty") as ledger:
        standing = each_fate(ledger, run.place.dataset, policy, run.extract, texts=texts)
        chosen = tuple(fate for fate in standing if fate.outcome in wanted)
        tracebacks = {
            row.clip_id: row.detail for stage in Stage for row in ledger.stream(run.place.dataset, stage, "failed")
        }
        captions = () if texts is None else tuple(_without_text(ledger, run.place, texts, refused=quarantined))
    return FailureReport(policy=policy.name, fates=chosen, tracebacks=tracebacks, captions=captions)


def _without_text(ledger: Ledger, place: Place, texts: KnownTexts, *, refused: bool) -> Iterator[CaptionFate]:
    """Captions of the listed clips that failed, and those that were refused."""
    notes = texts.failed | (texts.refused if refused else set())
    said = {texts.names(clip) for clip in ledger.clips(place.dataset)} if notes else set()
    for name in sorted(notes & (said | {texts.names.prompt_name})):
        if name in texts.failed:
            failed = read_failure(texts.store, name)
            if failed is not None:
                why = failed.traceback
                yield CaptionFate(caption=failed.caption, outcome="failed", failure=failed.failure, why=why)
        elif (note := read_refusal(texts.store, name)) is not None:
            yield CaptionFate(caption=note.caption, outcome="refused", why=note.why)
