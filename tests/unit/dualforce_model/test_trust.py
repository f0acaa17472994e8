"""Which files count as pickled, whatever they are called, and that their bytes are read once."""

import zipfile
from pathlib import Path

import pytest
import torch

from dualforce_model import storage
from dualforce_model.pretrained.trust import is_pickled, weights_digest
from tests.pickled import save_pickled


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_wrote_is_pickled_by_any_name(tmp_path: Path, zipped: bool) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "model.onnx", _use_new_zipfile_serialization=zipped)
    assert is_pickled(tmp_path / "model.onnx")


def test_an_archive_of_other_things_is_none_and_one_that_cannot_be_looked_into_is(tmp_path: Path) -> None:
    bundle = tmp_path / "face.task"
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("face_detector.tflite", b"net")
    assert not is_pickled(bundle)
    torn = tmp_path / "torn.task"
    torn.write_bytes(bundle.read_bytes()[:-30])
    assert is_pickled(torn), "torch may read what this library does not"
    for name, content in (("empty.onnx", b""), ("short.onnx", b"PK"), ("plain.onnx", b"\x08\x07\x12\x07pytorch")):
        (tmp_path / name).write_bytes(content)
        assert not is_pickled(tmp_path / name)


def test_bytes_of_a_pickled_file_are_read_once_to_know_and_trust_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = save_pickled({"a": torch.zeros(2)}, tmp_path / "a.pth"), list[Path]()
    (tmp_path / ".pulled.json").unlink()
    digesting = storage.file_digest
    monkeypatch.setattr(storage, "file_digest", lambda path: read.append(path) or digesting(path))
    assert weights_digest("mine", path) == digesting(path)
    assert read == [path]
