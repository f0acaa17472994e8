"""Pictures out of files: what a video says of itself, its frames at a constant rate, single pictures."""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideDataType
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.media import container as files
from dualforce_model.media.container import DEFAULT_LIMITS, MediaError, MediaLimits
from dualforce_model.media.picture import Picture, upright

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
PIXEL_ASPECTS = (0.25, 4.0)  # declared shapes of a pixel that are believed
MAX_RATE = 1000  # pictures per second of video: more are no video but work without end for whoever decodes them
SEEK_EARLIER_S = (0, 12)  # than wanted: few groups of pictures are longer; what this misses is decoded from the start
RATE_SLACK = 1000  # pictures beyond that, for time stamps that stand still a while


class Probe(Frozen):
    """What a file says of itself, after its first picture was decoded."""

    duration_s: float = Field(ge=0, description="announced duration of the pictures; 0: not announced")
    width_px: int = Field(ge=1, description="as displayed: turned by the rotation metadata, square pixels")
    height_px: int = Field(ge=1, description="as displayed")
    fps: float = Field(ge=0, description="announced average rate; 0: not announced. Only time stamps can be trusted")
    num_frames: int = Field(ge=0, description="announced number of pictures; 0: not announced")
    video_codec: str
    has_sound: bool = Field(description="there is a sound stream, perhaps a silent one")
    sound_duration_s: float = Field(0.0, ge=0, description="announced duration of the sound; 0: none or not announced")
    sound_codec: str | None = None


@dataclass(frozen=True)
class _Picture:
    """One decoded picture with its time on display, in seconds after the first picture."""

    begin: Fraction
    end: Fraction
    frame: Any  # av.VideoFrame
    aspect: float
    matrix: np.ndarray | None  # the display matrix, int32 [3, 3]

    def upright(self, path: Path) -> Picture:
        """With square pixels, turned and mirrored as the display matrix says."""
        size = _square_pixels(self.frame.width, self.frame.height, self.aspect)
        return Picture(upright(self.frame, size, self.matrix), path)


def measured_duration_s(path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> float:
    """Duration of the pictures, seconds; of a file that announces none, or guesses it, by the stamps of all packets.

    No picture is decoded. Above 0 for every video that has pictures.
    """
    with files.opened(path) as container:
        stream = _video_stream(container, path, limits)
        announced = files.announced_s(container, stream)
        if announced > 0 and container.format.name not in files.UNINDEXED:
            return announced
        return files.measured_s(container, stream, path, limits)


def probe(path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> Probe:
    """Open a video, decode its first picture, say what it is."""
    with files.opened(path) as container:
        stream = _video_stream(container, path, limits)
        sound = files.sound_track(container, stream)
        with closing(_pictures(container, stream, path, limits)) as pictures:
            first = next(pictures, None)
        if first is None:
            raise MediaError("undecodable", f"{path.name}: not one picture decodes")
        shown = first.upright(path)
        return Probe(
            duration_s=files.announced_s(container, stream),
            width_px=shown.width,
            height_px=shown.height,
            fps=float(stream.average_rate or 0),
            num_frames=max(stream.frames, 0),
            video_codec=stream.codec_context.name,
            has_sound=sound is not None,
            sound_duration_s=0.0 if sound is None else files.announced_s(container, sound),
            sound_codec=None if sound is None else sound.codec_context.name,
        )


def read_frames(
    path: Path, start_s: float = 0.0, end_s: float | None = None, fps: int = 25, limits: MediaLimits = DEFAULT_LIMITS
) -> Iterator[np.ndarray]:
    """Pictures of a span at a constant rate: uint8 [H, W, 3] RGB, upright, with square pixels.

    See `read_pictures`, which leaves them as they were decoded. An array may come more than once.
    """
    shown: Picture | None = None
    for picture in read_pictures(path, start_s, end_s, fps, limits):
        if picture is not shown:
            shown, pixels = picture, picture.rgb()
        yield pixels


def read_pictures(
    path: Path, start_s: float = 0.0, end_s: float | None = None, fps: int = 25, limits: MediaLimits = DEFAULT_LIMITS
) -> Iterator[Picture]:
    """Pictures of a span at a constant rate; the same one again where nothing new is on display.

    Output frame i is what is on display at the middle of its interval, by time stamps: any input rate will do.
    A span that ends after the video gives what there is; one that starts there is a MediaError `span_outside`.
    The errors come with the first picture that is asked for, not with the call.
    """
    start = _exact(start_s)
    wanted = limits.max_frames if end_s is None else _whole((_exact(end_s) - start) * fps)
    # A millisecond before the middle: 50 fps input would otherwise sit on the edge between two pictures.
    middle = start + Fraction(1, 2 * fps) - Fraction(1, 1000)
    with files.opened(path) as container:
        stream = _video_stream(container, path, limits)
        count, shown = 0, None
        for picture in _pictures(container, stream, path, limits, start):
            if picture.begin > middle + Fraction(count, fps):
                upright_now = (shown or picture).upright(path)
            while count < wanted and picture.begin > middle + Fraction(count, fps):
                yield upright_now
                count += 1
            if count >= wanted:
                return
            shown = picture
        if shown is None:
            raise MediaError("undecodable", f"{path.name}: not one picture decodes")
        announced = files.announced_s(container, stream)
        end = min(shown.end, _exact(announced)) if shown.begin < announced else shown.end
        files.refuse_cut_short(path, float(end), announced)
        wanted = min(wanted, _whole((end - start) * fps))
        if wanted < 1:
            raise MediaError(
                "span_outside", f"{path.name}: span from {start_s} s; the video ends at {float(end):.2f} s"
            )
        upright_now = shown.upright(path)
        for _ in range(count, wanted):
            yield upright_now


def read_image(path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """A picture file: uint8 [H, W, 3] RGB, turned upright as its EXIF orientation says."""
    try:
        with Image.open(files.existing(path), formats=PICTURE_FORMATS) as image:
            files.refuse_large(path, image.width, image.height, limits)
            pixels: np.ndarray = np.array(ImageOps.exif_transpose(image).convert("RGB"))
            return pixels
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError("not_media", f"{path.name}: no picture ({', '.join(PICTURE_FORMATS)} are read)") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError("over_limit", f"{path.name}: {error}") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
    ) as error:  # what Pillow raises for broken data; a system's own error has an errno
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise MediaError("undecodable", f"{path.name}: the picture is broken: {error}") from error


def _video_stream(container: Any, path: Path, limits: MediaLimits) -> Any:
    stream = files.moving_picture(container)
    if stream is None:
        raise MediaError("no_video", f"{path.name}: no video stream that can be decoded (sound or cover art alone)")
    files.refuse_large(path, stream.width, stream.height, limits)
    files.refuse_long(path, files.announced_s(container, stream), limits)
    stream.codec_context.thread_count = 1  # parallelism is across clips: one core each
    # A container may say less than its packets: the decoder refuses by itself, before it takes the memory.
    stream.codec_context.options = {"max_pixels": str(limits.max_side_px**2)}
    return stream


def _pictures(
    container: Any, stream: Any, path: Path, limits: MediaLimits, start: Fraction = Fraction(0)
) -> Generator[_Picture, None, None]:
    """Decoded pictures in order of display; the first begins at or before `start` (or is the video's first)."""
    origin = _exact(files.start_s(container, stream))
    for earlier in SEEK_EARLIER_S:
        if start <= earlier or not _seek(container, stream, origin + start - earlier):
            break
        with closing(_decoded(container, stream, path, limits, origin)) as pictures:
            first = _first_after_seek(pictures)
            if first is not None and first.begin <= start:
                yield first
                yield from pictures
                return
        # A poor index, or none (MPEG-TS): the seek went too far, or behind the last picture that stands by itself.
        container.seek(0, backward=True)  # what is decoded next, unless an earlier instant serves
    yield from _decoded(container, stream, path, limits, origin)


def _first_after_seek(pictures: Iterator[_Picture]) -> _Picture | None:
    """The first picture; none where nothing decodes from here to the end, which may be the fault of the place."""
    try:
        return next(pictures, None)
    except MediaError as error:
        if error.kind != "undecodable":
            raise
        return None


def _decoded(
    container: Any, stream: Any, path: Path, limits: MediaLimits, origin: Fraction
) -> Generator[_Picture, None, None]:
    """Pictures from where the container stands, in order of display; `origin` is the time stamp of time 0."""
    step = 1 / Fraction(stream.guessed_rate or stream.average_rate or 25)
    aspect = float(stream.sample_aspect_ratio or 1)
    aspect = aspect if PIXEL_ASPECTS[0] <= aspect <= PIXEL_ASPECTS[1] else 1.0
    first = last = None
    matrices: dict[int, np.ndarray | None] = {}
    for index, frame in enumerate(frame for frames in files.packets(container, stream, path) for frame in frames):
        if index >= limits.max_frames:
            raise MediaError("over_limit", f"{path.name}: more than {limits.max_frames} pictures")
        files.refuse_large(path, *_square_pixels(frame.width, frame.height, aspect), limits)
        begin = (last or 0) + step if frame.pts is None else frame.pts * stream.time_base - origin
        first = begin if first is None else first
        if index > RATE_SLACK + MAX_RATE * max(begin - first, 0):
            raise MediaError("over_limit", f"{path.name}: more than {MAX_RATE} pictures per second")
        if last is not None and begin <= last:
            continue
        files.refuse_long(path, float(begin), limits)
        step = step if last is None else begin - last
        last = begin
        if frame.rotation not in matrices:  # a frame asked for its side data is in a cycle, and stays until it is found
            matrices[frame.rotation] = _display_matrix(frame)
        matrix = matrices[frame.rotation]
        # Declared rates and durations may be nonsense (1000 fps): a picture lasts no shorter than the one before.
        yield _Picture(begin, begin + max(step, (frame.duration or 0) * stream.time_base), frame, aspect, matrix)


def _square_pixels(width: int, height: int, aspect: float) -> tuple[int, int]:
    """Size of a picture whose pixels are this much wider than high, once they are square."""
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def _seek(container: Any, stream: Any, instant: Fraction) -> bool:
    try:
        container.seek(int(instant / stream.time_base), stream=stream, backward=True)
    except FFmpegError:
        return False  # no index: decoding from the beginning finds the span as well
    return True


def _display_matrix(frame: Any) -> np.ndarray | None:
    found = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    return None if found is None else np.frombuffer(bytes(found), np.int32).reshape(3, 3)


def _exact(seconds: float) -> Fraction:
    """Seconds as a fraction: time stamps are fractions, and float noise makes pictures stutter."""
    return Fraction(seconds).limit_denominator(1_000_000)


def _whole(count: Fraction) -> int:
    """Whole frames in a number of frames, forgiving a microsecond."""
    return int(count + Fraction(1, 10_000))
