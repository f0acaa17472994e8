"""A version of the same clips for the product's own data set; imported only where the product is."""

import hashlib
from collections.abc import Mapping

from benchmarks.peers.clips import SHAPES
from dualforce_model.schema import (
    FeatureRef,
    ModalityInfo,
    Snapshot,
    SnapshotRow,
    TensorStatistics,
    encode_head,
    encode_manifest,
    head_key,
    manifest_key,
)
from dualforce_model.storage import Storage

SNAPSHOT_ID = "0" * 16
NUM_FRAMES = 125
STANDARDISED = ("video/latents", "structure/motion", "audio/tokens", "flame/parameters")


def write_snapshot(store: Storage, size: str, refs: Mapping[str, Mapping[str, FeatureRef]]) -> None:
    """Manifest and head of these clips, all of them for training, all of the same weight."""
    rows = tuple(_row(clip, refs[clip]) for clip in sorted(refs))
    manifest, shapes = encode_manifest(rows), SHAPES[size]
    arrays = {name: tuple(name.split("/")) for name in shapes}
    head = Snapshot(
        id=SNAPSHOT_ID,
        content="",
        dataset="loader",
        policy={},
        modalities={
            modality: ModalityInfo(
                fingerprint="fp",
                tensors={array: shapes[name][0][1:] for name, (of, array) in arrays.items() if of == modality},
            )
            for modality, _ in arrays.values()
        },
        # Mean 0 and deviation 1 take as long as any, and a sample can be compared with what was stored.
        statistics={
            name.replace("/", "."): TensorStatistics(mean=(0.0,) * shapes[name][0][1], std=(1.0,) * shapes[name][0][1])
            for name in STANDARDISED
        },
        num_rows=len(rows),
        num_frames=NUM_FRAMES * len(rows),
        splits={"train": len(rows)},
        quarantined={},
        failed={},
        created_at="",
        manifest_digest=hashlib.sha256(manifest).hexdigest(),
    )
    store.write(manifest_key(SNAPSHOT_ID), manifest)
    store.write(head_key(SNAPSHOT_ID), encode_head(head))


def _row(clip: str, refs: Mapping[str, FeatureRef]) -> SnapshotRow:
    return SnapshotRow(
        clip_id=clip,
        source="loader",
        video_id=clip,
        identity=None,
        licence="none",
        span_start_s=0.0,
        span_end_s=None,
        media_digest=clip,
        num_frames=NUM_FRAMES,
        split="train",
        weight=1.0,
        features=dict(refs),
    )
