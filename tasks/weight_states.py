"""What of the published models is on this machine, and whether it is what was published.

What is known of its files is kept beside them (dualforce_model/pretrained/pins.py).
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import Field

from dualforce_model import storage
from dualforce_model.config import Frozen
from dualforce_model.errors import InputError
from dualforce_model.pretrained import (
    PRETRAINED,
    WEIGHTS_FOLDER,
    MissingWeightsError,
    UntrustedWeightsError,
    Weights,
    check_vouched,
)
from dualforce_model.pretrained.pins import BY_PERSON, Pin, Pins, pin_file
from dualforce_model.pretrained.record import visible_files
from dualforce_model.pretrained.trust import is_pickled
from dualforce_model.pretrained.vouchers import has_voucher
from dualforce_model.stamp import Stamp
from tasks.weight_fits import misfits


class State(StrEnum):
    """How a model stands."""

    VERIFIED = "verified"  # its bytes are those that were published or pinned
    UNCHECKED = "present, not checked"  # a digest is known; `check` compares
    UNPINNED = "present, not pinned"  # nobody has published a digest, and it was not pulled
    UNTRUSTED = "not vouched for"  # the same of a file that is opened only where its digest is known
    INCOMPLETE = "incomplete"
    MISSING = "missing"
    DAMAGED = "damaged"


class ModelState(Frozen):
    """One model, as `dualforce weights list` and `check` tell it."""

    name: str
    needed_by: str
    num_bytes: int = Field(description="of all its files, as published; 0: not known")
    licence: str
    restricted: bool = Field(description="pulled only where the licence is accepted in so many words")
    revision: str = Field(description="commit or release; empty: the source names none, so what lies there may change")
    url: str
    state: State
    where: str = Field(description="file or folder; where it is missing: where it is looked for")
    details: tuple[str, ...] = Field((), description="what is wrong, file by file")

    def line(self) -> str:
        """One line of the table."""
        size = _size_text(self.num_bytes)
        return (
            f"{self.name:<23}{self.state:<22}{size:>9}  {self.needed_by}\n{'':<23}{self.licence}\n{'':<23}{self.where}"
        )


class Survey(Frozen):
    """Several models."""

    models: tuple[ModelState, ...]

    def unusable(self, missing_too: bool) -> str:
        """Names of the models that cannot be used, by how they stand; empty where all can."""
        states = (State.DAMAGED, State.UNTRUSTED, State.INCOMPLETE, *((State.MISSING,) if missing_too else ()))
        names = {state: [each.name for each in self.models if each.state is state] for state in states}
        return "; ".join(f"{state}: {', '.join(found)}" for state, found in names.items() if found)

    def text(self) -> str:
        """The table, with what is wrong below each model."""
        head = f"{'name':<23}{'state':<22}{'size':>9}  needed by / licence / where"
        lines = [head]
        for each in self.models:
            lines += [each.line(), *(f"{'':<23}! {detail}" for detail in each.details)]
        return "\n".join(lines)


class PinnedFile(Frozen):
    """A file that a person vouches for."""

    path: str
    sha256: str
    num_bytes: int


class Pinned(Frozen):
    """What was pinned."""

    files: tuple[PinnedFile, ...]

    def text(self) -> str:
        """Each file with its digest."""
        return "\n".join(f"{each.path}: {each.num_bytes} bytes, SHA-256 {each.sha256}, pinned" for each in self.files)


def pinned(paths: Iterable[Path]) -> Pinned:
    """Pin files as they are now: the person who says so vouches for them. Raises InputError for what is no file."""
    pins = [(path, pin_file(path)) for path in paths]
    return Pinned(files=tuple(PinnedFile(path=str(path), sha256=pin.sha256, num_bytes=pin.seen.num_bytes)
                              for path, pin in pins))  # fmt: skip


def chosen(names: Sequence[str]) -> tuple[Weights, ...]:
    """Entries of PRETRAINED; all for no names. Raises InputError for a name that is none."""
    for name in names:
        if name not in PRETRAINED:
            near = difflib.get_close_matches(name, PRETRAINED, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"weights {name!r}: no such model; {hint}there are: {', '.join(PRETRAINED)}")
    return tuple(PRETRAINED[name] for name in dict.fromkeys(names)) or tuple(PRETRAINED.values())


def root_of(folder: Path | None) -> Path:
    """The folder below which models lie."""
    return Path(os.path.expanduser(WEIGHTS_FOLDER if folder is None else folder))


def listed(root: Path) -> Survey:
    """Every model and how it stands, by sizes and times alone: no file is read."""
    return Survey(models=tuple(state_of(weights, root) for weights in PRETRAINED.values()))


def checked(models: Iterable[Weights], root: Path) -> Survey:
    """Models and how they stand after every byte of them was read."""
    return Survey(models=tuple(state_of(weights, root, read=True) for weights in models))


def state_of(weights: Weights, root: Path, read: bool = False) -> ModelState:
    """How one model stands. With `read` its files are digested, and what is right is noted as seen."""
    folder = root / weights.folder
    pins = Pins.read(folder)
    names = files_of(weights, pins)
    present = [name for name in names if (folder / name).is_file()]
    if not present and (own := _pinned_by_other_name(weights, folder, pins)):
        names, present = (own,), [own]
    details: list[str] = []
    if not present:
        state, where = _by_other_names(weights, folder, details)
        if read and state is State.UNPINNED:
            base = where if where.is_dir() else where.parent
            files = visible_files(where) if where.is_dir() else [where]
            state = _fitting(weights, base, [each.relative_to(base).as_posix() for each in files], state, details)
        return _told(weights, state, where, details)
    found = [_state_of_file(weights, folder, name, pins, read, details) for name in present]
    details += [f"{name} is not there" for name in names if name not in present]
    unlisted = bool(weights.hub) and not pins.listing
    if unlisted:
        details.append(f"it is not noted which files the hub has of it; {weights.command} asks, and goes on")
    order = (State.DAMAGED, State.UNPINNED, State.UNCHECKED, State.VERIFIED)
    state = next(each for each in order if each in found)
    if (unlisted or len(present) < len(names)) and state is not State.DAMAGED:
        state = State.INCOMPLETE
    if read and state not in (State.DAMAGED, State.INCOMPLETE):
        state = _fitting(weights, folder, present, state, details)
    return _told(weights, state, folder / present[0] if weights.pattern else folder, details)


def _pinned_by_other_name(weights: Weights, folder: Path, pins: Pins) -> str:
    """Name of the one file that is read in the place of the published one, where it is pinned; empty otherwise."""
    offered = weights.offered(folder, *filter(None, (weights.pattern, *weights.also)))
    return offered[0].name if len(offered) == 1 and offered[0].name in pins.files else ""


def files_of(weights: Weights, pins: Pins) -> tuple[str, ...]:
    """Names of a model's files below its folder; of one that the hub lists, what it listed, else what was pulled."""
    return tuple(each.name for each in weights.files) or (pins.listing or tuple(pins.files) if weights.hub else ())


def expected(weights: Weights, name: str, pins: Pins) -> tuple[str, int]:
    """Digest and size that a file should have: as a person pinned it, else as published, else as pinned by a pull; ""
    and 0 where nobody knows.
    """
    pin = pins.files.get(name)
    if pin is not None and pin.vouched == BY_PERSON and has_voucher(pin.sha256):  # the list may have come along
        return pin.sha256, pin.seen.num_bytes
    for each in weights.files:
        if each.name == name and each.sha256:
            return each.sha256, each.num_bytes
    return (pin.sha256, pin.seen.num_bytes) if pin else ("", 0)


def _state_of_file(weights: Weights, folder: Path, name: str, pins: Pins, read: bool, details: list[str]) -> State:
    path = folder / name
    sha256, num_bytes = expected(weights, name, pins)
    stamp = Stamp.of(path)
    if not sha256:
        return State.UNPINNED
    if num_bytes and stamp.num_bytes != num_bytes:
        details.append(f"{name}: {stamp.num_bytes} bytes, expected {num_bytes}; {weights.command} --again")
        return State.DAMAGED
    pin = pins.files.get(name)
    if not read:
        seen = pin is not None and pin.seen == stamp and pin.sha256 == sha256
        return State.VERIFIED if seen else State.UNCHECKED
    found = storage.file_digest(path)
    if found != sha256:
        details.append(f"{name}: SHA-256 {found}, expected {sha256}; {weights.command} --again")
        return State.DAMAGED
    if pin is None or pin.sha256 != found:
        pin = Pin(sha256=found, source="", vouched="reported", seen=stamp)
    as_it_is = pin.model_copy(update={"seen": stamp})
    if pins.files.get(name) != as_it_is and os.access(folder, os.W_OK):  # not in a folder that others keep
        Pins.read(folder).with_(folder, name, as_it_is)
    return State.VERIFIED


def _fitting(weights: Weights, folder: Path, names: Sequence[str], state: State, details: list[str]) -> State:
    """The state, or damaged where the files are not what the net takes, whoever vouches for their bytes."""
    try:
        check_vouched([folder / name for name in names if is_pickled(folder / name)])
        wrong = misfits(weights, folder, names)
    except UntrustedWeightsError as error:
        details.append(str(error))
        return State.UNTRUSTED
    details += wrong
    return State.DAMAGED if wrong else state


def _by_other_names(weights: Weights, folder: Path, details: list[str]) -> tuple[State, Path]:
    """A model that is there, though not under the names it was published with."""
    try:
        found = weights.find(folder)
    except MissingWeightsError:
        return State.MISSING, folder
    except InputError as error:  # several that fit
        details.append(str(error))
        return State.UNPINNED, folder
    return State.UNPINNED, found


def _told(weights: Weights, state: State, where: Path, details: Sequence[str]) -> ModelState:
    by_hand = [f"by hand: {weights.by_hand} ({weights.url})"] if weights.by_hand and state is State.MISSING else []
    return ModelState(
        name=weights.name,
        needed_by=weights.needed_by,
        num_bytes=sum(each.num_bytes for each in weights.files),
        licence=weights.licence,
        restricted=weights.restricted,
        revision=weights.revision,
        url=weights.url,
        state=state,
        where=str(where),
        details=(*details, *by_hand),
    )


def _size_text(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB" if num_bytes else "?"
