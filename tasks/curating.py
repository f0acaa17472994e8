"""Curate: listed spans of downloaded videos are cut into training clips, cropped to the face and scored."""

from collections.abc import Iterator, Sequence

from tasks.acquiring import stamp_of_download, video_path
from tasks.curation import CurateConfig, CurateJob, crop_keys
from tasks.leases import Lease
from tasks.ledger import Ledger, Relisting, Row
from tasks.place import Place
from tasks.pool import Job, WorkerSpec
from tasks.records import Clip, Stage
from tasks.sources import cut_spans
from tasks.stamp import is_same_file
from tasks.work import Target, Work

BYTES_PER_SECOND = 25 * 640 * 360 * 3  # decoded pictures of a modest video; the pool bounds the sum


class CurateWork(Work):
    """Targets and jobs are training clips."""

    stage = Stage.CURATE

    def __init__(self, config: CurateConfig, place: Place, ledger: Ledger) -> None:
        super().__init__(place, ledger)
        self.config = config
        self.clips, self.downloads = training_clips(ledger, place.dataset, config.max_clip_s)

    def enlist(self, lease: Lease) -> Relisting:
        """Add the pieces of this cut, forget those of an earlier one."""
        dataset = self.place.dataset
        cut = {clip.parent_id or clip.clip_id for clip in self.clips.values()}
        known = {clip.clip_id: clip.parent_id or clip.clip_id for clip in self.ledger.clips(dataset)}
        stale = [clip_id for clip_id, listed in known.items() if listed in cut and clip_id not in self.clips]
        self.ledger.forget(lease, stale)
        self.ledger.add_clips(dataset, [clip for clip in self.clips.values() if clip.parent_id])
        return Relisting()

    @property
    def spec(self) -> WorkerSpec:
        detector = self.config.detector
        if detector.weights is not None:  # workers may stand in another folder
            detector = detector.model_copy(update={"weights": detector.weights.expanduser().resolve()})
        config = self.config.model_copy(update={"detector": detector})
        kwargs = {"config": config.model_dump(mode="json"), "media_root": str(self.place.media_root.resolve())}
        return WorkerSpec(target="tasks.curation:Curator", kwargs=kwargs)

    def targets(self) -> list[Target]:
        key = crop_keys(self.config)
        return [
            Target(clip_id, key(str(self.downloads[clip_id].value["digest"]), clip.span))
            for clip_id, clip in self.clips.items()
        ]

    def intact(self, row: Row) -> bool:
        return is_same_file(self.place.media_root / str(row.value["path"]), str(row.value["digest"]))

    def jobs(self, targets: Sequence[Target]) -> Iterator[Job]:
        for target in targets:
            clip, row = self.clips[target.clip_id], self.downloads[target.clip_id]
            download = row.value
            self.serving[clip.clip_id] = (target,)
            payload = CurateJob(
                job_id=clip.clip_id,
                source_path=video_path(clip, row),
                source_digest=str(download["digest"]),
                source_stamp=stamp_of_download(row),
                span=clip.span,
                key=target.key,
                target=f"crops/{target.key[:2]}/{clip.clip_id}-{target.key[:12]}.mp4",
            )
            seconds = (clip.span.end_s or float(download["duration_s"])) - clip.span.start_s
            num_bytes = int(max(seconds, 1.0) * BYTES_PER_SECOND)
            yield Job(job_id=clip.clip_id, payload=payload.model_dump(mode="json"), num_bytes=num_bytes)


def training_clips(ledger: Ledger, dataset: str, max_clip_s: float) -> tuple[dict[str, Clip], dict[str, Row]]:
    """Training clips of every downloaded listed span, and the download each is cut from."""
    downloads: dict[str, Row] = {}
    of_video: dict[str, Row] = {}  # lists cut many clips from one video: what is known of it is held once
    for row in ledger.stream(dataset, Stage.ACQUIRE, "done"):
        downloads[row.clip_id] = of_video.setdefault(str(row.value["digest"]), row)
    clips: dict[str, Clip] = {}
    sources: dict[str, Row] = {}
    for listed in ledger.clips(dataset):
        download = downloads.get(listed.clip_id)
        if listed.parent_id is not None or download is None:
            continue
        for clip in cut_spans(listed, float(download.value["duration_s"]), max_clip_s):
            clips[clip.clip_id] = clip
            sources[clip.clip_id] = download
    return clips, sources
