"""Text features of a data set: every distinct caption is encoded once, whatever number of clips it is said of.

Captions go through the worker pool as clips do, and each ends as made, refused or failed. Workers store what they make,
so that a run that was killed goes on where it was; why a caption has no text is noted in the store
(`tasks/text_notes.py` says why there and not in the ledger). A refused caption is not tried again until a rerun names
a clip of it, or the encoder is another: its clips are told the prompt. A failed one is tried by every run: its clips
are left out until it is made. A text that a snapshot names and that is damaged is made again once its file is removed.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Self

from pydantic import Field, model_validator

from dualforce_model.config import Frozen
from dualforce_model.errors import InfrastructureError
from dualforce_model.storage import Storage
from dualforce_model.text_features import FOLDER, text_key, text_name
from tasks.accounting import AcrossClips, verdicts
from tasks.extract import ExtractConfig
from tasks.extractors.text import TextConfig, TextNames
from tasks.ledger import Ledger
from tasks.place import Place
from tasks.planning import TextPlan
from tasks.policy import load_policy
from tasks.pool import Job, Pool, PoolConfig, WorkerSpec
from tasks.progress import Progress
from tasks.records import Attempt, Clip, Quarantined, Stage
from tasks.shared_pool import dismiss_workers, shared_pool
from tasks.stages import HALT_AFTER, NOTHING_AGAIN, RETRYABLE, Selection, StageConfig, StageHalted, clips
from tasks.text_notes import FAILED, REFUSED, KnownTexts, Refusal, TextFailure, drop_notes, noted, write_note
from tasks.text_worker import TextJob
from tasks.texts import remove_damaged

SHOWN = 3  # captions of a kind in a summary


class NoTextError(InfrastructureError):
    """No caption at all could be encoded, or not the prompt; the message says what the first met."""


class TextSummary(Frozen):
    """What encoding captions came to."""

    fingerprint: str
    distinct: int = Field(ge=0, description="captions that clips have, and the prompt where it is said instead")
    there: int = Field(0, ge=0, description="captions that were encoded already")
    made: int = Field(ge=0, description="captions that were encoded")
    refused: int = Field(0, ge=0, description="captions that the encoder makes nothing of; the prompt is said instead")
    failed: dict[str, int] = Field({}, description="captions by failure class; the next run tries them again")
    failed_clips: int = Field(0, ge=0, description="clips of those that failed; no snapshot has them")
    seconds: float = Field(ge=0.0)
    messages: tuple[str, ...] = Field((), description="why, of the first that were refused or failed in this run")
    traceback: str = Field("", description="of the first that failed")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = self.there + self.made + self.refused + sum(self.failed.values())
        if total != self.distinct:
            raise ValueError(f"there are {self.distinct} captions but {total} are accounted for")
        return self

    @property
    def idle(self) -> bool:
        """Whether there was nothing to encode."""
        return not self.made and not self.messages

    def text(self) -> str:
        """For people."""
        refused = [f"{self.refused} refused"] if self.refused else []
        if self.idle:
            return ", ".join(["text: nothing to do", f"{self.there} captions there already", *refused])
        counts = [f"{self.made} captions", *refused]
        counts += [f"{count} failed ({failure})" for failure, count in self.failed.items()]
        if self.failed_clips:
            counts.append(f"{clips(self.failed_clips)} left out for it")
        head = f"text: {', '.join(counts)}, {self.there} there already, {self.seconds:.1f} s"
        return "\n".join([head, *(f"text: {message}" for message in self.messages)])

    def markdown(self) -> str:
        """Table of it, for the UI."""
        rows = [("made", self.made), ("refused", self.refused)]
        rows += [(f"failed: {failure}", count) for failure, count in self.failed.items()]
        rows += [("there already", self.there), ("**captions**", self.distinct)]
        lines = [f"**text**: {self.seconds:.1f} s", "", "| outcome | count |", "| --- | --- |"]
        quoted = "\n\n".join(part for part in ("\n".join(self.messages), self.traceback) if part).replace("```", "'''")
        said = ["", "```", quoted, "```"] if quoted else []  # what strangers may have written is no markdown
        return "\n".join([*lines, *(f"| {name} | {count} |" for name, count in rows), *said])


@dataclass(frozen=True)
class Said:
    """Captions, and how many clips each is said of."""

    clips: Mapping[str, int]
    again: frozenset[str] = frozenset()  # those of clips that a rerun names: tried if refused, looked after if made


def captions_of(
    listed: Iterable[Clip], passing: Collection[str], names: TextNames, selection: Selection = NOTHING_AGAIN
) -> Said:
    """What is said of the clips that pass."""
    said, again = Counter[str](), set[str]()
    for clip in listed:
        if clip.clip_id in passing:
            caption = names.caption(clip)
            said[caption] += 1
            if selection.covers(clip.clip_id):
                again.add(caption)
    return Said(said, frozenset(again))


def plan_texts(known: KnownTexts, said: Said) -> tuple[TextPlan, dict[str, str]]:
    """What a run would encode and why, and those captions by their texts' names."""
    fingerprint, prompt = known.names.fingerprint, known.names.config.prompt
    named = {text_name(fingerprint, caption): caption for caption in said.clips}
    again = {text_name(fingerprint, caption) for caption in said.again}
    refused = (known.refused & named.keys()) - again - {known.names.prompt_name}
    if refused:
        named[known.names.prompt_name] = prompt  # what their clips are told
    todo = {name: caption for name, caption in named.items() if name not in known.there and name not in refused}
    retryable = todo.keys() & (known.failed | known.refused)
    planned = TextPlan(
        distinct=len(named),
        new=len(todo) - len(retryable),
        retryable=len(retryable),
        done=len(named) - len(todo) - len(refused),
        refused=len(refused),
        by_others=0 if known.there or not todo else len(known.store.list(FOLDER)),
    )
    return planned, todo


def encode_texts(
    place: Place,
    policy_path: str,
    extract: ExtractConfig,
    pool: PoolConfig,
    stage: StageConfig,
    across: AcrossClips | None = None,
    selection: Selection = NOTHING_AGAIN,
    *,
    run_id: str,
) -> TextSummary:
    """Encode the captions of all clips that the policy lets pass, under extract's lease: two runs would do all twice.

    Whoever has this policy's `across`, and nothing was curated since, gives it: to find duplicates takes long.
    """
    assert extract.text is not None, "whoever has no extract.text encodes no captions"
    names, policy, store = TextNames(extract.text), load_policy(policy_path), Storage(place.store_url)
    with (
        Ledger(place.ledger_url, missing="refuse") as ledger,
        ledger.lease(place.dataset, Stage.EXTRACT, run_id, stage.lease_wait_s),
    ):
        judged = verdicts(ledger, place.dataset, policy, across)
        passing = {row.clip_id for row, verdict in judged if not isinstance(verdict, Quarantined)}
        said = captions_of(ledger.clips(place.dataset), passing, names, selection)
        spec = text_spec(extract.text, store, names, extract.device, pool)
        return encode_captions(store, names, said, spec, pool, stage)


def text_spec(config: TextConfig, store: Storage, names: TextNames, device: str, pool: PoolConfig) -> WorkerSpec:
    """The worker that the pool builds."""
    kwargs = {
        "config": config.model_dump(mode="json"),
        "store": store.url(),
        "fingerprint": names.fingerprint,
        "device": device,
        "workers": _most_workers(pool, config),
    }
    return WorkerSpec(target="tasks.text_worker:TextWorker", kwargs=kwargs, jobs_per_message=config.batch_size)


def encode_captions(
    store: Storage, names: TextNames, said: Said, spec: WorkerSpec, pool: PoolConfig, stage: StageConfig
) -> TextSummary:
    """Store what the encoder makes of those captions that the store has not; no worker starts if there are none.

    Raises NoTextError, StageHalted, WorkerUnusable, and what the store raises.
    """
    begun, fingerprint = time.monotonic(), names.fingerprint
    remove_damaged(store, {text_name(fingerprint, caption) for caption in said.again})
    known = KnownTexts(store, names)
    for kind in (REFUSED, FAILED):
        drop_notes(store, noted(store, kind, fingerprint) & known.there)
    known.drop_unreadable(text_name(fingerprint, caption) for caption in said.clips)
    planned, todo = plan_texts(known, said)
    if not todo:
        return TextSummary(
            fingerprint=fingerprint,
            distinct=planned.distinct,
            there=planned.done,
            made=0,
            refused=planned.refused,
            seconds=round(time.monotonic() - begun, 2),
        )
    with Progress("text", len(todo), "caption") as progress, _workers(pool, names.config, len(todo)) as workers:
        run = TextRun(known, progress)
        run.encode(workers, spec, stage, todo)
        run.settle(workers, spec, stage, told=planned.refused > 0)
    return run.summary(planned, said, time.monotonic() - begun)


def _most_workers(config: PoolConfig, text: TextConfig) -> int:
    return min(config.workers, text.workers or config.workers)


@contextmanager
def _workers(config: PoolConfig, text: TextConfig, captions: int) -> Iterator[Pool]:
    """A pool of as many workers as may hold the encoder and have a message to do."""
    most = min(_most_workers(config, text), -(-captions // text.batch_size))
    dismiss_workers(config)  # of an earlier stage, which hold memory that the encoder wants
    with shared_pool(config.model_copy(update={"workers": most})) as own:
        yield own()


class TextRun:
    """State of one run of captions through the pool."""

    def __init__(self, known: KnownTexts, progress: Progress) -> None:
        self.known, self.store, self.progress = known, known.store, progress
        self.there = known.there  # when the run began
        self.captions: dict[str, str] = {}  # by name
        self.made: set[str] = set()
        self.refused: dict[str, Refusal] = {}
        self.failed: dict[str, TextFailure] = {}
        self.spared: set[str] = set()  # whose last failure was systemic: not tried again here, and noted at the end
        self.noted = known.refused | known.failed
        self.wary = set(known.failed)  # tried when all others are through, each in a message of its own
        self.unsure: list[str] = []  # refused before the encoder made anything: it may be its own fault
        self.proved = False  # whether it did in this run: what it made before says nothing of it now
        self.in_a_row = 0  # systemic failures without another outcome between them

    def encode(self, pool: Pool, spec: WorkerSpec, config: StageConfig, todo: Mapping[str, str]) -> None:
        """All of these captions, then the failed ones again, as often as a stage tries its clips in one run."""
        self.captions |= todo
        names, wait = list(todo), config.backoff_s
        for again in range(config.attempts):
            if again:
                self.progress.note(f"{len(names)} failed; trying again in {wait:.0f} s")
                time.sleep(wait)
                wait *= 2
            for attempt in pool.run(spec, self.jobs(names)):
                self.take(attempt)
            names = [name for name in names if self._is_worth_another(name)]
            if not names:
                break
        for name in self.spared & self.failed.keys():
            self._note(name, self.failed[name])

    def settle(self, pool: Pool, spec: WorkerSpec, config: StageConfig, *, told: bool) -> None:
        """Encode what clips are told whose caption was refused: now, or, if `told`, before.

        Where all were refused, the prompt shows whether the encoder is at fault, also if it was encoded before.
        Raises NoTextError where there is no text to tell.
        """
        name, prompt = self.known.names.prompt_name, self.known.names.config.prompt
        tried = name in self.captions or (self.proved and name in self.there)
        if self.refused and not tried:
            self.encode(pool, spec, config, {name: prompt})
        if not self.proved and (self.refused or not self.there):
            raise NoTextError(f"none of {len(self.captions)} captions could be encoded; {self.messages()[0]}")
        without = self.refused.get(name) or self.failed.get(name)
        if without is not None and (told or self.refused):
            raise NoTextError(
                "captions were refused, and extract.text.prompt, which is said instead, has no text either: "
                f"{without.line()}"
            )

    def jobs(self, names: Iterable[str]) -> Iterator[Job]:
        """Captions in the order in which they are tried.

        Long ones first: a batch is filled up to its longest, and what does not fit into memory shows at once.
        """
        said = self.captions
        for name in sorted(names, key=lambda name: (name in self.wary, -len(said[name]), said[name])):
            yield Job(job_id=name, payload=TextJob(caption=said[name]), alone=name in self.wary)

    def take(self, attempt: Attempt) -> None:
        """Turn an attempt into what became of its caption."""
        name = attempt.job_id
        self.failed.pop(name, None)
        self.spared.discard(name)
        self.in_a_row = self.in_a_row + 1 if attempt.systemic else 0
        if attempt.value is not None and "refused" in attempt.value:
            self._refuse(name, Refusal(caption=self.captions[name], why=attempt.value["refused"]))
        elif attempt.value is not None or self._was_stored(name):
            self._made(name)
        else:
            self._fail(name, attempt)
            self._halt_where_all_fail(name)

    def summary(self, planned: TextPlan, said: Said, seconds: float) -> TextSummary:
        """What the run came to, on top of what there was before."""
        failed = Counter(str(failure.failure) for failure in self.failed.values())
        names = self.known.names
        told = self.refused and not planned.refused and names.config.prompt not in said.clips  # the prompt comes on top
        return TextSummary(
            fingerprint=names.fingerprint,
            distinct=planned.distinct + bool(told),
            there=planned.done + bool(told and names.prompt_name in self.there),
            made=len(self.made - self.there),
            refused=planned.refused + len(self.refused),
            failed=dict(sorted(failed.items())),
            failed_clips=sum(said.clips.get(failure.caption, 0) for failure in self.failed.values()),
            seconds=round(seconds, 2),
            messages=self.messages(),
            traceback=next((failure.traceback for failure in self.failed.values()), ""),
        )

    def messages(self) -> tuple[str, ...]:
        """Why the first of each kind have no text."""
        refused = [f"refused: {note.line()}" for note in islice(self.refused.values(), SHOWN)]
        return (*refused, *(f"failed: {note.line()}" for note in islice(self.failed.values(), SHOWN)))

    def _was_stored(self, name: str) -> bool:
        """Whether a worker that gave no answer died after its work."""
        return name not in self.there and self.store.exists(text_key(name))

    def _made(self, name: str) -> None:
        self.made.add(name)
        if name in self.noted:
            drop_notes(self.store, [name])
        self.proved = True
        for unsure in self.unsure:
            self._note(unsure, self.refused[unsure])
        self.unsure = []
        self.progress.ended([name], "done")

    def _refuse(self, name: str, note: Refusal) -> None:
        self.refused[name] = note
        if self.proved:
            self._note(name, note)
        else:
            self.unsure.append(name)
        self.progress.ended([name], "refused")

    def _fail(self, name: str, attempt: Attempt) -> None:
        assert attempt.failure is not None, "captions have no other outcome"
        failure, traceback = attempt.failure
        self.wary.add(name)
        self.failed[name] = note = TextFailure(caption=self.captions[name], failure=failure, traceback=traceback)
        if attempt.systemic:
            self.spared.add(name)  # where the disk is full a note would not go down either
        else:
            self._note(name, note)
            if len(self.failed) > SHOWN:
                self.failed[name] = note.brief()  # all of a large data set's are gigabytes, and they are noted
        self.progress.ended([name], "failed")

    def _note(self, name: str, note: Refusal | TextFailure) -> None:
        write_note(self.store, name, note)
        self.noted.add(name)

    def _is_worth_another(self, name: str) -> bool:
        return name in self.failed and name not in self.spared and self.failed[name].failure in RETRYABLE

    def _halt_where_all_fail(self, name: str) -> None:
        """Raise StageHalted when caption after caption fails for want of room."""
        if self.in_a_row >= HALT_AFTER:
            raise StageHalted(
                f"text was halted after {HALT_AFTER} captions in a row failed alike: {self.failed[name].line()}. What "
                "was made is kept: mend the cause, then run the same again"
            )
