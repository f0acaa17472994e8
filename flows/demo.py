"""demo: the whole chain on a laptop, from synthetic clips to a report. The flows are those of every other run."""

from collections.abc import Iterator
from pathlib import Path

from prefect import flow
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.storage import file_digest, write_json, write_text
from dualforce_model.train_log import read_log
from flows.evaluate import EvaluateRun, evaluate
from flows.generate import GenerateRun, generate
from flows.pipeline import PipelineResult, PipelineRun, Stopwatch, pipeline
from flows.rerun import RerunResult, RerunRun, rerun
from tasks.accounting import Account, Fate, fates
from tasks.artifacts import account_markdown, publish
from tasks.curation import CurateJob, Curator, crop_key
from tasks.evaluation import EvaluationReport, LipCase, Lips
from tasks.generation import GenerateConfig, GenerateItem
from tasks.ledger import Ledger
from tasks.pictures import Strip, contact_sheet, loss_curves
from tasks.place import Place
from tasks.policy import load_policy
from tasks.records import Span
from tasks.synthetic.corpus import Corpus, Utterance
from tasks.synthetic.recipes import CorpusConfig
from tasks.tables import table

GOOD_R, GOOD_CONTROL = 0.7, 0.3


class DemoRun(Frozen):
    """A complete demo; folder and seed come from the command line."""

    corpus: CorpusConfig = CorpusConfig()
    pipeline: PipelineRun
    generate: GenerateConfig = GenerateConfig()

    @property
    def out(self) -> Path:
        """The run's folder."""
        return self.pipeline.place.folder

    @property
    def corpus_folder(self) -> Path:
        """What stands in for a data set: clips, list, unseen speech."""
        return self.out / "corpus"


class DemoReport(Frozen):
    """report.json: everything a script may want to know about the demo."""

    seed: int
    clips: Account
    snapshot: str
    checkpoint: str
    seconds: dict[str, float]
    lips: Lips
    unseen_faces: Lips | None = Field(None, description="the same for faces that were not in training; not judged")
    good: bool = Field(description=f"r is at least {GOOD_R} and the shuffled control at most {GOOD_CONTROL}")
    files: dict[str, str] = Field(description="what to look at, relative to the run's folder")
    computed: bool = Field(description="whether this call did anything; otherwise all of it was there already")

    def text(self) -> str:
        """The short table at the end."""
        rows: list[tuple[str, object]] = [("clips listed", self.clips.listed), ("clips passed", self.clips.passed)]
        rows += [(f"quarantined: {reason}", count) for reason, count in self.clips.quarantined.items()]
        rows += [(f"failed: {failure}", count) for failure, count in self.clips.failed.items()]
        counts = table(("clips", "count"), rows)
        lips = self.lips
        numbers = [
            ("r, lips against unseen speech", f"{lips.r:.2f}"),
            ("r, driven by another clip's sound", f"{lips.r_shuffled_audio:.2f}"),
            ("r, the codec's reconstruction of the truth", f"{lips.r_reconstruction:.2f}"),
            ("videos", str(lips.n)),
        ]
        return "\n".join([counts, "", table(("lips", "value"), numbers), "", self.verdict(), *self._paths()])

    @property
    def failed_clips(self) -> int:
        """Clips that ended as failed."""
        return sum(self.clips.failed.values())

    def verdict(self) -> str:
        """Said plainly."""
        asked = f"r >= {GOOD_R} and control <= {GOOD_CONTROL}"
        if self.good:
            return f"The lips follow unseen speech ({asked})."
        return f"The lips do NOT follow unseen speech well enough: {asked} was asked for."

    def _paths(self) -> list[str]:
        done = [] if self.computed else ["Nothing was computed: all of it was there already."]
        return [*done, *[f"{name:<14} {path}" for name, path in self.files.items()]]


@flow(name="demo", flow_run_name="demo {run.pipeline.place.home}")
def demo(run: DemoRun, corpus: Corpus, seconds_before: float) -> DemoReport:
    """pipeline -> generate -> evaluate -> report."""
    watch = Stopwatch()
    result = pipeline(run.pipeline)
    watch.lap("pipeline")
    truths = crop_truths(run, corpus)
    generation = GenerateRun(
        place=run.pipeline.place,
        checkpoint=result.training.checkpoint,
        folder=str(run.out / "generated"),
        items=generation_items(run, corpus, truths),
        generate=run.generate,
    )
    generated = generate(generation)
    watch.lap("generate")
    evaluation = EvaluateRun(
        place=run.pipeline.place,
        folder=str(run.out / "evaluation"),
        cases=lip_cases(run, corpus, truths),
        codec=run.pipeline.train.encoders.video,
    )
    judged = evaluate(evaluation)
    watch.lap("evaluate")
    seconds = {"clips": round(seconds_before, 1), **result.seconds, **watch.laps}
    del seconds["pipeline"]  # the sum of its parts, which are there
    computed = result.computed or generated.made > 0 or judged.computed
    return write_report(run, result, judged.report, seconds, computed=computed)


@flow(name="heal", flow_run_name="heal {run.pipeline.place.home}")
def heal_demo(run: DemoRun) -> RerunResult:
    """Try again what failed; nothing is trained. The next demo trains on the new version."""
    return rerun(RerunRun(pipeline=run.pipeline))


def crop_truths(run: DemoRun, corpus: Corpus) -> dict[str, Path]:
    """The rendered truth of each unseen utterance, cropped exactly as training clips are. Name -> video."""
    config, root = run.pipeline.curate, run.out / "truth"
    curator, truths = Curator(config, root), {}
    for utterance in corpus.utterances:
        source = run.corpus_folder / utterance.truth
        source_digest = file_digest(source)
        span = Span(end_s=float(utterance.seconds))
        key = crop_key(config, source_digest, span)
        target = f"{utterance.name}-{key[:12]}.mp4"
        if not (root / target).is_file():
            curator.load()
            curator(
                CurateJob(
                    job_id=utterance.name,
                    source_path=str(source.resolve()),
                    source_digest=source_digest,
                    span=span,
                    key=key,
                    target=target,
                )
            )
        truths[utterance.name] = root / target
    return truths


def generation_items(run: DemoRun, corpus: Corpus, truths: dict[str, Path]) -> tuple[GenerateItem, ...]:
    """Each face with its own unseen sound, and with the sound of another clip as the control."""
    items = []
    for utterance, other in _with_partners(corpus):
        reference = str(truths[utterance.name])
        for name, spoken in ((utterance.name, utterance), (f"{utterance.name}-shuffled", other)):
            sound = str(run.corpus_folder / spoken.sound)
            items.append(GenerateItem(name=name, reference=reference, sound=sound, cropped=True))
    return tuple(items)


def _with_partners(corpus: Corpus) -> Iterator[tuple[Utterance, Utterance]]:
    """Each utterance with another whose sound serves as its control; seen and unseen faces apart."""
    for seen in (True, False):
        group = [utterance for utterance in corpus.utterances if utterance.seen == seen]
        yield from zip(group, group[1:] + group[:1], strict=True)


def lip_cases(run: DemoRun, corpus: Corpus, truths: dict[str, Path]) -> tuple[LipCase, ...]:
    """What is compared with what."""
    folder = run.out / "generated"
    return tuple(
        LipCase(
            name=utterance.name,
            group="seen" if utterance.seen else "unseen",
            sound=str(run.corpus_folder / utterance.sound),
            generated=str(folder / f"{utterance.name}.mp4"),
            shuffled=str(folder / f"{utterance.name}-shuffled.mp4"),
            truth=str(truths[utterance.name]),
        )
        for utterance in corpus.utterances
    )


def write_report(
    run: DemoRun, result: PipelineResult, judged: EvaluationReport, seconds: dict[str, float], *, computed: bool
) -> DemoReport:
    """Pictures, report.md and report.json; a call that computed nothing leaves the first one's times alone."""
    files = draw_pictures(run, result)
    files |= {"lips": "evaluation/lips.png", "per frame": "evaluation/lips.csv", "videos": "evaluation/compare"}
    files |= {"report": "report.md", "numbers": "report.json"}
    lips = judged.groups["seen"]
    report = DemoReport(
        seed=run.corpus.seed,
        clips=result.clips,
        snapshot=result.snapshot.snapshot.id,
        checkpoint=result.training.checkpoint,
        seconds=seconds,
        lips=lips,
        unseen_faces=judged.groups.get("unseen"),
        good=lips.r >= GOOD_R and lips.r_shuffled_audio <= GOOD_CONTROL,
        files=files,
        computed=computed,
    )
    if computed or not (run.out / "report.json").is_file():
        write_json(run.out / "report.json", report.model_dump(mode="json"))
        write_text(run.out / "report.md", report_markdown(report, judged))
    publish("report", report_markdown(report, judged), "what the demo came to")
    return report.model_copy(update={"files": {name: str(run.out / path) for name, path in files.items()}})


def draw_pictures(run: DemoRun, result: PipelineResult) -> dict[str, str]:
    """Contact sheet and loss curves; name -> path relative to the run's folder."""
    place = run.pipeline.place
    with Ledger(place.ledger_url) as ledger:
        standing = fates(ledger, place.dataset, load_policy(run.pipeline.policy), run.pipeline.extract)
    kept = [_strip(place, fate) for fate in standing if fate.outcome == "passed"]
    dropped = [_strip(place, fate) for fate in standing if fate.outcome != "passed"]
    contact_sheet(run.out / "clips.png", kept, dropped)
    loss_curves(run.out / "loss.png", read_log(Path(result.training.folder)))
    return {"clips": "clips.png", "loss": "loss.png"}


def _strip(place: Place, fate: Fate) -> Strip:
    """One clip of the contact sheet."""
    picture = place.media_root / fate.thumbnail if fate.thumbnail else None
    why = f"{fate.reason}: {fate.measured} {fate.threshold}".strip() if fate.reason else "passed"
    return Strip(fate.clip_id, why, picture)


def report_markdown(report: DemoReport, judged: EvaluationReport) -> str:
    """report.md: the table, the pictures, the clips."""
    times = "\n".join(f"| {name} | {value:.0f} |" for name, value in report.seconds.items())
    videos = "\n".join(f"- [{clip.name}](evaluation/compare/{clip.name}.mp4): r {clip.r:.2f}" for clip in judged.clips)
    return f"""# Demo, seed {report.seed}

{report.verdict()}

{judged.markdown()}

The reconstruction row is what the codec itself keeps of the truth; no model on these latents can do better.
"unseen" are faces that were not in training: shown, not judged. Per frame: [lips.csv](evaluation/lips.csv).

![mouth opening and sound](evaluation/lips.png)

## Videos, truth left, generated right

{videos}

## Clips

{account_markdown(report.clips)}

![clips kept and quarantined](clips.png)

## Training

Snapshot `{report.snapshot}`, checkpoint `{report.checkpoint}`.

![loss](loss.png)

## Seconds

| stage | s |
| --- | --- |
{times}
"""
