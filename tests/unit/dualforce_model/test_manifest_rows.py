"""Rows kept as columns: each is what the manifest says, and many take little memory."""

import io
import pickle
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.config import digest
from dualforce_model.manifest_rows import ManifestRows
from dualforce_model.manifests import open_manifest, read_manifest, replace_manifest
from dualforce_model.schema import SPLITS, FeatureRef, SnapshotRow, decode_manifest, encode_manifest
from dualforce_model.storage import Storage
from tests.small_store import small_snapshot

MODALITIES = ("audio", "flame", "reference", "structure", "video")


def row(
    number: int, split: int = 0, weight: float = 1.0, identity: str | None = None, text: bool = False
) -> SnapshotRow:
    """A row as long as those of real data sets."""
    clip_id = f"voxceleb-{digest(number // 5)[:11]}-{number:06d}"
    features = {
        name: FeatureRef(
            modality=name,
            fingerprint=digest(name)[:32],
            key=digest([name, number])[:32],
            shard=f"features/{name}/{digest(name)[:32]}/{digest([name, number // 200])[:32]}.safetensors",
            clip_id=clip_id,
        )
        for name in MODALITIES
    }
    return SnapshotRow(
        clip_id=clip_id,
        source="voxceleb",
        video_id=digest(number // 5)[:11],
        identity=identity,
        licence="CC BY 4.0",
        span_start_s=number / 7,
        span_end_s=None if number % 3 else number / 7 + 6,
        media_digest=digest(number),
        num_frames=125,
        split=SPLITS[split],
        weight=weight,
        features=features,
        text=f"{digest('umt5')[:32]}/{digest(['text', number])[:32]}" if text else None,
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0.01, 1.0), st.none() | st.text(max_size=9), st.booleans()), min_size=1
    )
)
def test_every_row_is_what_the_manifest_says(told: list[tuple[int, float, str | None, bool]]) -> None:
    data = encode_manifest(tuple(row(number, *each) for number, each in enumerate(told)))
    rows, found = decode_manifest(data), ManifestRows.decode(data)
    assert tuple(found) == rows
    assert (len(found), found[-1], tuple(found[1::2])) == (len(rows), rows[-1], rows[1::2])
    assert found.values("weight").tolist() == [each.weight for each in rows]
    assert found.values("clip_id").tolist() == [each.clip_id for each in rows]
    for split in SPLITS:
        assert tuple(found.of_split(split)) == tuple(each for each in rows if each.split == split)
    assert tuple(pickle.loads(pickle.dumps(found))) == rows  # noqa: S301 our own bytes
    with pytest.raises(IndexError):
        found[len(rows)]


def test_it_does_not_matter_in_how_many_groups_a_manifest_was_written() -> None:
    data = encode_manifest(tuple(row(number, number % 3) for number in range(10)))
    sink = io.BytesIO()
    pq.write_table(pq.ParquetFile(io.BytesIO(data)).read(use_threads=False), sink, row_group_size=3)
    whole, parted = ManifestRows.decode(data), ManifestRows.decode(sink.getvalue())
    assert pq.ParquetFile(sink).num_row_groups == 4
    assert tuple(parted) == tuple(whole)
    assert tuple(parted.of_split("test")) == tuple(whole.of_split("test"))


def test_a_clip_takes_half_a_kilobyte() -> None:
    found = ManifestRows.decode(encode_manifest(tuple(row(number, text=True) for number in range(2000))))
    assert found.num_bytes / len(found) < 512
    assert found[:100].num_bytes < found.num_bytes / 4, "a part does not hold on to the whole"


def test_rows_are_opened_also_while_the_manifest_is_replaced(tmp_path: Path) -> None:
    store = Storage(str(tmp_path))
    snapshot = small_snapshot(store, count=3)
    rows = read_manifest(store, snapshot)
    elsewhere = rows[0].features["audio"].model_copy(update={"shard": f"features/audio/fp/{'0' * 32}.safetensors"})
    moved = rows[0].model_copy(update={"features": {**rows[0].features, "audio": elsewhere}}), *rows[1:]
    replaced = replace_manifest(store, snapshot, moved)
    assert (tuple(open_manifest(store, snapshot)), tuple(open_manifest(store, replaced))) == (rows, moved)
