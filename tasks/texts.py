"""What a snapshot's rows say of text features: all of them name one, under one encoder, or none does."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress

from dualforce_model.captions import TEXT_TOKENS
from dualforce_model.errors import InputError
from dualforce_model.schema import ModalityInfo, SchemaError, SnapshotRow
from dualforce_model.storage import MissingKeyError, Storage, StorageError
from dualforce_model.text_features import DamagedTextError, names_of, read_text, text_key


class TextError(InputError):
    """Rows whose text features are missing or do not go together; the message names a clip and the remedy."""


def names_in(rows: Iterable[SnapshotRow]) -> set[str]:
    """Names of all texts of the rows."""
    return {row.text for row in rows if row.text is not None}


def keys_in(rows: Iterable[SnapshotRow]) -> set[str]:
    """Store keys of all texts of the rows."""
    return {text_key(name) for name in names_in(rows)}


def missing_texts(store: Storage, rows: Iterable[SnapshotRow]) -> set[str]:
    """Names of the rows' texts that the store has not; nothing is read but its list."""
    names = names_in(rows)
    there = {name for fingerprint in {_encoder_of(name) for name in names} for name in names_of(store, fingerprint)}
    return names - there


def shared_text(store: Storage, rows: Sequence[SnapshotRow]) -> ModalityInfo | None:
    """What the texts of all rows share; none where no row has one. Raises TextError."""
    names = names_in(rows)
    if not names:
        return None
    without = next((row.clip_id for row in rows if row.text is None), None)
    encoders = {_encoder_of(name) for name in names}
    if without is not None or len(encoders) > 1:
        found = f"{without} names no text, others do" if without else f"texts of {len(encoders)} encoders"
        raise TextError(f"{found}; build the snapshot of clips with one configuration of extract.text")
    if missing := missing_texts(store, rows):
        clip_id = next(row.clip_id for row in rows if row.text in missing)
        raise TextError(
            f"{clip_id}: its caption has no text features, and {len(missing) - 1} other captions have none; run "
            "extract with this policy"
        )
    (fingerprint,) = encoders
    width = read_text(store, min(names)).shape[1]
    return ModalityInfo(fingerprint=fingerprint, tensors={"tokens": (TEXT_TOKENS, width)}, encoder=fingerprint)


def text_problems(store: Storage, rows: Iterable[SnapshotRow]) -> Iterator[str]:
    """Read every byte of the rows' texts; one line per problem."""
    for name in sorted(names_in(rows)):
        try:
            read_text(store, name)
        except (StorageError, SchemaError) as error:
            yield str(error)


def remove_damaged(store: Storage, names: Collection[str], look: Callable[[str, str], None] | None = None) -> set[str]:
    """Read every byte of these texts, as far as they are there, and remove those that are damaged; their names.

    `look` is told each name, and what was found: sound, lost (damaged) or missing.
    """
    lost = set[str]()
    for name in sorted(names):
        found = "sound"
        try:
            read_text(store, name)
        except MissingKeyError:
            found = "missing"
        except DamagedTextError:
            found = "lost"
            lost.add(name)
            with suppress(MissingKeyError):  # somebody was faster
                store.delete(text_key(name))
        if look is not None:
            look(name, found)
    return lost


def _encoder_of(name: str) -> str:
    return name.partition("/")[0]
