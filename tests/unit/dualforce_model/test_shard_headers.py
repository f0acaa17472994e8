"""Parsed headers: every entry as the text says it, in little memory, and no more is claimed than is taken."""

import gc
import hashlib
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.config import canonical_json, digest
from dualforce_model.schema import SchemaError
from dualforce_model.shard_headers import DTYPES, TensorEntry, parse_header

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}/[a-z_]{1,12}", fullmatch=True)
arrays = st.tuples(
    st.sampled_from(sorted(DTYPES)), st.lists(st.integers(1, 1 << 40), min_size=1, max_size=5), st.integers(0, 1 << 50),
    st.binary(max_size=6).map(lambda data: data * 4), st.integers(1, 8),
)  # fmt: skip


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def header_text(told: dict[str, tuple[str, list[int], int, bytes, int]], form: str = "dualforce.shard/2") -> bytes:
    sums = {
        name: {"sha256": sha256(name), "crc32c": crc.hex(), **({} if rows == 8 else {"rows": rows})}
        for name, (_, _, _, crc, rows) in told.items()
    }
    keys = {name.partition("/")[0]: digest([name])[:32] for name in told}
    metadata = {"format": form, "modality": "video", "fingerprint": "fp"}
    items = {
        name: {"dtype": code, "shape": shape, "data_offsets": [start, start + 1]}
        for name, (code, shape, start, _, _) in told.items()
    }
    metadata |= {"keys": canonical_json(keys), "sums": canonical_json(sums)}
    return canonical_json({**items, "__metadata__": metadata}).encode()


@given(st.dictionaries(names, arrays, max_size=12), names)
def test_every_entry_is_what_the_text_says(told: dict[str, tuple[str, list[int], int, bytes, int]], name: str) -> None:
    text = header_text(told)
    header = parse_header(text, payload_start=100)
    assert list(header.tensors) == sorted(told)
    for each, (code, shape, start, crc, rows) in told.items():
        dtype = np.dtype(DTYPES[code])
        row_bytes = dtype.itemsize
        for length in shape[1:]:
            row_bytes *= length
        wanted = TensorEntry(dtype, tuple(shape), 100 + start, sha256(each), crc, rows, row_bytes)
        assert header.tensors[each] == wanted
    assert header.keys == json.loads(json.loads(text)["__metadata__"]["keys"])
    assert (name in header.tensors) == (name in told)
    if name not in told:
        with pytest.raises(KeyError):
            header.tensors[name]
    assert header == parse_header(text, payload_start=100)


@pytest.mark.parametrize("clips", [1, 400])
def test_what_a_header_takes_is_told_and_less_than_its_text_where_there_are_many_clips(clips: int) -> None:
    shapes = {"latents": [32, 16, 64, 64], "references": [5, 16, 64, 64], "reference_frames": [5]}
    text = header_text(
        {
            f"voxceleb-{digest(number)[:11]}-{number:04d}/{name}": ("F16", shape, number, b"abcd" * shape[0], 1)
            for number in range(clips)
            for name, shape in shapes.items()
        }
    )
    header, taken = parse_header(text, 0), []  # what is made once
    for _ in range(20):  # other threads of this process allocate as well: the least is the header's own
        gc.collect()
        tracemalloc.start()
        try:
            header = parse_header(text, 0)
            gc.collect()
            taken.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    assert 0.7 < header.num_bytes / min(taken) < 1.4
    if clips > 1:
        assert min(taken) < 0.6 * len(text)


def test_headers_of_another_format_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"shard format 'dualforce\.shard/9', expected dualforce\.shard/1 or"):
        parse_header(header_text({}, "dualforce.shard/9"), 0)
