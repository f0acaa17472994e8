"""demo: the whole chain on a laptop, from synthetic clips to a report. The flows are those of every other run."""

from collections.abc import Iterator
from pathlib import Path

from prefect import flow
from pydantic import Field, ValidationError

from dualforce_model.config import Frozen
from dualforce_model.storage import file_digest, write_json, write_text
from dualforce_model.train_log import read_log
from flows.evaluate import EvaluateRun, evaluate
from flows.generate import GenerateRun, generate
from flows.pipeline import PipelineResult, PipelineRun, pipeline, save_config
from flows.preflight import FlowRun
from flows.rerun import RerunResult, RerunRun, rerun
from tasks.accounting import Account, Fate, account, fates
from tasks.artifacts import account_markdown, publish
from tasks.curation import CurateJob, Curator, crop_key
from tasks.evaluation import EvaluationReport, LipCase, Lips
from tasks.generation import GenerateConfig, GenerateItem
from tasks.ledger import Ledger
from tasks.pictures import Strip, contact_sheet, loss_curves
from tasks.place import Place
from tasks.policy import load_policy
from tasks.records import Span
from tasks.stopwatch import read_seconds
from tasks.synthetic.corpus import Corpus, Utterance
from tasks.synthetic.recipes import CorpusConfig
from tasks.tables import table
from tasks.text_notes import known_texts

GOOD_R, GOOD_CONTROL = 0.7, 0.3
PARTS = ("clips", "acquire", "curate", "extract", "train", "generate", "evaluate")
FILES = {  # what to look at, relative to the run's folder
    "clips": "clips.png",
    "loss": "loss.png",
    "lips": "evaluation/lips.png",
    "per frame": "evaluation/lips.csv",
    "videos": "evaluation/compare",
    "report": "report.md",
    "numbers": "report.json",
}


class DemoRun(FlowRun):
    """A complete demo; folder and seed come from the command line."""

    corpus: CorpusConfig = CorpusConfig()
    pipeline: PipelineRun
    generate: GenerateConfig = GenerateConfig()

    def check(self) -> tuple[str, ...]:
        return self.pipeline.check_beyond_source()

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
    snapshot: str = Field(description="the newest version, which `clips` is about")
    trained_on: str = Field(description="the version that the checkpoint learned from, which `lips` is about")
    checkpoint: str = Field(description="relative to the run's folder")
    seconds: dict[str, float] = Field(description="of each part, over all calls on this folder")
    lips: Lips
    unseen_faces: Lips | None = Field(None, description="the same for faces that were not in training; not judged")
    good: bool = Field(description=f"r is at least {GOOD_R} and the shuffled control at most {GOOD_CONTROL}")
    files: dict[str, str] = Field(description="what to look at, relative to the run's folder")
    computed: bool = Field(description="whether this call did anything; otherwise all of it was there already")

    def text(self, folder: Path) -> str:
        """The short table at the end, with paths as they are from here."""
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
        done = [] if self.computed else ["Nothing was computed: all of it was there already."]
        paths = [f"{name:<14} {folder / path}" for name, path in self.files.items()]
        return "\n".join([counts, "", table(("lips", "value"), numbers), "", *self.verdict(), *done, *paths])

    @property
    def failed_clips(self) -> int:
        """Clips that ended as failed."""
        return sum(self.clips.failed.values())

    def verdict(self) -> list[str]:
        """Said plainly."""
        asked = f"r >= {GOOD_R} and control <= {GOOD_CONTROL}"
        said = [
            f"The lips follow unseen speech ({asked})."
            if self.good
            else f"The lips do NOT follow unseen speech well enough: {asked} was asked for."
        ]
        if self.trained_on != self.snapshot:
            said.append(
                f"The checkpoint was trained on the version before, {self.trained_on}, and the lips are its; the clips "
                f"are those of {self.snapshot}, on which the next `dualforce demo` trains."
            )
        return said


@flow(name="demo", flow_run_name="demo {run.pipeline.place.home}")
def demo(run: DemoRun, corpus: Corpus) -> DemoReport:
    """pipeline -> generate -> evaluate -> report."""
    result = pipeline(run.pipeline)
    truths = crop_truths(run, corpus)
    generation = GenerateRun(
        place=run.pipeline.place,
        checkpoint=result.training.checkpoint,
        folder=str(run.out / "generated"),
        items=generation_items(run, corpus, truths),
        generate=run.generate,
    )
    generated = generate(generation)
    evaluation = EvaluateRun(
        place=run.pipeline.place,
        folder=str(run.out / "evaluation"),
        cases=lip_cases(run, corpus, truths),
        codec=run.pipeline.train.encoders.video,
    )
    judged = evaluate(evaluation)
    computed = result.computed or generated.made > 0 or judged.computed
    return write_report(run, result, judged.report, computed=computed)


@flow(name="heal", flow_run_name="heal {run.pipeline.place.home}")
def heal(run: DemoRun) -> RerunResult:
    """Try again what failed; nothing is trained. The next demo trains on the new version."""
    save_config(run.pipeline)
    result = rerun(RerunRun(pipeline=run.pipeline))
    if result.snapshot is not None:
        bring_up_to_date(run, result.snapshot.snapshot.id)
    return result


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


def write_report(run: DemoRun, result: PipelineResult, judged: EvaluationReport, *, computed: bool) -> DemoReport:
    """Pictures, report.md and report.json; a call that computed nothing leaves what an earlier one wrote."""
    lips = judged.groups["seen"]
    report = DemoReport(
        seed=run.corpus.seed,
        clips=result.clips,
        snapshot=result.snapshot.snapshot.id,
        trained_on=result.training.snapshot_id,
        checkpoint=Path(result.training.checkpoint).relative_to(run.out).as_posix(),
        seconds=seconds_of_parts(run.out),
        lips=lips,
        unseen_faces=judged.groups.get("unseen"),
        good=lips.r >= GOOD_R and lips.r_shuffled_audio <= GOOD_CONTROL,
        files=FILES,
        computed=computed,
    )
    draw_clips(run)
    loss_curves(run.out / FILES["loss"], read_log(Path(result.training.folder)))
    written = read_report(run.out)
    if written is None or written.model_copy(update={"computed": computed}) != report:
        keep_report(run.out, report, judged)
    publish("report", report_markdown(report, judged), "what the demo came to")
    return report


def bring_up_to_date(run: DemoRun, snapshot_id: str) -> None:
    """After a rerun: the report, if there is one, with the new counts and version beside the old checkpoint's lips."""
    written = read_report(run.out)
    if written is None:
        return
    judged = EvaluationReport.model_validate_json((run.out / "evaluation" / "report.json").read_bytes())
    clips = account(draw_clips(run))
    report = written.model_copy(
        update={"clips": clips, "snapshot": snapshot_id, "seconds": seconds_of_parts(run.out), "computed": True}
    )
    keep_report(run.out, report, judged)
    publish("report", report_markdown(report, judged), "what the demo came to")


def read_report(out: Path) -> DemoReport | None:
    """report.json of an earlier call that came to its end; none of an older layout, which is written anew."""
    path = out / FILES["numbers"]
    try:
        return DemoReport.model_validate_json(path.read_bytes()) if path.is_file() else None
    except ValidationError:
        return None


def keep_report(out: Path, report: DemoReport, judged: EvaluationReport) -> None:
    """report.json and report.md, with all paths relative to their folder."""
    write_json(out / FILES["numbers"], report.model_dump(mode="json"))
    write_text(out / FILES["report"], report_markdown(report, judged))


def seconds_of_parts(out: Path) -> dict[str, float]:
    """Seconds of every part in the order of the chain."""
    spent = read_seconds(out)
    return {part: spent.get(part, 0.0) for part in PARTS}


def draw_clips(run: DemoRun) -> list[Fate]:
    """The contact sheet of what was kept and what was not; where every clip stands."""
    place = run.pipeline.place
    with Ledger(place.ledger_url) as ledger:
        texts = known_texts(place, run.pipeline.extract)
        standing = fates(ledger, place.dataset, load_policy(run.pipeline.policy), run.pipeline.extract, texts)
    kept = [_strip(place, fate) for fate in standing if fate.outcome == "passed"]
    dropped = [_strip(place, fate) for fate in standing if fate.outcome != "passed"]
    contact_sheet(run.out / FILES["clips"], kept, dropped)
    return standing


def _strip(place: Place, fate: Fate) -> Strip:
    """One clip of the contact sheet."""
    picture = place.media_root / fate.thumbnail if fate.thumbnail else None
    why = f"{fate.reason}: {fate.measured} {fate.threshold}".strip() if fate.reason else "passed"
    return Strip(fate.clip_id, why, picture)


def report_markdown(report: DemoReport, judged: EvaluationReport) -> str:
    """report.md: the table, the pictures, the clips."""
    times = "\n".join(f"| {name} | {value:.0f} |" for name, value in report.seconds.items())
    verdict = "\n\n".join(report.verdict())
    videos = "\n".join(f"- [{clip.name}](evaluation/compare/{clip.name}.mp4): r {clip.r:.2f}" for clip in judged.clips)
    return f"""# Demo, seed {report.seed}

{verdict}

{judged.markdown()}

The reconstruction row is what the codec itself keeps of the truth: about as good as these latents can show.
"unseen" are faces that were not in training: shown, not judged. Per frame: [lips.csv](evaluation/lips.csv).

![mouth opening and sound](evaluation/lips.png)

## Videos, truth left, generated right

{videos}

## Clips

{account_markdown(report.clips)}

![clips kept and quarantined](clips.png)

## Training

Newest snapshot `{report.snapshot}`; checkpoint [{report.checkpoint}]({report.checkpoint}), trained on
`{report.trained_on}`.

![loss](loss.png)

## Seconds, over all calls on this folder

| stage | s |
| --- | --- |
{times}
"""
