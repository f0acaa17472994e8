"""Files whose container says little of time: no duration, no index, parts that were strung together."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dualforce_model import media
from dualforce_model.media import MediaError, MediaLimits

SIDE = 64
RATE_HZ = 16000


def write_numbered(
    path: Path, num_frames: int, format_name: str, gop: int = 25, options: dict[str, str] | None = None
) -> Path:
    """A video whose n-th picture is as grey as n says, with sound that is as loud as the second it is in."""
    with av.open(str(path), "w", format=format_name, options=options or {}) as container:
        video = container.add_stream("libx264", rate=25, options={"g": str(gop), "crf": "10"})
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        heard = 0
        for index in range(num_frames):
            picture = av.VideoFrame.from_ndarray(np.full((SIDE, SIDE, 3), grey(index), np.uint8), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(video.encode(picture))
            while heard < (index + 1) * RATE_HZ // 25:
                instants = heard + np.arange(1024)
                tone = (0.03 * (1 + instants // RATE_HZ % 16) * np.sin(instants / 5)).astype(np.float32)
                samples = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = RATE_HZ, heard, Fraction(1, RATE_HZ)
                container.mux(sound.encode(samples))
                heard += 1024
        container.mux([*video.encode(None), *sound.encode(None)])
    return path


def grey(index: int) -> int:
    return 30 + 3 * (index % 60)


def is_in_place(frames: list[np.ndarray], first: int) -> bool:
    """Whether the frames are those from `first` on: one frame off is 3 levels of grey off."""
    wanted = np.array([grey(first + place) for place in range(len(frames))])
    return bool(np.abs(np.array([frame.mean() for frame in frames]) - wanted).max() < 1.5)


def test_a_duration_that_nobody_announces_is_measured(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "live.mkv", 300, "matroska", options={"live": "1"})
    assert media.probe(path).duration_s == 0
    assert media.measured_duration_s(path) == pytest.approx(12.0, abs=0.03)
    with pytest.raises(MediaError, match="the limit is 5 s") as caught:
        media.measured_duration_s(path, MediaLimits(max_duration_s=5))
    assert caught.value.kind == "over_limit"
    with pytest.raises(MediaError, match="more than 100 pictures") as caught:
        media.measured_duration_s(path, MediaLimits(max_frames=100))
    assert caught.value.kind == "over_limit"


def test_an_announced_duration_is_believed_and_a_guessed_one_is_not(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", 50, "mp4")
    assert media.measured_duration_s(path) == media.probe(path).duration_s
    assert media.measured_duration_s(path, MediaLimits(max_frames=10)) > 0, "no packet is looked at"
    stream = write_numbered(tmp_path / "a.ts", 50, "mpegts")
    assert media.measured_duration_s(stream) == pytest.approx(2.0, abs=0.001)
    media.write_wav(tmp_path / "a.wav", np.zeros(RATE_HZ, np.float32))
    with pytest.raises(MediaError, match="no video stream"):
        media.measured_duration_s(tmp_path / "a.wav")


@pytest.mark.parametrize("gop", [25, 50, 250])
def test_a_span_in_the_last_group_of_pictures_of_a_transport_stream_decodes(tmp_path: Path, gop: int) -> None:
    """Seeking in MPEG-TS stops at any packet; behind the last picture that stands by itself nothing decodes."""
    path = write_numbered(tmp_path / "a.ts", 300, "mpegts", gop)
    for start_s, num_frames in ((0.0, 50), (4.0, 50), (9.2, 50), (10.4, 40), (11.04, 24), (11.8, 5), (11.96, 1)):
        frames = list(media.read_frames(path, start_s, start_s + 2.0))
        assert (len(frames), is_in_place(frames, round(start_s * 25))) == (num_frames, True), start_s
        assert len(media.read_sound(path, start_s, start_s + 2.0)) == 2 * RATE_HZ
    with pytest.raises(MediaError) as caught:
        list(media.read_frames(path, 12.5, 14.0))
    assert (caught.value.kind, "the video ends at 12.00 s" in str(caught.value)) == ("span_outside", True)


def test_time_stamps_below_zero_are_no_jump_back(tmp_path: Path) -> None:
    """An edit list that hides the beginning gives the hidden packets such stamps."""
    path = tmp_path / "a.mp4"
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        video = container.add_stream("libx264", rate=25, options={"g": "250"})
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        for index in range(150):
            picture = av.VideoFrame.from_ndarray(np.full((SIDE, SIDE, 3), grey(index), np.uint8), format="rgb24")
            picture.pts, picture.time_base = index - 100, Fraction(1, 25)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
    with av.open(str(path)) as container:
        assert min(packet.dts for packet in container.demux(video=0) if packet.size) * Fraction(1, 12800) < -2
    frames = list(media.read_frames(path))
    assert (len(frames), is_in_place(frames, 100)) == (50, True)


def test_a_transport_stream_that_is_broken_is_still_undecodable(tmp_path: Path) -> None:
    """Beginning anew is tried once: what does not decode from the beginning either is the file's fault."""
    path = write_numbered(tmp_path / "a.ts", 100, "mpegts", 250)
    content = bytearray(path.read_bytes())
    for packet in range(0, len(content), 188):
        content[packet + 60 : packet + 188] = bytes(128)
    path.write_bytes(content)
    with pytest.raises(MediaError) as caught:
        list(media.read_frames(path, 2.0, 3.0))
    assert caught.value.kind == "undecodable"


def test_parts_strung_together_with_clocks_of_their_own_are_refused(tmp_path: Path) -> None:
    """What follows a clock that starts anew was dropped without a word: picture and sound now say the same of it."""
    first = write_numbered(tmp_path / "a.ts", 75, "mpegts").read_bytes()
    second = write_numbered(tmp_path / "b.ts", 90, "mpegts").read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(first + second)
    for read in (
        lambda: list(media.read_frames(path)),
        lambda: media.read_sound(path),
        lambda: media.measured_duration_s(path),
    ):
        with pytest.raises(
            MediaError, match=r"joined\.ts: time stamps jump back from \d\.\d\d to \d\.\d\d s"
        ) as caught:
            read()
        assert caught.value.kind == "undecodable"
    assert len(list(media.read_frames(path, 0.0, 1.0))) == 25, "what lies before the jump can be used"
