"""Videos that do not announce how long they are: measured when they come in, and cut like any other."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dualforce_model import media, storage
from dualforce_model.media import MediaLimits
from tasks.curating import CurateWork
from tasks.curation import CurateConfig, Curated, CurateJob, Curator
from tasks.fetch import FetchConfig, Fetched, Fetcher, FetchJob
from tasks.ledger import Ledger
from tasks.ledger_tables import Row
from tasks.place import Place
from tasks.records import Clip, Impossible, Reason, Span, Stage, Temporary

CONFIG = CurateConfig(mode="general", crop_px=32)
NUM_FRAMES = 600
Jobs = Callable[..., list[CurateJob]]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 s as a live recording is written: no duration, no index; each picture as grey as its second."""
    path = tmp_path_factory.mktemp("live") / "live.mkv"
    with av.open(str(path), "w", format="matroska", options={"live": "1"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "50"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(NUM_FRAMES):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 + 8 * (index // 25), np.uint8), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    assert media.probe(path).duration_s == 0
    return path


@pytest.fixture
def jobs(tmp_path: Path, live: Path) -> Jobs:
    """Jobs of the curate stage for a listed span of a video whose row says how long it is."""

    def make(span: Span, duration_s: float, path: Path = live, is_gone: bool = False) -> list[CurateJob]:
        place = Place(dataset="d", home=str(tmp_path))
        value = {**fetched(path, tmp_path).model_dump(), "duration_s": duration_s}
        with Ledger(place.ledger_url) as ledger:
            ledger.add_clips("d", [Clip(clip_id="c", source="folder", video_id="v", location=path.as_uri(), span=span)])
            with ledger.lease("d", Stage.ACQUIRE, "r") as lease:
                ledger.record(lease, [Row(clip_id="c", stage=Stage.ACQUIRE, state="done", key="k", value=value)])
            if is_gone:
                path.unlink()
            work = CurateWork(CONFIG, place, ledger)
            return [CurateJob.model_validate(job.payload) for job in work.jobs(work.targets())]

    return make


def fetched(path: Path, media_root: Path, config: FetchConfig | None = None) -> Fetched:
    job = FetchJob(job_id="v", location=path.as_uri(), source="folder")
    return Fetched.model_validate(Fetcher(config or FetchConfig(), media_root)(job))


def curate(media_root: Path, job: CurateJob) -> Curated:
    return Curated.model_validate(Curator(CONFIG, media_root)(job))


def first_second(media_root: Path, curated: Curated) -> int:
    return round((float(next(iter(media.read_frames(media_root / curated.path))).mean()) - 20) / 8)


def test_acquire_measures_it(tmp_path: Path, live: Path) -> None:
    assert fetched(live, tmp_path).duration_s == pytest.approx(24.0)
    with pytest.raises(Impossible, match="the limit is 20 s") as caught:
        fetched(live, tmp_path, FetchConfig(limits=MediaLimits(max_duration_s=20)))
    assert caught.value.reason is Reason.UNDECODABLE


def test_a_download_of_an_earlier_run_is_measured_without_coming_down_again(tmp_path: Path, live: Path) -> None:
    (tmp_path / "raw/urls").mkdir(parents=True)
    video, note = tmp_path / "raw/urls/v.mkv", tmp_path / "raw/urls/v.json"
    video.write_bytes(live.read_bytes())
    known = fetched(live, tmp_path).model_dump()
    storage.write_json(note, {**known, "path": "raw/urls/v.mkv", "duration_s": 0.0})
    job = FetchJob(job_id="v", location="http://127.0.0.1:9/gone.mkv", source="urls")
    value = Fetcher(FetchConfig(retries=0), tmp_path)(job)
    assert (value["duration_s"], value["path"]) == (pytest.approx(24.0), "raw/urls/v.mkv")
    assert json.loads(note.read_bytes())["duration_s"] == pytest.approx(24.0)


@pytest.mark.parametrize("row_says", [24.0, 0.0], ids=["measured", "row of old"])
@pytest.mark.parametrize("end_s", [None, 23.0, 90.0])
def test_the_whole_span_becomes_clips(tmp_path: Path, jobs: Jobs, row_says: float, end_s: float | None) -> None:
    made = jobs(Span(start_s=0, end_s=end_s), row_says)
    last_s = min(end_s or 24.0, 24.0)
    assert [job.span for job in made] == [Span(start_s=a, end_s=b) for a, b in ((0, 10), (10, 20), (20, last_s))]
    done = [curate(tmp_path, job) for job in made]
    assert [first_second(tmp_path, clip) for clip in done] == [0, 10, 20]
    assert [clip.num_frames + clip.dropped_frames for clip in done] == [250, 250, round((last_s - 20) * 25)]


def test_a_short_listed_span_of_it_stays_one_clip(tmp_path: Path, jobs: Jobs) -> None:
    (job,) = jobs(Span(start_s=15, end_s=19), 0.0)
    clip = curate(tmp_path, job)
    assert (clip.num_frames + clip.dropped_frames, first_second(tmp_path, clip)) == (100, 15)


@pytest.mark.parametrize("end_s", [None, 39.0, 90.0])
def test_a_span_outside_it_is_refused_for_that(tmp_path: Path, jobs: Jobs, end_s: float | None) -> None:
    (job,) = jobs(Span(start_s=30, end_s=end_s), 24.0)
    with pytest.raises(Impossible, match="the video ends at 24") as caught:
        curate(tmp_path, job)
    assert caught.value.reason is Reason.SPAN_OUTSIDE


@pytest.mark.parametrize("end_s", [None, 23.0])
def test_a_worker_takes_no_more_than_a_clip_may_have(tmp_path: Path, jobs: Jobs, end_s: float | None) -> None:
    job = jobs(Span(start_s=0, end_s=5), 24.0)[0].model_copy(update={"span": Span(start_s=0, end_s=end_s)})
    clip = curate(tmp_path, job)
    assert clip.num_frames + clip.dropped_frames == 250


def test_a_video_that_cannot_be_measured_is_refused_not_shortened(tmp_path: Path, jobs: Jobs, live: Path) -> None:
    path = tmp_path / "joined.ts"
    for place in ("a.ts", "b.ts"):
        with av.open(str(live)) as source, av.open(str(tmp_path / place), "w", format="mpegts") as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    target.mux(packet)
    path.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(Impossible, match="time stamps jump back") as caught:
        fetched(path, tmp_path)
    assert caught.value.reason is Reason.UNDECODABLE
    job = jobs(Span(), 24.0)[0]
    stale = {"source_path": str(path), "source_digest": storage.file_digest(path), "source_stamp": None}
    with pytest.raises(Impossible, match="time stamps jump back"):
        curate(tmp_path, job.model_copy(update={**stale, "span": Span()}))


def test_a_video_that_is_gone_stops_no_planning(
    tmp_path: Path, jobs: Jobs, live: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gone.mkv"
    path.write_bytes(live.read_bytes())
    assert len(jobs(Span(), 0.0, path)) == 3
    (job,) = jobs(Span(), 0.0, path, is_gone=True)
    assert "how long it is is not known" in caplog.text
    with pytest.raises(Temporary, match="is gone; run acquire"):
        curate(tmp_path, job)
