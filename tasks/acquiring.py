"""Acquire: each video of the list is downloaded once, however many listed spans need it."""

from collections.abc import Iterator, Sequence

from pydantic import Field

from dualforce_model.config import Frozen, digest
from tasks.fetch import FetchConfig, FetchJob
from tasks.leases import Lease
from tasks.ledger import Ledger
from tasks.place import Place
from tasks.pool import Job, WorkerSpec
from tasks.records import Clip, Stage
from tasks.sources import Listing, SourceConfig, make_source
from tasks.work import Target, Work

DOWNLOAD_BYTES = 64 * 2**20  # what a download may hold in memory, for the pool's bound; videos go to disk


class AcquireConfig(Frozen):
    """Which list, and how its videos come down."""

    source: SourceConfig = Field(description="the data set's list")
    fetch: FetchConfig = FetchConfig()


class AcquireWork(Work):
    """Targets are listed spans, jobs are videos."""

    stage = Stage.ACQUIRE

    def __init__(self, config: AcquireConfig, place: Place, ledger: Ledger) -> None:
        super().__init__(place, ledger)
        self.config = config
        self.listing: Listing = make_source(config.source).listing()
        self.clips: dict[str, Clip] = {clip.clip_id: clip for clip in self.listing.clips}

    def enlist(self, lease: Lease) -> None:
        self.ledger.add_clips(self.place.dataset, self.listing.clips)

    @property
    def spec(self) -> WorkerSpec:
        kwargs = {
            "config": self.config.fetch.model_dump(mode="json"),
            "media_root": str(self.place.media_root.resolve()),
        }
        return WorkerSpec(target="tasks.fetch:Fetcher", kwargs=kwargs)

    def problems(self) -> tuple[str, ...]:
        return tuple(f"{found.file}, line {found.line}: {found.message}" for found in self.listing.problems)

    def targets(self) -> list[Target]:
        # Where a video comes from is in no key: a mirror, another port or a moved folder makes nothing stale.
        wanted = {clip.video_id: digest("acquire", clip.source, clip.video_id) for clip in self.listing.clips}
        return [Target(clip.clip_id, wanted[clip.video_id]) for clip in self.listing.clips]

    def jobs(self, targets: Sequence[Target]) -> Iterator[Job]:
        by_video: dict[str, list[Target]] = {}
        for target in targets:
            by_video.setdefault(self.clips[target.clip_id].video_id, []).append(target)
        for video_id, served in by_video.items():
            self.serving[video_id] = tuple(served)
            clip = self.clips[served[0].clip_id]
            payload = FetchJob(job_id=video_id, location=clip.location, source=clip.source)
            yield Job(job_id=video_id, payload=payload.model_dump(mode="json"), num_bytes=DOWNLOAD_BYTES)
