"""Do two nets see the same head? Structure and FLAME of every clip of a snapshot, held against each other.

Which way LivePortrait's axes point against FLAME's is the same for all clips, but a lone clip cannot tell it from a
head that turns the other way: what most clips are found with counts for all of them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from dualforce_model import storage
from dualforce_model.config import Frozen
from dualforce_model.consistency import Agreement, agreement
from dualforce_model.errors import InputError
from dualforce_model.layout import Layout
from dualforce_model.manifests import read_manifest
from dualforce_model.schema import Snapshot, SnapshotRow, load_snapshot
from dualforce_model.shards import read_feature
from dualforce_model.storage import Storage
from tasks.bar import bar
from tasks.tables import table

NEEDED = ("structure", "flame")
SHOWN = 20
Signs = tuple[int, int, int]


class ClipAgreement(Frozen):
    """One clip; a part that hardly moves has no score."""

    clip_id: str
    score: float | None = Field(description="0 to 1, median over its frames; null: not measurable")
    pose: float | None
    jaw: float | None
    said: str = Field(description="what was not measurable, and why")


class AgreementReport(Frozen):
    """All clips, those that agree least first."""

    snapshot: str
    layout: str = Field(description="of the structure")
    signs: Signs = Field(description="LivePortrait's pitch, yaw and roll against FLAME's; 0: no clip tells")
    median: float | None
    clips: tuple[ClipAgreement, ...]

    def text(self) -> str:
        """For people."""
        measured = sum(clip.score is not None for clip in self.clips)
        median = "" if self.median is None else f", median {self.median:.2f}"
        rows = [(c.clip_id, _shown(c.score), _shown(c.pose), _shown(c.jaw), c.said) for c in self.clips[:SHOWN]]
        left = f"\nand {len(self.clips) - SHOWN} that agree better" if len(self.clips) > SHOWN else ""
        head = f"snapshot {self.snapshot}, {self.layout} against FLAME: {measured} of {len(self.clips)} clips measured"
        return f"{head}{median}\n{table(('clip', 'score', 'pose', 'jaw', 'not measured'), rows)}{left}"


class _Measured(NamedTuple):
    """What a clip's agreement is taken from."""

    rows: np.ndarray
    parameters: np.ndarray


def agreements(store_url: str, name: str, frames: Path | None = None) -> AgreementReport:
    """Agreement of every clip; with `frames`, that of every frame is written there as Parquet.

    Raises InputError for a snapshot without both features, or whose structure is not LivePortrait's.
    """
    store = Storage(store_url)
    snapshot = load_snapshot(store, name)
    layout = _layout(snapshot)
    rows = read_manifest(store, snapshot)
    with bar("agreement", 2 * len(rows), "clip") as shown:

        def measured() -> Iterator[_Measured]:
            for row in rows:
                yield _read(store, row)
                shown.update()

        signs = majority([agreement(layout, *each).signs for each in measured()])
        found = [agreement(layout, *each, signs) for each in measured()]
    if frames is not None:
        storage.write_bytes(frames, _by_frame(rows, found))
    clips = [_clip(row.clip_id, each) for row, each in zip(rows, found, strict=True)]
    scores = [clip.score for clip in clips if clip.score is not None]
    clips.sort(key=lambda clip: (clip.score is None, clip.score or 0.0, clip.clip_id))
    median = float(np.median(scores)) if scores else None
    return AgreementReport(snapshot=snapshot.id, layout=layout.name, signs=signs, median=median, clips=tuple(clips))


def majority(found: Sequence[Signs | None]) -> Signs:
    """For each axis what most clips were found with; 0 where as many say the one as the other."""
    told = np.array([signs for signs in found if signs is not None], np.int64).reshape(-1, 3)
    pitch, yaw, roll = np.sign(told.sum(axis=0)).tolist()
    return pitch, yaw, roll


def _layout(snapshot: Snapshot) -> Layout:
    """The table of the structure's entries."""
    if missing := [name for name in NEEDED if name not in snapshot.modalities]:
        raise InputError(f"snapshot {snapshot.id} has no {' and no '.join(missing)}; extract both, then build again")
    layout = snapshot.modalities["structure"].layout
    if layout is None or snapshot.modalities["flame"].layout is None:
        raise InputError(f"snapshot {snapshot.id} does not say what its entries are; build it again, or extract anew")
    if snapshot.modalities["flame"].layout.name != "flame159":
        raise InputError(
            f"snapshot {snapshot.id}: its flame is {snapshot.modalities['flame'].layout.name}, made of the face's "
            "landmarks; expected that of smirk, deca or emoca"
        )
    return layout


def _read(store: Storage, row: SnapshotRow) -> _Measured:
    motion = read_feature(store, row.features["structure"], "motion")
    return _Measured(motion, read_feature(store, row.features["flame"], "parameters"))


def _clip(clip_id: str, found: Agreement) -> ClipAgreement:
    parts = [None if each.frames is None else float(np.median(each.frames)) for each in (found.pose, found.jaw)]
    return ClipAgreement(clip_id=clip_id, score=found.score, pose=parts[0], jaw=parts[1], said=found.said)


def _by_frame(rows: Sequence[SnapshotRow], found: Sequence[Agreement]) -> bytes:
    """Parquet: a row for every frame of every clip, in order."""
    columns: dict[str, list[pa.Array]] = {"clip_id": [], "frame": [], "pose": [], "jaw": []}
    for row, each in zip(rows, found, strict=True):
        columns["clip_id"].append(pa.array([row.clip_id] * row.num_frames, pa.string()))
        columns["frame"].append(pa.array(np.arange(row.num_frames, dtype=np.int32)))
        for name, part in (("pose", each.pose), ("jaw", each.jaw)):
            values = pa.nulls(row.num_frames, pa.float32()) if part.frames is None else pa.array(part.frames)
            columns[name].append(values)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: pa.chunked_array(parts) for name, parts in columns.items()}), sink)
    return bytes(sink.getvalue())


def _shown(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"
