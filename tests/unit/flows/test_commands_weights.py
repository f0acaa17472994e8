"""`dualforce weights`: answers for people and scripts, exit codes; a plain server on this machine as the mirror."""

import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.terminal import PROBLEMS, USAGE

YUNET = "face_detection_yunet_2023mar.onnx"
YUNET_PATH = f"opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET}"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing on the test's output."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL and folder of a server that knows no ranges."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def run(*arguments: str, home: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "DUALFORCE_"))}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "weights", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**kept, "HOME": str(home), **settings},
        cwd=Path(__file__).parents[3],
        timeout=120,
    )


def test_list(tmp_path: Path) -> None:
    text = run("list", home=tmp_path)
    assert text.returncode == 0, text.stderr
    rows = {row["name"]: row for row in json.loads(run("list", "--json", home=tmp_path).stdout)["models"]}
    assert {"yunet", "scrfd", "smirk", "hubert", "wan_vae", "mova"} <= set(rows)
    assert {row["state"] for row in rows.values()} == {"missing"}
    assert rows["scrfd"]["restricted"]
    for row in rows.values():
        assert row["name"] in text.stdout
        assert row["licence"] in text.stdout
    assert list(tmp_path.iterdir()) == []


def test_pull_check_and_list(shared: Path, tmp_path: Path, mirror: tuple[str, Path]) -> None:
    url, folder = mirror
    (folder / YUNET_PATH).parent.mkdir(parents=True)
    shutil.copy(shared / "models" / YUNET, folder / YUNET_PATH)
    pulled = run("pull", "yunet", "--mirror", url, "--json", home=tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    (file,) = json.loads(pulled.stdout)["files"]
    path = tmp_path / ".cache/dualforce/weights" / YUNET
    assert (file["path"], file["num_bytes"], file["vouched"]) == (str(path), 232_589, "reported")
    (row,) = json.loads(run("check", "yunet", "--json", home=tmp_path).stdout)["models"]
    assert (row["state"], row["where"]) == ("verified", str(path))

    path.write_bytes(path.read_bytes()[:-1] + b"!")
    damaged = run("check", "yunet", "silero", home=tmp_path)
    assert damaged.returncode == PROBLEMS
    assert "damaged: yunet; missing: silero" in damaged.stderr
    assert "dualforce weights pull yunet --again" in damaged.stdout
    again = run("pull", "yunet", "--again", home=tmp_path, DUALFORCE_MIRROR=url)
    assert again.returncode == 0, again.stderr
    assert "as several public projects report it" in again.stdout
    assert run("check", "yunet", home=tmp_path).returncode == 0


def test_check_fails_for_what_is_named_and_missing_or_incomplete(tmp_path: Path) -> None:
    assert run("check", home=tmp_path).returncode == 0  # nobody asked for any of them
    missing = run("check", "yunet", home=tmp_path)
    assert (missing.returncode, "missing: yunet" in missing.stderr) == (PROBLEMS, True)
    folder = tmp_path / ".cache/dualforce/weights/hubert-large-ll60k"
    folder.mkdir(parents=True)
    (folder / "preprocessor_config.json").write_text("{}")
    for names in ((), ("hubert",)):
        incomplete = run("check", *names, home=tmp_path)
        assert (incomplete.returncode, "incomplete: hubert" in incomplete.stderr) == (PROBLEMS, True)


@pytest.mark.parametrize("point", ["weights.before_rename", "weights.after_rename"])
def test_a_killed_pull_goes_on(point: str, shared: Path, tmp_path: Path, mirror: tuple[str, Path]) -> None:
    url, folder = mirror
    (folder / YUNET_PATH).parent.mkdir(parents=True)
    shutil.copy(shared / "models" / YUNET, folder / YUNET_PATH)
    home = tmp_path / "home"
    killed = run("pull", "yunet", "--mirror", url, home=home, DUALFORCE_KILL_AT=point)
    assert killed.returncode == -signal.SIGKILL
    place = home / ".cache/dualforce/weights"
    assert (place / YUNET).exists() == (point == "weights.after_rename")
    (folder / YUNET_PATH).unlink()  # what had come is not asked for again
    again = run("pull", "yunet", "--mirror", url, home=home)
    assert again.returncode == 0, again.stderr
    assert (place / YUNET).read_bytes() == (shared / "models" / YUNET).read_bytes()
    assert sorted(path.name for path in place.iterdir()) == [".lock", ".pulled.json", YUNET]


def test_pull_into_another_folder(shared: Path, tmp_path: Path, mirror: tuple[str, Path]) -> None:
    url, folder = mirror
    (folder / YUNET_PATH).parent.mkdir(parents=True)
    shutil.copy(shared / "models" / YUNET, folder / YUNET_PATH)
    home, other = tmp_path / "home", tmp_path / "other"
    assert run("pull", "yunet", "--to", str(other), "--mirror", url, home=home).returncode == 0
    assert (other / YUNET).is_file()
    rows = json.loads(run("list", "--in", str(other), "--json", home=home).stdout)["models"]
    assert {row["name"]: row["state"] for row in rows}["yunet"] == "verified"
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("pull", "yunett"), {}, "did you mean 'yunet'"),
        (("pull", "smirk"), {}, "Google Drive asks"),
        (("pull", "scrfd"), {}, "--accept-licence"),
        (("pull", "yunet"), {"DUALFORCE_OFFLINE": "1"}, "DUALFORCE_OFFLINE is set, so nothing is fetched"),
        (("pull", "yunet"), {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, so nothing is fetched"),
        (("pull", "yunet", "--mirror", "https://me:secret@m"), {}, "--mirror or DUALFORCE_MIRROR"),
        (("pull",), {}, "Missing argument"),
        (("check", "yunett"), {}, "did you mean 'yunet'"),
        (("pull", "clip", "--hub", "o/n"), {}, "--hub and --revision go together"),
        (("pull", "clip", "umt5", "--hub", "o/n", "--revision", "c" * 40), {}, "with the one NAME"),
        (("pull", "clip", "--hub", "o/n", "--revision", "main"), {}, "expected a commit"),
        (
            ("pull", "clip", "--hub", "o/n", "--revision", "c" * 40),
            {"HF_HUB_OFFLINE": "1"},
            f"o/n/tree/{'c' * 40} into",
        ),
        (("pin", "nothing.pth"), {}, "nothing.pth: no such file"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], settings: dict[str, str], said: str, tmp_path: Path) -> None:
    refused = run(*arguments, home=tmp_path, **settings)
    assert refused.returncode == USAGE
    assert said in refused.stderr
    assert "secret" not in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_one_s_own_is_pinned(tmp_path: Path) -> None:
    path = tmp_path / ".cache/dualforce/weights/smirk/SMIRK_em1.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    strange = run("check", "smirk", home=tmp_path)
    assert (strange.returncode, "not vouched for: smirk" in strange.stderr) == (PROBLEMS, True)
    (file,) = json.loads(run("pin", str(path), "--json", home=tmp_path).stdout)["files"]
    assert file == {"path": str(path), "sha256": hashlib.sha256(b"mine").hexdigest(), "num_bytes": 4}
    assert "damaged: smirk" in run("check", "smirk", home=tmp_path).stderr  # it is opened now, and no net


def test_a_mirror_without_the_file_is_told(tmp_path: Path, mirror: tuple[str, Path]) -> None:
    missing = run("pull", "yunet", "--mirror", mirror[0], home=tmp_path)
    assert missing.returncode == USAGE
    assert f"{YUNET}: the server answers 404" in missing.stderr
