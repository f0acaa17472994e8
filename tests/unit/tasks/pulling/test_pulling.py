"""Models from a server on this machine: pulled, pinned, unpacked, refused; and how they stand afterwards."""

import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dualforce_model.errors import BusyError, InputError
from dualforce_model.pretrained import Archive, PublishedFile, Weights, check_vouched, weights_digest
from dualforce_model.pretrained.pins import BY_PERSON, PINS_NAME, Pin, Pins
from dualforce_model.stamp import Stamp
from tasks.archives import ArchiveError
from tasks.downloads import Downloader, NetworkError, WrongBytesError
from tasks.process import folder_lock
from tasks.pulling import OfflineError, Pull, check_pull, of_hub, offline_by
from tasks.weight_states import State, checked, chosen, listed, pinned, state_of

DownloaderOf = Callable[..., Downloader]
HOST = "https://models.example"
ONE, TWO, OTHER = (random.Random(seed).randbytes(3000) for seed in range(3))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def model(name: str, content: bytes = ONE, known: bool = True, **options: Any) -> Weights:
    """A model of one file, published with its digest or without."""
    file = f"{name}.onnx"
    published = PublishedFile(file, f"{HOST}/{file}", sha256(content) if known else "", len(content) if known else 0)
    base = Weights(name, f"{name}.weights", file, name, f"the makers of {name}", "MIT", f"{HOST}/{file}", model=name,
                   needed_by="tests", files=(published,))  # fmt: skip
    return replace(base, **options)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Takes the place of PRETRAINED."""

    def stand_in(*models: Weights) -> None:
        for module in ("tasks.pulling", "tasks.weight_states"):
            monkeypatch.setattr(f"{module}.PRETRAINED", {each.model: each for each in models})

    return stand_in


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --------------------------------------------------------------------------------------------------------------- pull


def test_a_pulled_model_is_found_and_verified(server: Any, downloader_of: DownloaderOf, root: Path) -> None:
    server.add("/yunet.onnx", ONE)
    weights = model("yunet")
    pulled = Pull(root, downloader_of())([weights])
    (file,) = pulled.files
    assert (file.path, file.vouched) == (str(root / "yunet" / "yunet.onnx"), "reported")
    assert names(root) == [".lock", "yunet/.pulled.json", "yunet/yunet.onnx"]
    assert weights.find(root / "yunet").read_bytes() == ONE
    assert state_of(weights, root).state is State.VERIFIED
    assert f"SHA-256 {sha256(ONE)}, as several public projects report it" in pulled.text()


def test_what_is_there_is_left_alone_unless_asked_again(server: Any, downloader_of: DownloaderOf, root: Path) -> None:
    server.add("/yunet.onnx", ONE)
    (root / "yunet").mkdir(parents=True)
    (root / "yunet" / "yunet.onnx").write_bytes(b"mine")
    pulled = Pull(root, downloader_of())([model("yunet")])
    assert (pulled.files, server.asked) == ((), [])
    assert "was there already" in pulled.text()
    assert (root / "yunet" / "yunet.onnx").read_bytes() == b"mine"
    Pull(root, downloader_of(), again=True)([model("yunet")])
    assert (root / "yunet" / "yunet.onnx").read_bytes() == ONE


def test_an_old_file_stays_where_the_new_one_does_not_come(
    server: Any, downloader_of: DownloaderOf, root: Path
) -> None:
    (root / "yunet").mkdir(parents=True)
    (root / "yunet" / "yunet.onnx").write_bytes(b"mine")
    server.add("/yunet.onnx", OTHER)
    with pytest.raises(WrongBytesError):
        Pull(root, downloader_of(), again=True)([model("yunet")])
    assert (root / "yunet" / "yunet.onnx").read_bytes() == b"mine"
    assert names(root) == [".lock", "yunet/yunet.onnx"]


def test_a_digest_that_nobody_published_is_pinned_by_the_first_pull(
    server: Any, downloader_of: DownloaderOf, root: Path
) -> None:
    server.add("/i3d.onnx", ONE)
    weights = model("i3d", known=False)
    first = Pull(root, downloader_of())([weights])
    assert "nobody has published a digest: trusted because it was the first to come, and pinned" in first.text()
    assert state_of(weights, root).state is State.VERIFIED
    (root / "i3d" / "i3d.onnx").unlink()
    server.add("/i3d.onnx", OTHER)
    with pytest.raises(WrongBytesError, match=f"expected {len(ONE)} bytes and SHA-256 {sha256(ONE)}"):
        Pull(root, downloader_of())([weights])
    server.add("/i3d.onnx", ONE)
    assert [each.vouched for each in Pull(root, downloader_of())([weights]).files] == ["first pull"]
    (root / "i3d" / "i3d.onnx").unlink()
    (root / "i3d" / PINS_NAME).unlink()  # the person decides to trust the new one
    server.add("/i3d.onnx", OTHER)
    Pull(root, downloader_of())([weights])
    assert (root / "i3d" / "i3d.onnx").read_bytes() == OTHER


def test_a_pin_of_any_source_holds_also_where_a_mirror_tells_another_digest(
    server: Any, downloader_of: DownloaderOf, root: Path
) -> None:
    url = f"https://huggingface.co/o/r/resolve/{'c' * 40}/i3d.onnx"
    weights = model("i3d", files=(PublishedFile("i3d.onnx", url),))
    path = f"/o/r/resolve/{'c' * 40}/i3d.onnx"
    server.add(path, ONE, headers={"X-Linked-Etag": f'"{sha256(ONE)}"'})
    assert [each.vouched for each in Pull(root, downloader_of(hub=server.url))([weights]).files] == ["hub"]
    server.add(path, OTHER, headers={"X-Linked-Etag": f'"{sha256(OTHER)}"'})
    for hub in (server.url, "https://huggingface.co"):
        with pytest.raises(
            WrongBytesError, match=r"pinned in .*\.pulled\.json; to trust another file, remove it there"
        ):
            Pull(root, downloader_of(hub=hub), again=True)([weights])
    assert (root / "i3d" / "i3d.onnx").read_bytes() == ONE
    server.add(path, ONE)
    (again,) = Pull(root, downloader_of(), again=True)([weights]).files
    assert again.vouched == "hub"
    (root / "i3d" / PINS_NAME).unlink()
    server.add(path, OTHER, headers={"X-Linked-Etag": f'"{sha256(OTHER)}"'})
    pulled = Pull(root, downloader_of(), again=True)([weights])
    assert "trusted because it was the first to come" in pulled.text()


def test_room_is_looked_for_before_anything_comes(
    server: Any, downloader_of: DownloaderOf, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/one.onnx", ONE)
    server.add("/two.onnx", TWO)
    models = [model("one"), model("two", TWO)]

    def free(num_bytes: int) -> None:
        usage = shutil.disk_usage("/")._replace(free=(64 << 20) + num_bytes)
        monkeypatch.setattr("tasks.downloads.shutil.disk_usage", lambda _: usage)

    free(len(ONE) + len(TWO) - 1)  # each of them would fit
    with pytest.raises(InputError, match=f"bytes are free, {(64 << 20) + 6000} are needed; make room"):
        Pull(root, downloader_of())(models)
    assert server.asked == []
    (root / "one").mkdir()
    (root / "one" / ".one.onnx.part").write_bytes(ONE[:1])  # what has come already needs no more room
    Pull(root, downloader_of())(models)
    free(0)
    assert len(Pull(root, downloader_of())(models).present) == 2  # nothing to come, no room needed


def test_a_pull_that_was_cut_goes_on(server: Any, downloader_of: DownloaderOf, root: Path) -> None:
    server.add("/yunet.onnx", ONE, faults=["cut:1000", "drop", "drop"])
    with pytest.raises(NetworkError):
        Pull(root, downloader_of())([model("yunet")])
    assert state_of(model("yunet"), root).state is State.MISSING
    Pull(root, downloader_of())([model("yunet")])
    assert server.ranges()[-1] == "bytes=1000-"
    assert state_of(model("yunet"), root).state is State.VERIFIED


def folder_model() -> Weights:
    contents = {"model.bin": ONE, "config.json": b"{}"}
    files = tuple(PublishedFile(name, f"{HOST}/{name}", sha256(data), len(data)) for name, data in contents.items())
    return model("hubert", pattern="", files=files)


def test_a_folder_counts_as_the_model_when_its_last_file_is_there(
    server: Any, downloader_of: DownloaderOf, root: Path
) -> None:
    server.add("/model.bin", ONE)
    weights = folder_model()
    with pytest.raises(InputError, match="404"):
        Pull(root, downloader_of())([weights])
    with pytest.raises(InputError, match=r"no config\.json in it"):
        weights.find(root / "hubert")
    assert state_of(weights, root).state is State.INCOMPLETE
    server.add("/config.json", b"{}")
    Pull(root, downloader_of())([weights])
    assert weights.find(root / "hubert") == root / "hubert"
    assert state_of(weights, root).state is State.VERIFIED


def test_what_a_pull_notes_is_not_part_of_the_digest(server: Any, downloader_of: DownloaderOf, root: Path) -> None:
    server.add("/model.bin", ONE)
    server.add("/config.json", b"{}")
    Pull(root, downloader_of())([folder_model()])
    copy = root / "copy"
    copy.mkdir()
    for name in ("model.bin", "config.json"):
        shutil.copy(root / "hubert" / name, copy)
    assert weights_digest("hubert", copy) == weights_digest("hubert", root / "hubert")


# ----------------------------------------------------------------------------------------------------------- archives


def pack(**members: bytes) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"buffalo/{name}.onnx", content)
    return buffer.getvalue()


def packed(name: str, content: bytes, archive: bytes) -> Weights:
    file = PublishedFile(f"{name}.onnx", f"{HOST}/pack.zip", sha256(content), len(content),
                         Archive(sha256(archive), len(archive)))  # fmt: skip
    return model(name, folder="buffalo", files=(file,))


def test_an_archive_is_fetched_once_for_all_models_in_it(
    server: Any, downloader_of: DownloaderOf, root: Path, registry: Callable[..., None]
) -> None:
    content = pack(det=ONE, rec=TWO, age=OTHER)
    server.add("/pack.zip", content)
    det, rec = packed("det", ONE, content), packed("rec", TWO, content)
    registry(det, rec)
    pulled = Pull(root, downloader_of())([det, rec])
    assert [(each.model, each.vouched) for each in pulled.files] == [("det", "reported"), ("rec", "reported")]
    assert names(root) == [".lock", "buffalo/.pulled.json", "buffalo/det.onnx", "buffalo/rec.onnx"]
    assert len(server.asked) == 1
    assert {state_of(each, root).state for each in (det, rec)} == {State.VERIFIED}


def test_another_model_of_the_archive_that_is_there_is_kept(
    server: Any, downloader_of: DownloaderOf, root: Path, registry: Callable[..., None]
) -> None:
    content = pack(det=ONE, rec=TWO)
    server.add("/pack.zip", content)
    det, rec = packed("det", ONE, content), packed("rec", TWO, content)
    registry(det, rec)
    (root / "buffalo").mkdir(parents=True)
    (root / "buffalo" / "rec.onnx").write_bytes(b"mine")
    Pull(root, downloader_of(), again=True)([det])
    assert (root / "buffalo" / "rec.onnx").read_bytes() == b"mine"


def test_an_archive_is_fetched_once_for_all_that_are_asked_again(
    server: Any, downloader_of: DownloaderOf, root: Path, registry: Callable[..., None]
) -> None:
    content = pack(det=ONE, rec=TWO, age=OTHER)
    server.add("/pack.zip", content)
    members = {"det": ONE, "rec": TWO, "age": OTHER}
    models = [packed(name, data, content) for name, data in members.items()]
    registry(*models)
    (root / "buffalo").mkdir(parents=True)
    for name in members:
        (root / "buffalo" / f"{name}.onnx").write_bytes(b"mine")
    pulled = Pull(root, downloader_of(), again=True)(models[:2])
    assert len(server.asked) == 1
    assert [each.model for each in pulled.files] == ["det", "rec"]
    found = {name: (root / "buffalo" / f"{name}.onnx").read_bytes() for name in members}
    assert found == {"det": ONE, "rec": TWO, "age": b"mine"}


def test_a_wrong_file_in_a_right_archive_is_not_kept(
    server: Any, downloader_of: DownloaderOf, root: Path, registry: Callable[..., None]
) -> None:
    content = pack(det=OTHER)
    server.add("/pack.zip", content)
    registry(weights := packed("det", ONE, content))
    with pytest.raises(WrongBytesError, match=f"its det.onnx has SHA-256 {sha256(OTHER)}, expected {sha256(ONE)}"):
        Pull(root, downloader_of())([weights])
    assert [name for name in names(root) if name.endswith(".onnx")] == []


def test_an_archive_with_names_that_lead_out_is_refused(
    server: Any, downloader_of: DownloaderOf, root: Path, registry: Callable[..., None]
) -> None:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("det.onnx", ONE)
        archive.writestr("../../det.onnx", ONE)
    server.add("/pack.zip", buffer.getvalue())
    registry(weights := packed("det", ONE, buffer.getvalue()))
    with pytest.raises(ArchiveError, match="leads out of the archive's own folder"):
        Pull(root, downloader_of())([weights])
    assert not (root / "buffalo" / "det.onnx").exists()
    assert not (root.parent / "det.onnx").exists()


# ------------------------------------------------------------------------------------------------------------ the hub


HUB_MODEL = model("mova", pattern="", files=(), hub="owner/mova", url="https://huggingface.co/owner/mova")


def hub_list(server: Any, commit: str, *rows: dict[str, Any], revision: str = "main") -> None:
    body = json.dumps({"sha": commit, "siblings": list(rows)}).encode()
    server.add(f"/api/models/owner/mova/revision/{revision}?blobs=true", body)


def test_the_hub_s_list_of_files_is_pulled_at_its_commit(server: Any, downloader_of: DownloaderOf, root: Path) -> None:
    rows = [
        {"rfilename": "model_index.json", "size": 2},
        {"rfilename": "video dit/a.safetensors", "size": 3000, "lfs": {"sha256": sha256(ONE)}},
        {"rfilename": "assets/film.mp4", "size": 10},
        {"rfilename": ".gitattributes", "size": 10},
    ]
    hub_list(server, "c" * 40, *rows)
    server.add(f"/owner/mova/resolve/{'c' * 40}/video%20dit/a.safetensors", ONE)
    with pytest.raises(InputError, match="404"):
        Pull(root, downloader_of(hub=server.url))([HUB_MODEL])
    assert names(root / "mova") == [".pulled.json", "video dit/a.safetensors"]  # the index comes last
    cut = state_of(HUB_MODEL, root)
    assert (cut.state, cut.details) == (State.INCOMPLETE, ("model_index.json is not there",))
    # By the next run the branch has moved on; a pull that has begun stays with its commit.
    hub_list(server, "d" * 40, *rows)
    hub_list(server, "c" * 40, *rows, revision="c" * 40)
    server.add(f"/owner/mova/resolve/{'c' * 40}/model_index.json", b"{}")
    Pull(root, downloader_of(hub=server.url))([HUB_MODEL])
    pins = Pins.read(root / "mova").files
    assert {pin.commit for pin in pins.values()} == {"c" * 40}
    assert {name: pin.vouched for name, pin in pins.items()} == {
        "video dit/a.safetensors": "hub", "model_index.json": "first pull",
    }  # fmt: skip
    assert state_of(HUB_MODEL, root).state is State.VERIFIED


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "a\\evil.json", "a//b.json", ".x.tmp/../evil.json"]
)
def test_a_list_with_names_that_lead_out_is_refused(
    server: Any, downloader_of: DownloaderOf, root: Path, name: str
) -> None:
    hub_list(server, "c" * 40, {"rfilename": name, "size": 2})
    with pytest.raises(InputError, match="not a list of files as the hub gives it"):
        Pull(root, downloader_of())([HUB_MODEL])
    assert names(root) == [".lock"]


def test_of_another_repository_only_what_the_encoder_reads_is_pulled(
    server: Any, downloader_of: DownloaderOf, root: Path
) -> None:
    commit, repository = "c" * 40, "owner/fine-tuned"
    (hubert, vae) = chosen(["hubert", "wan_vae"])
    offered = {
        "config.json": b"{}", "preprocessor_config.json": b"{}", "pytorch_model.bin": ONE, "model.safetensors": TWO,
        "optimizer.pt": OTHER, "vae/config.json": b"{}", "vae/diffusion_pytorch_model.bin": OTHER,
    }  # fmt: skip
    rows = [{"rfilename": name, "size": len(data), "lfs": {"sha256": sha256(data)}} for name, data in offered.items()]
    body = json.dumps({"sha": commit, "siblings": rows}).encode()
    server.add(f"/api/models/{repository}/revision/{commit}?blobs=true", body)
    for name, data in offered.items():
        server.add(f"/{repository}/resolve/{commit}/{name}", data)
    pull, folder = Pull(root, downloader_of(hub=server.url)), root / "hub" / "owner--fine-tuned" / commit
    pull([of_hub(hubert, repository, commit)])
    assert names(folder) == [".pulled.json", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert Pins.read(folder).files["model.safetensors"].vouched == "hub"
    pull([of_hub(vae, repository, commit)])
    assert names(folder / "vae") == ["config.json", "diffusion_pytorch_model.bin"]
    check_vouched([folder / "vae" / "diffusion_pytorch_model.bin"])  # the hub did


@pytest.mark.parametrize(
    ("name", "repository", "commit", "said"),
    [
        ("yunet", "owner/name", "c" * 40, "there are: wan_vae, hubert, dinov2, clip, umt5"),
        ("clip", "../name", "c" * 40, "expected owner/name"),
        ("clip", "owner/name", "main", "expected a commit, 40 hex digits"),
        ("clip", "owner/name", "c" * 40 + "\n", "expected a commit, 40 hex digits"),
    ],
)
def test_what_the_hub_cannot_have_is_refused(name: str, repository: str, commit: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        of_hub(chosen([name])[0], repository, commit)


@pytest.mark.parametrize("name", [".pulled.json", "a/.pulled.json", ".hidden/model.safetensors"])
def test_a_list_with_hidden_names_is_refused(server: Any, downloader_of: DownloaderOf, root: Path, name: str) -> None:
    hub_list(server, "c" * 40, {"rfilename": name, "size": 2}, {"rfilename": "config.json", "size": 2})
    with pytest.raises(InputError, match="is hidden, as our own notes are"):
        Pull(root, downloader_of())([HUB_MODEL])
    assert names(root) == [".lock"]


def test_what_makes_a_folder_count_as_the_model_comes_last(
    server: Any, downloader_of: DownloaderOf, root: Path
) -> None:
    listed_names = ["config.json", "tokenizer.json", "a/config.json", "z.safetensors"]
    hub_list(server, "c" * 40, *({"rfilename": name, "size": 2} for name in listed_names))
    for name in listed_names:
        server.add(f"/owner/mova/resolve/{'c' * 40}/{name}", b"{}")
    Pull(root, downloader_of())([HUB_MODEL])
    asked = [path.partition("c" * 40 + "/")[2] for path, _ in server.asked[1:]]
    assert asked == ["tokenizer.json", "z.safetensors", "a/config.json", "config.json"]


def test_a_mirror_s_list_is_no_word_of_the_hub(server: Any, downloader_of: DownloaderOf, root: Path) -> None:
    def offer(content: bytes) -> None:
        hub_list(server, "c" * 40, {"rfilename": "config.json", "size": 3000, "lfs": {"sha256": sha256(content)}})
        server.add(f"/owner/mova/resolve/{'c' * 40}/config.json", content)

    offer(ONE)
    assert [each.vouched for each in Pull(root, downloader_of())([HUB_MODEL]).files] == ["first pull"]
    offer(OTHER)
    with pytest.raises(WrongBytesError, match="pinned in"):
        Pull(root, downloader_of(), again=True)([HUB_MODEL])
    (told,) = Pull(root, downloader_of(hub=server.url), again=True)([HUB_MODEL]).files
    assert told.vouched == "hub"


def test_files_whose_list_nobody_noted_are_incomplete(server: Any, downloader_of: DownloaderOf, root: Path) -> None:
    hub_list(server, "c" * 40, {"rfilename": "config.json", "size": 2})
    server.add(f"/owner/mova/resolve/{'c' * 40}/config.json", b"{}")
    Pull(root, downloader_of())([HUB_MODEL])
    path = root / "mova" / PINS_NAME
    kept = json.loads(path.read_text())
    del kept["listing"]
    path.write_text(json.dumps(kept))
    found = state_of(HUB_MODEL, root, read=True)
    assert found.state is State.INCOMPLETE
    assert "dualforce weights pull mova asks" in found.details[0]
    hub_list(server, "c" * 40, {"rfilename": "config.json", "size": 2}, revision="c" * 40)
    Pull(root, downloader_of())([HUB_MODEL])
    assert state_of(HUB_MODEL, root).state is State.VERIFIED


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"sha": "c"}',
        b'{"sha": "c", "siblings": [1]}',
        b'{"sha":"c","siblings":[]}',
        b'{"sha":"c","siblings":[{"rfilename": "a/config.json"}]}',  # nothing that makes the folder a model
    ],
)
def test_a_list_of_another_form_is_refused(server: Any, downloader_of: DownloaderOf, root: Path, body: bytes) -> None:
    server.add("/api/models/owner/mova/revision/main?blobs=true", body)
    with pytest.raises(WrongBytesError):
        Pull(root, downloader_of())([HUB_MODEL])


# -------------------------------------------------------------------------------------------------------- what may be


def test_two_pulls_at_once_are_one_too_many(downloader_of: DownloaderOf, root: Path) -> None:
    with folder_lock(root, "dualforce weights pull"):
        with pytest.raises(BusyError, match="is in use by `dualforce weights pull`"):
            Pull(root, downloader_of())([model("yunet")])


def test_what_no_program_may_fetch_is_told_by_hand(root: Path) -> None:
    weights = model("smirk", by_hand="open it in a browser", files=())
    with pytest.raises(
        InputError, match=r"no program may fetch it\. Get it from https://models\.example/smirk\.onnx: open"
    ):
        check_pull([weights], root, "", lambda _: True)
    assert state_of(weights, root).details == ("by hand: open it in a browser (https://models.example/smirk.onnx)",)


def test_settings_that_switch_the_network_off() -> None:
    assert offline_by({}) == ""
    assert offline_by({"DUALFORCE_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}) == "DUALFORCE_OFFLINE"
    assert offline_by({"HF_HUB_OFFLINE": "True"}) == "HF_HUB_OFFLINE"
    assert offline_by({"HF_HUB_OFFLINE": "0", "DUALFORCE_OFFLINE": ""}) == ""


def test_offline_is_refused_with_the_way_by_hand(root: Path) -> None:
    with pytest.raises(OfflineError) as caught:
        check_pull([model("yunet")], root, "HF_HUB_OFFLINE", lambda _: True)
    for part in ("HF_HUB_OFFLINE is set", f"{HOST}/yunet.onnx", sha256(ONE), str(root / "yunet")):
        assert part in str(caught.value)


def test_a_restricting_licence_is_accepted_in_so_many_words(root: Path) -> None:
    free, bound = model("free"), model("bound", restricted=True, licence="non-commercial")
    asked: list[str] = []

    def accepts(answer: bool) -> Callable[[Weights], bool]:
        return lambda weights: asked.append(weights.model) or answer

    with pytest.raises(InputError, match=r"bound: its licence .*non-commercial.*--accept-licence"):
        check_pull([free, bound], root, "", accepts(False))
    check_pull([free, bound], root, "", accepts(True))
    assert asked == ["bound", "bound"]


# ------------------------------------------------------------------------------------------------------ how they stand


def placed(root: Path, weights: Weights, content: bytes) -> Path:
    path = root / weights.folder / weights.files[0].name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_file_put_there_by_hand_is_verified_by_check(root: Path) -> None:
    weights = model("yunet")
    path = placed(root, weights, ONE)
    assert state_of(weights, root).state is State.UNCHECKED
    assert state_of(weights, root, read=True).state is State.VERIFIED
    assert state_of(weights, root).state is State.VERIFIED  # it was seen
    os.utime(path, ns=(1, 1))
    assert state_of(weights, root).state is State.UNCHECKED


def test_a_flipped_byte_is_damage(root: Path) -> None:
    weights = model("yunet")
    path = placed(root, weights, ONE)
    state_of(weights, root, read=True)
    path.write_bytes(bytes([ONE[0] ^ 1]) + ONE[1:])
    found = checked([weights], root)
    assert found.unusable(missing_too=False) == "damaged: yunet"
    assert "yunet.onnx: SHA-256" in found.text()
    assert "dualforce weights pull yunet --again" in found.text()


def test_another_size_is_damage_without_reading(root: Path) -> None:
    weights = model("yunet")
    placed(root, weights, ONE[:-1])
    found = state_of(weights, root)
    assert found.state is State.DAMAGED
    assert found.details[0].startswith("yunet.onnx: 2999 bytes, expected 3000")


def test_nobody_vouches_for_an_unknown_file(root: Path) -> None:
    weights = model("unknown", known=False)
    placed(root, weights, ONE)
    assert state_of(weights, root, read=True).state is State.UNPINNED
    assert names(root) == ["unknown/unknown.onnx"]  # check trusts nothing


def test_a_file_that_is_read_in_its_stead_is_left_alone_and_told(
    server: Any, downloader_of: DownloaderOf, root: Path
) -> None:
    server.add("/net.onnx", ONE)
    weights = model("net", also=("net.safetensors",))
    path = root / "net" / "net.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(OTHER)
    assert (state_of(weights, root).state, state_of(weights, root).where) == (State.UNPINNED, str(path))
    pulled = Pull(root, downloader_of())([weights])
    assert (pulled.files, pulled.present, server.asked) == ((), (str(path),), [])
    assert weights.find(root / "net") == path


def test_what_cannot_be_used_is_said_by_state(root: Path) -> None:
    damaged, half = model("damaged"), folder_model()
    placed(root, damaged, OTHER)
    placed(root, half, ONE)
    found = checked([damaged, half, model("none")], root)
    assert found.unusable(missing_too=False) == "damaged: damaged; incomplete: hubert"
    assert found.unusable(missing_too=True) == "damaged: damaged; incomplete: hubert; missing: none"
    assert checked([model("none")], root).unusable(missing_too=False) == ""


def test_a_file_of_another_name_that_fits_is_told(root: Path) -> None:
    weights = model("det", pattern="det*.onnx")
    path = root / "det" / "det_500m.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(OTHER)
    assert (state_of(weights, root).state, state_of(weights, root).where) == (State.UNPINNED, str(path))
    (path.parent / "det_2g.onnx").write_bytes(OTHER)
    assert "names one of them" in state_of(weights, root).details[0]


def test_a_folder_that_others_keep_is_not_written_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = model("yunet")
    placed(root, weights, ONE)
    monkeypatch.setattr("tasks.weight_states.os.access", lambda *_: False)
    assert state_of(weights, root, read=True).state is State.VERIFIED
    assert names(root) == ["yunet/yunet.onnx"]


def test_the_pin_of_another_file_does_not_outlive_a_check(root: Path) -> None:
    """A mirror's file was pinned; the published one was then put in its place by hand."""
    weights = model("yunet")
    placed(root, weights, ONE)
    path = root / "yunet" / "yunet.onnx"
    other = Pin(sha256=sha256(OTHER), source="a mirror", vouched="first pull", seen=Stamp(num_bytes=1, mtime_ns=1))
    Pins().with_(root / "yunet", path.name, other)
    assert state_of(weights, root, read=True).state is State.VERIFIED
    assert Pins.read(root / "yunet").files[path.name].sha256 == sha256(ONE)
    assert weights_digest("yunet", path) == sha256(ONE)
    assert state_of(weights, root).state is State.VERIFIED


@pytest.mark.parametrize("content", ["", "{", '{"files": {"a": 1}}', '{"files": {}, "more": 1}'])
def test_a_damaged_list_of_pins_is_an_input_error(root: Path, content: str) -> None:
    (root / "yunet").mkdir(parents=True)
    (root / "yunet" / PINS_NAME).write_text(content)
    with pytest.raises(InputError, match="not the list of what was pulled"):
        state_of(model("yunet"), root)


def test_a_net_of_ours_that_cannot_take_the_file_is_damage(root: Path) -> None:
    (root / "smirk").mkdir(parents=True)
    path = root / "smirk" / "SMIRK_em1.pt"
    path.write_bytes(ONE)
    pinned([path])
    found = checked(chosen(["smirk"]), root)
    assert found.unusable(missing_too=False) == "damaged: smirk"
    assert "not readable as tensors alone" in found.text()


@pytest.mark.usefixtures("no_vouchers")
def test_a_pickled_file_is_not_opened_before_somebody_vouches_for_it(root: Path) -> None:
    (root / "smirk").mkdir(parents=True)
    path = root / "smirk" / "SMIRK_em1.pt"
    path.write_bytes(ONE)
    found = checked(chosen(["smirk"]), root)
    assert found.unusable(missing_too=False) == "not vouched for: smirk"
    assert f"dualforce weights pin {path}" in found.text()
    assert names(root) == ["smirk/SMIRK_em1.pt"]  # check trusts nothing
    assert f"{path}: 3000 bytes, SHA-256 {sha256(ONE)}, pinned" in pinned([path]).text()
    (weights,) = chosen(["smirk"])
    assert state_of(weights, root).state is State.VERIFIED
    path.write_bytes(OTHER)
    (model_state,) = checked([weights], root).models
    assert model_state.state is State.DAMAGED
    assert f"SHA-256 {sha256(OTHER)}, expected {sha256(ONE)}" in model_state.details[0]


def test_a_person_s_word_goes_before_the_published_digest(server: Any, downloader_of: DownloaderOf, root: Path) -> None:
    weights = model("yunet")
    path = placed(root, weights, OTHER[:-1])  # a fine-tuned net of one's own
    assert state_of(weights, root).state is State.DAMAGED
    pinned([path])
    assert state_of(weights, root).state is State.VERIFIED
    os.utime(path, ns=(1, 1))
    assert state_of(weights, root, read=True).state is State.VERIFIED
    assert Pins.read(root / "yunet").files[path.name].vouched == BY_PERSON
    server.add("/yunet.onnx", ONE)
    Pull(root, downloader_of(), again=True)([weights])  # and back
    assert Pins.read(root / "yunet").files[path.name].vouched == "reported"
    assert state_of(weights, root, read=True).state is State.VERIFIED


@pytest.mark.usefixtures("no_vouchers")
def test_a_person_s_pin_that_came_with_the_folder_is_nobody_s_word(root: Path) -> None:
    weights = model("yunet")
    path = placed(root, weights, OTHER)
    forged = Pin(sha256=sha256(OTHER), source="", vouched=BY_PERSON, seen=Stamp.of(path))
    Pins().with_(root / "yunet", path.name, forged)
    for read in (False, True):
        assert state_of(weights, root, read=read).state is not State.VERIFIED


def test_a_pin_is_written_where_the_file_is_listed_already(root: Path) -> None:
    path = root / "mova" / "video" / "a.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(ONE)
    pin = Pin(sha256=sha256(OTHER), source="s", vouched="hub", seen=Stamp(num_bytes=1, mtime_ns=1))
    Pins().with_(root / "mova", "video/a.pth", pin)
    pinned([path])
    assert names(root) == ["mova/.pulled.json", "mova/video/a.pth"]
    assert Pins.read(root / "mova").files["video/a.pth"].sha256 == sha256(ONE)
    with pytest.raises(InputError, match="no such file"):
        pinned([root / "mova"])


def test_shards_that_lack_what_the_index_names_are_damage(root: Path) -> None:
    folder = root / HUB_MODEL.folder
    (folder / "dit").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "dit" / "m-1.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    index = folder / "dit" / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors"}}))
    assert state_of(HUB_MODEL, root, read=True).state is State.UNPINNED
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-1.safetensors"}}))
    found = state_of(HUB_MODEL, root, read=True)
    assert (found.state, found.details) == (
        State.DAMAGED, ("m-1.safetensors: no b, which dit/m.safetensors.index.json says it holds",)
    )  # fmt: skip
    index.unlink()
    (folder / "dit" / "m-1.safetensors").write_bytes(header)
    assert "truncated" in state_of(HUB_MODEL, root, read=True).details[0]


def test_every_model_is_listed_and_nothing_is_made(root: Path) -> None:
    found = listed(root)
    assert {each.state for each in found.models} == {State.MISSING}
    assert all(each.name in found.text() and each.licence in found.text() for each in found.models)
    assert not root.exists()


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="no such model; did you mean 'yunet'"):
        chosen(["yunett"])
    assert [each.model for each in chosen(["yunet", "silero", "yunet"])] == ["yunet", "silero"]
