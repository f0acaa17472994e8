"""The corpus on disk: complete, equal byte for byte, resumable, listed as HDTF lists; its processes end with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dualforce_model import clock, media, storage
from tasks.records import Reason
from tasks.sources.hdtf import HdtfConfig, HdtfSource
from tasks.synthetic.corpus import Corpus, CorpusError, load_corpus, make_corpus, write_list
from tasks.synthetic.recipes import CorpusConfig, Kind

TINY = CorpusConfig(
    num_speakers=2,
    num_good=2,
    min_s=2,
    max_s=2,
    bad_s=2,
    bad=(Kind.TOO_SHORT, Kind.TRUNCATED, Kind.HTML_PAGE, Kind.NOT_FOUND, Kind.FAIL_TWICE, Kind.SILENT),
    size_px=128,
    num_unseen=1,
    num_unseen_faces=1,
    unseen_min_s=2,
    unseen_max_s=2,
)
BASE = "http://127.0.0.1:8123"
SCRIPT = """
import sys
from pathlib import Path
from tasks.synthetic.corpus import make_corpus
from tasks.synthetic.recipes import CorpusConfig
def say(done, total, name): print("made", done, name, flush=True)
make_corpus(CorpusConfig.model_validate_json(sys.argv[2]), Path(sys.argv[1]), say)
"""


def quiet(done: int, total: int, name: str) -> None:
    assert 0 <= done <= total


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): storage.file_digest(path) for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(TINY, folder, quiet, workers=1)
    return folder


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return load_corpus(folder)


def one(corpus: Corpus, kind: Kind) -> str:
    (item,) = (item for item in corpus.items if item.kind is kind)
    return item.file


def test_everything_listed_is_there_except_what_must_not_be(folder: Path, corpus: Corpus) -> None:
    there = {path.name for path in (folder / "media").iterdir()}
    assert there == {item.file for item in corpus.items if item.kind is not Kind.NOT_FOUND}
    assert len(corpus.items) == 8
    for spoken in corpus.utterances:
        assert all((folder / file).is_file() for file in (spoken.sound, spoken.portrait, spoken.truth))
    assert [spoken.seen for spoken in corpus.utterances] == [True, False]


def test_media_are_what_their_kinds_say(folder: Path, corpus: Corpus) -> None:
    for item in corpus.items:
        if item.kind in (Kind.GOOD, Kind.FAIL_TWICE, Kind.SILENT, Kind.TOO_SHORT):
            path = folder / "media" / item.file
            found = media.probe(path)
            assert (found.width_px, found.height_px, found.video_codec, found.sound_codec) == (128, 128, "h264", "aac")
            assert len(list(media.read_frames(path))) == item.seconds * clock.FPS
            assert bool(media.read_sound(path).any()) is (item.kind is not Kind.SILENT)
    with pytest.raises(media.MediaError) as page:
        media.probe(folder / "media" / one(corpus, Kind.HTML_PAGE))
    assert page.value.kind == Reason.NOT_MEDIA
    with pytest.raises(media.MediaError) as cut:
        list(media.read_frames(folder / "media" / one(corpus, Kind.TRUNCATED)))
    assert cut.value.kind == Reason.UNDECODABLE


def test_an_utterance_is_sound_portrait_and_truth_of_one_length(folder: Path, corpus: Corpus) -> None:
    for spoken in corpus.utterances:
        assert media.read_sound(folder / spoken.sound).shape == (spoken.seconds * clock.SAMPLE_RATE_HZ,)
        frames = list(media.read_frames(folder / spoken.truth))
        assert len(frames) == spoken.seconds * clock.FPS
        portrait = media.read_image(folder / spoken.portrait)
        assert abs(portrait.astype(int) - frames[0]).mean() < 4


def test_the_list_parses_as_hdtf(folder: Path, corpus: Corpus) -> None:
    list_folder = write_list(folder, BASE + "/")
    listing = HdtfSource(HdtfConfig(folder=list_folder, schemes=("http",))).listing()
    assert listing.problems == ()
    found = {clip.location: (clip.span.start_s, clip.span.end_s) for clip in listing.clips}
    assert found == {f"{BASE}/{item.file}": (0, item.seconds) for item in corpus.items}
    assert len({clip.identity for clip in listing.clips}) == len(corpus.items)


def test_another_port_rewrites_the_list_and_keeps_the_ids(folder: Path) -> None:
    def clip_ids(url: str) -> list[str]:
        source = HdtfSource(HdtfConfig(folder=write_list(folder, url), schemes=("http",)))
        return [clip.clip_id for clip in source.listing().clips]

    assert clip_ids(BASE) == clip_ids("http://127.0.0.1:9")


def test_faults_name_what_the_server_does(corpus: Corpus) -> None:
    assert corpus.faults() == {
        one(corpus, Kind.FAIL_TWICE): "fail_twice",
        one(corpus, Kind.HTML_PAGE): "html_page",
        one(corpus, Kind.NOT_FOUND): "not_found",
    }


def test_equal_seeds_give_equal_bytes_and_others_do_not(folder: Path, tmp_path: Path) -> None:
    write_list(folder, BASE)
    make_corpus(TINY, tmp_path / "again", quiet, workers=1)
    write_list(tmp_path / "again", BASE)
    assert digests(tmp_path / "again") == digests(folder)
    make_corpus(TINY.model_copy(update={"seed": 9}), tmp_path / "other", quiet, workers=1)
    same = set(digests(tmp_path / "other").values()) & set(digests(folder).values())
    page = storage.file_digest(folder / "media" / one(load_corpus(folder), Kind.HTML_PAGE))
    assert same <= {page}


def test_finished_files_are_kept_and_missing_ones_made_again(folder: Path, corpus: Corpus) -> None:
    before, stamps = digests(folder), {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    lost = folder / "media" / one(corpus, Kind.SILENT)
    lost.unlink()
    (folder / "manifest.json").unlink()
    calls: list[tuple[int, int, str]] = []
    make_corpus(TINY, folder, lambda *call: calls.append(call), workers=1)
    assert digests(folder) == before
    assert {path for path in stamps if path.stat().st_mtime_ns != stamps[path]} == {lost}
    assert calls == [(9, 10, ""), (10, 10, lost.stem)]


def test_another_configuration_takes_the_folder_over(tmp_path: Path) -> None:
    small = TINY.model_copy(update={"bad": (Kind.HTML_PAGE,), "num_unseen": 0, "num_unseen_faces": 0, "num_good": 1})
    make_corpus(small, tmp_path, quiet, workers=1)
    other = make_corpus(small.model_copy(update={"seed": 3, "bad": ()}), tmp_path, quiet, workers=1)
    assert sorted(path.name for path in (tmp_path / "media").iterdir()) == [item.file for item in other.items]


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CorpusError, match="holds something that is no corpus"):
        make_corpus(TINY, tmp_path, quiet)
    with pytest.raises(CorpusError, match="no finished corpus"):
        load_corpus(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(folder), TINY.model_dump_json()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_second_file(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Children at the moment when two clips are done."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("made 3"):
            break
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_ended_halfway_it_leaves_no_process_and_goes_on(ending: signal.Signals, folder: Path, tmp_path: Path) -> None:
    with start(tmp_path / "c") as process:
        children = wait_for_second_file(process)
        assert len(children) >= 2
        process.send_signal(ending)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == -ending or (ending == signal.SIGINT and "KeyboardInterrupt" in errors)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert not (tmp_path / "c" / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*.mp4") if path.name[0] != "."}
    assert kept
    began = time.monotonic()
    make_corpus(TINY, tmp_path / "c", quiet)
    assert time.monotonic() - began < 60
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    write_list(folder, BASE)
    write_list(tmp_path / "c", BASE)
    storage.sweep_temporaries(tmp_path / "c", 0)
    assert digests(tmp_path / "c") == digests(folder)
