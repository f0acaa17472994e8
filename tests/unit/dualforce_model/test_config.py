"""YAML, overrides and the errors that help."""

from pathlib import Path

import pytest
from pydantic import Field

from dualforce_model.config import ConfigError, Frozen, canonical_json, digest, load_config, shipped


class Inner(Frozen):
    """Nested settings."""

    steps: int = Field(3, ge=1, le=100)
    rate_hz: float = 2.5


class Outer(Frozen):
    """Settings of a whole file."""

    name: str
    train: Inner = Inner()
    tags: tuple[str, ...] = ()


def write(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text)
    return path


def test_file_and_overrides_become_one_model(tmp_path: Path) -> None:
    config = load_config(Outer, write(tmp_path, "name: a\ntrain: {steps: 7}"), ["train.rate_hz=8", "tags=[x, y]"])
    assert config == Outer(name="a", train=Inner(steps=7, rate_hz=8.0), tags=("x", "y"))


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("name: a\ntrain: {stepps: 7}", [], r"train\.stepps: unknown setting; did you mean 'steps'"),
        ("name: a\nzzz: 1", [], r"zzz: unknown setting; it takes: name, tags, train"),
        ("train: {}", [], "name: missing"),
        ("name: a\ntrain: {steps: 0}", [], r"train\.steps: input should be greater than or equal to 1, found 0"),
        ("[1, 2]", [], "expected a mapping"),
        ("a: [", [], "not valid YAML"),
        ("name: a", ["train.steps"], "expected KEY=VALUE"),
        ("name: a", ["name.x=1"], "name is not a group"),
        ("name: a", ["train.stepz=1"], r"train\.stepz.*'steps'"),
        ("name: a", ["train.steps=["], "not valid YAML"),
    ],
)
def test_errors_name_the_file_the_field_and_the_remedy(
    tmp_path: Path, text: str, overrides: list[str], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_config(Outer, write(tmp_path, text), overrides)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_config(Outer, tmp_path / "nowhere.yaml")


def test_equal_values_have_equal_digests() -> None:
    assert digest(Outer(name="ä", tags=("b",))) == digest(
        {"tags": ["b"], "train": {"steps": 3, "rate_hz": 2.5}, "name": "ä"}
    )
    assert digest(1, 2) != digest(2, 1)
    assert canonical_json({"b": 1, "a": [1.5]}) == '{"a":[1.5],"b":1}'


def test_shipped_files_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped("pyproject.toml").is_file()
    assert shipped("nothing.yaml") == Path("nothing.yaml")
