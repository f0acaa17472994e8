"""The registry of published models, and what is said where one of them is not there."""

import os
import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from dualforce_model import storage
from dualforce_model.errors import InputError
from dualforce_model.pretrained import PRETRAINED, DamagedWeightsError, MissingWeightsError, Weights, weights_digest
from dualforce_model.pretrained.pins import PINS_NAME, Pin, Pins
from dualforce_model.stamp import Stamp

PULLED = {name: weights for name, weights in PRETRAINED.items() if weights.files}


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_entry_is_whole(name: str) -> None:
    weights = PRETRAINED[name]
    assert weights.model == weights.name == name
    assert all((weights.setting, weights.origin, weights.licence, weights.needed_by))
    assert weights.url.startswith("https://")
    assert [bool(weights.files), bool(weights.by_hand), bool(weights.hub)].count(True) == 1, "one way to get it"
    if "non-commercial" in weights.licence:
        assert weights.restricted


@pytest.mark.parametrize("name", PULLED)
def test_every_file_has_an_address_a_name_and_a_digest_or_none(name: str) -> None:
    weights = PULLED[name]
    names = [file.name for file in weights.files]
    assert len(set(names)) == len(names)
    for file in weights.files:
        assert file.url.startswith("https://")
        assert "/" not in file.name
        assert file.url.endswith(".zip" if file.archive else f"/{file.name}")
        assert re.fullmatch(r"[0-9a-f]{64}|", file.sha256)
        assert file.num_bytes >= 0
        if weights.revision:
            assert weights.revision in file.url
    if weights.pattern:
        (file,) = weights.files
        assert Path(file.name).match(weights.pattern)
    else:
        assert names[-1] == "config.json", "the last to come: a folder counts as the model from then on"


def test_no_two_models_claim_one_file() -> None:
    places = [(weights.folder, file.name) for weights in PULLED.values() for file in weights.files]
    assert len(set(places)) == len(places)


def test_digests_of_files_at_hand_are_right(shared: Path) -> None:
    known = {file.name: file for weights in PULLED.values() for file in weights.files}
    found = [path for path in (shared / "models").iterdir() if path.name in known]
    assert len(found) >= 3
    for path in found:
        assert weights_digest(path.name, path) == known[path.name].sha256
        assert path.stat().st_size == known[path.name].num_bytes


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_missing_model_names_place_licence_address_and_command(name: str, tmp_path: Path) -> None:
    weights = PRETRAINED[name]
    with pytest.raises(MissingWeightsError) as caught:
        weights.find(tmp_path)
    message = str(caught.value)
    for part in (str(tmp_path), weights.licence, weights.url, weights.setting, f"dualforce weights pull {name}"):
        assert part in message
    assert "Nothing is downloaded for you" in message
    with pytest.raises(MissingWeightsError, match="no such file or folder"):
        weights.find(tmp_path / "nowhere")


def test_a_reader_under_another_name_is_sent_to_the_model() -> None:
    mesh = replace(PRETRAINED["mediapipe"], name="mesh", setting="curate.measures.mesh.weights")
    assert mesh.command == "dualforce weights pull mediapipe"
    assert "mesh needs face_landmarker.task" in str(mesh.missing(Path("nowhere")))
    assert "dualforce weights pull mediapipe --again" in str(mesh.damaged(Path("x"), "cut"))


@pytest.mark.parametrize(
    ("name", "published"),
    [("liveportrait", "motion_extractor.pth"), ("smirk", "SMIRK_em1.pt"), ("deca", "deca_model.tar"),
     ("emoca", "detail.ckpt")],
)  # fmt: skip
def test_safetensors_of_the_same_stem_are_found_as_well(name: str, published: str, tmp_path: Path) -> None:
    own, other = tmp_path / published, (tmp_path / published).with_suffix(".safetensors")
    with pytest.raises(MissingWeightsError, match=r"no \S+ or \S+\.safetensors in it"):
        PRETRAINED[name].find(tmp_path)
    other.write_bytes(b"x")
    assert PRETRAINED[name].find(tmp_path) == other
    own.write_bytes(b"x")
    with pytest.raises(InputError, match="names one of them"):
        PRETRAINED[name].find(tmp_path)
    other.unlink()
    assert PRETRAINED[name].find(tmp_path) == own


def test_a_folder_is_the_model_where_its_settings_are(tmp_path: Path) -> None:
    weights = PRETRAINED["hubert"]
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(MissingWeightsError, match=r"no config\.json in it; hubert needs the folder of HuBERT large"):
        weights.find(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert weights.find(tmp_path) == tmp_path


def test_what_is_hidden_is_not_part_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = weights_digest("hubert", tmp_path)
    for name in (".pulled.json", ".model.bin.part", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("anything")
    assert weights_digest("hubert", tmp_path) == before
    (tmp_path / "model.bin").write_bytes(b"x")
    assert weights_digest("hubert", tmp_path) != before
    with pytest.raises(MissingWeightsError, match="were there a moment ago"):
        weights_digest("hubert", tmp_path / ".git" / "nothing")


def test_a_file_that_a_pull_or_check_has_seen_as_it_is_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "vae" / "model.safetensors"
    inside.parent.mkdir()
    inside.write_bytes(b"weights")
    read: list[Path] = []
    digesting = storage.file_digest
    monkeypatch.setattr(storage, "file_digest", lambda path: read.append(path) or digesting(path))
    pin = Pin(sha256="a" * 64, source="", vouched="reported", seen=Stamp.of(inside))
    Pins().with_(tmp_path, "vae/model.safetensors", pin)
    assert weights_digest("vae", inside) == "a" * 64
    assert read == []
    inside.write_bytes(b"others!")  # as many bytes, later
    os.utime(inside, ns=(1, 1))
    assert weights_digest("vae", inside) == sha256(b"others!").hexdigest()
    assert read == [inside]
    (tmp_path / PINS_NAME).write_text("no list")
    os.utime(inside, ns=(2, 2))
    assert weights_digest("vae", inside) == sha256(b"others!").hexdigest()
    monkeypatch.setattr(Pins, "read", denied)
    os.utime(inside, ns=(3, 3))
    assert weights_digest("vae", inside) == sha256(b"others!").hexdigest()
    monkeypatch.undo()
    os.utime(inside, ns=(0, 0))  # a file system that keeps no times
    Pins().with_(tmp_path, "vae/model.safetensors", pin.model_copy(update={"seen": Stamp.of(inside)}))
    assert weights_digest("vae", inside) == sha256(b"others!").hexdigest()


def denied(folder: Path) -> Pins:
    raise PermissionError(13, "denied", str(folder))


def test_errors_are_the_callers_to_mend() -> None:
    assert issubclass(MissingWeightsError, InputError)
    assert issubclass(DamagedWeightsError, InputError)
    assert isinstance(PRETRAINED["yunet"], Weights)


def test_the_page_about_weights_lists_every_model() -> None:
    page = (Path(__file__).parents[3] / "docs" / "weights.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)[: len(PRETRAINED)] == list(PRETRAINED)
    for name in PRETRAINED:
        (row,) = re.findall(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
        assert ("**" in row) == PRETRAINED[name].restricted
