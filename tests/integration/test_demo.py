"""The demo as a user runs it: on Ray, from nothing; again; healed; interrupted; twice at once."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import sync_playwright

from flows.server import PrefectServer
from flows.terminal import BUSY, INTERRUPTED
from tasks.process import free_port, port_in_use
from tasks.synthetic.corpus import load_corpus
from tests.integration.demo_runs import SMOKE, assert_nothing_left, finish, start

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.ray, pytest.mark.timeout(2700)]


def command(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, "-m", "flows.cli", *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory, prefect_server: PrefectServer) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("smoke") / "run"
    return out, finish(out)


def test_the_counts_add_up_and_the_files_are_there(smoke: tuple[Path, dict[str, Any]]) -> None:
    out, report = smoke
    clips = report["clips"]
    assert clips["listed"] == clips["passed"] + sum(clips["quarantined"].values()) + sum(clips["failed"].values()) == 6
    assert clips["quarantined"] == {"no_face": 1}
    assert clips["failed"] == {"network": 1}
    assert json.loads((out / "report.json").read_text())["snapshot"] == report["snapshot"]
    for path in report["files"].values():
        assert not Path(path).is_absolute()
        assert (out / path).exists(), path
    assert (out / report["checkpoint"] / "state.json").is_file()
    assert report["trained_on"] == report["snapshot"]
    assert all(seconds > 0 for seconds in report["seconds"].values()), report["seconds"]
    assert (out / "report.md").read_text().count(f"]({report['checkpoint']})") == 1
    head = (out / "evaluation" / "lips.csv").read_text().splitlines()[0]
    assert head.startswith("clip,frame,envelope,opening_generated")
    assert_nothing_left(out)


def test_the_ui_draws_the_gallery_of_clips(smoke: tuple[Path, dict[str, Any]], prefect_server: PrefectServer) -> None:
    """A person who opens the artifact sees pictures and reasons, not markdown."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium, which is not installed here")
    filters = {"artifacts": {"key": {"any_": ["gallery"]}}}
    (gallery,) = httpx.post(f"{prefect_server.url}/api/artifacts/latest/filter", json=filters).json()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{prefect_server.url}/artifacts/artifact/{gallery['latest_id']}")
        page.wait_for_selector("img[src^='data:image/jpeg']", timeout=60_000)
        drawn = page.eval_on_selector_all("img[src^='data:image/jpeg']", "all => all.map(one => one.naturalWidth)")
        text = page.inner_text("body")
        browser.close()
    assert len(drawn) == 5, "the clip without a face has one too"
    assert min(drawn) > 100
    assert "no_face" in text


def test_the_same_command_twice_computes_nothing(smoke: tuple[Path, dict[str, Any]]) -> None:
    out, report = smoke
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = finish(out)
    assert not again["computed"]
    assert (again["snapshot"], again["lips"]) == (report["snapshot"], report["lips"])
    assert again["seconds"] == report["seconds"], "looking whether there is something to do is not counted"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_two_at_once_the_second_learns_who_is_first(smoke: tuple[Path, dict[str, Any]]) -> None:
    out, _ = smoke
    first = start(out)
    limit = time.monotonic() + 60
    while not (out / ".lock").exists() or str(first.pid) not in (out / ".lock").read_text():
        assert time.monotonic() < limit
        time.sleep(0.1)
    first.send_signal(signal.SIGSTOP)  # it has little to do, and must not be through before the second has asked
    second = start(out)
    _, said = second.communicate(timeout=300)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == BUSY
    assert str(first.pid) in said
    first.communicate(timeout=300)
    assert first.returncode == 0


def test_a_rerun_heals_one_clip_and_makes_a_new_version(smoke: tuple[Path, dict[str, Any]]) -> None:
    out, report = smoke
    status = command("status", "--out", str(out), "--json")
    assert status["clips"]["failed"] == {"network": 1}
    (failed,) = command("failures", "--out", str(out), "--no-quarantined", "--json")["fates"]
    healed = finish(out, "--rerun")
    assert healed["tried"] == [failed["clip_id"]]
    assert [summary["done"] for summary in healed["summaries"]] == [1, 1, 3], "one download, one crop, three features"
    new = healed["snapshot"]["snapshot"]["id"]
    diff = command("snapshots", "diff", report["snapshot"], new, "--store", str(out / "store"), "--json")
    assert (diff["added"], diff["removed"], diff["changed"]) == ([failed["clip_id"]], [], {})
    assert command("snapshots", "show", "demo", "--store", str(out / "store"), "--json")["snapshot"]["id"] == new
    assert command("snapshots", "verify", "demo", "--store", str(out / "store"), "--json")["problems"] == []
    told = json.loads((out / "report.json").read_text())
    assert (told["snapshot"], told["trained_on"]) == (new, report["snapshot"])
    assert (told["clips"]["passed"], told["clips"]["failed"]) == (report["clips"]["passed"] + 1, {})
    assert told["lips"] == report["lips"]
    assert told["seconds"]["acquire"] > report["seconds"]["acquire"], "calls on one folder add up"
    assert f"trained on the version before, {report['snapshot']}" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("sign", "number"),
    [("curate   :", signal.SIGINT), ("curate   :", signal.SIGTERM), ("training ", signal.SIGINT)],
)
def test_an_interrupted_run_leaves_nothing_and_goes_on(
    tmp_path: Path, sign: str, number: signal.Signals, prefect_server: PrefectServer
) -> None:
    """Interrupted when the progress first shows the sign, with a server of its own on a port of its own."""
    out, port = tmp_path / "run", free_port()
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    arguments = [sys.executable, "-m", "flows.cli", "demo", "--config", SMOKE, "--out", str(out), "--port", str(port)]
    arguments += ["pipeline.train.steps=400"]
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = b""
    while sign.encode() not in said:
        chunk = os.read(process.stderr.fileno(), 4096)
        assert chunk, f"it ended before it showed {sign!r}: {said.decode()}"
        said += chunk
    process.send_signal(number)
    rest = process.communicate(timeout=180)[1].decode()
    assert process.returncode == INTERRUPTED, rest
    assert "Traceback" not in rest
    assert "dualforce: interrupted" in rest
    assert_nothing_left(out, process.pid)
    assert not port_in_use(port)
    finish(out, "pipeline.train.steps=30")


def assert_as_expected(out: Path) -> None:
    """Every clip of the corpus ended as its kind says, for its own reason."""
    lost = {fate["clip_id"]: fate["reason"] for fate in command("failures", "--out", str(out), "--json")["fates"]}
    for item in load_corpus(out / "corpus").items:
        ended = [reason for clip_id, reason in lost.items() if clip_id.startswith(f"hdtf-RD_{item.name}-")]
        assert ended == ([] if item.expected == "passed" else [item.expected]), item.name


def test_the_full_demo_killed_three_times_ends_well(tmp_path: Path, prefect_server: PrefectServer) -> None:
    out, moments = tmp_path / "run", random.Random(11)
    for _ in range(3):
        process = start(out, config="configs/demo/demo.yaml")
        time.sleep(moments.uniform(20, 150))
        process.kill()
        process.communicate(timeout=60)
        assert_nothing_left(out, process.pid)
    report = finish(out, config="configs/demo/demo.yaml")
    clips = report["clips"]
    assert clips["waiting"] == 0
    assert_as_expected(out)
    assert report["lips"]["n"] >= 8
    assert report["lips"]["r"] > 0.5, "far below the usual value: something of the interrupted work is wrong"
