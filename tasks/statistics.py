"""Mean and deviation of what a snapshot holds, over its training clips, in double precision."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dualforce_model.layout import STD_FLOOR
from dualforce_model.schema import ModalityInfo, SnapshotRow, TensorStatistics, specs_among
from dualforce_model.shards import read_feature
from dualforce_model.storage import Storage

STATISTICS_CLIPS = 2000  # of a larger set a fixed sample: two numbers per entry are not worth reading terabytes


def statistics_of(
    store: Storage, training: Sequence[SnapshotRow], modalities: Mapping[str, ModalityInfo]
) -> dict[str, TensorStatistics]:
    """By "<modality>.<array>", over these clips (a fixed sample of a large set); tables of entries say their floor."""
    by_hash = sorted(training, key=lambda row: hashlib.sha256(row.clip_id.encode()).hexdigest())
    sample = sorted(by_hash[:STATISTICS_CLIPS], key=lambda row: row.clip_id)
    result = {}
    for modality, info in sorted(modalities.items()):
        floor = STD_FLOOR if info.layout is None else info.layout.std_floor
        for spec in specs_among(modality, info.tensors):
            if spec.statistics:
                arrays = (read_feature(store, row.features[modality], spec.name) for row in sample)
                result[f"{modality}.{spec.name}"] = tensor_statistics(arrays, floor)
    return result


def tensor_statistics(arrays: Iterable[np.ndarray], floor: float = STD_FLOOR) -> TensorStatistics:
    """Mean and deviation of each entry of dimension 1 over any number of arrays, one pass, in double precision."""
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for array in arrays:
        x_nd: np.ndarray = np.moveaxis(array.astype(np.float64), 1, -1).reshape(-1, array.shape[1])
        part = x_nd.mean(axis=0)
        delta, total = part - mean, count + len(x_nd)
        squares = squares + ((x_nd - part) ** 2).sum(axis=0) + delta**2 * (count * len(x_nd) / total)
        mean = mean + delta * (len(x_nd) / total)
        count = total
    std = np.sqrt(squares / count)
    return TensorStatistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()), floor=floor)
