"""An extract worker that writes down what it does, and misbehaves for clips that are named; imported by workers."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from dualforce_model.encoders.base import NoFaceError
from dualforce_model.schema import Feature
from tasks.extract import Decoded, ExtractConfig, ExtractJob, ExtractWorker
from tasks.extractors import CropMedia, Extractor


class Watched:
    """An extractor whose calls are written down; the worker says which clips they are for."""

    def __init__(self, inner: Extractor, worker: "ScriptedWorker") -> None:
        self.inner, self.worker, self.needs, self.name = inner, worker, inner.needs, inner.name
        self.gains = False  # called for one clip at a time

    def fingerprint(self) -> str:
        return self.inner.fingerprint()

    def __call__(self, crop: CropMedia) -> Feature:
        clip_id = next(self.worker.turn)
        self.worker.note(f"{self.inner.modality} {clip_id}")
        if self.inner.modality == "structure":
            self.worker.act(clip_id)
        time.sleep(self.worker.slow_s)
        return self.inner(crop)


class ScriptedWorker(ExtractWorker):
    """Clips named `kill...`, `once-kill...`, `hang...`, `memory...`, `bug...` and `faceless...` do so in structure."""

    def __init__(
        self, config: ExtractConfig, media_root: Path, parts_root: Path, log: Path, slow_s: float = 0.0
    ) -> None:
        super().__init__(config, media_root, parts_root)
        self.log, self.slow_s = log, slow_s
        self.turn = iter(list[str]())
        self.extractors = {name: Watched(each, self) for name, each in self.extractors.items()}  # type: ignore[misc]

    def load(self) -> None:
        self.note(f"loaded {os.getpid()}")

    def note(self, line: str) -> None:
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(line + "\n")

    def _make(self, clips: Sequence[Decoded]) -> None:
        assert len(clips) <= 1, "these tests encode one by one"
        self.turn = iter([clip.job.job_id for clip in clips] * len(self.extractors))
        super()._make(clips)

    def _decode(self, job: ExtractJob, needs: frozenset[str]) -> CropMedia:
        for need in sorted(needs):
            self.note(f"{need} {job.job_id}")
        return super()._decode(job, needs)

    def act(self, clip_id: str) -> None:
        what = clip_id.rstrip("0123456789")
        once = self.log.parent / f"{clip_id}.once"
        if what == "once-kill" and not once.exists():
            once.touch()
            what = "kill"
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "hang":
            time.sleep(3600)
        elif what == "memory":
            raise MemoryError("no more")
        elif what == "bug":
            raise ZeroDivisionError("of all things")
        elif what == "faceless":
            raise NoFaceError("a face in 0 of 13 frames")
