"""One clip of a downloaded video becomes a square face crop with sound and scores: decoded once, judged elsewhere.

    worker = Curator(CurateConfig(), media_root)
    worker.load()
    value = worker(job)        # path, digest, num_frames, scores, box, thumbnail ...

What cannot be a clip at all is Impossible with its reason. What a policy may not like gets its crop and scores all the
same: policies change, and then nothing has to be decoded again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from pydantic import AfterValidator, Field

from dualforce_model import clock, faults, media, storage
from dualforce_model.config import Frozen, digest
from dualforce_model.errors import InputError
from dualforce_model.media import MediaError, MediaLimits
from dualforce_model.metrics.lips import mouth_opening, speech_envelope
from tasks import faces, quality
from tasks.detectors import DetectorConfig, Face, make_detector
from tasks.records import MEDIA_REASONS, FailureClass, Impossible, Reason, Score, Span, Temporary
from tasks.stamp import Stamp, is_same_file

VERSION = 1  # rises whenever equal input would give another crop or other scores
SHORTEST_FRAMES = clock.num_frames(2)  # the reference step and one more
HELD_SIDE_PX = 1920  # larger pictures are shrunk while they wait for their crop
HELD_RAW_BYTES = 640 * 640 * 3  # larger pictures wait as JPEG
HELD_JPEG_QUALITY = 95
STRIP_FRAMES = 4
STRIP_HEIGHT_PX = 160
STRIP_COLOUR = (90, 220, 90)
UNMEASURED = {"occlusion": "a face parser", "yaw_deg": "landmarks"}  # score -> what it would take; policies must know

RelativePath = Annotated[str, AfterValidator(storage.check_key)]


class CurateConfig(Frozen):
    """How clips are cut and cropped. All of it is in the crop's key: a change makes crops stale."""

    mode: Literal["face"] = Field("face", description="crop to the main face")
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
    """What a crop is made from: detector, settings, the bytes of the video, the span."""
    detector = make_detector(config.detector).fingerprint()
    return digest("crop", VERSION, detector, config, source_digest, span)


class Curator:
    """Worker of the curate stage."""

    def __init__(self, config: CurateConfig, media_root: Path) -> None:
        self.config = config
        self.media_root = media_root
        self.detector = make_detector(config.detector)
        self.proven: set[tuple[str, str, Stamp]] = set()  # videos read to the end, which many clips may share

    def load(self) -> None:
        """Make the detector ready; one thread per worker."""
        cv2.setNumThreads(1)
        self.detector.load()

    def __call__(self, job: CurateJob) -> dict[str, Any]:
        """Curate one clip; the result is a `Curated` as plain data. Raises Impossible with what was measured."""
        source = self.media_root / job.source_path
        self._check_source(job)
        try:
            footage = self._watch(source, job.span)
            main, tracks = self._people(footage)
            num_frames = clock.floor_frames(len(footage.frames))
            start_s = job.span.start_s
            sound = media.read_sound(source, start_s, start_s + num_frames / clock.FPS)
        except MediaError as error:
            raise Impossible(MEDIA_REASONS[error.kind], error.message) from error
        box = faces.stable_box(main, self.config.expand, footage.width, footage.height)
        crops = footage.frames.crops(box, num_frames, self.config.crop_px)
        thumbnail = job.target.removesuffix(".mp4") + ".jpg"
        media.write_image(self.media_root / thumbnail, _strip(footage.frames, box, num_frames))
        self._write(self.media_root / job.target, crops, sound)
        curated = Curated(
            path=job.target,
            digest=storage.file_digest(self.media_root / job.target),
            num_frames=num_frames,
            dropped_frames=len(footage.frames) - num_frames,
            has_sound=len(sound) > 0,
            box=box.corners,
            thumbnail=thumbnail,
            scores=_scores(footage, main, tracks, crops, sound),
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

    def _watch(self, source: Path, span: Span) -> "_Footage":
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
            if index % self.config.detect_every == 0:
                known = sightings[-1][1] if len(sightings) % self.config.search_every else []
                sightings.append((index, self.detector(frame, known)))
        if len(frames) < SHORTEST_FRAMES:
            raise Impossible(Reason.TOO_SHORT, f"{len(frames)} frames; a clip has at least {SHORTEST_FRAMES}")
        return _Footage(frames, glances, sightings, width, height)

    def _people(self, footage: "_Footage") -> tuple[faces.Track, tuple[faces.Track, ...]]:
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
        return main, tuple(track for track in tracks if track.height_px >= config.min_rival * main.height_px)

    def _write(self, target: Path, crops: UInt8[np.ndarray, "T s s 3"], sound: np.ndarray) -> None:
        with storage.atomic_path(target) as temporary:
            media.write_video(temporary, crops, sound if len(sound) else None, clock.FPS, crf=self.config.crf)
            faults.point("crop.before_rename")
        faults.point("crop.after_rename")


class HeldFrames:
    """Decoded frames waiting until the crop is known: as they are if small, as JPEG if large, shrunk if huge."""

    def __init__(self) -> None:
        self._frames: list[np.ndarray] = []
        self.scale = 1.0  # held pixels per source pixel

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Keep one more frame; all have the size of the first."""
        self.scale = min(HELD_SIDE_PX / max(frame.shape), 1.0)
        if self.scale < 1:
            frame = cv2.resize(frame, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_AREA)
        if frame.nbytes > HELD_RAW_BYTES:
            encoded, frame = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, HELD_JPEG_QUALITY])
            assert encoded, "OpenCV encodes any picture as JPEG"
        self._frames.append(frame)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        frame = self._frames[index]
        if frame.ndim == 3:
            return frame
        return np.asarray(cv2.cvtColor(cv2.imdecode(frame, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))

    def crops(self, box: faces.SquareBox, num_frames: int, size_px: int) -> UInt8[np.ndarray, "T s s 3"]:
        """The square of the first frames, at size_px."""
        held = box.scaled(self.scale)
        crops: np.ndarray = np.empty((num_frames, size_px, size_px, 3), np.uint8)
        for index in range(num_frames):
            crops[index] = faces.cut(self[index], held, size_px)
        return crops


@dataclass(frozen=True)
class _Footage:
    """What one pass over a span leaves."""

    frames: HeldFrames
    glances: list[np.ndarray]
    sightings: list[tuple[int, list[Face]]]
    width: int  # of the source, px
    height: int


def _scores(
    footage: _Footage, main: faces.Track, tracks: tuple[faces.Track, ...], crops: np.ndarray, sound: np.ndarray
) -> dict[str, Score]:
    opening = mouth_opening(crops)
    envelope = speech_envelope(sound, len(crops)) if len(sound) else np.zeros(len(crops), np.float32)
    seen = [
        faces.patch(footage.frames[int(frame)], box * footage.frames.scale)
        for frame, box in zip(main.frames, main.boxes, strict=True)
    ]
    return {
        "duration_s": quality.duration_s(len(footage.frames)),
        "shot_cuts": quality.shot_cuts(footage.glances),
        "people": quality.people(tracks, len(footage.frames)),
        "face_px": quality.face_px(main),
        "sharpness": quality.sharpness(seen),
        **{name: quality.not_measured(needed) for name, needed in UNMEASURED.items()},
        "loudness_db": quality.loudness_db(sound),
        "speech_share": quality.speech_share(sound),
        "snr_db": quality.snr_db(sound),
        "lip_motion": quality.lip_motion(opening, envelope),
        "sound_offset_ms": quality.sound_offset_ms(opening, envelope),
    }


def _strip(frames: HeldFrames, box: faces.SquareBox, num_frames: int) -> UInt8[np.ndarray, "h w 3"]:
    """Four frames side by side with the crop drawn in: what a person looks at to see what was cut."""
    held = box.scaled(frames.scale)
    pictures = []
    for index in np.linspace(0, num_frames - 1, STRIP_FRAMES).round().astype(int):
        picture = frames[index].copy()
        line = max(picture.shape[0] // STRIP_HEIGHT_PX * 2, 1)
        x1, y1, x2, y2 = held.corners
        cv2.rectangle(picture, (x1, y1), (x2, y2), STRIP_COLOUR, line)
        width = max(round(picture.shape[1] * STRIP_HEIGHT_PX / picture.shape[0]), 1)
        pictures.append(cv2.resize(picture, (width, STRIP_HEIGHT_PX), interpolation=cv2.INTER_AREA))
    return np.concatenate(pictures, axis=1)


def crop_picture(picture: UInt8[np.ndarray, "H W 3"], config: CurateConfig, name: str) -> UInt8[np.ndarray, "s s 3"]:
    """The largest face of a picture, cropped as training clips are. Raises InputError where there is none."""
    detector = make_detector(config.detector)
    detector.load()
    found = detector(picture)
    if not found:
        raise InputError(
            f"{name}: no face was found by {config.detector.name}; give a frontal face, or a crop with --cropped"
        )
    track = faces.main_track(faces.link([(0, found)], config.max_gap))
    box = faces.stable_box(track, config.expand, picture.shape[1], picture.shape[0])
    return faces.cut(picture, box, config.crop_px)
