"""What a stage that was run by itself keeps in the run's folder, to be looked at and rerun like a pipeline's run."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dualforce_model.config import ConfigError, read_settings, validate
from dualforce_model.storage import write_text
from flows.acquire import AcquireRun
from flows.curate import CurateRun
from flows.extract import ExtractRun
from flows.pipeline import SAVED, PipelineRun, acquire_from, kept_settings
from flows.preflight import FlowRun
from tasks.place import Place

SingleRun = AcquireRun | CurateRun | ExtractRun
STAGES: dict[str, type[SingleRun]] = {"curate": CurateRun, "extract": ExtractRun, "acquire": AcquireRun}
CHAIN = ("acquire", "curate", "extract")


def keep(flow: str, run: FlowRun, home: Path) -> None:
    """Keep the resolved configuration of a single stage; of any other flow nothing."""
    if flow in STAGES:
        settings = kept_settings(run) if isinstance(run, AcquireRun) else run.model_dump(mode="json")
        write_text(_kept(home, flow), yaml.safe_dump(settings, sort_keys=False))


def kept_stages(home: Path) -> tuple[str, ...]:
    """Stages that ran by themselves in a folder that is no pipeline's, in the order of the chain."""
    if (home / SAVED).is_file():
        return ()
    return tuple(flow for flow in CHAIN if _kept(home, flow).is_file())


def is_whole(stages: tuple[str, ...]) -> bool:
    """Whether these are the chain from its beginning on: then a failed clip can be followed through all of them."""
    return bool(stages) and stages == CHAIN[: len(stages)]


def load_chain(home: Path) -> PipelineRun:
    """The kept stages as parts of one pipeline, to be rerun. Pool, attempts and place are those of the latest stage.

    What no stage of the folder states is as by default; nothing of it is run. Raises ConfigError where the chain is not
    whole, or its stages are not about one data set.
    """
    stages = kept_stages(home)
    if not is_whole(stages):
        refuse_single(home, stages)
    runs = {stage: _load_stage(home, stage) for stage in stages}
    latest = runs[stages[-1]]
    settings = {name: value for run in runs.values() for name, value in run if value is not None}
    _refuse_mixture(home, {stage: run.place for stage, run in runs.items()})
    return PipelineRun(**settings | {"place": moved(latest.place, home)})


def _load_stage(home: Path, stage: str) -> SingleRun:
    path = _kept(home, stage)
    run: SingleRun = validate(STAGES[stage], read_settings(path), str(path))
    if isinstance(run, AcquireRun):
        run = run.model_copy(update={"acquire": acquire_from(run.acquire, home)})
    return run


def _refuse_mixture(home: Path, places: Mapping[str, Place]) -> None:
    found = {stage: f"{place.dataset} in {place.ledger or 'ledger.db'}" for stage, place in places.items()}
    if len(set(found.values())) > 1:
        said = ", ".join(f"{stage} ran on {what}" for stage, what in found.items())
        raise ConfigError(
            f"{home}: its stages were last run on different data: {said}; run the one that is meant again, with "
            "`dualforce run STAGE --config FILE`, or give each data set a folder of its own"
        )


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
    known = {name: getattr(run, name, None) for name in ("place", "policy", "extract")}
    return ExtractRun(**{name: value for name, value in known.items() if value is not None})


def moved(place: Place, home: Path) -> Place:
    """A place as it is seen from here."""
    return place.model_copy(update={"home": str(home)})


def refuse_single(home: Path, stages: tuple[str, ...]) -> None:
    """Say what to do instead of a command that needs a whole pipeline. Raises ConfigError if there are such stages."""
    if not stages:
        return
    again = f"`dualforce rerun --out {shlex.quote(str(home))}`"
    if not is_whole(stages):
        again = " or ".join(f"`dualforce run {stage} --config FILE place.home={home}`" for stage in stages)
        again += ", with stage.attempts above the 3 that a clip is charged by default"
    raise ConfigError(
        f"{home} holds no pipeline, only what was run stage by stage ({', '.join(stages)}). To try failed clips "
        f"again: {again}. To plan and do the rest: `dualforce run pipeline --config FILE place.home={home}` first"
    )


def _kept(home: Path, flow: str) -> Path:
    return home / f"last_{flow}.yaml"
