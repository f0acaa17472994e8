"""Sound out of files: any rate and layout to mono at one rate, placed by time stamps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from av.audio.resampler import AudioResampler
from av.error import FFmpegError

from dualforce_model.media import container as files
from dualforce_model.media.container import DEFAULT_LIMITS, MediaError

MARGIN_S = 0.25  # a decoder needs a few packets after a seek before it is exact
MAX_OVERLAP = 4.0  # sound that time stamps lay over other sound, in lengths of the time they span
OVERLAP_SLACK_S = 600.0  # and beyond that: stamps that stand still would make sound without end of a small file
GAP_S = 0.04  # sound whose time stamps jump by a frame or more is placed anew


def read_sound(path: Path, start_s: float = 0.0, end_s: float | None = None, rate_hz: int = 16000) -> np.ndarray:
    """Sound of a span: float32 [n] mono in [-1, 1]; n = round((end - start) * rate) where an end is given.

    Placed by time stamps: what the file has no sound for is zero. Without a sound stream the array is empty.
    """
    with files.opened(path) as container:
        video = files.moving_picture(container)
        stream = files.sound_track(container, video)
        if stream is None:
            return np.zeros(0, np.float32)
        origin_s = files.start_s(container, stream if video is None else video)
        announced_s = files.announced_s(container, stream)
        if end_s is None and announced_s:
            end_s = files.start_s(container, stream) - origin_s + announced_s
        files.refuse_long(path, announced_s, DEFAULT_LIMITS)
        last_s = DEFAULT_LIMITS.max_duration_s if end_s is None else end_s
        files.refuse_long(path, last_s - start_s, DEFAULT_LIMITS)
        runs = [
            (round((begin_s - origin_s - start_s) * rate_hz), samples)
            for begin_s, samples in _runs(container, stream, path, (origin_s + start_s, origin_s + last_s), rate_hz)
        ]
    if end_s is None:
        return _placed(runs, max((first + len(samples) for first, samples in runs), default=0))
    return _placed(runs, max(round((end_s - start_s) * rate_hz), 0))


def _placed(runs: list[tuple[int, np.ndarray]], total: int) -> np.ndarray:
    """Samples of all runs at their places in an array of zeros; what sticks out on either side is cut."""
    sound: np.ndarray = np.zeros(max(total, 0), np.float32)
    for first, samples in runs:
        part = samples[max(-first, 0) : max(total - first, 0)]
        sound[max(first, 0) : max(first, 0) + len(part)] = part
    np.clip(sound, -1.0, 1.0, out=sound)
    return sound


def _runs(
    container: Any, stream: Any, path: Path, span_s: tuple[float, float], rate_hz: int
) -> Iterator[tuple[float, np.ndarray]]:
    """Stretches of gapless sound: begin in the container's seconds, float32 samples at the wanted rate."""
    stream.codec_context.thread_count = 1
    _seek(container, stream, span_s[0] - MARGIN_S)
    run, first_s, heard_s = None, None, 0.0
    for frame in (frame for frames in files.packets(container, stream, path) for frame in frames):
        begin_s = run.end_s if run is not None else span_s[0]
        if frame.pts is not None:
            begin_s = float(frame.pts * stream.time_base)
        first_s = begin_s if first_s is None else first_s
        heard_s += frame.samples / frame.sample_rate
        if heard_s > OVERLAP_SLACK_S + MAX_OVERLAP * max(begin_s - first_s, 0.0):
            raise MediaError(
                "over_limit", f"{path.name}: {heard_s:.0f} s of sound in {begin_s - first_s:.0f} s of time"
            )
        if begin_s >= span_s[1] + MARGIN_S:
            break
        if run is not None and (run.form != _form(frame) or abs(begin_s - run.end_s) >= GAP_S):
            yield run.finished()
            run = None
        run = run or _Run(begin_s, _form(frame), rate_hz)
        run.add(frame)
    if run is not None:
        yield run.finished()


def _form(frame: Any) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


class _Run:
    """Gapless sound of one form on its way through a resampler."""

    def __init__(self, begin_s: float, form: tuple[str, str, int], rate_hz: int) -> None:
        self.begin_s = self.end_s = begin_s
        self.form = form
        self.resampler = AudioResampler(format="flt", layout="mono", rate=rate_hz)
        self.parts: list[np.ndarray] = []

    def add(self, frame: Any) -> None:
        self.end_s += frame.samples / frame.sample_rate
        frame.pts = None  # the resampler would fill small gaps itself, and count from its own zero
        self.parts += [part.to_ndarray()[0] for part in self.resampler.resample(frame)]

    def finished(self) -> tuple[float, np.ndarray]:
        self.parts += [part.to_ndarray()[0] for part in self.resampler.resample(None)]
        return self.begin_s, np.concatenate(self.parts) if self.parts else np.zeros(0, np.float32)


def _seek(container: Any, stream: Any, instant_s: float) -> None:
    if instant_s <= files.start_s(container, stream):
        return
    try:
        container.seek(int(instant_s / stream.time_base), stream=stream, backward=True)
    except FFmpegError:
        container.seek(0)
