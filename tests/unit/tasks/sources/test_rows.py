"""CSV of strangers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources import ListingProblem
from tasks.sources.rows import Row, decimal, read_rows, whole_number


def _read(folder: Path, text: str) -> list[Row | ListingProblem]:
    (folder / "list.csv").write_text(text)
    return list(read_rows("voxceleb", folder / "list.csv", ("a", "b")))


def test_rows_below_a_header_in_any_order(tmp_path: Path) -> None:
    first, second = _read(tmp_path, 'b,extra,a\n1,2,3\n"x, y",,z \n')
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert first.fields() == {"b": "1", "extra": "2", "a": "3"}
    assert second.fields() == {"b": "x, y", "extra": "", "a": "z"}


@pytest.mark.parametrize(
    ("header", "said"), [("a,c", "missing: b"), ("a,b,a", "twice"), ('a,b,"', "not a line of CSV")]
)
def test_without_its_header_a_line_says_nothing(tmp_path: Path, header: str, said: str) -> None:
    told, second = _read(tmp_path, f"{header}\n1,2\n")
    assert isinstance(told, ListingProblem)
    assert isinstance(second, ListingProblem)
    assert (told.line, second.line) == (1, 2)
    assert said in told.message


@pytest.mark.parametrize("line", ["1", "1,2,3", '1,"2', ""])
def test_lines_that_are_no_rows(tmp_path: Path, line: str) -> None:
    rows = _read(tmp_path, f"a,b\n{line}\n3,4\n")
    last = rows[-1]
    assert isinstance(last, Row)
    assert last.fields() == {"a": "3", "b": "4"}
    assert len(rows) == (2 if line else 1)
    if line:
        assert isinstance(rows[0], Row)
        with pytest.raises(ValueError, match=r"fields|CSV"):
            rows[0].fields()


@given(st.text(max_size=30))
def test_numbers_are_finite_or_refused(text: str) -> None:
    for read in (whole_number, decimal):
        try:
            found = read(text, "x")
        except ValueError:
            continue
        assert abs(found) < 1e21


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e3", "٣", "1" * 10, " 1"])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        whole_number(text, "x")


def test_what_is_a_number() -> None:
    assert (decimal("-1.5", "x"), decimal("25", "x"), whole_number("007", "x")) == (-1.5, 25.0, 7)
    for text in ("", "-", ".", "1e3", "nan", "inf", "--1", "٣"):
        with pytest.raises(ValueError, match="a number"):
            decimal(text, "x")
