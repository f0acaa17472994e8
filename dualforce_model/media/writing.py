"""Pictures and sound into files: atomic, and equal bytes for equal input."""

import wave
from collections.abc import Iterable
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from dualforce_model import storage
from dualforce_model.media.container import system_errors
from dualforce_model.media.picture import BT601, CODED, LIMITED_RANGE, Picture

FULL_SCALE = 32767  # of 16-bit sound
SOUND_BIT_RATE = 96_000
IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
# x264's macroblock tree and adaptive B frames read memory that nobody wrote: equal input, different bytes.
X264_PARAMS = "threads=1:lookahead-threads=1:mbtree=0:b-adapt=0"


def write_video(
    path: Path,
    frames: Iterable[np.ndarray | Picture],
    sound: np.ndarray | None,
    fps: int = 25,
    rate_hz: int = 16000,
    crf: int = 18,
    preset: str = "veryfast",
) -> None:
    """Write MP4 (H.264 yuv420p, AAC mono): frames uint8 [H, W, 3] with even sides, sound float32 [n] in [-1, 1].

    Frames may also be coded pictures, as a `Cutter` gives them, all in the first's colours: written as they are.
    Atomic. Equal input gives equal bytes: one thread, no dates, no encoder names.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"{path.name}: no frame to write")
    shape = (first.height, first.width, 3) if isinstance(first, Picture) else first.shape
    if len(shape) != 3 or shape[0] % 2 or shape[1] % 2:
        raise ValueError(f"{path.name}: frames of shape {shape}; H.264 needs [H, W, 3] with even H and W")
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with storage.atomic_path(path) as temporary, system_errors(path):
        with av.open(str(temporary.absolute()), "w", format="mp4", container_options=options) as container:
            space = int(first.frame.colorspace) if isinstance(first, Picture) else BT601
            video = _picture_track(container, shape, space, fps, crf, preset)
            track = None if sound is None else _SoundTrack(container, sound, rate_hz)
            colours = VideoReformatter()
            for index, frame in enumerate(chain([first], iterator)):
                if isinstance(frame, Picture):
                    picture = _checked_picture(path, frame, shape, space)
                else:
                    picture = av.VideoFrame.from_numpy_buffer(_checked_frame(path, frame, shape), format="rgb24")
                    picture = colours.reformat(picture, format=CODED, threads=1)
                picture.pts = index
                container.mux(video.encode(picture))
                if track is not None:
                    track.write_until((index + 1) * rate_hz // fps)
            container.mux(video.encode(None))
            if track is not None:
                track.close()


def write_wav(path: Path, sound: np.ndarray, rate_hz: int = 16000) -> None:
    """Write 16-bit mono WAV, atomically. sound: float32 [n] in [-1, 1]."""
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.round(_checked_sound(sound) * FULL_SCALE).astype("<i2").tobytes())
    storage.write_bytes(path, buffer.getvalue())


def write_image(path: Path, rgb: np.ndarray) -> None:
    """Write uint8 [H, W, 3] as PNG or JPEG by the suffix, atomically."""
    if path.suffix.lower() not in IMAGE_FORMATS:
        raise ValueError(f"{path.name}: pictures are written as {', '.join(sorted(IMAGE_FORMATS))}")
    buffer = BytesIO()
    Image.fromarray(_checked_frame(path, rgb, rgb.shape)).save(buffer, IMAGE_FORMATS[path.suffix.lower()], quality=90)
    storage.write_bytes(path, buffer.getvalue())


def _picture_track(container: Any, shape: tuple[int, ...], space: int, fps: int, crf: int, preset: str) -> Any:
    options = {"crf": str(crf), "preset": preset, "x264-params": X264_PARAMS, "flags": "+bitexact"}
    stream = container.add_stream("libx264", rate=fps, options=options)
    stream.height, stream.width, stream.pix_fmt = shape[0], shape[1], CODED
    stream.codec_context.thread_count = 1
    # Said in the file, so that players do not guess by the picture's size.
    stream.codec_context.color_range, stream.codec_context.colorspace = LIMITED_RANGE, space
    return stream


class _SoundTrack:
    """The AAC side of a video being written, fed as the pictures are so that the file is interleaved."""

    def __init__(self, container: Any, sound: np.ndarray, rate_hz: int) -> None:
        self.container, self.sound, self.rate_hz, self.position = container, _checked_sound(sound), rate_hz, 0
        self.stream = container.add_stream("aac", rate=rate_hz, layout="mono", options={"flags": "+bitexact"})
        self.stream.codec_context.bit_rate = SOUND_BIT_RATE

    def write_until(self, position: int) -> None:
        part = self.sound[self.position : position]
        if len(part):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part[None]), format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = self.rate_hz, Fraction(1, self.rate_hz), self.position
            self.container.mux(self.stream.encode(frame))
            self.position += len(part)

    def close(self) -> None:
        self.write_until(len(self.sound))
        self.container.mux(self.stream.encode(None))


def _checked_picture(path: Path, picture: Picture, shape: tuple[int, ...], space: int) -> Any:
    frame = picture.frame
    found = (frame.format.name, (picture.height, picture.width, 3), int(frame.colorspace))
    if found != (CODED, shape, space):
        raise ValueError(f"{path.name}: expected pictures {(CODED, shape, space)}, found {found}")
    return frame


def _checked_frame(path: Path, frame: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if frame.dtype != np.uint8 or frame.shape != shape or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"{path.name}: expected uint8 RGB frames of shape {shape}, found {frame.dtype} {frame.shape}")
    contiguous: np.ndarray = np.ascontiguousarray(frame)
    return contiguous


def _checked_sound(sound: np.ndarray) -> np.ndarray:
    """float32 [n], clipped to [-1, 1]. Raises ValueError for a wrong shape, NaN or infinity."""
    sound = np.asarray(sound, np.float32)
    if sound.ndim != 1 or not np.isfinite(sound).all():
        raise ValueError(f"sound: expected finite samples of shape [n], found shape {sound.shape}")
    clipped: np.ndarray = np.clip(sound, -1.0, 1.0)
    return clipped
