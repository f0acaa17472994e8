"""A flow that nobody checked for, as the UI starts it, fails at once with what is wrong, and makes nothing."""

import logging
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from dualforce_model.config import validate
from dualforce_model.errors import InputError
from flows.preflight import FlowRun, checked
from flows.registry import FLOWS, config_model, load_flow
from tasks.ledger import Ledger

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]
LIST = {"source": {"name": "folder", "folder": "nowhere"}}
CASE = {"name": "a", "sound": "none.wav", "generated": "a.mp4", "shuffled": "a.mp4", "truth": "a.mp4"}
# flow -> settings that name something which is not there, and what is said about it
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "acquire": ({"acquire": LIST}, "acquire.source.folder: nowhere: no such folder"),
    "curate": ({}, "nothing to curate there, it has no ledger.db; run acquire first"),
    "extract": ({"policy": "none.yaml"}, "none.yaml: no such file"),
    "train": ({"launch": {"accelerate": "none.yaml"}}, "launch.accelerate: none.yaml: no such file"),
    "generate": (
        {"checkpoint": "nowhere", "folder": "out", "items": [{"name": "a", "reference": "a.png", "sound": "a.wav"}]},
        "nowhere",
    ),
    "evaluate": ({"folder": "out", "cases": [CASE]}, "cases.0.sound: none.wav: no such file"),
    "pipeline": ({"acquire": LIST, "policy": "none.yaml"}, "acquire.source.folder: nowhere: no such folder"),
    "rerun": ({"pipeline": {"acquire": LIST}}, "is not the folder of a run"),
    "verify": ({"what": "model", "preset": "huge"}, "huge"),
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_run_that_names_what_is_not_there_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    settings, said = WRONG[name]
    place = {"home": str(tmp_path / "home")}
    if name == "rerun":
        settings = {"pipeline": settings["pipeline"] | {"place": place}}
    config = validate(config_model(name), settings if name == "rerun" else settings | {"place": place}, "test")
    state = load_flow(name)(config, return_state=True)
    assert state.is_failed()
    assert said in state.message
    with pytest.raises(InputError):
        state.result()
    assert list(tmp_path.iterdir()) == []


def test_a_list_that_is_gone_is_seen_before_a_rerun_touches_anything(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with Ledger(f"sqlite:///{tmp_path / 'home' / 'ledger.db'}"):
        pass
    settings = {"pipeline": {"acquire": LIST, "place": {"home": str(tmp_path / "home")}}}
    state = load_flow("rerun")(validate(config_model("rerun"), settings, "test"), return_state=True)
    assert "acquire.source.folder: nowhere: no such folder" in state.message
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["ledger.db"]


class Noted(FlowRun):
    """A run of which there is something to know."""

    def check(self) -> tuple[str, ...]:
        return ("the policy is kinder than curate",)


@flow(name="noted")
def noted(config: Noted) -> str:
    """Only looks at its configuration."""
    checked(config)
    return "went on"


def test_what_should_be_known_is_in_the_log_of_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert noted(Noted()) == "went on"
    assert "the policy is kinder than curate" in caplog.text
    checked(Noted())  # outside a run there is no log to write to
