"""The demo's data set, made here: good clips, one of every way in which a clip can be bad, unseen speech, a list.

    corpus = make_corpus(CorpusConfig(seed=0), Path("runs/demo/corpus"), progress)
    write_list(folder, "http://127.0.0.1:8123")  # again whenever the server's port changes

    media/RadioA.mp4 ...           what a server hands out
    list/RD_video_url.txt ...      the list, in HDTF's format
    unseen/unseen0.wav .png .mp4   speech nobody trained on, a face to say it, how it should look
    plan.json, manifest.json       what is being made (first), and what was made (last)

Every file depends on the configuration and its own name alone, so a run that was killed goes on where it stopped.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import chain
from multiprocessing.synchronize import Event
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field, ValidationError

from dualforce_model import media, storage
from dualforce_model.config import Frozen, digest
from dualforce_model.errors import InfrastructureError, InputError
from tasks.synthetic.portraits import PORTRAITS
from tasks.synthetic.recipes import (
    EXPECTED,
    CorpusConfig,
    Kind,
    Outcome,
    Recipe,
    perform,
    plan_clips,
    plan_unseen,
    seen_speakers,
)
from tasks.synthetic.server import Fault

VERSION = 1  # of everything under tasks/synthetic that decides on pixels and samples
MEDIA, LIST, UNSEEN = "media", "list", "unseen"
PLAN, MANIFEST = "plan.json", "manifest.json"
SUBSET = "RD"
TRUNCATED_SHARE = 0.45  # of the file's bytes that are left
STALE_S = 60.0
PAGE = "<!doctype html><html><head><title>Sign in</title></head><body>This video needs an account.</body></html>\n"
SERVED_FAULTS: dict[Kind, Fault] = {
    Kind.FAIL_TWICE: "fail_twice",
    Kind.ALWAYS_RESET: "always_reset",
    Kind.HTML_PAGE: "html_page",
    Kind.NOT_FOUND: "not_found",
}

Progress = Callable[[int, int, str], None]


class CorpusError(InputError):
    """A folder that holds no corpus, or something else."""


class CorpusItem(Frozen):
    """One listed clip: what it is, and what the pipeline must say of it."""

    name: str = Field(description="as in the list")
    file: str = Field(description="name below media/")
    kind: Kind
    speaker: str
    expected: Outcome = Field(description="passed, a quarantine's reason, or a failure's class")
    seconds: int


class Utterance(Frozen):
    """Speech for generation; paths are relative to the corpus folder."""

    name: str
    speaker: str
    seen: bool = Field(description="the face, not the speech, is in the training clips")
    seconds: int
    sound: str = Field(description="WAV, 16 kHz")
    portrait: str = Field(description="PNG: the speaker with a closed mouth, frame 0 of the truth")
    truth: str = Field(description="MP4: the speaker animated with this very sound")


class Corpus(Frozen):
    """Everything that was made."""

    key: str
    size_px: int
    items: tuple[CorpusItem, ...]
    utterances: tuple[Utterance, ...]

    def faults(self) -> dict[str, Fault]:
        """What the server is to do wrong, by file name."""
        return {item.file: SERVED_FAULTS[item.kind] for item in self.items if item.kind in SERVED_FAULTS}


class _Plan(Frozen):
    """Written first: which corpus a folder is for, and all files that may ever be in it."""

    key: str
    files: tuple[str, ...]


def make_corpus(config: CorpusConfig, folder: Path, progress: Progress, workers: int = 2) -> Corpus:
    """Make what is missing of a corpus, `workers` clips at a time, and return its record.

    progress(done, total, name) is called here, in this process, after every clip. One worker: no child processes.
    """
    corpus = _describe(config)
    recipes = (*plan_clips(config), *plan_unseen(config))
    _prepare(folder, _Plan(key=corpus.key, files=tuple(file for recipe in recipes for file in _files(recipe))))
    missing = [recipe for recipe in recipes if not all((folder / file).is_file() for file in _files(recipe))]
    done = len(recipes) - len(missing)
    progress(done, len(recipes), "")
    with closing(_make_all(missing, folder, min(workers, len(missing)))) as made:
        for name in made:
            done += 1
            progress(done, len(recipes), name)
    storage.write_json(folder / MANIFEST, corpus.model_dump(mode="json"))
    return corpus


def load_corpus(folder: Path) -> Corpus:
    """The record of a finished corpus. Raises CorpusError where there is none."""
    try:
        return Corpus.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CorpusError(f"{folder} holds no finished corpus ({MANIFEST} is missing); make it first") from error
    except ValidationError as error:
        raise CorpusError(f"{folder / MANIFEST} is no record of a corpus; remove it and make it again") from error


def write_list(folder: Path, base_url: str) -> Path:
    """Write the list of a corpus in HDTF's format, with URLs below base_url; return the list's folder."""
    corpus = load_corpus(folder)
    base = base_url.rstrip("/")
    rows = {
        "video_url": [f"{item.name} {base}/{item.file}" for item in corpus.items],
        "annotion_time": [f"{item.name}.mp4 00:00-{_clock_time(item.seconds)}" for item in corpus.items],
        "resolution": [f"{item.name}.mp4 {corpus.size_px}" for item in corpus.items],
    }
    for kind, lines in rows.items():
        storage.write_text(folder / LIST / f"{SUBSET}_{kind}.txt", "\n".join(lines) + "\n")
    return folder / LIST


def _clock_time(seconds: int) -> str:
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def _describe(config: CorpusConfig) -> Corpus:
    seen = set(seen_speakers(config))
    pictures = sorted({portrait.picture.sha256 for portrait in PORTRAITS.values()})
    return Corpus(
        key=digest(VERSION, config, pictures),
        size_px=config.size_px,
        items=tuple(
            CorpusItem(
                name=recipe.name,
                file=f"{recipe.name}.mp4",
                kind=recipe.kind,
                speaker=recipe.speaker,
                expected=EXPECTED[recipe.kind],
                seconds=recipe.seconds,
            )
            for recipe in plan_clips(config)
        ),
        utterances=tuple(_utterance(recipe, recipe.speaker in seen) for recipe in plan_unseen(config)),
    )


def _utterance(recipe: Recipe, seen: bool) -> Utterance:
    sound, portrait, truth = _files(recipe)
    return Utterance(
        name=recipe.name,
        speaker=recipe.speaker,
        seen=seen,
        seconds=recipe.seconds,
        sound=sound,
        portrait=portrait,
        truth=truth,
    )


def _files(recipe: Recipe) -> tuple[str, ...]:
    """Files of a recipe, relative to the corpus folder."""
    if recipe.unseen:
        return tuple(f"{UNSEEN}/{recipe.name}{suffix}" for suffix in (".wav", ".png", ".mp4"))
    return () if recipe.kind is Kind.NOT_FOUND else (f"{MEDIA}/{recipe.name}.mp4",)


def _prepare(folder: Path, plan: _Plan) -> None:
    """Take the folder for this plan: files of another corpus go, files of this one stay."""
    path = folder / PLAN
    if path.is_file():
        old = _Plan.model_validate_json(path.read_bytes())
        if old.key != plan.key:
            (folder / MANIFEST).unlink(missing_ok=True)
            for file in old.files:
                (folder / file).unlink(missing_ok=True)
    elif folder.is_dir() and any(folder.iterdir()):
        raise CorpusError(f"{folder} holds something that is no corpus; give an empty or a new folder")
    storage.write_json(path, plan.model_dump(mode="json"))
    storage.sweep_temporaries(folder, STALE_S)


# --------------------------------------------------------------------------------------------------------- making


_stop: Event | None = None  # set in workers; when it rings they leave the clip they are at


class _Stopped(Exception):
    """The clip being made is no longer wanted."""


def _make_all(recipes: list[Recipe], folder: Path, workers: int) -> Generator[str, None, None]:
    """Make clips, yield their names as they are finished."""
    if workers <= 1:
        for recipe in recipes:
            yield _make(recipe, folder)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(stop,)) as pool:
        longest_first = sorted(recipes, key=lambda recipe: -recipe.seconds)
        try:
            yield from _results(pool.submit(_make, recipe, folder) for recipe in longest_first)
        finally:  # an error, Ctrl-C, or a caller that wants no more
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _results(futures: Iterable[Future[str]]) -> Iterator[str]:
    try:
        for future in as_completed(list(futures)):
            yield future.result()
    except BrokenProcessPool as error:
        raise InfrastructureError(
            "a worker that made clips was killed (out of memory?); the same call goes on"
        ) from error


def _start_worker(stop: Event) -> None:
    """In a new worker: one thread, deaf to Ctrl-C (the parent rings `stop`), and gone when the parent is."""
    global _stop
    _stop = stop
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in workers only"
    parent.join()
    os._exit(1)


def _make(recipe: Recipe, folder: Path) -> str:
    """Make the files of one recipe, each atomically."""
    targets = [folder / file for file in _files(recipe)]
    if recipe.unseen:
        _make_utterance(recipe, *targets)
    elif recipe.kind is Kind.HTML_PAGE:
        storage.write_text(targets[0], PAGE)
    elif targets:
        _make_clip(recipe, targets[0])
    return recipe.name


def _make_clip(recipe: Recipe, target: Path) -> None:
    frames, sound = perform(recipe)
    with storage.atomic_path(target) as path:
        media.write_video(path, _until_stopped(frames), sound)
        if recipe.kind is Kind.TRUNCATED:
            os.truncate(path, int(path.stat().st_size * TRUNCATED_SHARE))


def _make_utterance(recipe: Recipe, sound_path: Path, portrait_path: Path, truth_path: Path) -> None:
    frames, sound = perform(recipe)
    first = next(frames)
    media.write_wav(sound_path, sound)
    media.write_image(portrait_path, first)
    media.write_video(truth_path, _until_stopped(chain([first], frames)), sound)


def _until_stopped(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for frame in frames:
        if _stop is not None and _stop.is_set():
            raise _Stopped
        yield frame
