"""A small snapshot with all kinds of arrays, sealed two clips at a time as after many short runs."""

import numpy as np

from dualforce_model.schema import Feature, FeatureRef, Snapshot
from dualforce_model.shards import pack_shard
from dualforce_model.storage import Storage
from tasks.policy import DropRules, Policy
from tasks.records import Clip, Span
from tasks.snapshot import SnapshotCandidate, SplitConfig, build_snapshot

FRAMES = 33
POLICY = Policy(name="all", drop=DropRules())
MODALITIES = ("audio", "structure", "video")


def small_features(seed: int, frames: int = FRAMES) -> dict[str, Feature]:
    """Random arrays of one clip."""
    rng, steps = np.random.default_rng(seed), (frames - 1) // 4 + 1
    return {
        "video": {
            "latents": rng.standard_normal((steps, 4, 2, 2)).astype(np.float16),
            "references": rng.standard_normal((5, 4, 2, 2)).astype(np.float16),
            "reference_frames": np.arange(5, dtype=np.int32),
        },
        "structure": {"motion": rng.standard_normal((frames, 3)).astype(np.float32)},
        "audio": {"tokens": rng.standard_normal((2 * frames, 6)).astype(np.float16)},
    }


def small_refs(store: Storage, names: list[str], per_shard: int = 2) -> dict[str, dict[str, FeatureRef]]:
    """Shards of the clips' features; a clip's seed is the number in its name."""
    refs: dict[str, dict[str, FeatureRef]] = {name: {} for name in names}
    for first in range(0, len(names), per_shard):
        for modality in MODALITIES:
            part = {name: small_features(int(name[1:]))[modality] for name in names[first : first + per_shard]}
            for name, ref in pack_shard(store, modality, "fp", part, {name: f"k-{name}" for name in part}).items():
                refs[name][modality] = ref
    return refs


def small_candidates(store: Storage, count: int = 8, per_shard: int = 2) -> list[SnapshotCandidate]:
    """Clips c0, c1, ..., each of a video of its own, of two licences."""
    names = [f"c{index}" for index in range(count)]
    refs = small_refs(store, names, per_shard)
    return [
        SnapshotCandidate(
            clip=Clip(
                clip_id=name,
                source="s",
                video_id=name,
                location="x",
                span=Span(start_s=0.0, end_s=2.0),
                licence="CC BY 4.0" if index % 2 else "non-commercial research",
            ),
            media_digest="d",
            num_frames=FRAMES,
            features=refs[name],
        )
        for index, name in enumerate(names)
    ]


def small_snapshot(store: Storage, count: int = 8, per_shard: int = 2, validation: float = 0.0) -> Snapshot:
    """Built and tagged `latest`."""
    split = SplitConfig(validation=validation)
    candidates = small_candidates(store, count, per_shard)
    return build_snapshot(store, candidates, POLICY, "set", tag="latest", split=split).snapshot
