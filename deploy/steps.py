"""Steps that prefect.yaml calls: a run's YAML becomes the parameters of its deployment."""

from typing import Any

from dualforce_model.config import load_config, shipped
from flows.registry import config_model


def load_run(flow: str, path: str) -> dict[str, Any]:
    """Read and validate a configuration; `{{ ID.config }}` in prefect.yaml passes it on as a mapping."""
    config = load_config(config_model(flow), shipped(path))
    return {"config": config.model_dump(mode="json")}
