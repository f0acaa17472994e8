"""Opening a stranger's file, choosing its streams, and saying what is wrong with it."""

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
from av.error import FFmpegError
from av.stream import Disposition
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.errors import InputError

MediaKind = Literal["not_media", "undecodable", "over_limit", "span_outside", "no_video"]

FORMATS = "mov,matroska,webm,avi,gif,flv,mpegts,mpeg,asf,wav,mp3,flac,ogg,aac"
MAGIC = (b"\x1a\x45\xdf\xa3", b"RIFF", b"GIF8", b"FLV\x01", b"OggS", b"fLaC", b"ID3")  # how containers begin
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
SYSTEM_ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EDQUOT, errno.EROFS)
MICROSECONDS = 1_000_000  # a container's own unit of time
MAX_BAD_SHARE = 0.1  # of the packets met so far: a few broken ones at a cut are common and harmless
MIN_BAD_PACKETS = 6
MAX_JUMP_BACK_S = 1.0  # of decoding times, which only grow in a file that was written in one go
UNINDEXED = ("mpegts", "mpeg")  # formats without a duration of their own: what is announced is guessed from the ends
MAX_MISSING_SHARE = 0.1  # of the announced duration (and at least a second) before a file counts as cut short


class MediaError(InputError):
    """A file that cannot be used: `kind` says in which way, the message what was found and what was expected."""

    def __init__(self, kind: MediaKind, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


class MediaLimits(Frozen):
    """What a decoder may be asked to swallow."""

    max_side_px: int = Field(8192, ge=16, le=65535, description="longest side of a picture")
    max_duration_s: float = Field(6 * 3600, gt=0, le=1e6, description="duration, announced or met while decoding")
    max_frames: int = Field(2_000_000, ge=1, description="pictures decoded or delivered by one call")


DEFAULT_LIMITS = MediaLimits()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An open input container. No error of the codec library gets out of the block."""
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    absolute = str(existing(path).absolute())  # absolute: a name like `concat:x` is no protocol then
    try:
        container = av.open(absolute, options=options, metadata_errors="replace")
    except FFmpegError as error:
        _raise_system_error(error, path)
        if _looks_like_media(path):
            raise MediaError(
                "undecodable", f"{path.name}: begins as media but does not open (cut short?): {error.strerror}"
            ) from error
        raise MediaError("not_media", f"{path.name}: not a video or sound file: {error.strerror}") from error
    with container:
        if not any(stream.codec_context for stream in container.streams):
            raise MediaError(
                "undecodable", f"{path.name}: a container without a stream that can be decoded (cut short?)"
            )
        with decoding_errors(path):
            yield container


@contextmanager
def decoding_errors(path: Path) -> Iterator[None]:
    """Whatever the codec library complains about is a MediaError, or this machine's own trouble."""
    try:
        yield
    except FFmpegError as error:
        _raise_system_error(error, path)
        raise MediaError("undecodable", f"{path.name}: {error.strerror}") from error


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """For writing: whatever the codec library complains about is an OSError, a MemoryError or our own mistake."""
    try:
        yield
    except FFmpegError as error:
        if isinstance(error, MemoryError):
            raise MemoryError(f"{path}: the encoder asked for more memory than there is") from error
        _raise_system_error(error, path)
        raise RuntimeError(f"{path}: the encoder refused: {error.strerror}") from error


def existing(path: Path) -> Path:
    """The path, if it is a file. Raises FileNotFoundError: a missing file is no property of the clip."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such media file", str(path))
    return path


def moving_picture(container: Any) -> Any | None:
    """The largest video stream that is not cover art, or None."""
    streams = [item for item in container.streams.video if item.codec_context is not None]
    moving = [item for item in streams if not item.disposition & Disposition.attached_pic]
    return max(moving, key=lambda item: (item.width * item.height, -item.index), default=None)


def sound_track(container: Any, video: Any | None) -> Any | None:
    """The sound stream that belongs to the picture, or None."""
    best = container.streams.best("audio", related=video)
    return best if best is not None and best.codec_context is not None else None


def start_s(container: Any, stream: Any) -> float:
    """First time stamp of a stream, in the container's own time."""
    if stream.start_time is not None:
        return float(stream.start_time * stream.time_base)
    return float(container.start_time or 0) / MICROSECONDS


def announced_s(container: Any, stream: Any) -> float:
    """Duration that the file claims for a stream; 0 where it claims nothing."""
    if stream.duration is not None:
        return max(float(stream.duration * stream.time_base), 0.0)
    return max(float(container.duration or 0), 0.0) / MICROSECONDS


def measured_s(container: Any, stream: Any, path: Path, limits: MediaLimits) -> float:
    """Duration of a stream by the time stamps of its packets: the file is read to its end, nothing is decoded.

    Raises MediaError `over_limit` for what no decoder may swallow, `undecodable` where time stamps jump back.
    """
    origin = Fraction(start_s(container, stream)).limit_denominator(MICROSECONDS)
    usual = 1 / Fraction(stream.guessed_rate or stream.average_rate or 25)
    end = Fraction(0)
    for seen, packet in enumerate(_demuxed(container, stream, path), 1):
        if packet is None:
            break
        if seen > limits.max_frames:
            raise MediaError("over_limit", f"{path.name}: more than {limits.max_frames} pictures")
        stamp = packet.dts if packet.pts is None else packet.pts
        begin = end if stamp is None else stamp * packet.time_base - origin
        end = max(end, begin + ((packet.duration or 0) * packet.time_base or usual))
        refuse_long(path, float(end), limits)
    return float(end)


def packets(container: Any, stream: Any, path: Path) -> Iterator[list[Any]]:
    """Decoded frames, one list per packet. Few broken packets are passed over; many are a MediaError."""
    bad = 0
    for seen, packet in enumerate(_demuxed(container, stream, path), 1):
        try:
            frames = stream.codec_context.decode(packet)
        except FFmpegError as error:
            _raise_system_error(error, path)
            frames = []
            bad += 1
        intact = [frame for frame in frames if not frame.is_corrupt]
        bad += len(intact) < len(frames)
        if bad >= MIN_BAD_PACKETS and bad > MAX_BAD_SHARE * seen:
            raise MediaError("undecodable", f"{path.name}: {bad} of the first {seen} packets are broken")
        yield intact


def _demuxed(container: Any, stream: Any, path: Path) -> Iterator[Any | None]:
    """Packets of a stream, then None for the decoder's last frames, also where the file ends in the middle.

    Raises MediaError `undecodable` where time begins anew, as in files that were strung together byte by byte: what
    comes after has no place in time, neither its pictures nor its sound.
    """
    latest, behind = -math.inf, 0
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.dts is not None:
                instant = float(packet.dts * packet.time_base)
                behind = behind + 1 if instant < latest - MAX_JUMP_BACK_S else 0
                latest = max(latest, instant)
            if behind >= MIN_BAD_PACKETS:
                raise MediaError(
                    "undecodable",
                    f"{path.name}: time stamps jump back from {latest:.2f} to {instant:.2f} s, as in parts strung "
                    "together; join them with a tool that writes new time stamps",
                )
            yield packet
    except FFmpegError as error:
        _raise_system_error(error, path)
    yield None


def refuse_large(path: Path, width: int, height: int, limits: MediaLimits) -> None:
    """Raises MediaError `over_limit` for pictures beyond the limit."""
    if max(width, height) > limits.max_side_px:
        raise MediaError("over_limit", f"{path.name}: {width}x{height} px; the limit is {limits.max_side_px} px a side")


def refuse_long(path: Path, duration_s: float, limits: MediaLimits) -> None:
    """Raises MediaError `over_limit` for durations beyond the limit."""
    if duration_s > limits.max_duration_s:
        raise MediaError("over_limit", f"{path.name}: {duration_s:.0f} s; the limit is {limits.max_duration_s:.0f} s")


def refuse_cut_short(path: Path, end_s: float, announced: float) -> None:
    """Raises MediaError `undecodable` where pictures end long before the file says they do."""
    if announced - end_s > max(1.0, MAX_MISSING_SHARE * announced):
        raise MediaError("undecodable", f"{path.name}: announces {announced:.2f} s, the pictures end at {end_s:.2f} s")


def _raise_system_error(error: FFmpegError, path: Path) -> None:
    if isinstance(error, MemoryError):
        # FFmpeg refuses absurd allocations by itself, and a damaged header asks for them. A machine that is really out
        # of memory kills the process instead.
        raise MediaError("over_limit", f"{path.name}: asks the decoder for more memory than it may take") from error
    if error.errno in SYSTEM_ERRORS:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _looks_like_media(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith(MAGIC) or head[4:8] in MP4_BOXES
