"""Text features of a data set: every distinct caption is encoded once, whatever number of clips it is said of.

Whatever was finished is found by its name, so that a run that was killed goes on where it was. A text that a snapshot
names and that is damaged is made again once its file is removed.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from dualforce_model.config import Frozen
from dualforce_model.errors import InfrastructureError
from dualforce_model.storage import Storage
from dualforce_model.text_features import names_of, pack_text, text_name
from tasks.accounting import AcrossClips, verdicts
from tasks.extract import ExtractConfig
from tasks.extractors.text import TextConfig, TextNames
from tasks.ledger import Ledger
from tasks.place import Place
from tasks.policy import load_policy
from tasks.progress import Progress
from tasks.records import Quarantined


class TextMemoryError(InfrastructureError):
    """A caption that does not fit into memory even alone."""


class TextSummary(Frozen):
    """What encoding captions came to."""

    fingerprint: str
    distinct: int
    made: int
    seconds: float

    def text(self) -> str:
        """For people."""
        if not self.made:
            return f"text: nothing to do, {self.distinct} captions there already"
        return f"text: {self.made} captions, {self.distinct - self.made} there already, {self.seconds:.1f} s"


def encode_captions(
    store: Storage,
    encoder: Any,
    captions: Iterable[str],
    progress: Callable[[Sequence[str]], None] | None = None,
    *,
    batch_size: int = 32,
    device: str = "cpu",
) -> TextSummary:
    """Store what the encoder makes of those clean captions that the store has not; it is loaded only if there are any.

    `progress` is told the names that were written. Raises TextMemoryError, and what the store and the encoder raise.
    """
    begun, fingerprint = time.monotonic(), str(encoder.fingerprint())
    named = {text_name(fingerprint, caption): caption for caption in captions}
    missing = named.keys() - names_of(store, fingerprint)
    # Long ones first: a batch is filled up to its longest, and what does not fit into memory shows at once.
    todo = sorted((named[name] for name in missing), key=lambda caption: (-len(caption), caption))
    if todo:
        encoder.load(device)
    while todo:
        tokens, batch_size = _fitting(encoder, todo[:batch_size])
        done = [pack_text(store, fingerprint, *pair) for pair in zip(todo[: len(tokens)], tokens, strict=True)]
        del todo[: len(tokens)]
        if progress is not None:
            progress(done)
    return TextSummary(
        fingerprint=fingerprint, distinct=len(named), made=len(missing), seconds=time.monotonic() - begun
    )


def _fitting(encoder: Any, captions: Sequence[str]) -> tuple[list[np.ndarray], int]:
    """Tokens of the first of the captions, as many as memory holds at once, and that number for the next batch."""
    count = len(captions)
    while True:
        try:
            return encoder(captions[:count]), count
        except (MemoryError, torch.OutOfMemoryError) as error:
            if count == 1:
                raise TextMemoryError(
                    f"a caption of {len(captions[0])} characters alone does not fit into memory: {error}; take a "
                    "machine with more, bfloat16, or device: cpu"
                ) from error
        count //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def encode_texts(
    place: Place, policy_path: str, extract: ExtractConfig, config: TextConfig, across: AcrossClips | None = None
) -> TextSummary:
    """Encode the captions of all clips that the policy lets pass.

    Whoever has this policy's `across`, and nothing was curated since, gives it: to find duplicates takes long.
    """
    names, policy = TextNames(config), load_policy(policy_path)
    with Ledger(place.ledger_url, missing="refuse") as ledger:
        judged = verdicts(ledger, place.dataset, policy, across)
        passing = {row.clip_id for row, verdict in judged if not isinstance(verdict, Quarantined)}
        captions = {names.caption(clip) for clip in ledger.clips(place.dataset) if clip.clip_id in passing}
    with Progress("text", len(captions), "caption") as progress:
        summary = encode_captions(
            Storage(place.store_url),
            names.encoder,
            captions,
            lambda made: progress.ended(made, "done"),
            batch_size=config.batch_size,
            device=_device(extract.device),
        )
    return summary


def _device(chosen: str) -> str:
    if chosen != "auto":
        return chosen
    return "cuda" if torch.cuda.is_available() else "cpu"
