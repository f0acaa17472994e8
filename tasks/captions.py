"""Text features of a data set: every distinct caption is encoded once, whatever number of clips it is said of.

Whatever was finished is found by its name, so that a run that was killed goes on where it was. A text that a snapshot
names and that is damaged is made again once its file is removed. A caption that the encoder refuses leaves a note of
what is said instead, which a snapshot of its clips then names; the next run tries it again.

    refused/<fingerprint of the encoder>/<digest of the caption>.json
"""

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from pydantic import Field, ValidationError

from dualforce_model.batching import release_memory
from dualforce_model.captions import TEXT_NAME
from dualforce_model.config import Frozen
from dualforce_model.errors import InfrastructureError
from dualforce_model.schema import SchemaError, SnapshotRow
from dualforce_model.storage import Storage
from dualforce_model.text_features import names_of, pack_text, text_name
from tasks.accounting import AcrossClips, verdicts
from tasks.extract import ExtractConfig
from tasks.extractors.text import TextConfig, TextNames
from tasks.ledger import Ledger
from tasks.place import Place
from tasks.policy import load_policy
from tasks.progress import Progress
from tasks.records import FailureClass, Quarantined, Temporary
from tasks.texts import missing_texts
from tasks.worker import failure_class, is_device_lost

REFUSED = "refused"
SHOWN = 3  # messages of a summary


class TextMemoryError(InfrastructureError):
    """A caption that does not fit into memory even alone."""


class TextSummary(Frozen):
    """What encoding captions came to."""

    fingerprint: str
    distinct: int
    made: int
    seconds: float
    refused: int = Field(0, ge=0, description="captions that could not be encoded; the prompt is said instead")
    messages: tuple[str, ...] = Field((), description="why, of the first of them")

    def text(self) -> str:
        """For people."""
        there = self.distinct - self.made - self.refused
        if not self.made and not self.refused:
            return f"text: nothing to do, {there} captions there already"
        refused = f", {self.refused} refused" if self.refused else ""
        head = f"text: {self.made} captions{refused}, {there} there already, {self.seconds:.1f} s"
        return "\n".join([head, *(f"text: refused: {message}" for message in self.messages)])


class Refusal(Frozen):
    """A note of a caption that could not be encoded."""

    instead: str = Field(pattern=TEXT_NAME, description="name of the text that is said instead")
    why: str


def encode_captions(
    store: Storage,
    encoder: Any,
    captions: Iterable[str],
    progress: Callable[[Sequence[str]], None] | None = None,
    *,
    prompt: str | None = None,
    batch_size: int = 32,
    device: str = "cpu",
) -> TextSummary:
    """Store what the encoder makes of those clean captions that the store has not; it is loaded only if there are any.

    `progress` is told the names that were written. Where a caption is refused, `prompt` is said instead, if given.
    Raises TextMemoryError, what store and device raise, and, if all captions are refused, what the first met.
    """
    begun, fingerprint = time.monotonic(), str(encoder.fingerprint())
    named = {text_name(fingerprint, caption): caption for caption in captions}
    missing = named.keys() - names_of(store, fingerprint)
    # Long ones first: a batch is filled up to its longest, and what does not fit into memory shows at once.
    todo = sorted((named[name] for name in missing), key=lambda caption: (-len(caption), caption))
    if todo:
        encoder.load(device)
    whys, first = _encode(store, encoder, fingerprint, todo, batch_size, progress)
    if first is not None and len(whys) == len(named):
        raise first
    for name in (missing - whys.keys()) & _noted(store):
        store.delete(refusal_key(name))
    if whys and prompt is not None:
        encode_captions(store, encoder, [prompt], device=device)  # raises where it is refused: nothing is left to say
        for name, why in whys.items():
            note = Refusal(instead=text_name(fingerprint, prompt), why=why)
            store.write(refusal_key(name), note.model_dump_json().encode())
    return TextSummary(
        fingerprint=fingerprint,
        distinct=len(named),
        made=len(missing) - len(whys),
        seconds=time.monotonic() - begun,
        refused=len(whys),
        messages=tuple(islice(whys.values(), SHOWN)),
    )


def _encode(
    store: Storage,
    encoder: Any,
    fingerprint: str,
    todo: list[str],
    batch_size: int,
    progress: Callable[[Sequence[str]], None] | None,
) -> tuple[dict[str, str], Exception | None]:
    """Store the texts of the captions. By name why some were refused, and what the first of them met."""
    whys: dict[str, str] = {}
    first: Exception | None = None  # and no more: an exception holds on to what its frames held
    while todo:
        answers, batch_size = _answers(encoder, todo[:batch_size])
        done = list[str]()
        for caption, answer in zip(todo[: len(answers)], answers, strict=True):
            said = _stored(store, fingerprint, caption, answer)
            if isinstance(said, str):
                done.append(said)
                continue
            whys[text_name(fingerprint, caption)] = _why(caption, said)
            first = first or said
        del todo[: len(answers)]
        if progress is not None:
            progress(done)
    return whys, first


def refusal_key(name: str) -> str:
    """Store key of the note about a caption that was refused, by the name its text would have."""
    return f"{REFUSED}/{name}.json"


def with_prompts(store: Storage, rows: Sequence[SnapshotRow]) -> tuple[SnapshotRow, ...]:
    """The rows; where a caption was refused, and has no text since, they name what is said instead."""
    missing = missing_texts(store, rows)
    noted = missing & _noted(store) if missing else set()
    instead: dict[str | None, str] = {name: _read_refusal(store, name).instead for name in noted}
    return tuple(row.model_copy(update={"text": instead[row.text]}) if row.text in instead else row for row in rows)


def _noted(store: Storage) -> set[str]:
    """Names of all captions with a note."""
    return {key.removeprefix(f"{REFUSED}/").removesuffix(".json") for key in store.list(REFUSED)}


def _read_refusal(store: Storage, name: str) -> Refusal:
    key = refusal_key(name)
    try:
        return Refusal.model_validate_json(store.read(key))
    except ValidationError as error:
        raise SchemaError(f"{store.url(key)}: damaged: {error}; remove the file and run extract again") from error


def _stored(store: Storage, fingerprint: str, caption: str, answer: np.ndarray | Exception) -> str | Exception:
    """Name of a caption's text, or why it has none."""
    if isinstance(answer, Exception):
        return answer
    try:
        return pack_text(store, fingerprint, caption, answer)
    except SchemaError as error:
        return error


def _why(caption: str, error: Exception) -> str:
    shown = caption if len(caption) <= 60 else f"{caption[:60]}..."
    return f"{shown!r}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _answers(encoder: Any, captions: Sequence[str]) -> tuple[list[np.ndarray | Exception], int]:
    """Tokens of the first of the captions, or why one has none, and the size of the next batch."""
    try:
        tokens, count = _fitting(encoder, captions)
        return [*tokens], count
    except Exception as error:
        if isinstance(error, (InfrastructureError, OSError, Temporary)) or is_device_lost(error):
            raise  # whatever the caption says
        if len(captions) == 1:
            return [error], 1
    # One of them is at fault, and the others have nothing to do with it.
    return [answer for caption in captions for answer in _answers(encoder, [caption])[0]], len(captions)


def _fitting(encoder: Any, captions: Sequence[str]) -> tuple[list[np.ndarray], int]:
    """Tokens of the first of the captions, as many as memory holds at once, and that number for the next batch."""
    count = len(captions)
    while True:
        try:
            return encoder(captions[:count]), count
        except Exception as error:
            if failure_class(error) != FailureClass.OUT_OF_MEMORY:
                raise
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
    try:
        return _encode_texts(place, policy_path, extract, config, across)
    finally:
        release_memory()  # the encoder has gone with the call; its net would stay in the GPU's cache


def _encode_texts(
    place: Place, policy_path: str, extract: ExtractConfig, config: TextConfig, across: AcrossClips | None
) -> TextSummary:
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
            prompt=config.prompt,
            batch_size=config.batch_size,
            device=_device(extract.device),
        )
    return summary


def _device(chosen: str) -> str:
    if chosen != "auto":
        return chosen
    return "cuda" if torch.cuda.is_available() else "cpu"
