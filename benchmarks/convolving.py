"""An extract worker whose encoders cost what real ones cost: convolutions over every frame, as many as asked.

Imported by the workers of `benchmarks.extraction` and `changing`, so it knows nothing of orchestration.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dualforce_model import clock
from dualforce_model.encoders import Modality
from dualforce_model.schema import Feature
from tasks.extract import ExtractConfig, ExtractWorker
from tasks.extractors import CropMedia, Extractor

CHANNELS = 32
SIDE_PX = 64
FRAMES_AT_ONCE = 25


class Convolutions(nn.Module):
    """So many convolutions over each frame, at a small size: arithmetic as encoders do it."""

    def __init__(self, repeats: int) -> None:
        super().__init__()
        self.repeats = repeats
        self.first = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.again = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    @torch.inference_mode()
    def forward(self, crop: CropMedia) -> None:
        """Results are of no use to anybody. Of a sound alone the frames are black."""
        frames = crop.frames
        if not len(frames):
            frames = np.zeros((len(crop.samples) // clock.SAMPLES_PER_FRAME, SIDE_PX, SIDE_PX, 3), np.uint8)
        for start in range(0, len(frames), FRAMES_AT_ONCE):
            pixels = torch.from_numpy(frames[start : start + FRAMES_AT_ONCE]).permute(0, 3, 1, 2).float()
            x = self.first(nn.functional.interpolate(pixels / 255, (SIDE_PX, SIDE_PX)))
            for _ in range(self.repeats):
                x = torch.tanh(self.again(x))


class Costly:
    """An extractor that does so much besides its own work, and says what all of it took."""

    def __init__(self, inner: Extractor, repeats: int, spent: Callable[[float], object]) -> None:
        self._inner, self._spent = inner, spent
        self._extra = Convolutions(repeats) if repeats else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    gains = False  # crops come one by one: each costs the same

    def many(self, crops: Sequence[CropMedia]) -> list[Feature]:
        """The feature of each crop."""
        return [self(crop) for crop in crops]

    def __call__(self, crop: CropMedia) -> Feature:
        """The inner extractor's feature."""
        with thread_seconds() as taken:
            if self._extra is not None:
                self._extra(crop)
            feature = self._inner(crop)
        self._spent(taken[0])
        return feature


class ConvolvingWorker(ExtractWorker):
    """The extract worker with such extractors. Seconds of encoding are added to a file, a line for each call."""

    def __init__(
        self,
        config: ExtractConfig,
        media_root: Path,
        parts_root: Path,
        repeats: dict[Modality, int],
        seconds_path: Path,
    ) -> None:
        super().__init__(config, media_root, parts_root)
        self.seconds_path = seconds_path
        for modality, extractor in self.extractors.items():
            costly = Costly(extractor, repeats.get(modality, 0), self._spent)
            self.extractors[modality] = costly  # type: ignore[assignment]  # by name

    def load(self) -> None:
        """One thread for each worker, as everywhere on the CPU."""
        torch.set_num_threads(1)
        super().load()

    def _spent(self, seconds: float) -> None:
        with open(self.seconds_path, "a", encoding="utf-8") as log:
            log.write(f"{seconds}\n")


@contextmanager
def thread_seconds() -> Iterator[list[float]]:
    """Seconds of the CPU that this thread takes in the block; torch computes in it where it has one thread."""
    taken = [0.0]
    started = time.thread_time()
    try:
        yield taken
    finally:
        taken[0] = time.thread_time() - started
