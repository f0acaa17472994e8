"""`dualforce clips`: every clip, its outcome, its reason, its scores."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from dualforce_model.config import ConfigError
from flows.cli import _register, cli
from tasks.ledger import Ledger
from tasks.ledger_tables import Row
from tasks.records import Clip, FailureClass, Reason, Stage

_register()
NAMES = ("good", "quiet", "broken", "gone", "new")
CAPTIONS = {"good": "A man in a suit.", "gone": "Nobody."}


def score(value: float | None, method: str = "m") -> dict[str, object]:
    return {"method": method, "value": value}


def crop(clip_id: str, loudness_db: float) -> Row:
    plain = {"duration_s": 4.0, "shot_cuts": 0, "people": 1, "face_px": 200, "speech_share": 0.8}
    scores = {name: score(value) for name, value in plain.items()}
    scores |= {"loudness_db": score(loudness_db, "rms"), "yaw_deg": score(None, "none: needs landmarks")}
    value = {"path": f"{clip_id}.mp4", "digest": "d", "num_frames": 5, "scores": scores}
    return Row(clip_id=clip_id, stage=Stage.CURATE, state="done", key="k", value=value)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a clip of every kind."""
    place = {"dataset": "mine", "home": str(tmp_path)}
    policy = str(Path(__file__).parents[3] / "configs/policy/folder.yaml")
    config = {"place": place, "policy": policy, "snapshot": {"tag": "mine"}}
    (tmp_path / "extract.yaml").write_text(yaml.safe_dump(config))
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        clips = [
            Clip(clip_id=name, source="folder", video_id=name, location=f"{name}.mp4", caption=CAPTIONS.get(name))
            for name in NAMES
        ]
        ledger.add_clips("mine", clips)
        with ledger.lease("mine", Stage.ACQUIRE, "r") as lease:
            done = [Row(clip_id=name, stage=Stage.ACQUIRE, state="done", key="k") for name in NAMES[:3]]
            gone = Row(
                clip_id="gone",
                stage=Stage.ACQUIRE,
                state="impossible",
                key="k",
                reason=Reason.GONE,
                detail="it says 404",
            )
            ledger.record(lease, [*done, gone])
        with ledger.lease("mine", Stage.CURATE, "r") as lease:
            broken = Row(
                clip_id="broken", stage=Stage.CURATE, state="failed", key="k", failure=FailureClass.CRASH, detail="boom"
            )
            ledger.record(lease, [crop("good", -20.0), crop("quiet", -90.0), broken])
    return tmp_path


def call(home: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["clips", "--out", str(home), "--config", str(home / "extract.yaml"), *words])


def test_every_clip_says_how_it_stands_and_what_was_measured(home: Path) -> None:
    lines = call(home).stdout.splitlines()
    assert lines[0] == "waiting      good  for extract"
    assert "face_px 200" in lines[1]
    assert "loudness_db -20" in lines[1]
    assert lines[2].strip() == "not measured: yaw_deg, duplicate"
    assert lines[3] == "quarantined  quiet  no_sound: loudness_db -90 (rms), at least -60"
    assert [line.split()[:2] for line in lines[6:]] == [
        ["failed", "broken"],
        ["quarantined", "gone"],
        ["waiting", "new"],
    ]
    assert "gone: it says 404" in lines[7]


def test_json_has_methods_and_the_same_clips_in_the_order_of_the_list(home: Path) -> None:
    told = json.loads(call(home, "--json").stdout)
    assert told["policy"] == "folder"
    found = told["clips"]
    assert [clip["clip_id"] for clip in found] == list(NAMES)
    assert found[0]["scores"]["yaw_deg"] == {"method": "none: needs landmarks", "value": None}
    assert found[4]["scores"] == {}
    assert [clip["caption"] for clip in found] == ["A man in a suit.", None, None, "Nobody.", None]


def test_another_policy_judges_without_being_stored(home: Path) -> None:
    (home / "kind.yaml").write_text("name: kind\n")
    done = call(home, "--policy", str(home / "kind.yaml"))
    assert done.stderr == "outcomes under policy kind\n"
    lines = done.stdout.splitlines()
    assert lines[3] == "waiting      quiet  for extract"
    assert call(home).stdout.splitlines()[3].startswith("quarantined  quiet")


def test_status_and_failures_name_the_policy_and_what_clips_wait_for(home: Path) -> None:
    where = ["--out", str(home), "--config", str(home / "extract.yaml")]
    status = CliRunner().invoke(cli, ["status", *where])
    assert status.stdout.startswith("data set mine, policy folder\n")
    assert [line.split() for line in status.stdout.splitlines() if line.startswith("waiting")] == [
        ["waiting", "for", "acquire", "1"],
        ["waiting", "for", "extract", "1"],
    ]
    told = json.loads(CliRunner().invoke(cli, ["status", *where, "--json"]).stdout)
    assert (told["policy"], told["waits_for"]) == ("folder", {"acquire": 1, "extract": 1})
    assert json.loads(CliRunner().invoke(cli, ["failures", *where, "--json"]).stdout)["policy"] == "folder"
    assert "quarantined by policy folder" in CliRunner().invoke(cli, ["failures", *where]).stdout


def test_clips_can_be_named_and_names_that_are_not_there_are_refused(home: Path) -> None:
    found = json.loads(call(home, "--json", "--clip", "quiet").stdout)["clips"]
    assert [clip["clip_id"] for clip in found] == ["quiet"]
    with pytest.raises(ConfigError, match=r"--clip nobody: .* has no such clip"):
        CliRunner().invoke(
            cli,
            ["clips", "--out", str(home), "--config", str(home / "extract.yaml"), "--clip", "nobody"],
            catch_exceptions=False,
        )
