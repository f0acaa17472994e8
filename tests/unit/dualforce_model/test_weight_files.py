"""One reader of indexes and headers, two ways to take what is wrong: at the first, or all of it."""

import json
import struct
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from dualforce_model.pretrained import UntrustedWeightsError
from dualforce_model.weight_files import (
    INDEX_NAME,
    WEIGHTS_NAME,
    WeightsError,
    find_files,
    open_tensors,
    read_header,
    read_index,
    read_json,
    refuse,
    told_as,
)
from tests.pickled import save_pickled

Found = list[tuple[str, str, str]]
WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def collecting(found: Found) -> Callable[[Path, str, str], None]:
    return lambda path, subject, message: found.append((path.name, subject, message))


def header(**entries: object) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def test_a_whole_file_is_listed_without_a_report(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS_NAME
    save_file(WEIGHTS, path)
    listed = {entry.name: (entry.dtype, entry.shape, entry.num_bytes) for entry in read_header(path, refuse)}
    assert listed == {"a": ("F32", (2, 3), 24), "b": ("BF16", (4,), 8)}
    with ExitStack() as stack:
        tensors = open_tensors([path], stack)
        assert {name: tensor.shape for name, tensor in tensors.items()} == {"a": (2, 3), "b": (4,)}
        assert torch.equal(tensors["a"].read(), WEIGHTS["a"])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.pth", "a.model"])
def test_torchs_own_files_are_opened_where_somebody_vouches_for_them(name: str, zipped: bool, tmp_path: Path) -> None:
    path = save_pickled(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with ExitStack() as stack:
        assert open_tensors([path], stack).keys() == WEIGHTS.keys()
    changed = {key: tensor + 1 for key, tensor in WEIGHTS.items()}
    torch.save(changed, path, _use_new_zipfile_serialization=zipped)
    other = sha256(path.read_bytes()).hexdigest()
    with ExitStack() as stack, pytest.raises(UntrustedWeightsError, match=f"SHA-256 {other}; nobody has published"):
        open_tensors([path], stack)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.pth", "a.model"])
def test_torchs_own_files_are_told_by_what_is_in_them(name: str, zipped: bool, tmp_path: Path) -> None:
    """Torch wrote no zip files before 1.6, and weights of that age go by names of their own."""
    save_pickled(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with ExitStack() as stack:
        tensors = open_tensors([tmp_path / name], stack)
        assert all(torch.equal(tensors[key].read(), wanted) for key, wanted in WEIGHTS.items())


@pytest.mark.parametrize(
    ("data", "subject", "words"),
    [
        (b"", "header", "truncated, or no safetensors: 0 bytes"),
        (b"\xff" * 8, "header", "truncated, or no safetensors: 8 bytes"),
        (header(), "", ""),
        (header(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}), "a", "truncated: it ends at byte"),
        (header(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}), "header", "damaged: a: F32 [2] at 0 to 4"),
        (header(a={"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}), "header", "expected 8 bytes at 0"),
        (header(a={"dtype": "F5", "shape": [2], "data_offsets": [0, 8]}), "header", "damaged: a: F5 [2] at 0 cannot"),
        (header() + b"more", "", "14 bytes, but its tensors end at 10"),
    ],
)
def test_both_ways_find_the_same(data: bytes, subject: str, words: str, tmp_path: Path) -> None:
    """A header of no tensors is whole; of every other the list names what the error names, and the error the file."""
    path, found = tmp_path / WEIGHTS_NAME, Found()
    path.write_bytes(data)
    read_header(path, collecting(found))
    if not words:
        assert not found
        assert read_header(path, refuse) == []
        return
    ((name, named, message),) = found
    assert (name, named) == (WEIGHTS_NAME, subject)
    assert words in message
    with pytest.raises(WeightsError) as raised:
        read_header(path, refuse)
    where = f"{path}: {subject}" if subject else str(path)
    assert str(raised.value) == f"{where}: {message}; download it again"
    with ExitStack() as stack, pytest.raises(WeightsError, match=f"{WEIGHTS_NAME}: not readable as safetensors: "):
        open_tensors([path], stack)


def test_a_cut_file_names_its_first_tensor_that_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS_NAME
    save_file(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-1])
    last = read_header(path, lambda path, subject, message: None)[-1]
    with ExitStack() as stack, pytest.raises(WeightsError, match=f"safetensors: {last.name}: truncated: it ends at"):
        open_tensors([path], stack)


def test_a_file_that_goes_away_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.safetensors: not readable: .*No such file.*download it again"):
        read_header(tmp_path / "gone.safetensors", refuse)


@given(st.binary(max_size=120))
def test_nothing_but_weights_errors_comes_out_of_a_file(data: bytes) -> None:
    """Too short to hold a tensor: whatever is reported is raised, by name, and what is not is an empty header."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path, found = Path(folder) / WEIGHTS_NAME, Found()
        path.write_bytes(struct.pack("<Q", len(data)) + data)
        assert read_header(path, collecting(found)) == []
        if found:
            with pytest.raises(WeightsError, match=f"{WEIGHTS_NAME}: not readable as safetensors: "):
                open_tensors([path], stack)
        else:
            assert json.loads(data).keys() <= {"__metadata__"}


@pytest.mark.parametrize("name", ["../out.safetensors", "/out.safetensors", "deeper/out.safetensors", "."])
def test_no_shard_leaves_the_folder_of_its_index(name: str, tmp_path: Path) -> None:
    """Though the file it points to is there; the shards that stay are still given."""
    folder, found = tmp_path / "in", Found()
    (folder / "deeper").mkdir(parents=True)
    for place in (tmp_path, folder / "deeper", folder):
        save_file(WEIGHTS, place / "out.safetensors")
    index = folder / INDEX_NAME
    index.write_text(json.dumps({"weight_map": {"a": name, "b": "out.safetensors"}}))
    assert read_index(index, collecting(found)) == {"out.safetensors": {"b"}}
    ((file, subject, message),) = found
    assert (file, subject) == (INDEX_NAME, name)
    assert "may not leave its folder" in message
    with pytest.raises(WeightsError, match="not a file beside it: a shard's name may not leave its folder"):
        find_files(folder)


def test_shards_come_with_the_tensors_that_the_index_places_in_them(tmp_path: Path) -> None:
    index = tmp_path / INDEX_NAME
    index.write_text(json.dumps({"weight_map": {"x": "2.safetensors", "y": "1.safetensors", "z": "2.safetensors"}}))
    shards = read_index(index, refuse)
    assert list(shards) == ["1.safetensors", "2.safetensors"]
    assert shards["2.safetensors"] == {"x", "z"}


@pytest.mark.parametrize("text", ["{", "[1]", '{"weight_map": {"a": 1}}', '{"a": 1}', "{}"])
def test_an_index_that_is_none_is_one_report(text: str, tmp_path: Path) -> None:
    index, found = tmp_path / INDEX_NAME, Found()
    index.write_text(text)
    assert read_index(index, collecting(found)) == {}
    ((name, _, message),) = found
    assert name == INDEX_NAME
    assert message.startswith(("not an index of shards: ", "weight_map does not name a file for every tensor"))


def test_json_that_is_no_object(tmp_path: Path) -> None:
    found: Found = []
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    for name in ("list.json", "bytes.json", "none.json"):
        assert read_json(tmp_path / name, collecting(found)) is None
    assert [message.split(":")[0] for _, _, message in found] == [
        "expected an object, found list",
        "not readable as JSON",
        "missing",
    ]


def test_a_message_says_what_the_file_was_taken_for() -> None:
    found: Found = []
    tell = told_as("no tea", collecting(found))
    tell(Path("pot"), "leaf", "cold")
    tell(Path("pot"), "", "empty")
    assert found == [("pot", "", "no tea: leaf: cold"), ("pot", "", "no tea: empty")]
