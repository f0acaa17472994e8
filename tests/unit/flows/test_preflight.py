"""What a run is told before it makes anything."""

from pathlib import Path

import pytest

from dualforce_model.config import ConfigError
from flows.preflight import check_begun, check_policy, check_source
from tasks.place import Place
from tasks.sources.folder import FolderConfig

SHIPPED = sorted(path.stem for path in (Path(__file__).parents[3] / "configs" / "policy").glob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "pretrain"])
def test_shipped_policies_can_be_decided_here(name: str) -> None:
    assert check_policy(f"configs/policy/{name}.yaml") == ()


def test_a_policy_that_asks_for_no_face_is_told_that_curate_does() -> None:
    (note,) = check_policy("configs/policy/pretrain.yaml")
    assert "'pretrain' asks for no face" in note
    assert "no_face" in note


@pytest.mark.parametrize("group", ["drop", "weigh"])
def test_a_rule_that_nobody_can_decide_is_named_with_what_it_would_take(tmp_path: Path, group: str) -> None:
    rule = "{at_most: 30.0, when_not_measured: WHAT" + (", weight: 0.5}" if group == "weigh" else "}")
    path = tmp_path / "strict.yaml"
    path.write_text(f"name: strict\n{group}:\n  yaw_deg: {rule.replace('WHAT', 'drop')}\n")
    with pytest.raises(ConfigError, match=r"strict\.yaml: yaw_deg: .*every clip.*landmarks"):
        check_policy(str(path))
    path.write_text(f"name: kind\n{group}:\n  yaw_deg: {rule.replace('WHAT', 'pass')}\n")
    check_policy(str(path))


def test_a_source_must_be_of_its_kind(tmp_path: Path) -> None:
    (tmp_path / "list.txt").touch()
    check_source(FolderConfig(folder=tmp_path))
    with pytest.raises(ConfigError, match=r"acquire\.source\.folder: .*list\.txt: not a folder"):
        check_source(FolderConfig(folder=tmp_path / "list.txt"))
    with pytest.raises(ConfigError, match=r"acquire\.source\.folder: .*: no such folder"):
        check_source(FolderConfig(folder=tmp_path / "nowhere"))


def test_a_later_stage_names_the_one_that_comes_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing to curate there.*run acquire first"):
        check_begun(Place(home=str(tmp_path)), "curate", "acquire")
