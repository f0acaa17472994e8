"""What a stage that was run by itself keeps in the run's folder, so that it can be looked at like a pipeline's run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dualforce_model.config import ConfigError, read_settings, validate
from dualforce_model.storage import write_text
from flows.acquire import AcquireRun
from flows.curate import CurateRun
from flows.extract import ExtractRun
from flows.pipeline import SAVED
from flows.preflight import FlowRun
from tasks.place import Place

STAGES: dict[str, type[FlowRun]] = {"curate": CurateRun, "extract": ExtractRun, "acquire": AcquireRun}
NEWEST_FIRST = ("extract", "curate", "acquire")  # of the chain: the later stage knows more


def keep(flow: str, run: FlowRun, home: Path) -> None:
    """Keep the resolved configuration of a single stage; of any other flow nothing."""
    if flow in STAGES:
        write_text(_kept(home, flow), yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False))


def kept_stages(home: Path) -> tuple[str, ...]:
    """Stages that ran by themselves in a folder that is no pipeline's, in the order of the chain."""
    if (home / SAVED).is_file():
        return ()
    return tuple(flow for flow in reversed(NEWEST_FIRST) if _kept(home, flow).is_file())


def load_kept(home: Path) -> ExtractRun:
    """What says where the clips of single stages stand. The folder must have some."""
    path = _kept(home, kept_stages(home)[-1])
    run = standing_of(read_settings(path), str(path))
    return run.model_copy(update={"place": moved(run.place, home)})


def stage_of(settings: Mapping[str, Any]) -> str | None:
    """The single stage that all settings belong to; none for a pipeline's."""
    return next((flow for flow, model in STAGES.items() if set(settings) <= set(model.model_fields)), None)


def standing_of(settings: Mapping[str, Any], origin: str) -> ExtractRun:
    """Place, policy and extractors of a single stage's settings; what it does not state is as by default."""
    run = validate(STAGES[stage_of(settings) or "extract"], settings, origin)
    known = {name: getattr(run, name) for name in ("place", "policy", "extract") if name in type(run).model_fields}
    return ExtractRun(**known)


def moved(place: Place, home: Path) -> Place:
    """A place as it is seen from here."""
    return place.model_copy(update={"home": str(home)})


def refuse_single(home: Path, stages: tuple[str, ...]) -> None:
    """Say what to do instead of a command that needs a whole pipeline. Raises ConfigError if there are such stages."""
    if not stages:
        return
    again = " or ".join(f"`dualforce run {stage} --config FILE place.home={home}`" for stage in stages)
    raise ConfigError(
        f"{home} holds no pipeline, only what was run stage by stage ({', '.join(stages)}). To try failed clips "
        f"again: {again}, with stage.attempts above the 3 that a clip is charged by default. To plan, rerun and do the "
        f"rest: `dualforce run pipeline --config FILE place.home={home}` first"
    )


def _kept(home: Path, flow: str) -> Path:
    return home / f"last_{flow}.yaml"
