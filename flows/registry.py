"""Flows by name: where they live and which model configures them. One file, one flow, one deployment."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualforce_model.config import load_config, shipped

if TYPE_CHECKING:
    from flows.preflight import FlowRun

# name -> (module, flow, configuration); the module is imported only when the flow is asked for
FLOWS: dict[str, tuple[str, str, str]] = {
    "acquire": ("flows.acquire", "acquire", "AcquireRun"),
    "curate": ("flows.curate", "curate", "CurateRun"),
    "extract": ("flows.extract", "extract", "ExtractRun"),
    "train": ("flows.train", "train", "TrainRun"),
    "generate": ("flows.generate", "generate", "GenerateRun"),
    "evaluate": ("flows.evaluate", "evaluate", "EvaluateRun"),
    "pipeline": ("flows.pipeline", "pipeline", "PipelineRun"),
    "verify": ("flows.verify", "verify", "VerifyRun"),
    "rerun": ("flows.rerun", "rerun", "RerunRun"),
}


def config_model(name: str) -> "type[FlowRun]":
    """The configuration model of a flow."""
    module, _, model = FLOWS[name]
    return getattr(import_module(module), model)  # type: ignore[no-any-return]


def load_run(name: str, path: Path, overrides: Sequence[str] = ()) -> "tuple[FlowRun, tuple[str, ...]]":
    """A flow's configuration from a YAML file, and what its `check` notes. Raises InputError; nothing is written."""
    run = load_config(config_model(name), shipped(str(path)), overrides)
    return run, run.check()


def load_flow(name: str) -> Callable[..., Any]:
    """The flow itself."""
    module, flow, _ = FLOWS[name]
    return getattr(import_module(module), flow)  # type: ignore[no-any-return]
