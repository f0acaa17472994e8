"""Captions become text features in a worker: as many at once as memory holds, each stored as soon as it is made.

    worker = TextWorker(TextConfig(), store_url, fingerprint, "auto")
    worker.load()
    worker(TextJob(caption="a man is talking"))        # {"made": <the text's name>}, or {"refused": why}

Texts go straight into the store, under names that follow from encoder and caption: whatever a worker finished before it
or its driver died is found and not made again.
"""

import os
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from dualforce_model.batching import BatchSize, release_memory
from dualforce_model.captions import MAX_CAPTION_CHARS, clean_caption
from dualforce_model.config import ConfigError, Frozen
from dualforce_model.errors import InfrastructureError, InputError
from dualforce_model.schema import SchemaError
from dualforce_model.storage import Storage
from dualforce_model.text_features import FOLDER, pack_text
from tasks.device import DeviceChoice, device_for
from tasks.extractors.text import TextConfig, TextNames
from tasks.records import FailureClass, Temporary
from tasks.worker import failure_class, give_up, is_device_lost

WHY_CHARS = 300


class TextJob(Frozen):
    """One clean caption."""

    caption: str = Field(min_length=1, max_length=MAX_CAPTION_CHARS)


@dataclass(frozen=True, slots=True)
class Refused:
    """The encoder, or the format of texts, takes no such caption: a fact about it."""

    why: str


Answer = Float[np.ndarray, "n e"] | Refused | Exception


class TextWorker:
    """Worker that encodes captions into a store. `workers` may be at it at once; on a CPU they share its cores."""

    def __init__(self, config: TextConfig, store: str, fingerprint: str, device: DeviceChoice, workers: int) -> None:
        self.encoder: Any = TextNames(config).encoder
        self.store, self.fingerprint, self.device, self.workers = Storage(store), fingerprint, device, workers
        self.size = BatchSize(config.batch_size)

    def load(self) -> None:
        """Read the encoder's weights. Raises ConfigError where they are others than the driver's."""
        if (found := self.encoder.fingerprint()) != self.fingerprint:
            raise ConfigError(
                f"extract.text.encoder: fingerprint {found} here, {self.fingerprint} where the run was started: give "
                "all machines the same weights and release"
            )
        device = device_for(self.device, [self.encoder.weights_digest])
        if device == "cpu":
            # Workers of clips have a thread each, for there are as many as cores; these are few, and nobody is beside.
            torch.set_num_threads(max(len(os.sched_getaffinity(0)) // self.workers, 1))
        self.encoder.load(device)

    def __call__(self, job: TextJob) -> dict[str, Any]:
        """Store one caption's text and say its name, or why it is refused."""
        (result,) = self.batch([job])
        if isinstance(result, Exception):
            raise result
        return result

    def batch(self, jobs: Sequence[TextJob]) -> Iterator[dict[str, Any] | Exception]:
        """What `__call__` says of each job, in their order."""
        answers = self._encoded([job.caption for job in jobs])
        for job, answer in zip(jobs, answers, strict=True):
            yield self._kept(job.caption, answer)

    def _kept(self, caption: str, answer: Answer, *, alone: bool = False) -> dict[str, Any] | Exception:
        """Write a text and say where it is; or what was said in its place.

        What the format does not take is refused if the caption, encoded `alone`, comes out so again.
        """
        if isinstance(answer, Exception):
            return answer
        if isinstance(answer, Refused):
            return {"refused": answer.why}
        try:
            return {"made": pack_text(self.store, self.fingerprint, caption, answer)}
        except SchemaError as error:
            if alone:
                return {"refused": _why(error)}
        except (OSError, InfrastructureError) as error:
            return self._unwritten(error)
        except Exception as error:  # of this caption: those that share its batch are written
            return error
        return self._kept(caption, next(self._encoded([caption])), alone=True)

    def _unwritten(self, error: Exception) -> Temporary:
        """A store that takes no text: the next caption would meet the same."""
        failure = FailureClass.NETWORK if self.store.local_path(FOLDER) is None else FailureClass.DISK
        told = Temporary(failure, str(error), systemic=True)
        told.__cause__ = error
        return told

    def _encoded(self, captions: Sequence[str]) -> Iterator[Answer]:
        """Tokens of each caption, or why it has none, in their order."""
        done = 0
        while done < len(captions):
            part = captions[done : done + self.size.now]
            answers = self._tried(part)
            if answers is None:
                release_memory()
                self.size.failed(len(part))
                continue
            yield from answers
            done += len(part)

    def _tried(self, captions: Sequence[str]) -> list[Answer] | None:
        """An answer for each caption; None where memory does not hold them together."""
        try:
            made = list(self.encoder(captions))
            if len(made) != len(captions):
                raise RuntimeError(f"{self.encoder.name} made {len(made)} texts of {len(captions)} captions")
            self.size.went_well(len(captions))
            return [*made]
        except Exception as error:
            if is_device_lost(error):
                give_up(error)
            if len(captions) == 1:
                return [_answer(error)]
            if failure_class(error) == FailureClass.OUT_OF_MEMORY:
                return None
        # One of them is at fault, and the others have nothing to do with it.
        return [answer for caption in captions for answer in self._tried([caption]) or ()]


def _answer(error: Exception) -> Refused | Exception:
    """What an exception says of the only caption that was given. It no longer holds what its frames held."""
    traceback.clear_frames(error.__traceback__)
    about_caption = isinstance(error, ValueError) and not isinstance(error, InputError)  # that is of setting or weights
    return Refused(_why(error)) if about_caption else error


def _why(error: Exception) -> str:
    """Without what no file holds, half characters, and what a terminal obeys."""
    return f"{type(error).__name__}: {clean_caption(str(error))[:WHY_CHARS]}"
