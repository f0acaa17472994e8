"""Every policy that ships gives its reasons: one for the whole, one for each threshold."""

from pathlib import Path

import pytest
import yaml

from tasks.policy import DropRules, WeightRules, load_policy

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "policy"
PATHS = sorted(FOLDER.glob("*.yaml"))
DATA_SETS = {"hdtf", "celebvhq", "vfhq", "talkvid", "voxceleb2", "mead"}


def test_every_data_set_has_a_policy() -> None:
    assert {path.stem for path in PATHS} >= {"default", "folder", "pretrain", "demo", *DATA_SETS}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_threshold_has_its_reason(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# "), "what the data are"
    rules = [line for line in lines if line.startswith("  ")]
    for line in rules:
        reason = line.partition("  # ")[2].strip() or line.partition(" # ")[2].strip()
        assert len(reason.split()) >= 3, f"{path.name}: {line.strip()}: no reason"
    found = yaml.safe_load(path.read_text())
    assert len(rules) == len(found["drop"]) + len(found.get("weigh", {})), "one rule a line"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_rules_stand_in_the_order_in_which_they_are_judged(path: Path) -> None:
    found = yaml.safe_load(path.read_text())
    assert load_policy(str(path)).name == path.stem
    for group, model in (("drop", DropRules), ("weigh", WeightRules)):
        named = list(found.get(group, {}))
        assert named == [name for name in model.model_fields if name in named]
