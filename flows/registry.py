"""Flows by name: where they live and which model configures them. One file, one flow, one deployment."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from dualforce_model.config import Frozen

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


def config_model(name: str) -> type[Frozen]:
    """The configuration model of a flow."""
    module, _, model = FLOWS[name]
    return getattr(import_module(module), model)  # type: ignore[no-any-return]


def load_flow(name: str) -> Callable[..., Any]:
    """The flow itself."""
    module, flow, _ = FLOWS[name]
    return getattr(import_module(module), flow)  # type: ignore[no-any-return]
