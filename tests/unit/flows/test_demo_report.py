"""The demo's report: one base for all paths, and whose numbers are shown."""

from pathlib import Path

import pytest

from dualforce_model.storage import write_json
from flows.demo import FILES, PARTS, DemoReport, read_report, seconds_of_parts
from tasks.accounting import Account
from tasks.evaluation import Lips
from tasks.stopwatch import spending

LIPS = Lips(r=0.9, r_shuffled_audio=0.1, r_truth=0.95, r_reconstruction=0.92, n=8)


def report(**more: object) -> DemoReport:
    values = {
        "seed": 0,
        "clips": Account(listed=3, passed=2, failed={"network": 1}),
        "snapshot": "new",
        "trained_on": "new",
        "checkpoint": "training/x/checkpoints/step-00000020",
        "seconds": {},
        "lips": LIPS,
        "good": True,
        "files": FILES,
        "computed": True,
    }
    return DemoReport.model_validate({**values, **more})


def test_paths_are_relative_in_the_record_and_usable_on_the_terminal() -> None:
    said = report().text(Path("runs/demo"))
    for path in FILES.values():
        assert not Path(path).is_absolute()
        assert f" runs/demo/{path}" in said


def test_numbers_of_the_version_before_are_said_to_be_so() -> None:
    assert len(report().verdict()) == 1
    _, said = report(snapshot="newer").verdict()
    assert "trained on the version before, new," in said
    assert "newer" in said
    assert said in report(snapshot="newer").text(Path("x"))


def test_every_part_has_its_seconds(tmp_path: Path) -> None:
    with spending(tmp_path, "train"):
        pass
    assert list(seconds_of_parts(tmp_path)) == list(PARTS)


@pytest.mark.parametrize("kept", [None, {"seed": 0}])
def test_no_report_or_one_of_another_layout_is_none(tmp_path: Path, kept: object) -> None:
    if kept is not None:
        write_json(tmp_path / "report.json", kept)
    assert read_report(tmp_path) is None
    write_json(tmp_path / "report.json", report().model_dump(mode="json"))
    assert read_report(tmp_path) == report()
