"""The same clip twice: what each clip looks and sounds like over time in few digits, and which of many are alike.

    text = likeness(glances, sound)          # once per clip, by curate; stored with the crop
    found = Likenesses(); found.add("a", text) ...
    duplicates(found.pairs(), order)         # {"b": Twin("a", 0.97)}

Two clips are the same if their pictures are alike on average, change alike over time and, where both have sound, sound
alike. Change tells clips apart that one camera took one after the other: their average is the same. Everything is
relative to the clip's own size, length, brightness and contrast, so that another encoding, size or frame rate and
slightly cut edges change little. Legend: T frames at 25 per second, n clips.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8, UInt64

from dualforce_model.metrics.lips import speech_envelope

STRETCHES, APART = 24, 2  # parts of the time, each averaged; changes are from one to the next but one
LOUDNESSES = 32  # parts of the time whose loudness counts
LOOKS, MOVES = 4, 3  # lowest frequencies per side of the average picture, and of its change
NUM_LOOKS, NUM_MOVES = LOOKS**2 - 1, (STRETCHES - APART) * (MOVES**2 - 1)
NUM_DIGITS = NUM_LOOKS + NUM_MOVES + LOUDNESSES
LOOK_PART, MOVES_PART = slice(0, NUM_LOOKS), slice(NUM_LOOKS, NUM_LOOKS + NUM_MOVES)
SOUND_PART = slice(NUM_LOOKS + NUM_MOVES, NUM_DIGITS)
WEIGHTS = {LOOK_PART.start: 7, MOVES_PART.start: 2, SOUND_PART.start: 5}  # by which parts count alike in a search
STEP, LARGEST, ZERO = 0.5, 7, 8  # of a digit, in root mean squares; digits are 1 to 15, and 0 is for what is not there
# Below these the encoder's noise is all there is: amplitudes of a 48 x 48 picture's cosines, and of sound.
FLAT, STILL, SILENT = 8.0, 2.0, 1e-4
QUIET = 0.03  # of the loudest: what is quieter is silence

# Least correlations that count as the same. Measured on copies of real clips, of low quality, at a quarter of the
# pixels, cut by 3 % at each side, brighter, at 30 frames per second: look 0.94 and more, sound 0.93, moves 0.8 and, of
# a head that hardly moves, 0.6. Pieces of one clip, of 2 s and more, reach 1.0, 0.87 and 0.74. Sound that is the same
# is proof enough that little movement need not be.
SAME_LOOK, SAME_SOUND, SAME_MOVES, MOVES_WITH_SOUND = 0.9, 0.9, 0.8, 0.5

# So few clips are compared each with each, in blocks of rows. More are compared in full only where signs of random sums
# agree: in all KEY_BITS of one of the tables, but for the sums nearest to 0, of which FLIPS may differ. Of pairs that
# correlate 0.95 in all practically none is missed, of 0.9 one in eighty, of 0.85 one in thirteen.
FEW, BLOCK = 4096, 256
TABLES, KEY_BITS, FLIPS = 12, 20, 4
KEYS_PER_WORD = 3
WORDS = TABLES // KEYS_PER_WORD
FARTHEST = 75  # signs that differ, of TABLES * KEY_BITS; pairs that correlate 0.8 differ in 49 (6), others in 120 (8)
SEED = 25
PART = 1 << 21  # pairs whose signs are looked at together
COMPARED = 1 << 15  # clips or pairs whose digits are

# How alike pairs are in a part, whether both have it, and whether any has.
Correlated = tuple[Float64[np.ndarray, "*pairs"], Bool[np.ndarray, "*pairs"], Bool[np.ndarray, "*pairs"]]
Correlate = Callable[[np.ndarray, np.ndarray, slice], Correlated]
Met = tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"], Float32[np.ndarray, " p"]]


@dataclass(frozen=True, slots=True)
class Twin:
    """The earlier clip that a clip is the same as, and the least of the correlations that say so."""

    of: str
    alike: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Two groups of clips that are alike; clips in one group have equal digits."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    alike: float


def likeness(glances: Sequence[UInt8[np.ndarray, "g g 3"]], sound: np.ndarray, num_frames: int) -> str:
    """NUM_DIGITS hex digits: average picture, its changes, loudness. `sound` is that of the first `num_frames`."""
    luma = np.stack(glances).astype(np.float64) @ (0.299, 0.587, 0.114)
    waves = _cosines(luma.shape[1], LOOKS)
    look = (waves @ luma.mean(axis=0) @ waves.T).ravel()[1:]
    few = waves[:MOVES]
    over_time = np.einsum("ki,tij,lj->tkl", few, luma, few).reshape(len(luma), -1)[:, 1:]
    averages = _stretched(over_time, STRETCHES)
    heard = np.zeros(LOUDNESSES)
    if len(sound):
        envelope = speech_envelope(sound, num_frames).astype(np.float64)
        if envelope.max() > SILENT:
            heard = _stretched(np.log(envelope + QUIET * envelope.max())[:, None], LOUDNESSES)[:, 0]
            heard -= heard.mean()
    moves = (averages[APART:] - averages[:-APART]).ravel()
    digits = np.concatenate([_digits(look, FLAT), _digits(moves, STILL), _digits(heard, 0.0)])
    return "".join(np.array(list("0123456789abcdef"))[digits])


def _cosines(length: int, count: int) -> Float64[np.ndarray, "count length"]:
    """The lowest frequencies of the cosine transform."""
    rows = np.cos(np.pi * np.outer(np.arange(count), np.arange(length) + 0.5) / length) * np.sqrt(2 / length)
    rows[0] /= np.sqrt(2)
    return rows


def _stretched(values: Float64[np.ndarray, "T c"], count: int) -> Float64[np.ndarray, "s c"]:
    """Means over so many equal parts of the time, however many frames these are."""
    edges = np.arange(count + 1) * (len(values) / count)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    whole = np.arange(len(sums))
    at_edges = np.stack([np.interp(edges, whole, column) for column in sums.T], axis=1)
    return np.diff(at_edges, axis=0) * (count / len(values))


def _digits(values: Float64[np.ndarray, " v"], smallest: float) -> Int64[np.ndarray, " v"]:
    """Values in steps of half their root mean square; all 0, for not there, where that is too small."""
    size = float(np.sqrt(np.mean(np.square(values))))
    if size <= smallest:
        return np.zeros(len(values), np.int64)
    return np.clip(np.rint(values / (STEP * size)), -LARGEST, LARGEST).astype(np.int64) + ZERO


class Likenesses:
    """Likenesses of many clips: 150 bytes a clip."""

    def __init__(self) -> None:
        self.groups: dict[bytes, list[str]] = {}  # equal digits, two a byte -> clips
        self.without: list[str] = []  # clips that curate gave no such digits: an older release did

    def add(self, clip_id: str, text: str) -> None:
        """One more clip."""
        if len(text) != NUM_DIGITS:
            self.without.append(clip_id)
            return
        self.groups.setdefault(bytes.fromhex(text + "0" * (NUM_DIGITS % 2)), []).append(clip_id)

    def pairs(self) -> list[Pair]:
        """All that are alike: groups with themselves, if they are of several clips, and with each other."""
        named = [tuple(clip_ids) for clip_ids in self.groups.values()]
        found = [Pair(clip_ids, clip_ids, 1.0) for clip_ids in named if len(clip_ids) > 1]
        packed = np.frombuffer(b"".join(self.groups), np.uint8).reshape(len(named), (NUM_DIGITS + 1) // 2)
        met: dict[tuple[int, int], float] = {}  # a pair may be found with its sound and without
        for one, other, alike in _every_pair(packed) if len(packed) <= FEW else _searched(packed):
            same = alike > 0
            met |= dict(
                zip(zip(one[same].tolist(), other[same].tolist(), strict=True), alike[same].tolist(), strict=True)
            )
        return found + [Pair(named[one], named[other], alike) for (one, other), alike in met.items()]


def duplicates(pairs: Iterable[Pair], order: Mapping[str, int]) -> dict[str, Twin]:
    """Which of the clips in `order` are the same as an earlier one that is no duplicate itself (ties: by clip id)."""

    def place(clip_id: str) -> tuple[int, str]:
        return order[clip_id], clip_id

    alike: dict[str, list[tuple[str, float]]] = {}
    alone: dict[str, list[str]] = {}  # first clip of a group -> the others, whose digits are the same
    for pair in pairs:
        first, second = (sorted((c for c in group if c in order), key=place) for group in (pair.first, pair.second))
        for group in (first, second):
            if group:
                alone[group[0]] = group[1:]
        if first and second and first[0] != second[0]:
            alike.setdefault(first[0], []).append((second[0], pair.alike))
            alike.setdefault(second[0], []).append((first[0], pair.alike))
    found: dict[str, Twin] = {}
    for clip_id in sorted(alone, key=place):
        earlier = [
            (place(other), share)
            for other, share in alike.get(clip_id, [])
            if other not in found and place(other) < place(clip_id)
        ]
        if earlier:
            (_, other), share = min(earlier)
            found[clip_id] = Twin(other, share)
        kept = found.get(clip_id, Twin(clip_id, 1.0))
        found |= dict.fromkeys(alone[clip_id], kept)
    return found


def _values(packed: UInt8[np.ndarray, "n b"], part: slice) -> Float32[np.ndarray, "n d"]:
    """Digits of a part as numbers from -7 to 7; 0 also where nothing is there."""
    digits = np.stack([packed >> 4, packed & 15], axis=-1).reshape(len(packed), -1)[:, part].astype(np.float32)
    return np.where(digits > 0, digits - ZERO, 0).astype(np.float32)


def _there(packed: UInt8[np.ndarray, "n b"], part: slice) -> Bool[np.ndarray, " n"]:
    """Which have this part: the digits of one that is not there are 0, all of them."""
    byte, low = divmod(part.start, 2)
    return ((packed[:, byte] & 15) if low else (packed[:, byte] >> 4)) > 0


def _searches(packed: UInt8[np.ndarray, "n b"]) -> list[tuple[Int64[np.ndarray, " m"], tuple[slice, ...]]]:
    """Clips that can be alike, and the parts by whose sum those that are are found.

    The sound of one talk is often like another's, and so is the look of its pieces: together they hardly ever are.
    """
    moving, sounding = _there(packed, MOVES_PART), _there(packed, SOUND_PART)
    kinds = (
        (moving & bool((moving & ~sounding).any()), (LOOK_PART, MOVES_PART)),  # of which one at least has no sound
        (moving & sounding, (LOOK_PART, MOVES_PART, SOUND_PART)),
        (~moving & sounding, (LOOK_PART, SOUND_PART)),
        (~moving & ~sounding, (LOOK_PART,)),
    )
    return [(np.flatnonzero(kind), parts) for kind, parts in kinds]


def _every_pair(packed: UInt8[np.ndarray, "n b"]) -> Iterator[Met]:
    """All pairs of rows that are alike, the smaller number first, and how much they are."""
    for begin in range(0, len(packed), BLOCK):
        alike = np.triu(_alikeness(packed[begin : begin + BLOCK], packed[begin:], _crossed), 1)
        first, second = np.nonzero(alike)
        yield first + begin, second + begin, alike[first, second]


def _searched(packed: UInt8[np.ndarray, "n b"]) -> Iterator[Met]:
    """Pairs of rows that may be alike, the smaller number first, and how much they are."""
    for rows, parts in _searches(packed):
        for first, second in _near(packed[rows], parts):
            one, other = rows[first], rows[second]
            yield one, other, _alikeness(packed[one], packed[other], _paired)


def _alikeness(
    first: UInt8[np.ndarray, "p b"], second: UInt8[np.ndarray, "q b"], correlated: Correlate
) -> Float32[np.ndarray, "*pairs"]:
    """The least of the correlations by which pairs are the same; 0 where they are not.

    Where both have sound it decides, beside the looks; else movement does. A picture that stands still says little:
    such clips are the same as others that stand still, if both have sound or neither.
    """
    look, with_looks, any_looks = correlated(first, second, LOOK_PART)
    moves, with_moves, any_moves = correlated(first, second, MOVES_PART)
    sound, with_sounds, any_sounds = correlated(first, second, SOUND_PART)
    look = np.where(with_looks, look, np.where(any_looks, 0.0, 1.0))
    heard = with_sounds & (sound >= SAME_SOUND) & np.where(with_moves, moves >= MOVES_WITH_SOUND, ~any_moves)
    seen = ~with_sounds & ((with_moves & (moves >= SAME_MOVES)) | ~(any_moves | any_sounds))
    least = np.minimum(look, np.where(with_sounds, sound, np.where(with_moves, moves, 1.0)))
    return np.where((look >= SAME_LOOK) & (heard | seen), least, 0.0).astype(np.float32)


def _paired(first: UInt8[np.ndarray, "p b"], second: UInt8[np.ndarray, "p b"], part: slice) -> Correlated:
    """Each row with the one beside it."""
    one, other = _values(first, part), _values(second, part)
    here, there = _there(first, part), _there(second, part)
    return _shares((one * other).sum(axis=1), _squares(one) * _squares(other)), here & there, here | there


def _crossed(first: UInt8[np.ndarray, "p b"], second: UInt8[np.ndarray, "q b"], part: slice) -> Correlated:
    """Each row with every other."""
    one, other = _values(first, part), _values(second, part)
    here, there = _there(first, part)[:, None], _there(second, part)
    return _shares(one @ other.T, np.multiply.outer(_squares(one), _squares(other))), here & there, here | there


def _squares(values: Float32[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
    return np.square(values).sum(axis=1, dtype=np.float64)


def _shares(products: Float32[np.ndarray, "*pairs"], squares: Float64[np.ndarray, "*pairs"]) -> np.ndarray:
    """Correlations in 64 bits, of sums that are whole numbers: the same whichever way they were added."""
    return products.astype(np.float64) / np.sqrt(np.maximum(squares, 1.0))


def _near(packed: UInt8[np.ndarray, "n b"], parts: Sequence[slice]) -> Iterator[tuple[Int64[np.ndarray, " p"], ...]]:
    """Pairs of rows that may be alike, the smaller number first; every pair once, some at a time.

    Which pairs there were before is not kept, for of one look there are as many as clips squared: the keys say it.
    """
    if len(packed) < 2:
        return
    keys, flips, words = _keys(packed, parts)
    reach = flips.sum(axis=2, dtype=np.int32)  # flips are bits, all of them different
    for table in range(TABLES):
        for first, second in _meetings(keys[:, table], flips[:, table]):
            once = (first < second) | ((first > second) & ~_asks(keys, reach, table, second, first))
            first, second = first[once], second[once]
            differing = np.bitwise_count(words[first] ^ words[second]).sum(axis=1, dtype=np.int64)
            close = differing <= FARTHEST
            low, high = np.minimum(first[close], second[close]), np.maximum(first[close], second[close])
            for earlier in range(table):
                new = ~(_asks(keys, reach, earlier, low, high) | _asks(keys, reach, earlier, high, low))
                low, high = low[new], high[new]
            for begin in range(0, len(low), COMPARED):
                yield low[begin : begin + COMPARED], high[begin : begin + COMPARED]


def _asks(
    keys: Int32[np.ndarray, "n t"],
    reach: Int32[np.ndarray, "n t"],
    table: int,
    first: Int64[np.ndarray, " p"],
    second: Int64[np.ndarray, " p"],
) -> Bool[np.ndarray, " p"]:
    """Whether the first of a pair finds the second in a table: where its key differs, its flips are."""
    return ((keys[first, table] ^ keys[second, table]) & ~reach[first, table]) == 0


def _keys(
    packed: UInt8[np.ndarray, "n b"], parts: Sequence[slice]
) -> tuple[Int32[np.ndarray, "n t"], Int32[np.ndarray, "n t f"], UInt64[np.ndarray, "n w"]]:
    """Signs of random sums: a key for each table, its bits whose sums are nearest to 0, and all keys as words."""
    rng = np.random.default_rng(SEED)
    width = sum(part.stop - part.start for part in parts)
    signs = rng.choice(np.array([-1.0, 1.0], np.float32), (TABLES, width, KEY_BITS))
    bits = 1 << np.arange(KEY_BITS, dtype=np.int32)
    keys = np.zeros((len(packed), TABLES), np.int32)
    flips = np.zeros((len(packed), TABLES, FLIPS), np.int32)
    for begin in range(0, len(packed), COMPARED):
        rows = slice(begin, begin + COMPARED)
        values = np.concatenate([_values(packed[rows], part) * WEIGHTS[part.start] for part in parts], axis=1)
        for table in range(TABLES):
            sums = values @ signs[table]  # whole numbers: the same on every machine
            keys[rows, table] = (sums > 0) @ bits
            flips[rows, table] = bits[np.argsort(np.abs(sums), axis=1, kind="stable")[:, :FLIPS]]
    shifts = KEY_BITS * np.arange(KEYS_PER_WORD)
    words = (keys.reshape(len(packed), WORDS, KEYS_PER_WORD).astype(np.int64) << shifts).sum(axis=2).astype(np.uint64)
    return keys, flips, words


def _meetings(
    keys: Int32[np.ndarray, " n"], flips: Int32[np.ndarray, "n f"]
) -> Iterator[tuple[Int64[np.ndarray, " p"], ...]]:
    """Pairs of rows whose keys are equal but for any of the flips of the first; not more than PART or so at a time."""
    order = np.argsort(keys, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=1 << KEY_BITS))]).astype(np.int32)
    for chosen in (subset for count in range(FLIPS + 1) for subset in combinations(range(FLIPS), count)):
        wanted = keys ^ flips[:, list(chosen)].sum(axis=1, dtype=np.int32)
        begins, counts = starts[wanted], starts[wanted + 1] - starts[wanted]
        asking = np.flatnonzero(counts)
        ends = np.cumsum(counts[asking], dtype=np.int64)
        for low, high in _portions(ends):
            rows = asking[low:high]
            first = np.repeat(rows, counts[rows])
            before = np.repeat(ends[low:high] - counts[rows], counts[rows])
            offset = np.arange(len(first)) + (ends[low - 1] if low else 0) - before
            yield first, order[np.repeat(begins[rows], counts[rows]) + offset]


def _portions(ends: Int64[np.ndarray, " m"]) -> Iterator[tuple[int, int]]:
    """Ranges of rows that together have PART pairs, or the one row that alone has more."""
    low = 0
    while low < len(ends):
        done = int(ends[low - 1]) if low else 0
        high = max(int(np.searchsorted(ends, done + PART, side="right")), low + 1)
        yield low, high
        low = high
