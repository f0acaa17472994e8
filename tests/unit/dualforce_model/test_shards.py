"""Shards: deterministic bytes, any window, and no damage unseen."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors

from dualforce_model.schema import Feature, FeatureRef, SchemaError
from dualforce_model.shards import (
    DamagedShardError,
    HeaderCache,
    Wanted,
    cached_header,
    load_feature,
    pack_shard,
    read_feature,
    read_header,
    read_rows,
    tensor_entry,
    verify_shard,
)
from dualforce_model.storage import ByteRange, Storage


def video_feature(seed: int, steps: int = 5, side: int = 2) -> Feature:
    rng = np.random.default_rng(seed)
    return {
        "latents": rng.standard_normal((steps, 16, side, side)).astype(np.float16),
        "references": rng.standard_normal((5, 16, side, side)).astype(np.float16),
        "reference_frames": np.arange(5, dtype=np.int32),
    }


def pack(store: Storage, *clips: str, steps: int = 5) -> dict[str, FeatureRef]:
    features = {clip: video_feature(index, steps) for index, clip in enumerate(clips)}
    return pack_shard(store, "video", "f" * 32, features, {clip: f"key-{clip}" for clip in clips})


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_bytes_and_name_do_not_depend_on_order(tmp_path: Path) -> None:
    features = {clip: video_feature(index) for index, clip in enumerate(("b", "a", "c"))}
    keys = {clip: clip for clip in features}
    one, two = Storage(str(tmp_path / "one")), Storage(str(tmp_path / "two"))
    refs = pack_shard(one, "video", "fp", features, keys)
    backwards = dict(reversed(features.items()))
    assert pack_shard(two, "video", "fp", backwards, keys) == refs
    assert one.read(refs["a"].shard) == two.read(refs["a"].shard)
    assert list(refs) == ["a", "b", "c"]


def test_any_tool_can_open_a_shard(store: Storage) -> None:
    refs = pack(store, "a", "b")
    tensors = load_safetensors(store.read(refs["a"].shard))
    assert set(tensors) == {f"{c}/{n}" for c in "ab" for n in ("latents", "references", "reference_frames")}
    np.testing.assert_array_equal(tensors["b/latents"], video_feature(1)["latents"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), steps=st.integers(1, 40), side=st.sampled_from([2, 20, 24, 48]))
def test_any_window_is_the_slice(tmp_path: Path, data: st.DataObject, steps: int, side: int) -> None:
    store = Storage(str(tmp_path))
    features = {"a": video_feature(0, steps, side), "b": video_feature(1, steps, side)}
    refs = pack_shard(store, "video", "f" * 32, features, {"a": "key-a", "b": "key-b"})
    whole = features["b"]["latents"]
    start = data.draw(st.integers(0, steps))
    stop = data.draw(st.integers(start, steps))
    window = read_feature(store, refs["b"], "latents", start, stop)
    assert window.dtype == np.float16
    np.testing.assert_array_equal(window, whole[start:stop])
    np.testing.assert_array_equal(read_feature(store, refs["b"], "latents"), whole)


def test_rows_that_are_not_there_are_an_error(store: Storage) -> None:
    ref = pack(store, "a")["a"]
    for start, stop in ((0, 6), (-1, 2), (4, 3)):
        with pytest.raises(IndexError, match="which has 5"):
            read_feature(store, ref, "latents", start, stop)
    with pytest.raises(SchemaError, match="no array 'motion'"):
        read_feature(store, ref, "motion")
    with pytest.raises(SchemaError, match="of clip z"):
        load_feature(store, ref.model_copy(update={"clip_id": "z"}))


def test_an_optional_array_is_read_where_it_is_and_a_shard_without_it_stays_what_it_was(store: Storage) -> None:
    motion = {"motion": (np.arange(34).reshape(17, 2) / 8).astype(np.float32)}
    refs = pack_shard(store, "structure", "fp", {"a": motion}, {"a": "key"})
    assert refs["a"].shard.endswith("/baf2ab42ce07ba9cbe669a15ae09f53a.safetensors")  # of before there were any
    assert load_feature(store, refs["a"]).keys() == {"motion"}
    known = {**motion, "canonical": np.ones((17, 3), np.float32)}
    mixed = pack_shard(store, "structure", "fp", {"a": motion, "b": known}, {"a": "key", "b": "key"})
    assert load_feature(store, mixed["a"]).keys() == {"motion"}
    found = load_feature(store, mixed["b"])
    assert found.keys() == {"motion", "canonical"}
    np.testing.assert_array_equal(found["canonical"], known["canonical"])


def test_load_feature_gives_all_arrays(store: Storage) -> None:
    feature = load_feature(store, pack(store, "a", "b")["b"])
    for name, array in video_feature(1).items():
        np.testing.assert_array_equal(feature[name], array)
        assert feature[name].flags.writeable


def test_a_flipped_bit_anywhere_is_found(store: Storage) -> None:
    """Every byte of the header and of the payload: verify finds each; a reader of the damaged rows refuses."""
    ref = pack(store, "a")["a"]
    path = store.local_path(ref.shard)
    assert path is not None
    good = path.read_bytes()
    payload_start = 8 + int.from_bytes(good[:8], "little")
    assert list(verify_shard(store, ref.shard)) == []
    positions = [*range(0, payload_start, 7), *range(payload_start, len(good), 13), 0, 7, 8, len(good) - 1]
    for position in positions:
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        path.write_bytes(bad)
        assert list(verify_shard(store, ref.shard)), f"byte {position} of {len(good)}"
        cached_header.cache_clear()
        with pytest.raises(DamagedShardError, match="damaged"):
            load_feature(store, ref)
    path.write_bytes(good[:-1])
    assert list(verify_shard(store, ref.shard))
    path.write_bytes(good + b"\0")
    assert "something was added" in next(iter(verify_shard(store, ref.shard)))
    path.unlink()
    assert "nothing is stored here" in next(iter(verify_shard(store, ref.shard)))
    cached_header.cache_clear()


def test_reading_checks_the_blocks_it_reads_and_no_others(store: Storage) -> None:
    ref = pack(store, "a", steps=20)["a"]
    path = store.local_path(ref.shard)
    assert path is not None
    entry = tensor_entry(store, ref, "latents")
    damaged = bytearray(path.read_bytes())
    damaged[entry.start + 9 * entry.row_bytes] ^= 1  # second block: rows 8..16
    path.write_bytes(damaged)
    read_feature(store, ref, "latents", 0, 8)
    read_feature(store, ref, "latents", 16, 20)
    with pytest.raises(DamagedShardError, match=r"rows 8.* of a/latents"):
        read_feature(store, ref, "latents", 15, 17)


@pytest.mark.parametrize(("side", "rows"), [(2, 8), (16, 8), (20, 5), (32, 2), (48, 1)])
def test_of_large_rows_only_what_is_asked_for_is_read(
    store: Storage, side: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = pack_shard(store, "video", "f" * 32, {"a": video_feature(0, 20, side)}, {"a": "k"})["a"]
    entry = tensor_entry(store, ref, "latents")
    assert (entry.block_rows, len(entry.crc32c)) == (rows, 4 * -(-20 // rows))
    asked = spied(monkeypatch)
    read_feature(store, ref, "latents", 7, 9)
    assert [[part.length for part in parts] for parts in asked] == [
        [(-(-9 // rows) * rows - 7 // rows * rows) * entry.row_bytes]
    ]


def test_rows_asked_for_together_are_one_question_and_those_of_one_by_one(
    store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = pack(store, "a", steps=20)["a"]
    wanted = [Wanted(ref, "latents", 3, 17), Wanted(ref, "reference_frames"), Wanted(ref, "references", 2, 3)]
    one_by_one = [read_feature(store, *rows) for rows in wanted]
    asked = spied(monkeypatch)
    for found, alone in zip(read_rows(store, wanted), one_by_one, strict=True):
        np.testing.assert_array_equal(found, alone)
        found[...] = 0  # it is the reader's own
    assert [len(parts) for parts in asked] == [3]
    np.testing.assert_array_equal(read_rows(store, wanted)[0], one_by_one[0])
    assert read_rows(store, []) == []
    assert read_feature(store, ref, "latents", 5, 5).shape == (0, 16, 2, 2)


def test_a_few_rows_do_not_hold_on_to_a_whole_block(store: Storage) -> None:
    ref = pack(store, "a", steps=20)["a"]
    held = read_feature(store, ref, "latents", 9, 10)
    while held.base is not None:
        held = held.base
    assert len(held) == 1


def test_a_damaged_part_among_good_ones_is_named(store: Storage) -> None:
    refs = pack(store, "a", "b", steps=20)
    path = store.local_path(refs["b"].shard)
    assert path is not None
    damaged = bytearray(path.read_bytes())
    damaged[tensor_entry(store, refs["b"], "references").start] ^= 1
    path.write_bytes(damaged)
    wanted = [Wanted(refs["a"], "references"), Wanted(refs["b"], "latents"), Wanted(refs["b"], "references")]
    assert len(read_rows(store, wanted[:2])) == 2
    with pytest.raises(DamagedShardError, match="b/references are damaged"):
        read_rows(store, wanted)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[list[ByteRange]]:
    """What the store is asked for from now on."""
    asked: list[list[ByteRange]] = []
    read_ranges = Storage.read_ranges
    monkeypatch.setattr(
        Storage, "read_ranges", lambda self, ranges: asked.append(list(ranges)) or read_ranges(self, ranges)
    )
    return asked


def test_a_shard_of_the_first_format_is_read_and_checked(store: Storage) -> None:
    shard = "features/audio/fp/95e4a8bce3d68e7bcfd303ff6b7a29df.safetensors"
    data = (Path(__file__).parent / "shard_of_format_1" / Path(shard).name).read_bytes()
    store.write(shard, data)
    ref = FeatureRef(modality="audio", fingerprint="fp", key="k", shard=shard, clip_id="a")
    np.testing.assert_array_equal(read_feature(store, ref, "tokens"), np.arange(40).reshape(20, 2))
    assert list(verify_shard(store, shard)) == []
    store.write(shard, data[:-1] + b"\x7f")
    with pytest.raises(DamagedShardError, match=r"rows 16\.\.20"):
        read_feature(store, ref, "tokens", 17, 18)
    assert read_feature(store, ref, "tokens", 0, 16).shape == (16, 2)


def test_writing_again_heals_a_damaged_shard(store: Storage) -> None:
    ref = pack(store, "a")["a"]
    path = store.local_path(ref.shard)
    assert path is not None
    path.write_bytes(path.read_bytes()[:-10] + bytes(10))
    assert pack(store, "a")["a"] == ref
    assert list(verify_shard(store, ref.shard)) == []


def test_a_forked_reader_uses_the_parents_headers(store: Storage) -> None:
    ref = pack(store, "a")["a"]
    expected = read_feature(store, ref, "latents", 1, 3)
    pid = os.fork()
    if pid == 0:
        same = np.array_equal(read_feature(store, ref, "latents", 1, 3), expected)
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0


def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Shards whose header was read, in order."""
    found: list[str] = []
    size = Storage.size
    monkeypatch.setattr(Storage, "size", lambda self, key: found.append(key) or size(self, key))
    return found


def test_headers_used_last_stay_up_to_so_many_bytes(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (pack(store, name)[name].shard for name in "abc")
    length = read_header(store, one).num_bytes
    read, cache = asked(monkeypatch), HeaderCache(2 * length + 7)
    for shard in (one, two, one, three, one, two, one):
        assert cache(store.url(), shard) == read_header(store, shard)
        read.pop()
    assert read == [one, two, three, two]
    cache.cache_clear()
    cache(store.url(), one)
    assert read[4:] == [one]


def test_many_small_headers_are_all_remembered(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {"tokens": np.ones((2, 1), np.float16)}
    shards = [pack_shard(store, "audio", "fp", {f"c{n}": tokens}, {f"c{n}": "k"})[f"c{n}"].shard for n in range(1100)]
    cached_header.cache_clear()
    for shard in shards:
        cached_header(store.url(), shard)
    read = asked(monkeypatch)
    for shard in shards:
        cached_header(store.url(), shard)
    assert read == []
    cached_header.cache_clear()


def test_a_header_larger_than_the_bound_is_still_used(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = pack(store, "a")["a"].shard
    read, cache = asked(monkeypatch), HeaderCache(1)
    assert cache(store.url(), shard) is cache(store.url(), shard)
    assert read == [shard]


def test_threads_share_headers(store: Storage) -> None:
    shards = [pack(store, name)[name].shard for name in "abcdef"]
    cache = HeaderCache(3 * read_header(store, shards[0]).num_bytes)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda at: cache(store.url(), shards[at * 7 % 6]), range(300)))
    assert [header.keys for header in found] == [
        {"abcdef"[at * 7 % 6]: f"key-{'abcdef'[at * 7 % 6]}"} for at in range(300)
    ]


def test_a_fork_while_threads_read_leaves_the_child_no_lock(store: Storage) -> None:
    refs, ended = pack(store, "a"), Event()
    shard = refs["a"].shard

    def busy() -> None:
        while not ended.is_set():
            cached_header.cache_clear()
            cached_header(store.url(), shard)

    threads = [Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)  # a child that waits for ever is killed
                os._exit(0 if cached_header(store.url(), shard).keys == {"a": "key-a"} else 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_hostile_shard_names_and_sizes_are_refused(store: Storage) -> None:
    with pytest.raises(SchemaError, match="not a shard's key"):
        read_header(store, "features/video/fp/../../x")
    name = f"features/video/fp/{'0' * 32}.safetensors"
    store.write(name, (1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(DamagedShardError, match="cannot be"):
        read_header(store, name)


def test_arrays_that_break_the_contract_are_refused(store: Storage) -> None:
    good = video_feature(0)
    for bad, words in (
        ({**good, "latents": good["latents"].astype(np.float32)}, "float32"),
        ({**good, "latents": good["latents"][:, 0]}, "expected float16 with 4 dimensions"),
        ({**good, "latents": good["latents"] * np.float16("nan")}, "NaN"),
        ({**good, "latents": good["latents"][:0]}, "none of them empty"),
        ({**good, "references": good["references"][:3]}, "reference arrays"),
        ({"latents": good["latents"]}, "has arrays"),
    ):
        with pytest.raises(SchemaError, match=f"^a: .*{words}"):
            pack_shard(store, "video", "fp", {"a": bad}, {"a": "k"})
    with pytest.raises(SchemaError, match="unknown"):
        pack_shard(store, "smell", "fp", {"a": good}, {"a": "k"})
    with pytest.raises(SchemaError, match="one key each"):
        pack_shard(store, "video", "fp", {"a": good}, {"b": "k"})
    assert store.list() == []
