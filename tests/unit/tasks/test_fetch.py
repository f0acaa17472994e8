"""What the fetcher does without a network: local files and what may be asked of it."""

import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from dualforce_model import media, storage
from tasks.fetch import FetchConfig, Fetched, Fetcher, FetchJob, local_path
from tasks.records import Impossible, Reason
from tasks.sources import FolderConfig, make_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    frames: list[np.ndarray] = [np.full((32, 32, 3), 8 * index, np.uint8) for index in range(10)]
    media.write_video(tmp_path / "videos" / "a b%20?#é.mp4", frames, np.zeros(6400, np.float32))
    return tmp_path / "videos"


def test_a_local_video_stays_where_it_is(tmp_path: Path, folder: Path) -> None:
    (clip,) = make_source(FolderConfig(folder=folder)).listing().clips
    job = FetchJob(job_id=clip.video_id, location=clip.location, source=clip.source)
    found = Fetched.model_validate(Fetcher(FetchConfig(), tmp_path / "media")(job))
    path = next(folder.iterdir())
    assert Path(found.path) == path
    assert tmp_path / "media" / found.path == path
    assert found.digest == storage.file_digest(path)
    assert (found.num_bytes, found.mtime_ns, found.has_sound) == (path.stat().st_size, path.stat().st_mtime_ns, True)
    assert not (tmp_path / "media").exists()


def test_local_files_that_are_no_videos(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("text")
    job = FetchJob(job_id="a", location=(tmp_path / "a.mp4").as_uri(), source="folder")
    with pytest.raises(Impossible) as caught:
        Fetcher(FetchConfig(), tmp_path / "media")(job)
    assert caught.value.reason is Reason.NOT_MEDIA


def test_local_paths_are_what_was_listed(tmp_path: Path, folder: Path) -> None:
    path = next(folder.iterdir())
    assert local_path(path.as_uri()) == path
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "secret").write_text("x")
    (tmp_path / os.fsdecode(b"\xff.mp4")).write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for location, reason in (
        ((tmp_path / "link" / path.name).as_uri(), Reason.BAD_LISTING),
        (f"file://{folder}/../secret", Reason.BAD_LISTING),
        ((tmp_path / "pipe").as_uri(), Reason.BAD_LISTING),
        ((tmp_path / "nowhere").as_uri(), Reason.GONE),
        (f"file://host{path}", Reason.BAD_LISTING),
        ("http://h/a.mp4", Reason.BAD_LISTING),
        (f"file://{tmp_path}/%FF.mp4", Reason.BAD_LISTING),
        ("file:///a%00b", Reason.GONE),
        ("file://[", Reason.BAD_LISTING),
        ("", Reason.BAD_LISTING),
    ):
        with pytest.raises(Impossible) as caught:
            local_path(location)
        assert caught.value.reason is reason, location


@pytest.mark.parametrize("job_id", ["../x", "a/b", "", "-rf", "a.b", "x" * 81])
def test_a_job_whose_id_is_no_file_name_is_refused(job_id: str) -> None:
    with pytest.raises(ValidationError):
        FetchJob(job_id=job_id, location="http://h/a", source="urls")


def test_secrets_are_named_not_written() -> None:
    with pytest.raises(ValidationError):
        FetchConfig(cookies_env="/home/me/cookies.txt")
    with pytest.raises(ValidationError):
        FetchConfig(proxy_env="http://user:secret@proxy")
