"""One clip of a downloaded video becomes a square crop with sound and scores: decoded once, judged elsewhere.

    worker = Curator(CurateConfig(), media_root)
    worker.load()
    value = worker(job)        # path, digest, num_frames, scores, box, thumbnail ...

What cannot be a clip at all is Impossible with its reason. What a policy may not like gets its crop and scores all the
same: policies change, and then nothing has to be decoded again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from pydantic import AfterValidator, Field

from dualforce_model import clock, faults, media, storage
from dualforce_model.config import Frozen, digest_after
from dualforce_model.errors import InputError
from dualforce_model.media import MediaError, MediaLimits
from dualforce_model.stamp import Stamp, is_same_file
from tasks import faces, quality
from tasks.detectors import DETECTORS, DetectorConfig, Face, make_detector
from tasks.duplicates import NUM_DIGITS, likeness
from tasks.evidence import Evidence, People
from tasks.footage import Footage, HeldFrames
from tasks.listed import Corners, exact_span, listed_track
from tasks.measures import MEASURES, MeasureConfig, make_measures
from tasks.preview import cut_preview, refused_preview, write_preview
from tasks.records import (
    MEDIA_REASONS,
    CropBox,
    FailureClass,
    Frames,
    Impossible,
    Reason,
    Score,
    Span,
    Temporary,
)
from tasks.scores import FACE_SCORES, NEEDS, scores_of_clip
from tasks.sources.cutting import SHORTEST_PIECE_S

VERSION = 3  # rises whenever equal input would give another crop or other scores
SHORTEST_FRAMES = clock.num_frames(2)  # the reference step and one more
FACE_SETTINGS = frozenset(  # which `mode: general` does not read, and its crops do not depend on
    {"detector", "detect_every", "search_every", "expand", "max_gap", "min_looks", "min_density", "min_presence"}
    | {"min_rival", "listed_crop"}
)

RelativePath = Annotated[str, AfterValidator(storage.check_key)]


class CurateConfig(Frozen):
    """How clips are cut and cropped. All of it is in the crop's key: a change makes crops stale."""

    mode: Literal["face", "general"] = Field(
        "face", description="face: crop to the main face; general: the middle of the picture, no face is looked for"
    )
    detector: DetectorConfig = DetectorConfig()
    measures: dict[str, MeasureConfig] = Field(
        default_factory=dict,
        exclude_if=lambda measures: not measures,  # configurations without any keep the keys that they have had
        description="names in MEASURES: scores that take weights, beside those that every clip gets without",
    )
    crop_px: int = Field(512, ge=32, le=2048, multiple_of=8, description="side of the square crop; codecs work in 8s")
    max_clip_s: float = Field(
        10.0, ge=SHORTEST_PIECE_S, le=60.0, description="longest training clip; longer spans are cut up"
    )
    detect_every: int = Field(8, ge=1, le=50, description="frames from one look for faces to the next")
    search_every: int = Field(5, ge=1, le=100, description="looks from one at the whole picture to the next")
    expand: float = Field(1.6, ge=1.0, le=4.0, description="side of the crop, in sizes of the face's box")
    max_gap: int = Field(50, ge=1, le=500, description="frames for which a face may be lost and still be the same one")
    min_looks: int = Field(3, ge=1, le=100, description="looks in which a face must be seen to count")
    min_density: float = Field(
        0.5, gt=0.0, le=1.0, description="share of the looks of its life in which it must be seen"
    )
    min_presence: float = Field(0.3, gt=0.0, le=1.0, description="share of all looks with a face that counts")
    min_rival: float = Field(
        0.4, ge=0.0, le=1.0, description="smaller faces, in heights of the main one, are bystanders"
    )
    listed_crop: Literal["guide", "ignore"] = Field(
        "guide",
        exclude_if=lambda chosen: chosen == "guide",  # in the keys of those clips alone that have such a crop
        description="guide: where the list says where the head is, only a face there is the main one; ignore: the "
        "largest face is",
    )
    crf: int = Field(14, ge=0, le=30, description="quality of the written crop (H.264); smaller is better and larger")
    limits: MediaLimits = MediaLimits()


class CurateJob(Frozen):
    """One clip to curate. Paths are relative to the media root."""

    job_id: str = Field(max_length=80, description="the clip's id")
    source_path: str = Field(max_length=4096, description="the downloaded video; absolute if it lies outside the root")
    source_digest: str = Field(max_length=128, description="its SHA-256")
    source_stamp: Stamp | None = Field(
        None, description="its size and time when the digest was taken; none: the digest is taken again"
    )
    span: Span
    frames: Frames | None = Field(None, description="the span in the list's frames; exact at the list's frame rate")
    crop: CropBox | None = Field(None, description="where the list says that the head is")
    key: str = Field(max_length=128, description="crop key of this clip")
    target: RelativePath = Field(pattern=r"\.mp4$", description="where the crop goes")

    @property
    def thumbnail(self) -> str:
        """Where the preview goes, of a crop or of why there is none."""
        return self.target.removesuffix(".mp4") + ".jpg"


class Curated(Frozen):
    """What the ledger keeps of a curated clip. Paths are relative to the media root, pixels those of the source."""

    path: str = Field(description="the crop: MP4, square, 4k+1 frames at 25 per second, 16 kHz mono sound")
    digest: str = Field(description="its SHA-256")
    num_frames: int = Field(ge=1)
    dropped_frames: int = Field(ge=0, le=3, description="frames left out at the end to make them 4k+1")
    has_sound: bool = Field(description="the source has a sound stream, perhaps a silent one")
    box: tuple[int, int, int, int] = Field(description="x1, y1, x2, y2 of the square; may stick out of the picture")
    thumbnail: str = Field(description="JPEG: frames with square and faces drawn in, the crop below them")
    likeness: str = Field(
        pattern=rf"^[0-9a-f]{{{NUM_DIGITS}}}$",
        description="what it looks and sounds like, by which duplicates are found",
    )
    scores: dict[str, Score]


def crop_key(
    config: CurateConfig, source_digest: str, span: Span, frames: Frames | None = None, crop: CropBox | None = None
) -> str:
    """What a crop is made from: detector, settings, the bytes of the video, the span. Of a mode, what it reads.

    Frames and crop of the list count for the clips that have them. Where the detector's weights lie is left out; what
    is in them is in its fingerprint.
    """
    return crop_keys(config)(source_digest, span, frames, crop)


def crop_keys(config: CurateConfig) -> Callable[[str, Span, Frames | None, CropBox | None], str]:
    """`crop_key` of one config for many clips: the detector's weights are read once."""
    begun, guided = _key_of_settings(config), is_guided(config)

    def key(source_digest: str, span: Span, frames: Frames | None, crop: CropBox | None) -> str:
        hints = {"frames": frames, "crop": crop if guided else None}
        listed = {name: hint.model_dump(mode="json") for name, hint in hints.items() if hint is not None}
        return begun(source_digest, span, *([listed] if listed else []))

    return key


def is_guided(config: CurateConfig) -> bool:
    """Whether a listed crop says which face is the main one."""
    return config.mode == "face" and config.listed_crop == "guide"


def _key_of_settings(config: CurateConfig) -> Callable[..., str]:
    """The part of a key that all clips share, which takes what is a clip's own."""
    hidden: dict[str, Any] = {"measures": True, "listed_crop": True, "detector": {"weights"}}
    measured = [measure.fingerprint() for measure in make_measures(config.measures)]
    if config.mode == "general":
        settings = config.model_dump(mode="json", exclude={"measures", *FACE_SETTINGS})
        return digest_after("crop", VERSION, settings, *measured)
    detector = make_detector(config.detector).fingerprint()
    return digest_after("crop", VERSION, detector, config.model_dump(mode="json", exclude=hidden), *measured)


def unmeasured(config: CurateConfig | None) -> dict[str, str]:
    """Scores that no clip can get, and what measuring them would take. None: whatever curate was told."""
    if config is None:
        return {}
    if config.mode == "general":
        return dict.fromkeys(FACE_SCORES, "a face, and mode general looks for none")
    measured = {score for name in config.measures for score in MEASURES[name].scores}
    needed = {name: needs for name, needs in NEEDS.items() if name not in measured}
    if not DETECTORS[config.detector.name].landmarks:
        needed |= dict.fromkeys(quality.HEAD_ANGLES, f"landmarks, and {config.detector.name} gives none")
    return needed


class Curator:
    """Worker of the curate stage."""

    def __init__(self, config: CurateConfig, media_root: Path) -> None:
        self.config = config
        self.media_root = media_root
        self.detector = make_detector(config.detector) if config.mode == "face" else None
        self.measures = make_measures(config.measures)
        self.proven: set[tuple[str, str, Stamp]] = set()  # videos read to the end, which many clips may share

    def load(self) -> None:
        """Make detector and measures ready; one thread per worker."""
        cv2.setNumThreads(1)
        if self.detector is not None:
            self.detector.load()
        for measure in self.measures:
            measure.load()

    def __call__(self, job: CurateJob) -> dict[str, Any]:
        """Curate one clip; the result is a `Curated` as plain data. Raises Impossible with what was measured."""
        source, target = self.media_root / job.source_path, self.media_root / job.target
        self._check_source(job)
        with _media_reasons():
            span = self._span(source, job)
            footage = self._watch(source, span)
        listed = self._listed_box(job, footage)
        try:
            clip = self._evidence(source, span, footage, listed)
        except Impossible as error:
            raise self._shown(error, job, footage, listed) from error
        shown = cut_preview(footage, clip.people, clip.box, clip.crops, listed)
        write_preview(self.media_root / job.thumbnail, shown)
        self._write(target, clip.crops, clip.sound)
        curated = Curated(
            path=job.target,
            digest=storage.file_digest(target),
            num_frames=len(clip.crops),
            dropped_frames=len(footage.frames) - len(clip.crops),
            has_sound=len(clip.sound) > 0,
            box=clip.box.corners,
            thumbnail=job.thumbnail,
            likeness=likeness(footage.glances, clip.sound, len(clip.crops)),
            scores=scores_of_clip(clip, self.measures),
        )
        return curated.model_dump(mode="json")

    def _check_source(self, job: CurateJob) -> None:
        """Refuse a video that is not the one the ledger speaks of: its crop would bear the wrong key."""
        path = self.media_root / job.source_path
        if path.is_file() and (job.source_path, job.source_digest, Stamp.of(path)) in self.proven:
            return
        if not is_same_file(path, job.source_digest, job.source_stamp):
            found = "is not the one that acquire read" if path.is_file() else "is gone"
            mine = Path(job.source_path).is_absolute()
            remedy = "run acquire, which takes it as it is now" if mine else "`dualforce rerun` downloads it again"
            raise Temporary(FailureClass.DISK, f"{job.job_id}: the video {path} {found}; {remedy}")
        self.proven.add((job.source_path, job.source_digest, Stamp.of(path)))

    def _span(self, source: Path, job: CurateJob) -> Span:
        """What to cut: by the list's own frames where the video has the rate that they are counted at."""
        if job.frames is None:
            return job.span
        return exact_span(job.span, job.frames, media.probe(source, self.config.limits).fps)

    def _listed_box(self, job: CurateJob, footage: Footage) -> Corners | None:
        """Where the head is to be; none where the list does not say, or says what fits no picture of this size."""
        if job.crop is None or not is_guided(self.config):
            return None
        return job.crop.scaled(footage.width, footage.height)

    def _evidence(self, source: Path, span: Span, footage: Footage, listed: Corners | None) -> Evidence:
        """All that the clip's scores are taken from. Raises Impossible for what can be no clip."""
        if len(footage.frames) < SHORTEST_FRAMES:
            raise Impossible(Reason.TOO_SHORT, f"{len(footage.frames)} frames; a clip has at least {SHORTEST_FRAMES}")
        people = self._people(footage, listed) if self.detector is not None else None
        num_frames = clock.floor_frames(len(footage.frames))
        with _media_reasons():
            sound = media.read_sound(source, span.start_s, span.start_s + num_frames / clock.FPS)
        box = self._box(footage, people)
        return Evidence(footage, people, box, footage.frames.crops(box, num_frames, self.config.crop_px), sound)

    def _shown(self, error: Impossible, job: CurateJob, footage: Footage, listed: Corners | None) -> Impossible:
        """The same with a picture that shows why, where there is anything to see."""
        if not len(footage.frames):
            return error
        shown = refused_preview(footage, error.reason, error.measured, listed)
        write_preview(self.media_root / job.thumbnail, shown)
        return Impossible(error.reason, error.measured, job.thumbnail)

    def _watch(self, source: Path, span: Span) -> Footage:
        """Decode the span once: keep its frames, look for faces in every n-th.

        Spans are cut before they come here. A longer one starts outside the video, or is of a video that could not be
        measured, and is refused for that; no more is taken of any than a clip may have.
        """
        latest_s = span.start_s + self.config.max_clip_s
        end_s = latest_s if span.end_s is None else min(span.end_s, latest_s)
        if span.end_s is None or span.end_s - latest_s > 1 / clock.FPS:
            media.measured_duration_s(source, self.config.limits)
        frames = HeldFrames()
        glances: list[np.ndarray] = []
        sightings: list[tuple[int, list[Face]]] = []
        width = height = 0
        shown: media.Picture | None = None
        pictures = media.read_pictures(source, span.start_s, end_s, clock.FPS, self.config.limits)
        for index, picture in enumerate(pictures):
            if shown is None:
                width, height = picture.width, picture.height
            frames.add(picture)
            glances.append(glances[-1] if picture is shown else quality.glance(picture))
            shown = picture
            if self.detector is not None and index % self.config.detect_every == 0:
                known = sightings[-1][1] if len(sightings) % self.config.search_every else []
                sightings.append((index, self.detector(picture.resized(width, height).rgb(), known)))
        return Footage(frames, glances, sightings, width, height)

    def _box(self, footage: Footage, people: People | None) -> faces.SquareBox:
        """The one square that is cut out of every frame."""
        if people is None:
            return faces.centre_box(footage.width, footage.height)
        return faces.stable_box(people.main, self.config.expand, footage.width, footage.height)

    def _people(self, footage: Footage, listed: Corners | None) -> People:
        """The main face, which is the one in the listed box if there is such a box, and all that count beside it."""
        config, looks = self.config, len(footage.sightings)
        found = faces.link(footage.sightings, config.max_gap)
        if not found:
            raise Impossible(Reason.NO_FACE, f"no face in any of the {looks} frames looked at")
        tracks = faces.lasting(found, config.detect_every, min(config.min_looks, looks), config.min_density)
        seen = {frame for track in tracks for frame in track.frames.tolist()}
        if len(seen) < config.min_presence * looks:
            found_text = f"a face that lasts is in {len(seen)} of the {looks} frames looked at"
            raise Impossible(Reason.NO_FACE, f"{found_text}; {config.min_presence:.0%} are needed")
        main = faces.main_track(tracks) if listed is None else listed_track(tracks, listed)
        return People(main, tuple(track for track in tracks if track.height_px >= config.min_rival * main.height_px))

    def _write(self, target: Path, crops: Sequence[media.Picture], sound: np.ndarray) -> None:
        with storage.atomic_path(target) as temporary:
            media.write_video(temporary, crops, sound if len(sound) else None, clock.FPS, crf=self.config.crf)
            faults.point("crop.before_rename")
        faults.point("crop.after_rename")


@contextmanager
def _media_reasons() -> Iterator[None]:
    """What is wrong with a file makes the clip impossible."""
    try:
        yield
    except MediaError as error:
        raise Impossible(MEDIA_REASONS[error.kind], error.message) from error


def crop_picture(picture: UInt8[np.ndarray, "H W 3"], config: CurateConfig, name: str) -> UInt8[np.ndarray, "s s 3"]:
    """A picture cropped as training clips are: to its largest face. Raises InputError where there is none.

    In `mode: general` it is the middle, whatever it shows.
    """
    height, width = picture.shape[:2]
    if config.mode == "general":
        return faces.cut(picture, faces.centre_box(width, height), config.crop_px)
    found = _faces_in(picture, config.detector)
    if not found:
        raise InputError(
            f"{name}: no face was found by {config.detector.name}; give a frontal face, or a crop with --cropped"
        )
    track = faces.main_track(faces.link([(0, found)], config.max_gap))
    box = faces.stable_box(track, config.expand, width, height)
    return faces.cut(picture, box, config.crop_px)


def _faces_in(picture: UInt8[np.ndarray, "H W 3"], config: DetectorConfig) -> list[Face]:
    """Faces of one picture; where the detector is sure of none, the one it is least unsure of.

    Who gives a single picture says that there is a face in it, and no second look can show it better.
    """
    for min_score in (config.min_score, 0.0):
        detector = make_detector(config.model_copy(update={"min_score": min_score}))
        detector.load()
        found = detector(picture)
        if found and min_score < config.min_score:
            return [max(found, key=lambda face: face.score)]
        if found:
            return found
    return []
