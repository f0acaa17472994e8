"""Extractors on several crops at once, as many as memory allows; what one crop cannot bear is that crop's own."""

from collections.abc import Iterator, Sequence
from typing import Any

from dualforce_model.batching import BatchSize, release_memory
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.schema import Feature
from tasks.extractors import CropMedia, Extractor
from tasks.records import FailureClass, Impossible, Reason
from tasks.worker import failure_class, give_up, is_device_lost, is_systemic, last_traceback

Lack = dict[str, Any]  # why a feature was not made: {"reason", "measured"} or {"failure", "traceback"}, plain for JSON


def encode(extractor: Extractor, crops: Sequence[CropMedia], size: BatchSize) -> Iterator[Feature | Lack]:
    """The feature of each crop, in their order, or why it has none. Raises what the next clip would meet as well."""
    done = 0
    while done < len(crops):
        part = crops[done : done + (size.now if extractor.gains else 1)]
        made = _tried(extractor, part)
        if isinstance(made, list):
            size.went_well(len(part))
            yield from (lack_of(each) if isinstance(each, NoFaceError) else each for each in made)
        elif len(part) > 1 and _is_short(made):
            release_memory()
            size.failed(len(part))
            continue
        elif len(part) > 1:  # one of them is at fault, and the others have nothing to do with it
            for crop in part:
                yield from encode(extractor, [crop], size)
        else:
            if _is_short(made):
                release_memory()
            yield made
        done += len(part)


def _is_short(lack: Lack) -> bool:
    return lack.get("failure") == FailureClass.OUT_OF_MEMORY


def is_short(entries: Sequence[Lack]) -> bool:
    """Whether memory ran out over any of a clip's features."""
    return any(_is_short(entry) for entry in entries)


def _tried(extractor: Extractor, crops: Sequence[CropMedia]) -> list[Feature | NoFaceError] | Lack:
    """Features of all crops, or why there are none. The exception is gone afterwards: it would hold on to memory."""
    try:
        if len(crops) == 1:
            return [extractor(crops[0])]
        made = extractor.many(crops)
    except Exception as error:
        if is_device_lost(error):
            give_up(error)
        if is_systemic(error):
            raise
        return lack_of(error)
    if len(made) != len(crops):
        raise ValueError(f"{extractor.name} made {len(made)} features of {len(crops)} crops")
    return made


def lack_of(error: Exception) -> Lack:
    """What an exception says about a feature; the one that is being handled, unless it is NoFaceError."""
    if isinstance(error, NoFaceError):
        return {"reason": Reason.NO_FACE.value, "measured": str(error)}
    if isinstance(error, Impossible):
        return {"reason": error.reason.value, "measured": error.measured}
    return {"failure": failure_class(error).value, "traceback": last_traceback()}
