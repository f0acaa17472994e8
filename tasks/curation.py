"""One clip of a downloaded video becomes a square crop with sound and scores: decoded once, judged elsewhere.

    worker = Curator(CurateConfig(), media_root)
    worker.load()
    value = worker(job)        # path, digest, num_frames, scores, box, thumbnail ...

What cannot be a clip at all is Impossible with its reason. What a policy may not like gets its crop and scores all the
same: policies change, and then nothing has to be decoded again.
"""

from collections.abc import Callable
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
from tasks import faces, quality
from tasks.detectors import DetectorConfig, Face, OpenCVCascade, make_detector
from tasks.footage import Footage, HeldFrames, strip
from tasks.records import MEDIA_REASONS, FailureClass, Impossible, Reason, Score, Span, Temporary
from tasks.scores import FACE_SCORES, OCCLUSION_NEEDS, People, face_scores, general_scores
from tasks.stamp import Stamp, is_same_file

VERSION = 2  # rises whenever equal input would give another crop or other scores
SHORTEST_FRAMES = clock.num_frames(2)  # the reference step and one more
BOXES_ALONE = frozenset({OpenCVCascade.name})  # detectors that give no landmarks
FACE_SETTINGS = frozenset(  # which `mode: general` does not read, and its crops do not depend on
    {"detector", "detect_every", "search_every", "expand", "max_gap", "min_looks", "min_density", "min_presence"}
    | {"min_rival"}
)

RelativePath = Annotated[str, AfterValidator(storage.check_key)]


class CurateConfig(Frozen):
    """How clips are cut and cropped. All of it is in the crop's key: a change makes crops stale."""

    mode: Literal["face", "general"] = Field(
        "face", description="face: crop to the main face; general: the middle of the picture, no face is looked for"
    )
    detector: DetectorConfig = DetectorConfig()
    crop_px: int = Field(512, ge=32, le=2048, multiple_of=8, description="side of the square crop; codecs work in 8s")
    max_clip_s: float = Field(10.0, ge=1.0, le=60.0, description="longest training clip; longer spans are cut up")
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
    key: str = Field(max_length=128, description="crop key of this clip")
    target: RelativePath = Field(pattern=r"\.mp4$", description="where the crop goes")


class Curated(Frozen):
    """What the ledger keeps of a curated clip. Paths are relative to the media root, pixels those of the source."""

    path: str = Field(description="the crop: MP4, square, 4k+1 frames at 25 per second, 16 kHz mono sound")
    digest: str = Field(description="its SHA-256")
    num_frames: int = Field(ge=1)
    dropped_frames: int = Field(ge=0, le=3, description="frames left out at the end to make them 4k+1")
    has_sound: bool = Field(description="the source has a sound stream, perhaps a silent one")
    box: tuple[int, int, int, int] = Field(description="x1, y1, x2, y2 of the square; may stick out of the picture")
    thumbnail: str = Field(description="JPEG: frames with the square drawn in")
    scores: dict[str, Score]


def crop_key(config: CurateConfig, source_digest: str, span: Span) -> str:
    """What a crop is made from: detector, settings, the bytes of the video, the span. Of a mode, what it reads.

    Where the detector's weights lie is left out; what is in them is in its fingerprint.
    """
    return crop_keys(config)(source_digest, span)


def crop_keys(config: CurateConfig) -> Callable[[str, Span], str]:
    """`crop_key` of one config for many clips: the detector's weights are read once."""
    if config.mode == "general":
        return digest_after("crop", VERSION, config.model_dump(mode="json", exclude=set(FACE_SETTINGS)))
    detector = make_detector(config.detector).fingerprint()
    settings = config.model_dump(mode="json", exclude={"detector": {"weights"}})
    return digest_after("crop", VERSION, detector, settings)


def unmeasured(config: CurateConfig | None) -> dict[str, str]:
    """Scores that no clip can get, and what measuring them would take. None: whatever curate was told."""
    if config is not None and config.mode == "general":
        return dict.fromkeys(FACE_SCORES, "a face, and mode general looks for none")
    needed = {"occlusion": OCCLUSION_NEEDS}
    if config is not None and config.detector.name in BOXES_ALONE:
        needed |= dict.fromkeys(quality.HEAD_ANGLES, f"landmarks, and {config.detector.name} gives none")
    return needed


class Curator:
    """Worker of the curate stage."""

    def __init__(self, config: CurateConfig, media_root: Path) -> None:
        self.config = config
        self.media_root = media_root
        self.detector = make_detector(config.detector) if config.mode == "face" else None
        self.proven: set[tuple[str, str, Stamp]] = set()  # videos read to the end, which many clips may share

    def load(self) -> None:
        """Make the detector ready; one thread per worker."""
        cv2.setNumThreads(1)
        if self.detector is not None:
            self.detector.load()

    def __call__(self, job: CurateJob) -> dict[str, Any]:
        """Curate one clip; the result is a `Curated` as plain data. Raises Impossible with what was measured."""
        source = self.media_root / job.source_path
        self._check_source(job)
        try:
            footage = self._watch(source, job.span)
            people = self._people(footage) if self.detector is not None else None
            num_frames = clock.floor_frames(len(footage.frames))
            start_s = job.span.start_s
            sound = media.read_sound(source, start_s, start_s + num_frames / clock.FPS)
        except MediaError as error:
            raise Impossible(MEDIA_REASONS[error.kind], error.message) from error
        box = self._box(footage, people)
        crops = footage.frames.crops(box, num_frames, self.config.crop_px)
        thumbnail = job.target.removesuffix(".mp4") + ".jpg"
        media.write_image(self.media_root / thumbnail, strip(footage.frames, box, num_frames))
        self._write(self.media_root / job.target, crops, sound)
        curated = Curated(
            path=job.target,
            digest=storage.file_digest(self.media_root / job.target),
            num_frames=num_frames,
            dropped_frames=len(footage.frames) - num_frames,
            has_sound=len(sound) > 0,
            box=box.corners,
            thumbnail=thumbnail,
            scores=general_scores(footage, sound) if people is None else face_scores(footage, people, crops, sound),
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

    def _watch(self, source: Path, span: Span) -> Footage:
        """Decode the span once: keep its frames, look for faces in every n-th."""
        longest_s = self.config.max_clip_s + 1.0
        end_s = span.start_s + longest_s if span.end_s is None else span.end_s
        if end_s - span.start_s > longest_s:
            raise ValueError(
                f"{source.name}: a span of {end_s - span.start_s:g} s; clips are cut to {longest_s - 1:g} s"
            )
        frames = HeldFrames()
        glances: list[np.ndarray] = []
        sightings: list[tuple[int, list[Face]]] = []
        width = height = 0
        for index, frame in enumerate(media.read_frames(source, span.start_s, end_s, clock.FPS, self.config.limits)):
            height, width = frame.shape[:2]
            frames.add(frame)
            glances.append(quality.glance(frame))
            if self.detector is not None and index % self.config.detect_every == 0:
                known = sightings[-1][1] if len(sightings) % self.config.search_every else []
                sightings.append((index, self.detector(frame, known)))
        if len(frames) < SHORTEST_FRAMES:
            raise Impossible(Reason.TOO_SHORT, f"{len(frames)} frames; a clip has at least {SHORTEST_FRAMES}")
        return Footage(frames, glances, sightings, width, height)

    def _box(self, footage: Footage, people: People | None) -> faces.SquareBox:
        """The one square that is cut out of every frame."""
        if people is None:
            return faces.centre_box(footage.width, footage.height)
        return faces.stable_box(people.main, self.config.expand, footage.width, footage.height)

    def _people(self, footage: Footage) -> People:
        """The main face, and all that count beside it."""
        config, looks = self.config, len(footage.sightings)
        found = faces.link(footage.sightings, config.max_gap)
        if not found:
            raise Impossible(Reason.NO_FACE, f"no face in any of the {looks} frames looked at")
        tracks = faces.lasting(found, config.detect_every, min(config.min_looks, looks), config.min_density)
        seen = {frame for track in tracks for frame in track.frames.tolist()}
        if len(seen) < config.min_presence * looks:
            found_text = f"a face that lasts is in {len(seen)} of the {looks} frames looked at"
            raise Impossible(Reason.NO_FACE, f"{found_text}; {config.min_presence:.0%} are needed")
        main = faces.main_track(tracks)
        return People(main, tuple(track for track in tracks if track.height_px >= config.min_rival * main.height_px))

    def _write(self, target: Path, crops: UInt8[np.ndarray, "T s s 3"], sound: np.ndarray) -> None:
        with storage.atomic_path(target) as temporary:
            media.write_video(temporary, crops, sound if len(sound) else None, clock.FPS, crf=self.config.crf)
            faults.point("crop.before_rename")
        faults.point("crop.after_rename")


def crop_picture(picture: UInt8[np.ndarray, "H W 3"], config: CurateConfig, name: str) -> UInt8[np.ndarray, "s s 3"]:
    """A picture cropped as training clips are: to its largest face. Raises InputError where there is none.

    In `mode: general` it is the middle, whatever it shows.
    """
    height, width = picture.shape[:2]
    if config.mode == "general":
        return faces.cut(picture, faces.centre_box(width, height), config.crop_px)
    detector = make_detector(config.detector)
    detector.load()
    found = detector(picture)
    if not found:
        raise InputError(
            f"{name}: no face was found by {config.detector.name}; give a frontal face, or a crop with --cropped"
        )
    track = faces.main_track(faces.link([(0, found)], config.max_gap))
    box = faces.stable_box(track, config.expand, width, height)
    return faces.cut(picture, box, config.crop_px)
