"""Training windows out of a snapshot: a map from (epoch, index) to one sample, the same on every machine and layout.

A window is step 0, one of the clip's references standing alone, and steps j .. j+n-1 as they follow in the clip: what
the model meets when it generates (the sink, then the rolling window).

Legend: s steps of a window, n steps of the clip, c h w latent, m structure, a audio, r reference features of width e,
k numbers of key points at rest.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32, Float64

from dualforce_model import clock, flame
from dualforce_model.batch import Sample
from dualforce_model.diffusion.noise import keyed_generator
from dualforce_model.errors import InputError
from dualforce_model.manifests import open_manifest
from dualforce_model.schema import SchemaError, SnapshotRow, Split, TensorStatistics, load_snapshot, specs_among
from dualforce_model.shards import Wanted, read_feature, read_rows, tensor_entry
from dualforce_model.storage import Storage
from dualforce_model.text_features import TextFeatures, pad_text


class _Shown(NamedTuple):
    """The picture that stands as step 0: its frame, and its place among the references of each modality."""

    frame: int
    places: Mapping[str, int]


class Drawn(NamedTuple):
    """One window: a clip, its first step, and which of its references stands as step 0."""

    row: SnapshotRow
    start: int
    reference: int


_ReadRows = Mapping[str, np.ndarray]  # by the names of `_wanted`
# Elements that torch converts on the calling thread: a forked process waits for ever for the threads of its parent.
_PIECE = 1 << 14


class SnapshotDataset:
    """Windows of one split of a snapshot; `len` of them are an epoch. Picklable, fork-safe, holds no open file.

    In training a clip is drawn in proportion to its weight, as evenly as an epoch allows (equal weights: each once),
    and the sample's own weight is 1. In the other splits every clip comes once, in order, and carries its weight.
    """

    def __init__(
        self,
        store_url: str,
        snapshot_id: str,
        num_steps: int,
        split: Split = "train",
        seed: int = 0,
        modalities: Sequence[str] | None = None,
        in_memory: bool = False,
    ) -> None:
        """`snapshot_id` may be a tag; `modalities` defaults to all that the snapshot has; `in_memory` reads all now."""
        if num_steps < 2:
            raise InputError(f"a window of {num_steps} steps: expected at least 2, the reference and one more")
        self._store = Storage(store_url)
        self.snapshot = load_snapshot(self._store, snapshot_id)
        offered = (*self.snapshot.modalities, *(() if self.snapshot.text is None else ("text",)))
        self.modalities = tuple(modalities if modalities is not None else offered)
        self._texts = TextFeatures(self._store)
        if "video" not in self.modalities or not {*self.modalities} <= {*offered}:
            raise SchemaError(
                f"snapshot {self.snapshot.id} offers {sorted(offered)}, asked for is "
                f"{sorted(self.modalities)}; ask for what is there, video among it"
            )
        self.num_steps, self.split, self.seed = num_steps, split, seed
        rows = open_manifest(self._store, self.snapshot).of_split(split)
        enough = np.array([clock.num_steps(count) >= num_steps for count in rows.values("num_frames").tolist()], bool)
        self.rows = rows.take(np.flatnonzero(enough))
        self.too_short: tuple[str, ...] = tuple(rows.take(np.flatnonzero(~enough)).values("clip_id"))
        if not self.rows and split == "train":
            raise SchemaError(
                f"snapshot {self.snapshot.id}: none of its {len(rows)} training clips has {num_steps} steps "
                f"({clock.num_frames(num_steps)} frames); take a shorter window or longer clips"
            )
        self._order: tuple[int, np.ndarray] | None = None  # of the epoch read last
        self._kept: dict[tuple[str, str, str], np.ndarray] = {}
        if in_memory:
            self._texts = TextFeatures(self._store, cache_bytes=sys.maxsize)
            self._keep_all()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        """Sample by (epoch, index), as a sampler of a DataLoader may yield it."""
        return self.sample(*place)

    def sample(self, epoch: int, index: int) -> Sample:
        """Window `index` of an epoch: the fields of TalkingHeadBatch without the batch axis, float32, standardised.

        Depends on (seed, epoch, index) alone. Raises IndexError past the epoch's end, DamagedShardError for bad bytes.
        """
        return self.window(*self.drawn(epoch, index))

    def drawn(self, epoch: int, index: int) -> Drawn:
        """Which window `sample` gives; of the clip no more is read than a header."""
        if not 0 <= index < len(self.rows):
            raise IndexError(f"window {index} of an epoch of {len(self.rows)}")
        row = self.rows[self._clip_of(epoch, index)]
        draw = keyed_generator("window", self.seed, epoch, index)
        last_start = clock.num_steps(row.num_frames) - (self.num_steps - 1)
        start = int(torch.randint(1, last_start + 1, (), generator=draw))
        reference = int(torch.randint(0, self._num_references(row), (), generator=draw))
        return Drawn(row, start, reference)

    def stored_window(self, row: SnapshotRow, start: int, reference: int) -> dict[str, np.ndarray]:
        """All that `window` reads, as it is stored: rows by their arrays' names; `<name> 0` is of step 0 alone."""
        wanted = self._wanted(row, start, start + self.num_steps - 1, self._shown(row, reference))
        return dict(zip(wanted, self._read(list(wanted.values())), strict=True))

    def window(self, row: SnapshotRow, start: int, reference: int) -> Sample:
        """Step 0 from the clip's reference `reference`, then `num_steps - 1` steps of the clip from step `start` on."""
        read = self.stored_window(row, start, reference)
        video = self._latents(read)
        sample: dict[str, np.ndarray] = {
            "video": video,
            "structure": self._structure(read),
            "audio": self._audio(read.get("tokens")),
            "reference": video[0].copy(),
            "positions": np.array([0, *range(start, start + self.num_steps - 1)], dtype=np.int64),
            "audio_mask": self._audio_mask(),
            "weights": np.array(1.0 if self.split == "train" else row.weight, dtype=np.float32),
        }
        if "flame" in self.modalities:
            sample["flame"] = clock.fold_structure(flame.motion(self._frames(read, "flame", "parameters")))
        if "reference" in self.modalities:  # on the extractor's own scale
            sample["features"] = np.empty(read["features"].shape[1:], np.float32)
            _widen(read["features"][0], sample["features"])
        if "canonical" in read:
            sample["canonical"] = self._statistics("structure", "canonical").standardise(read["canonical"])[0]
        if "text" in self.modalities:
            assert row.text is not None, "a snapshot with text has it of every clip"
            sample["text"] = pad_text(self._texts.tokens(row.text))  # in half precision: it is long, and made there
        return sample

    # ------------------------------------------------------------------------------------------------ which clip

    def _clip_of(self, epoch: int, index: int) -> int:
        if self.split != "train":
            return index
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(self.rows.values("weight"), self.seed, epoch)
        return int(self._order[1][index])

    def _num_references(self, row: SnapshotRow) -> int:
        """How many pictures of the clip may stand as step 0; said by a header, without reading any."""
        kept = self._kept.get((row.clip_id, "video", "references"))
        if kept is not None:
            return len(kept)
        return tensor_entry(self._store, row.features["video"], "references").shape[0]

    # ------------------------------------------------------------------------------------------------ which rows

    def _shown(self, row: SnapshotRow, reference: int) -> _Shown:
        """Which picture the window shows as step 0."""
        asked = {"video": Wanted(row.features["video"], "reference_frames")}
        if self._has("structure", "reference_frames"):
            asked["structure"] = Wanted(row.features["structure"], "reference_frames")
        if "reference" in self.modalities:
            asked["reference"] = Wanted(row.features["reference"], "frames")
        known = {name: rows.tolist() for name, rows in zip(asked, self._read(list(asked.values())), strict=True)}
        frame = known["video"][reference]
        for modality, frames in known.items():
            if frame not in frames:
                raise SchemaError(
                    f"{row.clip_id}: the reference is frame {frame}, but those of {modality} are the frames {frames}; "
                    "extract both with the same references"
                )
        places = {modality: frames.index(frame) for modality, frames in known.items()}
        return _Shown(frame, {**places, "video": reference})

    def _wanted(self, row: SnapshotRow, start: int, stop: int, shown: _Shown) -> dict[str, Wanted]:
        """All that a window consists of, besides its text; `<name> 0` is of step 0, a picture, alone."""
        frames = clock.frames_of_step(start).start, clock.frames_of_step(stop - 1).stop
        wanted = {
            "references": self._picture(row, "video", "references", shown),
            "latents": Wanted(row.features["video"], "latents", start, stop),
        }
        for modality, name in (("structure", "motion"), ("flame", "parameters")):
            if modality in self.modalities:
                wanted[f"{name} 0"] = self._of_picture(row, modality, name, shown)
                wanted[name] = Wanted(row.features[modality], name, *frames)
        if self._has("structure", "canonical"):
            wanted["canonical"] = self._of_picture(row, "structure", "canonical", shown)
        if "audio" in self.modalities:
            wanted["tokens"] = Wanted(row.features["audio"], "tokens", *map(clock.num_audio_tokens, frames))
        if "reference" in self.modalities:
            wanted["features"] = self._picture(row, "reference", "features", shown)
        return wanted

    def _of_picture(self, row: SnapshotRow, modality: str, name: str, shown: _Shown) -> Wanted:
        """A row of the picture: as measured alone, where the data set has that, else the clip's row of its frame."""
        if modality in shown.places and self._has(modality, f"reference_{name}"):
            return self._picture(row, modality, f"reference_{name}", shown)
        return Wanted(row.features[modality], name, shown.frame, shown.frame + 1)

    def _picture(self, row: SnapshotRow, modality: str, name: str, shown: _Shown) -> Wanted:
        place = shown.places[modality]
        return Wanted(row.features[modality], name, place, place + 1)

    def _has(self, modality: str, name: str) -> bool:
        return modality in self.modalities and name in self.snapshot.modalities[modality].tensors

    # ---------------------------------------------------------------------------------------------- one modality

    def _statistics(self, modality: str, name: str) -> TensorStatistics:
        return self.snapshot.statistics[f"{modality}.{name}"]

    def _latents(self, read: _ReadRows) -> Float32[np.ndarray, "s c h w"]:
        """Standardised: the reference, which is on the scale of latents, then the steps. Made where they stay."""
        latents = np.empty((self.num_steps, *read["latents"].shape[1:]), np.float32)
        _widen(read["references"], latents[:1])
        _widen(read["latents"], latents[1:])
        self._statistics("video", "latents").standardise_in_place(latents)
        return latents

    def _structure(self, read: _ReadRows) -> Float32[np.ndarray, "s 4 m"]:
        """Standardised: the reference's frame, then those of the steps; without structure zeros, m = 1."""
        if "structure" not in self.modalities:
            return np.zeros((self.num_steps, clock.FRAMES_PER_STEP, 1), dtype=np.float32)
        folded: np.ndarray = clock.fold_structure(self._frames(read, "structure", "motion"))
        return folded

    def _frames(self, read: _ReadRows, modality: str, name: str) -> Float32[np.ndarray, "t m"]:
        """Standardised rows per pixel frame: the reference's, then those of the steps."""
        rows = np.concatenate([read[f"{name} 0"], read[name]])
        standardised: np.ndarray = self._statistics(modality, name).standardise(rows)
        return standardised

    def _audio(self, tokens: Float16[np.ndarray, "t a"] | None) -> Float32[np.ndarray, "s 8 a"]:
        """Step 0, a picture, is silent; then the tokens of the steps, on the extractor's own scale."""
        if tokens is None:
            return np.zeros((self.num_steps, clock.SLOTS_PER_STEP, 1), dtype=np.float32)
        heard = np.zeros((self.num_steps, clock.SLOTS_PER_STEP, tokens.shape[1]), dtype=np.float32)
        _widen(tokens, heard[1:])
        return heard

    def _audio_mask(self) -> Bool[np.ndarray, "s 8"]:
        """Nothing is heard at step 0, all slots later."""
        mask = np.full((self.num_steps, clock.SLOTS_PER_STEP), "audio" in self.modalities)
        mask[0] = False
        return mask

    # --------------------------------------------------------------------------------------------------- reading

    def _read(self, wanted: Sequence[Wanted]) -> list[np.ndarray]:
        """These rows, asked of the store together."""
        if not self._kept:
            return read_rows(self._store, wanted)
        return [self._kept[ref.clip_id, ref.modality, name][start:stop] for ref, name, start, stop in wanted]

    def _keep_all(self) -> None:
        for row in self.rows:
            if "text" in self.modalities and row.text is not None:
                self._texts.tokens(row.text)
            for modality in [name for name in self.modalities if name != "text"]:
                for spec in specs_among(modality, self.snapshot.modalities[modality].tensors):
                    array = read_feature(self._store, row.features[modality], spec.name)
                    self._kept[row.clip_id, modality, spec.name] = array


def epoch_order(weights: Sequence[float] | Float64[np.ndarray, " n"], seed: int, epoch: int) -> np.ndarray:
    """Clip of each of the epoch's N draws, int64 [N]: clip i comes N*w_i/sum(w) times, rounded down or up, shuffled.

    Systematic sampling: N equally spaced points with one random offset over the cumulated weights.
    """
    draw = keyed_generator("order", seed, epoch)
    count = len(weights)
    edges = np.cumsum(weights) / np.sum(weights) * count
    points = np.arange(count) + float(torch.rand((), generator=draw, dtype=torch.float64))
    clips = np.minimum(np.searchsorted(edges, points, side="right"), count - 1)
    shuffled: np.ndarray = clips[torch.randperm(count, generator=draw).numpy()]
    return shuffled


def _widen(stored: Float16[np.ndarray, "..."], into: Float32[np.ndarray, "..."]) -> None:
    """Write stored halves as floats, the same numbers. numpy converts one at a time, torch many in an instruction."""
    pairs = (torch.from_numpy(each).view(-1).split(_PIECE) for each in (into, stored))
    for wide, half in zip(*pairs, strict=True):
        wide.copy_(half)
