"""What `dualforce clips` says: every clip, how it ended and why, and all its scores. Reads only."""

from collections.abc import Iterator
from itertools import islice

from pydantic import Field

from flows.extract import ExtractRun
from flows.pipeline import PipelineRun
from tasks.accounting import AcrossClips, Crops, Fate, each_fate, scores_of
from tasks.ledger import Ledger
from tasks.policy import load_policy
from tasks.records import Score, Stage
from tasks.text_notes import known_texts

AT_ONCE = 500  # clips whose scores are held together
INDENT = " " * 13


class ClipReport(Fate):
    """One clip's fate with its scores; a clip that was never cropped has none."""

    scores: dict[str, Score] = {}
    caption: str | None = Field(None, description="what the list says of it in words; not in the text for people")

    def text(self) -> str:
        """For people: the outcome with its reason, then what was measured."""
        why = f"  {self.reason}" if self.reason else f"  for {self.stage}" if self.outcome == "waiting" else ""
        said = ", ".join(part for part in (self.measured, self.threshold) if part)
        lines = [f"{self.outcome:<11}  {self.clip_id}{why}{': ' + said if said else ''}"]
        if self.scores:
            known = [f"{name} {score.value:.4g}" for name, score in self.scores.items() if score.value is not None]
            unknown = [name for name, score in self.scores.items() if score.value is None]
            lines.append(INDENT + "  ".join(known))
            if unknown:
                lines.append(f"{INDENT}not measured: {', '.join(unknown)}")
        return "\n".join(lines)


def clip_reports(run: PipelineRun | ExtractRun, policy: str | None) -> Iterator[ClipReport]:
    """Every clip in the order of the list, judged by a policy (none: the run's own); a few are held at a time."""
    dataset = run.place.dataset
    with Ledger(run.place.ledger_url, missing="empty") as ledger:
        judged_by = load_policy(policy or run.policy)
        across = AcrossClips(ledger, dataset, judged_by)
        crops = Crops(ledger, dataset, judged_by, across)
        fates = each_fate(ledger, dataset, judged_by, run.extract, crops, known_texts(run.place, run.extract))
        while some := list(islice(fates, AT_ONCE)):
            rows = ledger.rows_of(dataset, Stage.CURATE, [fate.clip_id for fate in some])
            scores = {row.clip_id: scores_of(row) | across.scores_of(row) for row in rows if row.state == "done"}
            told = {clip.clip_id: clip.caption for clip in ledger.clips_of(dataset, [fate.clip_id for fate in some])}
            for fate in some:
                caption = told.get(fate.clip_id)
                yield ClipReport(**fate.model_dump(), scores=scores.get(fate.clip_id, {}), caption=caption)
