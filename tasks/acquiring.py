"""Acquire: each video of the list is downloaded once, however many listed spans need it."""

from collections.abc import Iterator, Sequence

from pydantic import Field

from dualforce_model.config import Frozen, digest
from dualforce_model.stamp import Stamp, is_same_file
from tasks.fetch import FetchConfig, FetchJob, local_path
from tasks.leases import Lease
from tasks.ledger import Ledger, Relisting, Row
from tasks.place import Place
from tasks.pool import Job, WorkerSpec
from tasks.records import Clip, Impossible, Stage
from tasks.sources import LOCAL, SourceConfig, make_source
from tasks.sources.packed import PackedClips
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
        self.clips = PackedClips()
        self.told = tuple(problem.text_line() for problem in make_source(config.source).read(self.clips.add))
        self.keys = {clip.video_id: acquire_key(clip) for clip in self.clips.of_videos()}

    def enlist(self, lease: Lease) -> Relisting:
        return self.ledger.relist(lease, self.config.source.name, self.clips.values())

    def leaving(self) -> int:
        """How many clips of the ledger the list no longer has."""
        of_source = (clip for clip in self.ledger.clips(self.place.dataset) if clip.source == self.config.source.name)
        return sum(clip.parent_id is None and clip.clip_id not in self.clips for clip in of_source)

    @property
    def spec(self) -> WorkerSpec:
        kwargs = {
            "config": self.config.fetch.model_dump(mode="json"),
            "media_root": str(self.place.media_root.resolve()),
        }
        return WorkerSpec(target="tasks.fetch:Fetcher", kwargs=kwargs)

    def problems(self) -> tuple[str, ...]:
        return self.told

    def targets(self) -> list[Target]:
        return [Target(clip_id, self.keys[self.clips.video_id(clip_id)]) for clip_id in self.clips]

    def intact(self, row: Row) -> bool:
        path = self.place.media_root / video_path(self.clips[row.clip_id], row)
        return is_same_file(path, str(row.value["digest"]), stamp_of_download(row))

    def num_bytes(self, rows: Sequence[Row]) -> int:
        """Size of the videos that came down, each counted once."""
        if self.config.source.name in LOCAL:  # they stay where they are
            return 0
        return sum({str(row.value["path"]): int(row.value["num_bytes"]) for row in rows}.values())

    def jobs(self, targets: Sequence[Target]) -> Iterator[Job]:
        by_video: dict[str, list[Target]] = {}
        for target in targets:
            by_video.setdefault(self.clips.video_id(target.clip_id), []).append(target)
        for video_id, served in by_video.items():
            self.serving[video_id] = tuple(served)
            clip = self.clips[served[0].clip_id]
            payload = FetchJob(job_id=video_id, location=clip.location, source=clip.source)
            yield Job(job_id=video_id, payload=payload.model_dump(mode="json"), num_bytes=DOWNLOAD_BYTES)


def acquire_key(clip: Clip) -> str:
    """What a download is made from. Where it lies is in no key: a mirror, a port or a moved folder makes nothing stale.

    A local video is in our reach: when its size or time changes it is read again, and if its bytes are others after
    all, what was made of them is stale.
    """
    if clip.source not in LOCAL:
        return digest("acquire", clip.source, clip.video_id)
    try:
        stamp: Stamp | None = Stamp.of(local_path(clip.location))
    except (Impossible, OSError):  # the fetcher will say what is wrong with it
        stamp = None
    return digest("acquire", clip.source, clip.video_id, stamp and [stamp.num_bytes, stamp.mtime_ns])


def video_path(clip: Clip, row: Row) -> str:
    """Where a clip's video lies, relative to the media root; that of a folder is where the list saw it last."""
    if clip.source in LOCAL:
        try:
            return str(local_path(clip.location))
        except Impossible:  # no longer there: whoever opens the old place will say so
            pass
    return str(row.value["path"])


def stamp_of_download(row: Row) -> Stamp:
    """Size and time of a video when acquire read it."""
    return Stamp(num_bytes=int(row.value["num_bytes"]), mtime_ns=int(row.value.get("mtime_ns", 0)))
