"""Runs one stage of one data set: plan, batches through the pool, ledger rows as they come, retries by class.

A Prefect task run is one batch. The ledger, not Prefect, is the record of what is done: the process may die anywhere.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.errors import InfrastructureError
from tasks.batches import MOST_TASK_RUNS, Batch, Batches
from tasks.ledger import Lease, Ledger, Relisting, Row
from tasks.place import Place
from tasks.planning import Plan, Standing, plan
from tasks.pool import Pool, PoolConfig
from tasks.progress import Progress
from tasks.records import Attempt, Done, Failed, FailureClass, Quarantined, Reason, Stage, StageResult
from tasks.shared_pool import shared_pool
from tasks.work import Fault, Outcome, Refusal, Target, Work

# A bug fails again at once and a bot wall needs a person: neither is worth another attempt in the same run.
RETRYABLE = frozenset(FailureClass) - {FailureClass.BUG, FailureClass.BOT_WALL}
HALT_AFTER = 3  # clips in a row that fail for a reason which every other clip would meet too
RECORD_EVERY_S = 1.0
SHOWN_PROBLEMS = 20


class StageConfig(Frozen):
    """How a stage treats its clips, whatever the stage."""

    attempts: int = Field(3, ge=1, le=20, description="attempts charged to a clip before it is exhausted")
    batch_clips: int = Field(
        128, ge=1, le=256, description="clips that a Prefect task run tells of; more where there would be too many runs"
    )
    backoff_s: float = Field(
        2.0, ge=0.0, le=3600.0, description="wait before failed clips are tried again, doubled each time"
    )
    lease_wait_s: float = Field(
        0.0, ge=0.0, le=86400.0, description="how long to wait for another run on the same stage; 0 refuses"
    )


class Selection(Frozen):
    """What a run takes up beside what is new, changed or retryable anyway."""

    again: frozenset[str] = Field(
        frozenset(), description="clips to take even if exhausted or impossible, or if done and lost since"
    )

    def covers(self, clip_id: str) -> bool:
        """Whether a clip is forgiven what it was charged with, and looked after if it is done."""
        return clip_id in self.again


NOTHING_AGAIN = Selection()


class StageSummary(Frozen):
    """What a stage run did, for tables, artifacts and reports."""

    stage: Stage
    planned: int = Field(ge=0, description="targets that had to be made")
    kept: int = Field(ge=0, description="targets that were there already")
    lost: int = Field(0, ge=0, description="targets planned because what was made is gone or damaged")
    done: int = Field(ge=0, description="targets made: clips, at extract features")
    impossible: dict[str, int] = Field({}, description="clips by reason")
    failed: dict[str, int] = Field({}, description="clips by failure class, each counted once")
    left: int = Field(0, ge=0, description="clips that are no longer on the list")
    returned: int = Field(0, ge=0, description="clips that were off the list and are back")
    listed: int = Field(0, ge=0, description="all targets, made or not")
    num_bytes: int = Field(0, ge=0, description="what came in from outside")
    seconds: float = Field(ge=0.0)
    num_problems: int = Field(0, ge=0, description="lines of the list that could not become clips")
    problems: tuple[str, ...] = Field((), description="the first of them")

    @property
    def failed_clips(self) -> int:
        """Clips of which something failed in this run."""
        return sum(self.failed.values())

    @property
    def available(self) -> int:
        """Targets that are there now."""
        return self.kept + self.done

    def brought_in(self) -> str:
        """Size and speed of what came in; empty where nothing did."""
        if not self.num_bytes:
            return ""
        megabytes = self.num_bytes / 1e6
        return f"{megabytes:.1f} MB at {megabytes / max(self.seconds, 1e-3):.1f} MB/s"

    def text(self) -> str:
        """One line for people."""
        bad_lines = [f"  {problem}" for problem in self.problems]
        if self.num_problems > len(self.problems):
            bad_lines.append(f"  and {self.num_problems - len(self.problems)} more lines that could not be used")
        if self.left or self.returned:
            bad_lines.insert(0, f"  {clips(self.left)} left the list, {self.returned} came back")
        if not (self.listed or self.planned or self.kept):
            what = "the list holds no clip" if self.stage == Stage.ACQUIRE else "no clip has come this far"
            return "\n".join([f"{self.stage}: nothing to do, {what}", *bad_lines])
        if not self.planned:
            return "\n".join([f"{self.stage}: nothing to do, {self.kept} there already", *bad_lines])
        counts = [f"{self.done} {'features' if self.stage == Stage.EXTRACT else 'done'}"]
        counts += [f"{clips(count)} {reason}" for reason, count in self.impossible.items()]
        counts += [f"{clips(count)} failed ({failure})" for failure, count in self.failed.items()]
        lost = f", {self.lost} had been lost" if self.lost else ""
        brought = f", {self.brought_in()}" if self.num_bytes else ""
        done = f"{self.stage}: {', '.join(counts)}, {self.kept} there already{lost}{brought}, {self.seconds:.1f} s"
        return "\n".join([done, *bad_lines])


class StageHalted(InfrastructureError):
    """A stage was given up because what it needs gave way; what was done is recorded, nothing was charged."""


class StageRun:
    """State of one stage run in this process."""

    def __init__(
        self, work: Work, ledger: Ledger, lease: Lease, pool: Pool, config: StageConfig, progress: Progress, run_id: str
    ) -> None:
        self.work, self.ledger, self.lease, self.pool = work, ledger, lease, pool
        self.config, self.progress, self.run_id = config, progress, run_id
        self.charged: dict[str, int] = {}  # target id -> attempts charged so far
        self.pending: list[Row] = []
        self.recorded_at = 0.0
        self.in_a_row = 0  # systemic failures without another outcome between them
        self.spared: set[str] = set()  # targets whose last failure was systemic: not charged, not tried again here
        self.outcomes: dict[str, Row] = {}  # target id -> last row of this run
        self.task_runs_left = MOST_TASK_RUNS  # over all passes
        self.batches: Batches  # of the pass over its targets that is under way
        self.attempts: Generator[Attempt, None, None]  # answers of the pool to it

    def take_next(self) -> None:
        """Wait for the pool's next answer, of whichever batch."""
        attempt = next(self.attempts, None)
        assert attempt is not None, "the pool answers every job"
        self.take(attempt)
        self.batches.answered(attempt.job_id)

    def take(self, attempt: Attempt) -> None:
        """Turn an attempt into rows and record them once a second."""
        served = self.work.serving[attempt.job_id]
        rows = [self._outcome(target, said, attempt.seconds) for target, said in self.work.results(attempt)]
        self.pending += rows
        told = [row for row in rows if row.clip_id in {target.clip_id for target in served}]
        state = worst(told).state if told else "done"  # what is withheld is made already
        self.progress.ended({target.clip_id for target in served}, state)
        self._halt_where_all_fail(attempt)
        if time.monotonic() - self.recorded_at > RECORD_EVERY_S:
            self.record()

    def _halt_where_all_fail(self, attempt: Attempt) -> None:
        """Raise StageHalted when clip after clip fails for want of room, or at a wall for robots."""
        if attempt.failure is None or not attempt.systemic:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        if self.in_a_row < HALT_AFTER:
            return
        self.record()
        failure, traceback = attempt.failure
        last_line = traceback.strip().splitlines()[-1]
        raise StageHalted(
            f"{self.work.stage} was halted after {HALT_AFTER} clips in a row failed alike ({failure}): {last_line}. "
            "No clip was charged for it: mend the cause, then run the same again"
        )

    def finish_batch(self) -> None:
        """Seal what waits and record everything."""
        self.pending += [self._outcome(target, value, 0.0) for target, value in self.work.flush()]
        self.record()

    def record(self) -> None:
        """Commit the rows gathered so far in one transaction."""
        if self.pending:
            self.ledger.record(self.lease, self.pending)
            self.work.recorded(self.pending)
            self.outcomes.update({target_id(row): row for row in self.pending})
            self.pending = []
        self.recorded_at = time.monotonic()

    def _outcome(self, target: Target, said: Outcome, seconds: float) -> Row:
        if isinstance(said, Refusal):
            shown = {} if said.preview is None else {"thumbnail": said.preview}
            return self._row(target, state="impossible", reason=said.reason, detail=said.measured, value=shown)
        if isinstance(said, Fault):
            return self._failed(target, said)
        value = {**said, "seconds": round(seconds, 4)}
        return self._row(target, state="done", value=value, attempts=self.charged.get(target.id, 0))

    def _failed(self, target: Target, fault: Fault) -> Row:
        charged = self.charged[target.id] = self.charged.get(target.id, 0) + (not fault.systemic)
        if fault.systemic:
            self.spared.add(target.id)
        return self._row(target, state="failed", failure=fault.failure, detail=fault.traceback, attempts=charged)

    def _row(self, target: Target, **said: Any) -> Row:
        return Row(
            clip_id=target.clip_id,
            stage=self.work.stage,
            feature=target.feature,
            key=target.key,
            run_id=self.run_id,
            updated_at=time.time(),
            **said,
        )

    def retryable(self, targets: Sequence[Target]) -> list[Target]:
        """Targets that failed in a way that another attempt in this run may mend."""
        again = []
        for target in targets:
            row = self.outcomes[target.id]
            worth_it = row.failure in RETRYABLE and target.id not in self.spared
            if row.state == "failed" and worth_it and row.attempts < self.config.attempts:
                again.append(target)
        return again


def clips(number: int) -> str:
    """A number of clips in words."""
    return f"{number} clip{'' if number == 1 else 's'}"


def target_id(row: Row | Standing) -> str:
    """Id of the target that a row is about."""
    return Target(row.clip_id, row.key, row.feature).id


def worst(rows: Sequence[Row]) -> Row:
    """The row that decides what became of a clip: a failure, else an impossibility, else any."""
    return max(rows, key=lambda row: ("done", "impossible", "failed").index(row.state))


def by_clip(rows: Iterable[Row]) -> dict[str, Row]:
    """Each clip's worst row."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.clip_id, []).append(row)
    return {clip_id: worst(of_clip) for clip_id, of_clip in found.items()}


@task(name="batch", cache_policy=NO_CACHE, retries=0)
def run_batch(run: StageRun, batch: Batch) -> StageResult:
    """The answers to one batch, and to whatever of later ones comes before them; every clip of it ends exactly once."""
    while batch.left:
        run.take_next()
    run.finish_batch()
    return batch_result(run.work.stage, batch.targets, run.outcomes)


def batch_result(stage: Stage, targets: Sequence[Target], outcomes: dict[str, Row]) -> StageResult:
    """What the batch did, clip by clip: a clip is done when all its targets are."""
    rows = by_clip([outcomes[target.id] for target in targets])
    done, quarantined, failed = [], [], []
    for clip_id, row in rows.items():
        if row.state == "done":
            done.append(Done(clip_id=clip_id, key=row.key, value=row.value))
        elif row.state == "impossible":
            reason = Reason(str(row.reason))
            quarantined.append(Quarantined(clip_id=clip_id, stage=stage, reason=reason, measured=row.detail))
        else:
            failure = FailureClass(str(row.failure))
            failed.append(
                Failed(clip_id=clip_id, stage=stage, failure=failure, traceback=row.detail, attempts=row.attempts)
            )
    return StageResult(
        stage=stage, inputs=tuple(rows), done=tuple(done), quarantined=tuple(quarantined), failed=tuple(failed)
    )


def plan_stage(
    work: Work, ledger: Ledger, config: StageConfig, selection: Selection = NOTHING_AGAIN
) -> tuple[Plan, list[Target]]:
    """What a run would do and why, and the targets it would make."""
    targets = {target.id: target for target in work.targets()}
    rows = {target_id(row): row for row in ledger.standings(work.place.dataset, work.stage)}
    forgiven = {name: target.key for name, target in targets.items() if selection.covers(target.clip_id)}
    others = {name: target.key for name, target in targets.items() if name not in forgiven}
    plain = plan(others, rows, attempts=config.attempts)
    whole: dict[str, Row] = {}
    if forgiven:
        whole = {
            target_id(row): row
            for row in ledger.stream(work.place.dataset, work.stage)
            if selection.covers(row.clip_id)
        }
    lost = [name for name, key in forgiven.items() if is_lost(work, key, whole.get(name))]
    again = plan(forgiven, rows, attempts=config.attempts, rerun=True, lost=lost)
    planned = Plan(**{group: getattr(plain, group) + getattr(again, group) for group in Plan.model_fields})
    return planned, [targets[name] for name in planned.todo]


def is_lost(work: Work, key: str, row: Row | None) -> bool:
    """Whether what was made under a key is gone or damaged, though the ledger calls it done."""
    return row is not None and row.state == "done" and row.key == key and not work.intact(row)


def run_stage(
    stage: Stage,
    make_work: Callable[[Ledger], Work],
    place: Place,
    pool_config: PoolConfig,
    config: StageConfig,
    selection: Selection = NOTHING_AGAIN,
    *,
    run_id: str,
) -> StageSummary:
    """Make what is missing, changed or worth another attempt. A run with nothing to do starts no worker."""
    started = time.monotonic()
    with Ledger(place.ledger_url) as ledger, shared_pool(pool_config) as pool:
        with ledger.lease(place.dataset, stage, run_id, config.lease_wait_s) as lease:
            work = make_work(ledger)  # inside the lease: what it sees must not change under it
            changes = work.enlist(lease)
            planned, todo = plan_stage(work, ledger, config, selection)
            outcomes: dict[str, Row] = {}
            if todo:
                with Progress(work.stage, len({target.clip_id for target in todo})) as progress:
                    run = StageRun(work, ledger, lease, pool(), config, progress, run_id)
                    run.charged = charges(ledger, work, selection)
                    make(run, todo, pool_config.workers)
                    outcomes = run.outcomes
    return summarise(work, outcomes, planned, changes, seconds=time.monotonic() - started)


def charges(ledger: Ledger, work: Work, selection: Selection) -> dict[str, int]:
    """Attempts that earlier runs charged to targets whose key has not changed since; none where forgiven."""
    wanted = {target.id: target.key for target in work.targets() if not selection.covers(target.clip_id)}
    rows = ledger.rows(work.place.dataset, stage=work.stage, state="failed")
    return {target_id(row): row.attempts for row in rows if wanted.get(target_id(row)) == row.key}


def make(run: StageRun, todo: list[Target], workers: int) -> None:
    """All batches, then the failed ones again until they are exhausted."""
    wait = run.config.backoff_s
    while todo:
        run_batches(run, todo, workers)
        todo = run.retryable(todo)
        if todo:
            run.progress.note(f"{len(todo)} failed; trying again in {wait:.0f} s")
            time.sleep(wait)
            wait *= 2


def run_batches(run: StageRun, todo: Sequence[Target], workers: int) -> None:
    """One pass over targets: all go through the pool in one run, and a task run tells of each batch of them."""
    total, spec = len({target.clip_id for target in todo}), run.work.spec
    ahead = 2 * workers * spec.jobs_per_message  # a message in hand and the next, for each
    runs = max(run.task_runs_left, 1)
    run.batches = Batches(run.work.jobs(todo), run.work.serving, total, run.config.batch_clips, ahead, runs)
    run.attempts = run.pool.run(spec, run.batches)
    with closing(run.attempts):
        while (batch := run.batches.first()) is not None:
            name = f"{run.work.stage}: {clips(batch.num_clips)}, {batch.first} to {batch.last} of {total}"
            run_batch.with_options(task_run_name=name)(run, batch)
            run.batches.close()
            run.task_runs_left -= 1
        surplus = next(run.attempts, None)  # lets the pool end its run: workers stay warm
        assert surplus is None, "the pool answers every job once"


def summarise(
    work: Work, outcomes: dict[str, Row], planned: Plan, changes: Relisting, *, seconds: float
) -> StageSummary:
    """Counts of a stage run; what failed or is impossible is counted in clips, each once."""
    ended = by_clip(outcomes.values()).values()
    impossible = Counter(str(row.reason) for row in ended if row.state == "impossible")
    failed = Counter(str(row.failure) for row in ended if row.state == "failed")
    return StageSummary(
        stage=work.stage,
        planned=len(planned.todo),
        kept=len(planned.done),
        lost=len(planned.lost),
        left=changes.left,
        returned=changes.returned,
        done=sum(row.state == "done" for row in outcomes.values()),
        impossible=dict(sorted(impossible.items())),
        failed=dict(sorted(failed.items())),
        listed=planned.total,
        num_bytes=work.num_bytes([row for row in outcomes.values() if row.state == "done"]),
        seconds=round(seconds, 2),
        num_problems=len(work.problems()),
        problems=work.problems()[:SHOWN_PROBLEMS],
    )
