"""Measures: scores of clips that take weights which others trained.

measures = make_measures({"silero": MeasureConfig()})
"""

from collections.abc import Mapping

from dualforce_model.config import ConfigError
from tasks.measures.base import Measure, MeasureConfig
from tasks.measures.identity import Identity
from tasks.measures.mesh import Mesh
from tasks.measures.silero import Silero
from tasks.measures.syncnet import SyncNetMeasure

MEASURES: dict[str, type[Measure]] = {
    "silero": Silero,
    "identity": Identity,
    "mesh": Mesh,
    "syncnet": SyncNetMeasure,
}


def make_measures(configs: Mapping[str, MeasureConfig]) -> tuple[Measure, ...]:
    """The measures that a config names, not loaded yet, in the order of MEASURES.

    Raises ConfigError listing the names there are, MissingWeightsError with the command that gets what is missing.
    """
    unknown = [name for name in configs if name not in MEASURES]
    if unknown:
        raise ConfigError(f"curate.measures.{unknown[0]}: no such measure; there are: {', '.join(MEASURES)}")
    return tuple(measure(configs[name]) for name, measure in MEASURES.items() if name in configs)


__all__ = ["MEASURES", "Measure", "MeasureConfig", "make_measures"]
