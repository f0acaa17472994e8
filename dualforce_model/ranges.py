"""Parts of objects: what they are, and how those of files are read, by position and straight to where they stay."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8


class ByteRange(NamedTuple):
    """Part of an object."""

    key: str
    start: int
    length: int


def read_files(root: str, ranges: Sequence[ByteRange]) -> list[UInt8[np.ndarray, " n"] | Exception]:
    """These parts of files below a folder, each in memory of its own, or why it cannot be read.

    A file is opened once however many of its parts are asked for. One that ends inside a part gives what is there.
    """
    places: dict[str, list[int]] = {}
    for place, asked in enumerate(ranges):
        places.setdefault(asked.key, []).append(place)
    found = dict[int, np.ndarray | Exception]()
    for key, wanted in places.items():
        spans = [(ranges[place].start, ranges[place].length) for place in wanted]
        try:
            found.update(zip(wanted, _read(f"{root}/{key}", spans), strict=True))
        except OSError as error:
            found.update(dict.fromkeys(wanted, error))
    return [found[place] for place in range(len(ranges))]


def _read(path: str, spans: Sequence[tuple[int, int]]) -> list[UInt8[np.ndarray, " n"]]:
    """Parts (start, length) of a file, without a file position: threads and forks never disturb each other."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if hasattr(os, "posix_fadvise"):  # the next read is of another clip: what the kernel reads ahead is in vain
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        return [_part(descriptor, start, length) for start, length in spans]
    finally:
        os.close(descriptor)


def _part(descriptor: int, start: int, length: int) -> UInt8[np.ndarray, " n"]:
    part: np.ndarray = np.empty(length, np.uint8)
    filled = os.preadv(descriptor, [part.data], start) if length else 0
    while 0 < filled < length and (count := os.preadv(descriptor, [part[filled:].data], start + filled)):
        filled += count
    return part if filled == length else part[:filled]
