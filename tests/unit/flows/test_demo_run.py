"""A demo's folder remembers whose it is."""

from pathlib import Path

import pytest

from dualforce_model.config import ConfigError
from dualforce_model.storage import write_json
from flows.demo_run import KEPT, chosen_settings, demo_settings

SMOKE = Path("configs/demo/smoke.yaml")


def keep(out: Path, seed: int | None = 3, config: Path | None = SMOKE, overrides: tuple[str, ...] = ()) -> None:
    write_json(out / KEPT, chosen_settings(out, seed, config, overrides, heal=False))


def test_what_is_left_out_is_as_the_folder_was_made(tmp_path: Path) -> None:
    keep(tmp_path, overrides=("pipeline.pool.engine=local",))
    again = chosen_settings(tmp_path, None, None, (), heal=True)
    assert (again["seed"], again["config"]) == (3, str(SMOKE))
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
    assert chosen_settings(tmp_path, 3, SMOKE, ("pipeline.train.steps=5",), heal=False)["seed"] == 3


def test_there_is_nothing_to_heal_where_nothing_ran(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no demo to heal"):
        chosen_settings(tmp_path, None, None, (), heal=True)
