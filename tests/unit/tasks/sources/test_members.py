"""JSON lists read in pieces: the same as reading them whole, and broken ones told with their line."""

import json
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources import ListingProblem
from tasks.sources import members as module
from tasks.sources.members import Member, read_members, whole_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def _read(text: str | bytes, **options: str) -> list[Member | ListingProblem]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return list(read_members("celebvhq", path, **options))  # type: ignore[arg-type]


def _found(items: list[Member | ListingProblem]) -> dict[str, object]:
    assert all(isinstance(item, Member) for item in items)
    return {item.key: item.value for item in items if isinstance(item, Member)}


@pytest.mark.parametrize("chunk", [1, 2, 7, 65536])
@given(entries=st.dictionaries(st.text(max_size=6), VALUES, max_size=5), indent=st.sampled_from([None, 0, 2]))
def test_pieces_give_what_the_whole_gives(chunk: int, entries: dict[str, object], indent: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", chunk)
        text = json.dumps(entries, indent=indent, ensure_ascii=False)
        assert _found(_read(text)) == entries
        assert list(_found(_read(json.dumps(list(entries.values()), indent=indent))).values()) == list(entries.values())


@pytest.mark.parametrize("chunk", [1, 3, 65536])
def test_lines_are_those_where_entries_begin(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    found = _read('\ufeff{\n"a": {"x":\n1},\r\n\n "b": 2, "c"\n: 34}\n')
    assert [(item.key, item.number, item.value) for item in found if isinstance(item, Member)] == [
        ("a", 2, {"x": 1}),
        ("b", 5, 2),
        ("c", 5, 34),
    ]


def test_inside_apart_and_single() -> None:
    text = '{"about": [1], "clips": {"a": 1, "clips": {"b": 2}}, "c": 3}'
    found = _read(text, inside="clips", apart=("about",))  # type: ignore[arg-type]
    assert _found(found) == {"a": 1, "clips": {"b": 2}, "c": 3}
    assert _found(_read('{"id": 1}', single="id")) == {"0": {"id": 1}}
    assert isinstance(_read('{"x": 1}', single="id")[0], ListingProblem)


@pytest.mark.parametrize(
    ("text", "clips", "line", "said"),
    [
        ("", 0, 1, "found the end of the file"),
        ("7", 0, 1, "expected {"),
        ('{"a": 1,\n"b": }', 1, 2, "not JSON"),
        ('{"a": 1,\n"b" 2}', 1, 2, "expected :"),
        ('{"a": 1\n"b": 2}', 1, 2, "expected , or }"),
        ('{"a": 1,\n2: 3}', 1, 2, "a name in quotes"),
        ('{"a": 1,\n\n"b": [1, 2', 1, 3, "not JSON"),
        ('{"a": 1}\n{"b": 2}', 1, 2, "more after the end"),
        ("[1, 2,\n", 2, 2, "not JSON"),
        ('{"a": 1,\n"b": ' + "[" * 100_000, 1, 2, "too deep"),
        ('{"a": 1,\n"b": "' + "x" * (2 << 20), 1, 2, "no whole entry"),
        (b"\xff\xfe{\x00", 0, 1, "expected {"),
    ],
)
def test_broken_files_are_told_and_what_came_before_is_kept(
    text: str | bytes, clips: int, line: int, said: str
) -> None:
    *kept, last = _read(text)
    assert len(_found(kept)) == clips
    assert isinstance(last, ListingProblem)
    assert said in last.message
    assert "cannot be read" in last.message
    assert (last.line, last.file) == (line, "list.json")


def test_numbers_that_are_none() -> None:
    found = _found(_read('{"a": NaN, "b": 1e999, "c": ' + "9" * 10_000 + "}"))
    assert found["a"] is None
    for name in "bc":
        with pytest.raises(ValueError, match="expected a number"):
            whole_of(found[name], name)
    with pytest.raises(ValueError, match="a whole number"):
        whole_of(1.5, "x")


def test_half_a_surrogate_pair_reaches_no_record(tmp_path: Path) -> None:
    (found,) = _read('{"\\ud800": 1}')
    assert isinstance(found, Member)
    found.problem("celebvhq", "x").model_dump_json().encode()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    with open(path, "w") as file:
        file.write("[" + ",".join(['{"text": "' + "x" * 1000 + '"}'] * 8_000) + "]")
    tracemalloc.start()
    count = sum(1 for _ in read_members("celebvhq", path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (count, path.stat().st_size > 8_000_000) == (8_000, True)
    assert peak < 2_000_000
