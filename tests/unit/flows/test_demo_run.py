"""A demo's folder remembers whose it is."""

from pathlib import Path

import pytest

from dualforce_model.config import ConfigError
from dualforce_model.storage import write_json
from flows.demo_run import KEPT, PIPELINE, chosen_settings, demo_settings
from flows.pipeline import SAVED

SMOKE = Path("configs/demo/smoke.yaml")


def keep(out: Path, seed: int | None = 3, config: Path | None = SMOKE, overrides: tuple[str, ...] = ()) -> None:
    chosen = chosen_settings(out, seed, config, overrides, heal=False)
    write_json(out / KEPT, chosen.model_dump(mode="json"))


def test_what_is_left_out_is_as_the_folder_was_made(tmp_path: Path) -> None:
    keep(tmp_path, overrides=("pipeline.pool.engine=local",))
    again = chosen_settings(tmp_path, None, None, (), heal=True)
    assert (again.seed, again.config) == (3, str(SMOKE))
    settings = demo_settings(tmp_path, again)
    assert settings["pipeline"]["pool"]["engine"] == "local"
    assert settings["corpus"]["seed"] == settings["pipeline"]["train"]["seed"] == settings["generate"]["seed"] == 3


@pytest.mark.parametrize(("seed", "config"), [(4, SMOKE), (3, Path("configs/demo/demo.yaml"))])
def test_other_clips_need_another_folder(tmp_path: Path, seed: int, config: Path) -> None:
    keep(tmp_path)
    with pytest.raises(ConfigError, match="another folder"):
        chosen_settings(tmp_path, seed, config, (), heal=False)


def test_other_training_on_the_same_clips_is_fine(tmp_path: Path) -> None:
    keep(tmp_path)
    assert chosen_settings(tmp_path, 3, SMOKE, ("pipeline.train.steps=5",), heal=False).seed == 3


def test_there_is_nothing_to_heal_where_nothing_ran(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no demo to heal"):
        chosen_settings(tmp_path, None, None, (), heal=True)


@pytest.mark.parametrize("heal", [False, True])
def test_another_runs_folder_is_left_alone(tmp_path: Path, heal: bool) -> None:
    (tmp_path / SAVED).write_text("theirs")
    with pytest.raises(ConfigError, match="holds another run"):
        chosen_settings(tmp_path, 3, SMOKE, (), heal=heal)
    assert PIPELINE == SAVED


def test_a_demos_own_pipeline_is_no_other_run(tmp_path: Path) -> None:
    keep(tmp_path)
    (tmp_path / SAVED).write_text("ours")
    assert chosen_settings(tmp_path, None, None, (), heal=True).seed == 3


@pytest.mark.parametrize("content", [b"", b'{"seed": 3, "con', b"\xff", b"[]", b'{"seed": 3}', b'{"seed": "three"}'])
def test_a_damaged_memory_is_named_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEPT).write_bytes(content)
    with pytest.raises(ConfigError, match=r"demo\.json: damaged: .*another folder \(--out\)"):
        chosen_settings(tmp_path, None, None, (), heal=False)
