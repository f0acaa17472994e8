"""Pictures and sound through files: written here, read back, and measured."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dualforce_model import media, storage
from dualforce_model.media import MediaError, MediaLimits
from dualforce_model.media.picture import upright

SIDE = 64


def coloured(index: int, side: int = SIDE) -> np.ndarray:
    """A frame whose grey levels say its number: the upper half counts ones, the lower half fifties."""
    frame = np.full((side, side, 3), 16 + 4 * (index % 50), np.uint8)
    frame[side // 2 :] = 16 + 40 * (index // 50)
    return frame


def number_of(frame: np.ndarray) -> int:
    ones, fifties = frame[: SIDE // 2 - 4].mean(), frame[SIDE // 2 + 4 :].mean()
    return round((float(ones) - 16) / 4) + 50 * round((float(fifties) - 16) / 40)


def write_at(path: Path, times_ms: list[int], format_name: str = "matroska") -> Path:
    """A video whose n-th picture is shown at times_ms[n]."""
    with av.open(str(path), "w", format=format_name) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "x264-params": "bframes=0"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index, instant in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(coloured(index), format="rgb24")
            frame.pts, frame.time_base = instant, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def clicks(num_frames: int, at: list[int]) -> np.ndarray:
    """Silence with a short click at the beginning of some frames."""
    sound = np.zeros(640 * num_frames, np.float32)
    for frame in at:
        sound[640 * frame : 640 * frame + 8] = 0.9 * np.array([1, -1] * 4)
    return sound


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """49 numbered frames with a click at the start of every eighth."""
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    media.write_video(path, (coloured(i) for i in range(49)), clicks(49, list(range(4, 49, 8))), crf=8)
    return path


def test_what_is_written_comes_back(clip: Path) -> None:
    found = media.probe(clip)
    assert (found.width_px, found.height_px, found.num_frames, found.video_codec) == (SIDE, SIDE, 49, "h264")
    assert found.duration_s == pytest.approx(1.96)
    assert found.has_sound
    assert found.sound_duration_s == pytest.approx(1.96)
    frames = list(media.read_frames(clip))
    assert [number_of(frame) for frame in frames] == list(range(49))
    assert frames[0].dtype == np.uint8
    assert frames[0].shape == (SIDE, SIDE, 3)


def test_sound_comes_back_at_its_place_to_the_sample(clip: Path) -> None:
    sound = media.read_sound(clip)
    assert sound.dtype == np.float32
    assert len(sound) == 640 * 49
    for frame in range(4, 49, 8):
        around = np.abs(sound[640 * frame - 300 : 640 * frame + 340])
        assert 300 - 2 <= int(around.argmax()) < 300 + 10  # the click is 8 samples long


@pytest.mark.parametrize(("start", "end"), [(0.48, 1.0), (0.0, 0.2), (1.2, 1.96), (0.04, 0.08)])
def test_a_span_is_that_part_of_the_whole(clip: Path, start: float, end: float) -> None:
    whole, sound = list(media.read_frames(clip)), media.read_sound(clip)
    part, part_sound = list(media.read_frames(clip, start, end)), media.read_sound(clip, start, end)
    first, last = round(start * 25), round(end * 25)
    assert len(part) == last - first
    assert all(np.array_equal(a, b) for a, b in zip(part, whole[first:last], strict=True))
    np.testing.assert_allclose(part_sound, sound[640 * first : 640 * last], atol=1e-4)


def test_a_span_past_the_end_gives_what_there_is_and_one_outside_is_refused(clip: Path) -> None:
    assert len(list(media.read_frames(clip, 1.8, 3.0))) == 4
    padded = media.read_sound(clip, 1.8, 3.0)
    assert len(padded) == 16000 * 12 // 10
    assert not padded[-16000:].any()
    with pytest.raises(MediaError, match=r"span from 7\.0 s; the video ends at 1\.96 s") as caught:
        list(media.read_frames(clip, 7.0, 8.0))
    assert caught.value.kind == "span_outside"


@settings(max_examples=15)
@given(st.floats(0, 1.9), st.floats(0.04, 1.9))
def test_any_span_has_the_frames_that_fit_into_it(clip: Path, start: float, length: float) -> None:
    end = min(start + length, 1.96)
    expected = int((Fraction(end).limit_denominator(10**6) - Fraction(start).limit_denominator(10**6)) * 25 + 1e-4)
    if expected >= 1:
        assert len(list(media.read_frames(clip, start, end))) == expected


@pytest.mark.parametrize("fps", [8, 12.5, 15, 24, 29.97, 30, 50, 59.94, 60])
def test_any_rate_becomes_25_without_drift_or_stutter(tmp_path: Path, fps: float) -> None:
    times = [round(1000 * i / fps) for i in range(round(2 * fps))]
    numbers = [number_of(frame) for frame in media.read_frames(write_at(tmp_path / "a.mkv", times))]
    assert abs(len(numbers) - 50) <= 25 / fps  # nobody says how long the last picture lasts
    shown = np.array([times[n] for n in numbers]) / 1000
    wanted = np.arange(len(numbers)) / 25
    assert np.abs(shown - wanted).max() <= max(1 / fps, 0.04) + 0.002
    assert abs(float((shown - wanted).mean())) < 0.7 / fps  # no drift: early and late average out


def test_variable_rate_is_followed_by_its_time_stamps(tmp_path: Path) -> None:
    times = [0, 40, 80, 600, 640, 1000]
    numbers = [number_of(frame) for frame in media.read_frames(write_at(tmp_path / "a.mkv", times))]
    assert numbers[:16] == [0, 1] + [2] * 13 + [3]
    assert numbers[16:26] == [4] * 9 + [5]


def test_pictures_that_begin_late_are_time_zero_for_the_sound_as_well(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w", format="matroska") as container:
        video = container.add_stream("libx264", rate=25, options={"x264-params": "bframes=0"})
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        samples = (clicks(50, [20]) * 32767).astype(np.int16)[None]
        track = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        track.sample_rate, track.pts, track.time_base = 16000, 0, Fraction(1, 16000)
        container.mux(sound.encode(track))
        for index in range(25):
            picture = av.VideoFrame.from_ndarray(coloured(index), format="rgb24")
            picture.pts, picture.time_base = index + 10, Fraction(1, 25)
            container.mux(video.encode(picture))
        container.mux([*video.encode(None), *sound.encode(None)])
    assert number_of(next(iter(media.read_frames(path)))) == 0
    heard = media.read_sound(path, 0.0, 1.0)
    assert abs(int(np.abs(heard).argmax()) - 640 * 10) < 10  # the click lay 10 frames after the first picture


def test_writing_is_deterministic_whatever_memory_held_before(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np; from pathlib import Path; from dualforce_model import media\n"
        "rng = np.random.default_rng(0); big = rng.integers(0, 255, (160, 160, 3), np.uint8)\n"
        "frames = [np.ascontiguousarray(big[i:i + 96, 2 * i:2 * i + 96]) for i in range(33)]\n"
        "media.write_video(Path(sys.argv[1]), frames, rng.normal(0, 0.1, 21120).astype(np.float32))\n"
    )
    digests = set()
    for filler in ("1", "170", "255"):  # glibc fills what it hands out: reading unwritten memory would show
        target = tmp_path / f"{filler}.mp4"
        environment = {**os.environ, "MALLOC_PERTURB_": filler}
        subprocess.run([sys.executable, "-c", script, str(target)], check=True, env=environment, timeout=60)
        digests.add(storage.file_digest(target))
    assert len(digests) == 1


def test_writing_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    media.write_video(target, [coloured(0)], None)
    before = target.read_bytes()
    with pytest.raises(
        ValueError, match=r"expected uint8 RGB frames of shape \(64, 64, 3\), found uint8 \(32, 32, 3\)"
    ):
        media.write_video(target, [coloured(0), coloured(1, 32)], None)
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("frames", "sound", "message"),
    [
        ([], None, "no frame to write"),
        ([np.zeros((63, 64, 3), np.uint8)], None, "even"),
        ([np.zeros((64, 64, 3), np.float32)], None, "expected uint8"),
        ([coloured(0)], np.array([np.nan]), "finite"),
        ([coloured(0)], np.zeros((2, 640)), "finite samples of shape"),
    ],
)
def test_writing_refuses_what_it_cannot_write(
    tmp_path: Path, frames: list[np.ndarray], sound: np.ndarray | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        media.write_video(tmp_path / "a.mp4", frames, sound)
    assert not os.listdir(tmp_path)


def test_colours_survive(tmp_path: Path) -> None:
    patches = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 200], [210, 200, 60]], np.uint8)
    frame = np.repeat(np.repeat(patches.reshape(2, 2, 3), 48, 0), 48, 1)
    media.write_video(tmp_path / "a.mp4", [frame] * 5, None, crf=8)
    back = next(iter(media.read_frames(tmp_path / "a.mp4")))
    centres = back[24::48, 24::48].reshape(4, 3).astype(int)
    assert np.abs(centres - patches).max() <= 4


def test_wav_round_trip_and_no_sound_stream(tmp_path: Path) -> None:
    sound = (0.5 * np.sin(np.arange(16000) / 20)).astype(np.float32)
    media.write_wav(tmp_path / "a.wav", sound)
    np.testing.assert_allclose(media.read_sound(tmp_path / "a.wav"), sound, atol=1e-4)
    np.testing.assert_allclose(media.read_sound(tmp_path / "a.wav", 0.25, 0.5), sound[4000:8000], atol=1e-4)
    media.write_video(tmp_path / "mute.mp4", [coloured(0)] * 5, None)
    assert media.read_sound(tmp_path / "mute.mp4", 0.0, 1.0).shape == (0,)


@pytest.mark.parametrize(("rate", "layout"), [(8000, "mono"), (44100, "stereo"), (48000, "5.1")])
def test_other_rates_and_layouts_become_16_khz_mono(tmp_path: Path, rate: int, layout: str) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout=layout)
        tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
        channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
        samples = (np.repeat(tone[:, None], channels, 1) * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate = rate
        container.mux([*stream.encode(frame), *stream.encode(None)])
    sound = media.read_sound(path)
    assert abs(len(sound) - 16000) <= 1
    spectrum = np.abs(np.fft.rfft(sound))
    assert abs(int(spectrum.argmax()) * 16000 / len(sound) - 440) < 2


def test_the_display_matrix_is_applied(tmp_path: Path) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32] = 255  # white top left corner
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(-90)  # clockwise
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    upright = next(iter(media.read_frames(path)))
    assert upright.shape == (64, 32, 3)
    assert upright[:28, 20:].mean() > 200  # the corner went to the top right
    assert upright[:28, :12].mean() < 50
    assert (media.probe(path).width_px, media.probe(path).height_px) == (32, 64)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], (0, 0)),
        ([[-1, 0, 0], [0, 1, 0], [0, 0, 1]], (0, -1)),
        ([[1, 0, 0], [0, -1, 0], [0, 0, 1]], (-1, 0)),
        ([[-1, 0, 0], [0, -1, 0], [0, 0, 1]], (-1, -1)),
        ([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], (0, -1)),  # a quarter clockwise
        ([[0, -1, 0], [1, 0, 0], [0, 0, 1]], (-1, 0)),  # a quarter the other way
        ([[0, 1, 0], [1, 0, 0], [0, 0, 1]], (0, 0)),  # mirrored along the diagonal
        ([[0, -1, 0], [-1, 0, 0], [0, 0, 1]], (-1, -1)),
    ],
)
def test_all_eight_turns_and_mirrors(matrix: list[list[int]], corner: tuple[int, int]) -> None:
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[0, 0] = 255
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    turned = upright(frame, (3, 2), np.array(matrix) * 65536).to_ndarray()
    assert turned.shape[:2] == ((3, 2) if matrix[0][0] == 0 else (2, 3))
    assert turned[corner].all()
    assert turned.sum() == 3 * 255


def kind_of(path: Path, limits: MediaLimits = MediaLimits()) -> str:  # noqa: B008
    with pytest.raises(MediaError) as caught:
        list(media.read_frames(path, limits=limits))
    assert path.name in str(caught.value)
    return caught.value.kind


def test_a_page_in_place_of_a_video_is_not_media(tmp_path: Path) -> None:
    page = tmp_path / "video.mp4"
    page.write_text("<!doctype html><html><body>Please log in</body></html>")
    assert kind_of(page) == "not_media"
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert kind_of(empty) == "not_media"
    with pytest.raises(MediaError, match="not a video or sound file"):
        media.probe(page)
    with pytest.raises(MediaError, match="not a video or sound file"):
        media.read_sound(page)


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"]
)
def test_a_playlist_cannot_name_other_files(tmp_path: Path, clip: Path, text: str) -> None:
    playlist = tmp_path / "video.mp4"
    playlist.write_text(text.format(clip))
    assert kind_of(playlist) == "not_media"


def test_a_file_without_its_index_is_undecodable(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    with av.open(str(path), "w", format="mp4") as container:  # index at the end, as most cameras write it
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for index in range(50):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(coloured(index), format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[:2000])
    assert kind_of(path) == "undecodable"


def test_a_file_that_ends_early_is_undecodable_where_the_end_is_missing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "cut.mp4"
    media.write_video(path, (rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8) for _ in range(100)), None)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert kind_of(path) == "undecodable"
    assert len(list(media.read_frames(path, 0.0, 1.0))) == 25  # what is there can be used


def test_sound_alone_and_cover_art_are_no_video(tmp_path: Path) -> None:
    media.write_wav(tmp_path / "a.wav", np.zeros(16000, np.float32))
    assert kind_of(tmp_path / "a.wav") == "no_video"


def test_limits_are_checked(clip: Path) -> None:
    assert kind_of(clip, MediaLimits(max_side_px=32)) == "over_limit"
    assert kind_of(clip, MediaLimits(max_duration_s=1.0)) == "over_limit"
    assert kind_of(clip, MediaLimits(max_frames=10)) == "over_limit"


def test_a_missing_file_is_no_property_of_the_clip(tmp_path: Path) -> None:
    for read in (media.probe, media.read_sound, media.read_image):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nowhere.mp4")


def test_errors_cross_process_boundaries() -> None:
    import copy

    error = copy.copy(MediaError("no_video", "a.mp4: nothing to see"))
    assert (error.kind, str(error)) == ("no_video", "a.mp4: nothing to see")


@settings(max_examples=25)
@given(st.data())
def test_damaged_files_give_frames_or_a_media_error(
    clip: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(clip.read_bytes())
    for _ in range(data.draw(st.integers(1, 30))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.mp4"
    path.write_bytes(content)
    limits = MediaLimits(max_side_px=512, max_duration_s=60, max_frames=200)
    try:
        for frame in media.read_frames(path, limits=limits):
            assert frame.dtype == np.uint8
        assert np.isfinite(media.read_sound(path)).all()
    except MediaError:
        pass


def test_images_round_trip_and_are_turned_by_exif(tmp_path: Path) -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:10, :20, 0] = 255
    media.write_image(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(media.read_image(tmp_path / "a.png"), picture)
    media.write_image(tmp_path / "a.jpg", picture)
    assert np.abs(media.read_image(tmp_path / "a.jpg").astype(int) - picture).mean() < 6
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    Image.fromarray(picture).save(tmp_path / "b.png", exif=exif)
    assert media.read_image(tmp_path / "b.png").shape == (40, 20, 3)
    with pytest.raises(ValueError, match="pictures are written as"):
        media.write_image(tmp_path / "a.tiff", picture)


def test_images_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("<html>")
    with pytest.raises(MediaError) as caught:
        media.read_image(tmp_path / "a.png")
    assert caught.value.kind == "not_media"
    media.write_image(tmp_path / "b.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:3000])
    with pytest.raises(MediaError) as caught:
        media.read_image(tmp_path / "b.png")
    assert caught.value.kind == "undecodable"
    with pytest.raises(MediaError) as caught:
        media.read_image(tmp_path / "b.png", MediaLimits(max_side_px=32))
    assert caught.value.kind == "over_limit"


def test_a_header_that_asks_for_absurd_memory_is_over_the_limit(clip: Path, tmp_path: Path) -> None:
    """One damaged byte makes FFmpeg refuse an allocation: a fact about the file, not about the machine."""
    content = bytearray(clip.read_bytes())
    content[content.index(b"stsd") + 12] = 0x7F  # the highest byte of the length of the codec's own data
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match="more memory than it may take") as error:
        list(media.read_frames(path))
    assert error.value.kind == "over_limit"
