"""Weights that others trained and published: whose, where they lie, what to do where they do not.

path = PRETRAINED["yunet"].find(config.weights)   # or MissingWeightsError, with the command that gets them
content = PRETRAINED["yunet"].read(path)

Nothing is downloaded from here: only `dualforce weights pull` does that (tasks/pulling.py).
"""

from dualforce_model.pretrained.record import (
    MAX_BYTES,
    WEIGHTS_FOLDER,
    Archive,
    DamagedWeightsError,
    MissingWeightsError,
    PublishedFile,
    Weights,
)
from dualforce_model.pretrained.registry import PRETRAINED
from dualforce_model.pretrained.trust import UntrustedWeightsError, check_vouched, fingerprint, weights_digest

__all__ = [
    "MAX_BYTES",
    "PRETRAINED",
    "WEIGHTS_FOLDER",
    "Archive",
    "DamagedWeightsError",
    "MissingWeightsError",
    "PublishedFile",
    "UntrustedWeightsError",
    "Weights",
    "check_vouched",
    "fingerprint",
    "weights_digest",
]
