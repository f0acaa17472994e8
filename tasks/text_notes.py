"""Notes of captions that have no text: why they were refused, or what they failed of. They lie in the store.

    refused/<fingerprint of the encoder>/<digest of the caption>.json     a fact about the caption; not tried again
    failed/<fingerprint of the encoder>/<digest of the caption>.json      tried again by the next run

Not in the ledger: its rows are of clips of one data set, and many clips, of many data sets, share a caption. In the
store a note lies under its text's name, so that one listing says how all captions stand, without reading anything, and
what is true of a caption is true for whoever encodes into this store. A note beside a text is old: the text counts. One
that cannot be read counts as none.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from typing import TypeVar

from pydantic import ValidationError

from dualforce_model.config import Frozen
from dualforce_model.storage import MissingKeyError, Storage
from dualforce_model.text_features import names_of
from tasks.extract import ExtractConfig
from tasks.extractors.text import TextNames
from tasks.place import Place
from tasks.records import Clip, FailureClass, last_line

log = logging.getLogger(__name__)

REFUSED, FAILED = "refused", "failed"
SHOWN_CHARS = 60  # of a caption in a line of text


class Refusal(Frozen):
    """A caption that the encoder makes nothing of. Its clips are told the prompt."""

    caption: str
    why: str

    def line(self) -> str:
        """For people."""
        return f"{shown(self.caption)}: {self.why}"


class TextFailure(Frozen):
    """A caption that was not encoded for want of something, or for a bug. Its clips are left out meanwhile."""

    caption: str
    failure: FailureClass
    traceback: str

    def line(self) -> str:
        """For people: the end of the traceback says most."""
        return f"{shown(self.caption)}: {self.failure}: {self.brief().traceback}"

    def brief(self) -> "TextFailure":
        """The same with the last line of the traceback alone."""
        return self.model_copy(update={"traceback": last_line(self.traceback, self.failure)})


Note = TypeVar("Note", Refusal, TextFailure)


def shown(caption: str) -> str:
    """A caption in quotes, cut to the width of a line."""
    return repr(caption if len(caption) <= SHOWN_CHARS else f"{caption[:SHOWN_CHARS]}...")


def note_key(kind: str, name: str) -> str:
    """Store key of a note, by the name that the caption's text would have."""
    return f"{kind}/{name}.json"


def noted(store: Storage, kind: str, fingerprint: str) -> set[str]:
    """Names of all captions that have a note of this kind under an encoder."""
    return {key.removeprefix(f"{kind}/").removesuffix(".json") for key in store.list(f"{kind}/{fingerprint}")}


def write_note(store: Storage, name: str, note: Refusal | TextFailure) -> None:
    """Note why a caption has no text, in place of what was noted before."""
    kind, other = (REFUSED, FAILED) if isinstance(note, Refusal) else (FAILED, REFUSED)
    store.write(note_key(kind, name), note.model_dump_json().encode(), points="note")
    _drop(store, note_key(other, name))


def drop_notes(store: Storage, names: Iterable[str]) -> None:
    """Forget why these captions had no text."""
    for name in names:
        for kind in (REFUSED, FAILED):
            _drop(store, note_key(kind, name))


def _drop(store: Storage, key: str) -> None:
    with suppress(MissingKeyError):
        store.delete(key)


def read_refusal(store: Storage, name: str) -> Refusal | None:
    """A note of REFUSED; none where it is gone, for others work on the store, or is damaged, or of an older release."""
    return _read(store, note_key(REFUSED, name), Refusal)


def read_failure(store: Storage, name: str) -> TextFailure | None:
    """A note of FAILED; none as with refusals."""
    return _read(store, note_key(FAILED, name), TextFailure)


def _read(store: Storage, key: str, kind: type[Note]) -> Note | None:
    try:
        return kind.model_validate_json(store.read(key))
    except MissingKeyError:
        return None
    except ValidationError as error:
        log.warning("%s cannot be read and counts as none: %s", store.url(key), error)
        return None


class KnownTexts:
    """What a store knows of captions under a configuration, as it stood when it was first asked."""

    def __init__(self, store: Storage, names: TextNames) -> None:
        self.store, self.names = store, names
        self._read: dict[str, TextFailure | None] = {}  # without tracebacks: all of a large data set's are gigabytes

    @cached_property
    def there(self) -> set[str]:
        """Names of the texts that were made."""
        return names_of(self.store, self.names.fingerprint)

    @cached_property
    def refused(self) -> set[str]:
        """Names of captions that were refused."""
        return self._without_text(REFUSED)

    @cached_property
    def failed(self) -> set[str]:
        """Names of captions that failed."""
        return self._without_text(FAILED)

    def _without_text(self, kind: str) -> set[str]:
        found = noted(self.store, kind, self.names.fingerprint)
        return found - self.there if found else found  # the many texts are listed only where there is a note

    def drop_unreadable(self, names: Iterable[str]) -> None:
        """Forget refusals among these that say nothing, so that their captions are tried again."""
        if not self.refused:
            return
        unreadable = {name for name in self.refused.intersection(names) if read_refusal(self.store, name) is None}
        drop_notes(self.store, unreadable)
        self.refused.difference_update(unreadable)

    def said(self, clip: Clip) -> str:
        """Name of what is said of a clip: the prompt where its caption was refused."""
        name = self.names(clip)
        return self.names.prompt_name if name in self.refused else name

    def failure(self, clip: Clip) -> TextFailure | None:
        """Why what is said of a clip has no text, in brief; none where nothing failed, or it was made since."""
        if not self.failed or (name := self.said(clip)) not in self.failed:
            return None
        if name not in self._read:
            found = read_failure(self.store, name)
            self._read[name] = None if found is None else found.brief()
        return self._read[name]

    def is_due(self, clip: Clip) -> bool:
        """Whether what is said of a clip was neither made nor failed."""
        name = self.said(clip)
        return name not in self.there and name not in self.failed


def known_texts(place: Place, config: ExtractConfig) -> KnownTexts | None:
    """What the place's store knows of captions; none where the run makes no text features."""
    return None if config.text is None else KnownTexts(Storage(place.store_url), TextNames(config.text))
