"""The stream of training windows: the same whoever reads it, from wherever it is taken up, in however many parts."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.data import SnapshotDataset
from dualforce_model.shards import cached_header
from dualforce_model.storage import Storage
from dualforce_model.trainer import outlive_first_terminate
from tasks.packing import pack_snapshot
from tests.small_store import small_snapshot

pytestmark = pytest.mark.usefixtures("forkable")

NUM_STEPS, EPOCHS, BATCH, SEED = 4, 3, 2, 7
# Steps that the windows of epoch 0 begin at, and the clips they are of: written down once, on numpy 2.4 and torch 2.13.
STARTS = [4, 3, 5, 3, 1, 4, 1, 2]
CLIPS = ["c6", "c4", "c1", "c3", "c0", "c2", "c5", "c7"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SnapshotDataset:
    store = Storage(str(tmp_path_factory.mktemp("stream") / "store"))
    small_snapshot(store)
    return SnapshotDataset(store.url(), "latest", NUM_STEPS, seed=SEED)


def places(dataset: SnapshotDataset) -> list[list[tuple[int, int]]]:
    """Batches of some epochs, as a training asks for them."""
    order = [(epoch, index) for epoch in range(EPOCHS) for index in range(len(dataset))]
    return [order[first : first + BATCH] for first in range(0, len(order), BATCH)]


def stream(
    dataset: SnapshotDataset, batches: Sequence[Sequence[tuple[int, int]]], workers: int = 0, start: str = "fork"
) -> Iterator[str]:
    """A digest per batch, over all its fields."""
    loader = DataLoader(
        dataset,  # type: ignore[arg-type]  # a map from (epoch, index), not from int
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=TalkingHeadBatch.stack,
        num_workers=workers,
        multiprocessing_context=start if workers else None,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=outlive_first_terminate,
    )
    for batch in loader:
        hashed = hashlib.sha256()
        for name, value in sorted(vars(batch).items()):
            if value is not None:
                hashed.update(name.encode() + value.contiguous().numpy().tobytes())
        yield hashed.hexdigest()


def test_which_windows_come_is_written_down(dataset: SnapshotDataset) -> None:
    positions = [np.asarray(dataset.sample(0, index)["positions"]).tolist() for index in range(len(dataset))]
    assert positions == [[0, start, start + 1, start + 2] for start in STARTS]
    assert [dataset.rows[dataset._clip_of(0, index)].clip_id for index in range(len(dataset))] == CLIPS


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")  # on two cores
@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_does_not_change_the_stream(dataset: SnapshotDataset, workers: int) -> None:
    expected = list(stream(dataset, places(dataset)))
    assert len(set(expected)) == len(expected) == EPOCHS * len(dataset) // BATCH
    assert list(stream(dataset, places(dataset), workers)) == expected


@pytest.mark.slow
def test_workers_that_are_spawned_read_the_same(dataset: SnapshotDataset) -> None:
    """They inherit nothing: the data set travels as bytes."""
    assert list(stream(dataset, places(dataset), 1, "spawn")) == list(stream(dataset, places(dataset)))


@pytest.mark.parametrize("done", [1, 5, 11])
def test_a_stream_is_taken_up_in_the_middle_of_an_epoch(dataset: SnapshotDataset, done: int) -> None:
    """By a data set that was just opened: nothing of the windows before is needed."""
    expected = list(stream(dataset, places(dataset)))
    opened = SnapshotDataset(dataset._store.url(), dataset.snapshot.id, NUM_STEPS, seed=SEED)
    cached_header.cache_clear()
    assert list(stream(opened, places(dataset)[done:], 1)) == expected[done:]


def test_ranks_share_the_windows_of_a_batch_among_them(dataset: SnapshotDataset) -> None:
    whole = [place for batch in places(dataset) for place in batch]
    ranks = [[batch[rank : rank + 1] for batch in places(dataset)] for rank in range(BATCH)]
    assert sorted(place for rank in ranks for batch in rank for place in batch) == sorted(whole)
    single = list(stream(dataset, [[place] for place in whole]))
    for rank in range(BATCH):
        assert list(stream(dataset, ranks[rank], rank)) == single[rank::BATCH]


def test_packing_does_not_change_the_stream(tmp_path: Path) -> None:
    store = Storage(str(tmp_path))
    small_snapshot(store)
    before = SnapshotDataset(store.url(), "latest", NUM_STEPS, seed=SEED)
    expected = list(stream(before, places(before)))
    pack_snapshot(store, "latest")
    after = SnapshotDataset(store.url(), "latest", NUM_STEPS, seed=SEED)
    assert after.rows[0].features != before.rows[0].features
    assert list(stream(after, places(after))) == expected
