"""Every YAML under configs loads through its model and survives the way out and back."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.steps import load_run
from dualforce_model.config import Frozen, load_config, read_settings, validate
from flows.demo import DemoRun
from flows.demo_run import chosen_settings, demo_settings
from flows.registry import FLOWS, config_model, load_flow
from tasks.policy import load_policy

ROOT = Path(__file__).resolve().parents[2]
RUNS = sorted(path for name in FLOWS for path in (ROOT / "configs" / name).glob("*.yaml"))
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def round_trip(config: Frozen) -> None:
    assert validate(type(config), yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), "dump") == config


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_runs_load_and_round_trip(path: Path) -> None:
    round_trip(load_config(config_model(path.parent.name), path))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "demo").glob("*.yaml")), ids=lambda path: path.name)
def test_demos_load_and_round_trip(path: Path, tmp_path: Path) -> None:
    chosen = chosen_settings(tmp_path, 3, path, (), heal=False)
    round_trip(validate(DemoRun, demo_settings(tmp_path, chosen), str(path)))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "policy").glob("*.yaml")), ids=lambda path: path.name)
def test_policies_load_and_are_named_after_their_file(path: Path) -> None:
    policy = load_policy(str(path))
    assert policy.name == path.stem
    round_trip(policy)


def test_every_flow_has_an_example() -> None:
    assert {path.parent.name for path in RUNS} == set(FLOWS)


def test_there_is_a_configuration_for_every_folder() -> None:
    known = {*FLOWS, "demo", "policy", "accelerate"}
    assert {path.name for path in (ROOT / "configs").iterdir()} <= known


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_every_flow_is_named_as_its_file_and_takes_its_configuration(name: str) -> None:
    loaded = load_flow(name)
    assert loaded.name == name  # type: ignore[attr-defined]
    assert (ROOT / "flows" / f"{name}.py").is_file()
    parameters = loaded.parameters.model_dump()  # type: ignore[attr-defined]
    assert "config" in parameters["properties"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: f"{d['entrypoint']}/{d['name']}")
def test_deployments_name_flows_and_configurations_that_exist(deployment: dict[str, Any]) -> None:
    file, function = deployment["entrypoint"].split(":")
    assert (ROOT / file).is_file()
    (step,) = deployment["build"]
    arguments = step["deploy.steps.load_run"]
    assert function == arguments["flow"] == Path(file).stem
    config = load_run(arguments["flow"], arguments["path"])["config"]
    validate(config_model(arguments["flow"]), config, arguments["path"])


def test_prefect_yaml_holds_no_values() -> None:
    assert all(list(deployment["parameters"].values()) == ["{{ run.config }}"] for deployment in DEPLOYMENTS)
    assert read_settings(ROOT / "prefect.yaml")["name"] == "dualforce"
