"""Zips of strangers: what is wanted comes out, whatever else is in them stays in."""

import io
import stat
import tempfile
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.archives import ArchiveError, is_inside, unpack

MODEL = bytes(range(256)) * 40


def zipped(folder: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    path = folder / "pack.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["det.onnx", "buffalo_l/det.onnx", "a/b/det.onnx"])
def test_the_wanted_member_comes_out_and_nothing_else(tmp_path: Path, name: str) -> None:
    pack = zipped(tmp_path, (name, MODEL), ("buffalo_l/", b""), ("buffalo_l/genderage.onnx", b"other"))
    unpack(pack, "det.onnx", tmp_path / "out" / "det.onnx", len(MODEL))
    assert (tmp_path / "out" / "det.onnx").read_bytes() == MODEL
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["det.onnx"]


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("det.onnx")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def hostile(folder: Path, what: str) -> Path:
    if what == "lying size":
        path = zipped(folder, ("det.onnx", MODEL))
        content = bytearray(path.read_bytes())
        for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            place = content.find(signature) + offset
            content[place : place + 4] = (100).to_bytes(4, "little")
        path.write_bytes(content)
        return path
    if what == "encrypted":
        path = zipped(folder, ("det.onnx", MODEL))
        content = bytearray(path.read_bytes())
        content[6] |= 1
        content[content.find(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(content)
        return path
    if what in ("flipped byte", "cut", "no zip"):
        path = zipped(folder, ("det.onnx", MODEL))
        content = bytearray(path.read_bytes())
        content[60] ^= 0xFF
        path.write_bytes({"flipped byte": content, "cut": content[:-30], "no zip": b"<html>"}[what])
        return path
    return zipped(folder, *{
        "none": [("other.onnx", MODEL)],
        "twice": [("a/det.onnx", MODEL), ("b/det.onnx", MODEL)],
        "link": [(link(), b"/etc/passwd")],
        "parent": [("../det.onnx", MODEL)],
        "parent beside": [("det.onnx", MODEL), ("../../.bashrc", b"x")],
        "absolute": [("/tmp/det.onnx", MODEL)],
        "windows": [("C:\\det.onnx", MODEL), ("det.onnx", MODEL)],
        "bomb": [("det.onnx", bytes(50_000_000))],
    }[what])  # fmt: skip


HOSTILE = ("none", "twice", "link", "parent", "parent beside", "absolute", "windows", "lying size", "encrypted",
           "flipped byte", "cut", "no zip")  # fmt: skip


@pytest.mark.parametrize(
    ("what", "num_bytes"),
    [*((what, size) for what in HOSTILE for size in (len(MODEL), 0)), ("bomb", len(MODEL))],
)
def test_hostile_archives_are_refused_and_leave_nothing(tmp_path: Path, what: str, num_bytes: int) -> None:
    pack = hostile(tmp_path, what)
    with pytest.raises(ArchiveError, match=r"^pack\.zip: "):
        unpack(pack, "det.onnx", tmp_path / "out" / "det.onnx", num_bytes)
    out = tmp_path / "out"
    assert not out.exists() or not list(out.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) in (["out", "pack.zip"], ["pack.zip"])


def test_an_old_file_stays_where_the_new_one_is_damaged(tmp_path: Path) -> None:
    target = tmp_path / "det.onnx"
    target.write_bytes(b"old")
    with pytest.raises(ArchiveError):
        unpack(hostile(tmp_path, "flipped byte"), "det.onnx", target)
    assert target.read_bytes() == b"old"


def test_too_many_members_are_not_gone_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.archives.MAX_MEMBERS", 2)
    pack = zipped(tmp_path, ("det.onnx", MODEL), ("a", b""), ("b", b""))
    with pytest.raises(ArchiveError, match="3 members, more than 2"):
        unpack(pack, "det.onnx", tmp_path / "det.onnx")


PARTS = st.sampled_from(["", ".", "..", "a", "b.onnx", "C:", "\\", "..\\x", "~", "nul\0", " ", "..."])


@given(st.lists(PARTS, max_size=6).map("/".join) | st.text(max_size=30))
def test_what_counts_as_inside_stays_inside(name: str) -> None:
    if not is_inside(name):
        return
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(name)
        assert not path.is_absolute()
        assert not path.anchor
        assert ".." not in path.parts
        assert path.parts
    assert "\0" not in name


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), min_size=1, max_size=5))
def test_plain_names_are_inside(parts: list[str]) -> None:
    assert is_inside("/".join(parts))


@given(st.binary(max_size=400))
def test_bytes_of_any_kind_are_no_crash(content: bytes) -> None:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("det.onnx", MODEL[:50])
    whole = buffer.getvalue()
    for damaged in (content, whole[: len(content)] + content, content + whole):
        _try(damaged)


def _try(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pack.zip").write_bytes(content)
        try:
            unpack(Path(folder) / "pack.zip", "det.onnx", Path(folder) / "det.onnx")
        except ArchiveError:
            assert not (Path(folder) / "det.onnx").exists()
        else:
            assert (Path(folder) / "det.onnx").read_bytes() == MODEL[:50]
