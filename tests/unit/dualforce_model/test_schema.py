"""The contract's records: statistics, heads, manifests, tags."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from dualforce_model import clock
from dualforce_model.config import digest
from dualforce_model.schema import (
    MODALITIES,
    FeatureRef,
    ModalityInfo,
    SchemaError,
    Snapshot,
    SnapshotRow,
    TensorStatistics,
    check_feature,
    check_shapes,
    decode_head,
    decode_manifest,
    encode_head,
    encode_manifest,
    head_key,
    load_snapshot,
    num_rows,
    resolve_snapshot,
    tag_key,
)
from dualforce_model.storage import Storage

ID = "0123456789abcdef"
words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)
clip_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)


def head() -> Snapshot:
    return Snapshot(
        id=ID,
        content="c",
        dataset="set",
        policy={"name": "p"},
        modalities={},
        statistics={"audio.tokens": TensorStatistics(mean=(0.1, 2.0), std=(1 / 3, 1e-9))},
        num_rows=1,
        num_frames=5,
        splits={"train": 1},
        quarantined={},
        failed={},
        created_at="2026-01-01T00:00:00+00:00",
        manifest_digest="d",
    )


def row(clip_id: str, identity: str | None, end_s: float | None, weight: float) -> SnapshotRow:
    refs = {
        name: FeatureRef(modality=name, fingerprint="fp", key=f"k{name}", shard=f"features/{name}/x", clip_id=clip_id)
        for name in ("audio", "video")
    }
    return SnapshotRow(
        clip_id=clip_id,
        source="s",
        video_id="v",
        identity=identity,
        licence="l",
        span_start_s=0.25,
        span_end_s=end_s,
        media_digest="m",
        num_frames=5,
        split="test",
        weight=weight,
        features=refs,
    )


@given(
    hnp.arrays(np.float32, (4, 3, 2), elements=st.floats(-100, 100, width=32)),
    st.lists(st.floats(-10, 10), min_size=3, max_size=3),
    st.lists(st.floats(0, 10), min_size=3, max_size=3),
)
def test_standardising_and_back_is_the_identity(x: np.ndarray, mean: list[float], std: list[float]) -> None:
    found = TensorStatistics(mean=tuple(mean), std=tuple(std))
    y = found.standardise(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(found.restore(y), x, atol=1e-3)
    np.testing.assert_array_equal(found.standardise(torch.from_numpy(x)).numpy(), y)
    moved = np.moveaxis(x, 1, 0)
    np.testing.assert_array_equal(found.standardise(moved, axis=0), np.moveaxis(y, 1, 0))
    found.standardise_in_place(x)
    np.testing.assert_array_equal(x, y)


def test_statistics_of_another_width_are_refused() -> None:
    with pytest.raises(SchemaError, match="does not fit statistics of 2"):
        TensorStatistics(mean=(0.0, 0.0), std=(1.0, 1.0)).standardise(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="2 means and 1 deviations"):
        TensorStatistics(mean=(0.0, 0.0), std=(1.0,))


def test_deviations_are_floored_at_the_statistics_own_floor() -> None:
    fine, coarse = (TensorStatistics(mean=(0.0,), std=(1e-5,), **floor) for floor in ({"floor": 5e-4}, {}))
    x = np.full((2, 1), 1e-4, np.float32)
    np.testing.assert_allclose(fine.standardise(x), 0.2, rtol=1e-6)
    np.testing.assert_allclose(coarse.standardise(x), 0.1, rtol=1e-6)
    np.testing.assert_allclose(fine.restore(fine.standardise(x)), x, rtol=1e-6)


def test_a_head_of_before_there_were_floors_and_layouts_is_read() -> None:
    info = ModalityInfo(fingerprint="fp", tensors={"motion": (32,)})
    now = head().model_copy(update={"modalities": {"structure": info}})
    body = now.model_dump(mode="json")
    del body["statistics"]["audio.tokens"]["floor"], body["modalities"]["structure"]["layout"]
    assert decode_head(json.dumps({"checksum": digest(body), "snapshot": body}).encode(), "old") == now
    assert now.statistics["audio.tokens"].floor == 1e-3


def structure(**arrays: np.ndarray) -> dict[str, np.ndarray]:
    return {"motion": np.zeros((5, 70), np.float32), **arrays}


def test_key_points_at_rest_are_optional_and_one_row_of_every_frame() -> None:
    known = structure(canonical=np.zeros((5, 63), np.float32))
    for feature in (structure(), known):
        check_feature("structure", "c", feature)
        check_shapes("structure", "c", 5, {name: array.shape for name, array in feature.items()})
    with pytest.raises(SchemaError, match=r"c: structure/canonical has 1 rows, but 5 frames make 5"):
        check_shapes("structure", "c", 5, {"motion": (5, 70), "canonical": (1, 63)})
    with pytest.raises(SchemaError, match=r"structure/canonical is float64 \[5, 63\], expected float32"):
        check_feature("structure", "c", structure(canonical=np.zeros((5, 63))))
    with pytest.raises(
        SchemaError, match=r"expected \['motion'\] and, where the extractor makes it, canonical, reference_canonical"
    ):
        check_feature("structure", "c", structure(rest=np.zeros((5, 63), np.float32)))
    with pytest.raises(SchemaError, match=r"has arrays \['canonical'\], expected \['canonical', 'motion'\]"):
        check_feature("structure", "c", {"canonical": known["canonical"]})


def test_structure_of_pictures_alone_is_whole_or_not_there() -> None:
    rest = {"canonical": np.zeros((5, 63), np.float32)}
    frames = {"reference_frames": np.arange(2, dtype=np.int32)}
    motion = {"reference_motion": np.zeros((2, 70), np.float32)}
    check_feature("structure", "c", structure(**frames, **motion))
    check_feature("structure", "c", structure(**rest, **frames, **motion, reference_canonical=rest["canonical"][:2]))
    for torn in ({**frames}, {**motion}, {**rest, **frames, **motion}):
        with pytest.raises(SchemaError, match=r"expected \[.*reference_motion'\] or none"):
            check_feature("structure", "c", structure(**torn))


def test_head_round_trip_and_every_damaged_byte() -> None:
    good = encode_head(head())
    assert decode_head(good, "here") == head()
    for position in range(len(good)):
        bad = good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]
        try:
            assert decode_head(bad, "here") == head(), "only white space may change unseen"
        except SchemaError as error:
            assert str(error).startswith("here: ")  # noqa: PT017 most bytes raise, white space does not


@given(
    st.lists(
        st.tuples(clip_ids, st.none() | words, st.none() | st.floats(0.5, 1e5), st.floats(0.01, 1.0)),
        min_size=1,
        max_size=5,
        unique_by=lambda item: item[0],
    )
)
def test_manifest_round_trip(items: list[tuple[str, str | None, float | None, float]]) -> None:
    rows = tuple(row(*item) for item in items)
    assert decode_manifest(encode_manifest(rows)) == rows
    assert encode_manifest(rows) == encode_manifest(rows)


@given(st.integers(1, 200))
def test_rows_follow_the_clock(steps: int) -> None:
    frames = clock.num_frames(steps)
    shapes = {spec.name: (num_rows(spec.rows, frames) or 5,) for specs in MODALITIES.values() for spec in specs}
    for modality in MODALITIES:
        check_shapes(modality, "c", frames, shapes)
    with pytest.raises(SchemaError, match=r"^c: video/latents"):
        check_shapes("video", "c", frames + 4, shapes)


def test_an_id_stands_for_itself_and_a_tag_for_what_it_names(tmp_path: Path) -> None:
    store = Storage(str(tmp_path))
    assert resolve_snapshot(store, ID) == ID
    with pytest.raises(SchemaError, match="there are: none"):
        load_snapshot(store, "latest")
    for one in ("abcd000000000000", "abcd111111111111", "ef01222222222222"):
        store.write(head_key(one), b"{}")
    assert resolve_snapshot(store, "ef01") == "ef01222222222222"
    with pytest.raises(SchemaError, match=r"2 snapshots begin with 'abcd' .*: abcd000000000000, abcd111111111111"):
        resolve_snapshot(store, "abcd")
    with pytest.raises(SchemaError, match="no tag and no snapshot 'dead'"):
        resolve_snapshot(store, "dead")
    store.write(tag_key("abcd"), b'{"snapshot": "ef01222222222222"}')
    assert resolve_snapshot(store, "abcd") == "ef01222222222222", "a tag goes first"
    with pytest.raises(ValueError, match="not an id's form"):
        tag_key(ID)
    with pytest.raises(ValueError, match="tag"):
        resolve_snapshot(store, "../../secret")
    with pytest.raises(ValueError, match="shard"):
        FeatureRef(modality="video", fingerprint="f", key="k", shard="../x", clip_id="c")


@pytest.mark.parametrize("clip_id", ["../../evil", "", "a/b", ".hidden", "a" * 81])
def test_a_row_whose_clip_would_leave_a_folder_is_refused(clip_id: str) -> None:
    with pytest.raises(ValidationError, match="clip_id"):
        SnapshotRow.model_validate({**row("a", None, None, 1.0).model_dump(), "clip_id": clip_id})
