"""Curate: listed spans of downloaded videos are cut into training clips, cropped to the face and scored."""

import logging
from collections.abc import Iterator, Sequence
from typing import TypeVar

from dualforce_model import clock, media
from dualforce_model.stamp import is_same_file
from tasks.acquiring import stamp_of_download, video_path
from tasks.curation import CurateConfig, CurateJob, crop_keys
from tasks.detectors import DetectorConfig
from tasks.footage import HELD_BYTES
from tasks.leases import Lease
from tasks.ledger import Ledger, Relisting, Row
from tasks.measures import MeasureConfig
from tasks.place import Place
from tasks.pool import Job, WorkerSpec
from tasks.records import Clip, Stage
from tasks.sources import cut_spans
from tasks.work import Target, Work

WeightsT = TypeVar("WeightsT", DetectorConfig, MeasureConfig)
_log = logging.getLogger(__name__)
BYTES_PER_PIXEL = 1.5  # of a picture as it was decoded, colours at half the resolution


class CurateWork(Work):
    """Targets and jobs are training clips."""

    stage = Stage.CURATE

    def __init__(self, config: CurateConfig, place: Place, ledger: Ledger) -> None:
        super().__init__(place, ledger)
        self.config = config
        self.clips, self.downloads = training_clips(ledger, place, config)

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
        config = self.config.model_copy(
            update={
                "detector": _at_home(self.config.detector),
                "measures": {name: _at_home(measure) for name, measure in self.config.measures.items()},
            }
        )
        kwargs = {"config": config.model_dump(mode="json"), "media_root": str(self.place.media_root.resolve())}
        return WorkerSpec(target="tasks.curation:Curator", kwargs=kwargs)

    def targets(self) -> list[Target]:
        key = crop_keys(self.config)
        return [
            Target(clip_id, key(str(self.downloads[clip_id].value["digest"]), clip.span, clip.frames, clip.crop))
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
                frames=clip.frames,
                crop=clip.crop,
                key=target.key,
                target=f"crops/{target.key[:2]}/{clip.clip_id}-{target.key[:12]}.mp4",
            )
            longest_s = self.config.max_clip_s
            seconds = min((clip.span.end_s or clip.span.start_s + longest_s) - clip.span.start_s, longest_s)
            num_bytes = self._num_bytes(max(seconds, 1.0), int(download["width_px"]) * int(download["height_px"]))
            yield Job(clip.clip_id, payload.model_dump(mode="json"), num_bytes, seconds=seconds)

    def _num_bytes(self, seconds: float, num_pixels: int) -> int:
        """Memory of a clip: its pictures until the crop is known, and the crops; the pool bounds the sum."""
        frames = seconds * clock.FPS
        return int(
            min(frames * num_pixels * BYTES_PER_PIXEL, HELD_BYTES) + frames * self.config.crop_px**2 * BYTES_PER_PIXEL
        )


def _at_home(config: WeightsT) -> WeightsT:
    """The same with weights by their whole path: workers may stand in another folder."""
    if config.weights is None:
        return config
    return config.model_copy(update={"weights": config.weights.expanduser().resolve()})


def training_clips(ledger: Ledger, place: Place, config: CurateConfig) -> tuple[dict[str, Clip], dict[str, Row]]:
    """Training clips of every downloaded listed span, and the download each is cut from."""
    downloads: dict[str, Row] = {}
    of_video: dict[str, Row] = {}  # lists cut many clips from one video: what is known of it is held once
    for row in ledger.stream(place.dataset, Stage.ACQUIRE, "done"):
        downloads[row.clip_id] = of_video.setdefault(str(row.value["digest"]), row)
    clips: dict[str, Clip] = {}
    sources: dict[str, Row] = {}
    durations: dict[str, float] = {}
    for listed in ledger.clips(place.dataset):
        download = downloads.get(listed.clip_id)
        if listed.parent_id is not None or download is None:
            continue
        digest = str(download.value["digest"])
        if digest not in durations:
            durations[digest] = _duration_s(listed, download, place, config)
        for clip in cut_spans(listed, durations[digest], config.max_clip_s):
            clips[clip.clip_id] = clip
            sources[clip.clip_id] = download
    return clips, sources


def _duration_s(clip: Clip, download: Row, place: Place, config: CurateConfig) -> float:
    """How long a video is; 0 where it cannot be told. Rows of old have 0 for those that do not announce it."""
    known_s = float(download.value["duration_s"])
    if known_s > 0:
        return known_s
    path = place.media_root / video_path(clip, download)
    try:
        return media.measured_duration_s(path, config.limits)
    except (media.MediaError, OSError) as error:  # whoever decodes it says what is wrong with it
        _log.warning("%s: %s; how long it is is not known, and it cannot be cut into clips", path.name, error)
        return 0.0
