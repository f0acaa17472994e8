"""A text encoder for tests, a token per letter, and a worker that misbehaves for captions that say so."""

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from dualforce_model.batching import BatchSize
from dualforce_model.config import Frozen
from dualforce_model.encoders.base import Modality, WeightFree
from dualforce_model.storage import Storage
from dualforce_model.text_features import read_text, text_name
from tasks.captions import Said, TextSummary, encode_captions, text_spec
from tasks.extractors.text import TextConfig, TextNames
from tasks.pool import PoolConfig
from tasks.stages import StageConfig
from tasks.text_worker import TextWorker

LOCAL = PoolConfig(engine="local", workers=1)
ONCE = StageConfig(attempts=1, backoff_s=0.0)


class NoSettings(Frozen):
    """Nothing to choose."""


class Letters(WeightFree):
    """Memory for so many letters at once. It knows no `?`, and makes of `!` what half precision does not hold."""

    name: ClassVar[str] = "letters"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "text"
    config_type: ClassVar[type[Frozen]] = NoSettings

    def __init__(self, room: int = 10**9, error: type[Exception] = MemoryError) -> None:
        self.room, self.error = room, error
        self.loaded: list[str] = []
        self.batches: list[tuple[str, ...]] = []

    @property
    def config(self) -> NoSettings:
        return NoSettings()

    def load(self, device: str = "cpu") -> None:
        self.loaded.append(device)

    def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
        if len(captions) * max(map(len, captions)) > self.room:
            raise self.error("no room")
        if any("?" in caption for caption in captions):
            raise ValueError("a letter that I do not know")
        self.batches.append(tuple(captions))
        return [
            np.array([[ord(letter), 1e9 if "!" in caption else 1.0] for letter in caption], np.float32)
            for caption in captions
        ]


class LettersNames(TextNames):
    """Names of texts that `Letters` makes."""

    def __init__(self, config: TextConfig) -> None:
        self.config, self.encoder = config, Letters()
        self.fingerprint = self.encoder.fingerprint()


class Acting(Letters):
    """Writes down what it encodes. Captions that begin with kill, hang, memory or bug do so until `healed` is there.

    While `deaf` is there it refuses all.
    """

    def __init__(self, log: Path) -> None:
        super().__init__(room=100)
        self.log = log

    def note(self, line: str) -> None:
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(line + "\n")

    def load(self, device: str = "cpu") -> None:
        self.note(f"loaded {os.getpid()}")

    def __call__(self, captions: Sequence[str]) -> list[np.ndarray]:
        if (self.log.parent / "deaf").exists():
            raise ValueError("deaf")
        made = super().__call__(captions)
        for caption in captions:
            if not (self.log.parent / "healed").exists():
                act(caption)
        for caption in captions:
            self.note(caption)
        return made


def act(caption: str) -> None:
    """Do what a caption says."""
    if caption.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif caption.startswith("hang"):
        time.sleep(3600)
    elif caption.startswith("memory"):
        raise MemoryError("no more")
    elif caption.startswith("bug"):
        raise ZeroDivisionError("of all things")


class LettersWorker(TextWorker):
    """The worker of captions with that encoder."""

    def __init__(
        self,
        config: TextConfig,
        store: str,
        fingerprint: str,
        device: Literal["auto", "cpu", "cuda"],
        workers: int,
        log: Path,
    ) -> None:
        self.encoder = Acting(log)
        self.store, self.fingerprint, self.device, self.workers = Storage(store), fingerprint, device, workers
        self.size = BatchSize(config.batch_size)


def names(**settings: object) -> LettersNames:
    """Names under these settings; the prompt is `a person`."""
    return LettersNames(TextConfig.model_validate({"prompt": "a person", "batch_size": 4} | settings))


def encode(
    home: Path,
    captions: Sequence[str],
    *,
    again: Sequence[str] = (),
    pool: PoolConfig = LOCAL,
    stage: StageConfig = ONCE,
    **settings: object,
) -> TextSummary:
    """The captions, a clip each, through real workers into the store of a folder."""
    named, store = names(**settings), Storage(str(home / "store"))
    spec = text_spec(named.config, store, named, "cpu", pool)
    kwargs = {**spec.kwargs, "log": str(home / "log")}
    spec = spec.model_copy(update={"target": "tests.letters:LettersWorker", "kwargs": kwargs})
    return encode_captions(store, named, Said(Counter(captions), frozenset(again)), spec, pool, stage)


def log_of(home: Path) -> Counter[str]:
    """What the workers did since the last look, and how often; `loaded` is counted for all of them."""
    log = home / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return Counter(line.split()[0] if line.startswith("loaded") else line for line in lines)


def said_in(home: Path, caption: str) -> str:
    """The caption, as its text has it."""
    tokens = read_text(Storage(str(home / "store")), text_name(Letters().fingerprint(), caption))
    return "".join(chr(int(code)) for code in tokens[:, 0])
