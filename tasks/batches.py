"""Batches of a stage: what one Prefect task run is about. Workers are ahead of it, so that none waits for a straggler.

Jobs are cut into batches as they come and handed out in order, and more than one batch is open at a time: while the
last clips of one are made, free workers have those of the next. Each is told of by a task run of its own, in order.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tasks.work import Target
from tasks.worker import Job

MOST_TASK_RUNS = 2000  # of one stage: under more Prefect's server drops history
LEAST_AHEAD = 3  # batches: a clip may take as long as hundreds of others
MEDIA_S = 1800.0  # of one batch, as far as the number of task runs allows


class Batch:
    """Jobs that one task run is about, and what they serve."""

    def __init__(self, first: int) -> None:
        self.first = first  # number of its first clip, from 1
        self.jobs: list[Job] = []
        self.targets: list[Target] = []
        self.num_clips = 0
        self.seconds = 0.0
        self.left: set[str] = set()  # jobs without an answer

    def add(self, job: Job, served: Sequence[Target]) -> None:
        """One more job."""
        self.jobs.append(job)
        self.left.add(job.job_id)
        self.targets += served
        self.num_clips += len({target.clip_id for target in served})
        self.seconds += job.seconds

    @property
    def last(self) -> int:
        """Number of its last clip."""
        return self.first + self.num_clips - 1


class Batches(Iterator[Job]):
    """Jobs for the pool, those of the open batches: none for the moment does not mean none any more.

    A batch is full with `clips` clips or half an hour of media. Where this made more task runs than there may be,
    batches hold more clips, and more media.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        serving: Mapping[str, Sequence[Target]],
        total: int,
        clips: int,
        ahead: int,
        runs: int = MOST_TASK_RUNS,
    ) -> None:
        """`serving` is filled by the jobs as they come. There are `total` clips and may be `runs` batches; more than
        `ahead` jobs are in open batches, so that workers are busy, and few more, so that each batch is soon told of.
        """
        self._source, self._serving = iter(jobs), serving
        self._drawn: Job | None = next(self._source, None)
        self._size = max(clips, -(-total // runs))
        self._ahead = ahead
        self._clips_left, self._runs_left = total, runs
        self._open: deque[Batch] = deque()
        self._waiting: deque[Job] = deque()  # of the batch that was opened last, not handed out
        self._by_job: dict[str, Batch] = {}
        self._first = 1

    def __next__(self) -> Job:
        if not self._waiting and (len(self._open) <= LEAST_AHEAD or self._num_open <= self._ahead):
            self._begin()
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft()

    @property
    def _num_open(self) -> int:
        """Jobs of open batches. Of one there may be few: a job may serve many clips, or read hours of media."""
        return sum(len(batch.jobs) for batch in self._open)

    def first(self) -> Batch | None:
        """The batch whose turn it is; None when all are through."""
        if not self._open:
            self._begin()
        return self._open[0] if self._open else None

    def answered(self, job_id: str) -> None:
        """This job has its outcome."""
        batch = self._by_job.pop(job_id)
        batch.left.remove(job_id)

    def close(self) -> None:
        """The first batch is through: another may be opened."""
        assert not self._open[0].left, "every job of a batch is answered before it is closed"
        self._open.popleft()

    def _begin(self) -> None:
        """Open the next batch, if there is anything left."""
        batch = Batch(self._first)
        while self._drawn is not None and not self._is_full(batch):
            batch.add(self._drawn, self._serving[self._drawn.job_id])
            self._by_job[self._drawn.job_id] = batch
            self._drawn = next(self._source, None)
        if batch.jobs:
            self._first += batch.num_clips
            self._clips_left -= batch.num_clips
            self._runs_left -= 1
            self._open.append(batch)
            self._waiting.extend(batch.jobs)

    def _is_full(self, batch: Batch) -> bool:
        if batch.num_clips >= self._size:
            return True
        the_rest_fits = self._clips_left - batch.num_clips <= (self._runs_left - 1) * self._size
        return batch.seconds >= MEDIA_S and the_rest_fits
