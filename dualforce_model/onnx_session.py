"""Nets in ONNX form, opened the way all here are: from memory, on one core, tried before they count.

session = open_session(WEIGHTS, path, inputs=("input",))
(answer,) = tried(WEIGHTS, path, session, {"input": zeros})
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dualforce_model.pretrained import Weights

QUIET = 3  # onnxruntime: errors only


def open_session(weights: Weights, path: Path, inputs: Collection[str] | None = None) -> Any:
    """A session whose inputs have these names (None: one, of any name). The package is imported here: it takes time.

    Raises DamagedWeightsError for what is no such net.
    """
    import onnxruntime  # type: ignore[import-untyped]

    content = weights.read(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # workers are the parallelism
    options.log_severity_level = QUIET
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other base
        raise weights.damaged(path, error) from error
    named = [each.name for each in session.get_inputs()]
    if len(named) != 1 if inputs is None else set(named) != set(inputs):
        expected = "one" if inputs is None else ", ".join(inputs)
        raise weights.damaged(path, f"its inputs are {', '.join(named)[:100] or 'none'}; expected {expected}")
    return session


def tried(weights: Weights, path: Path, session: Any, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Answers to a first question, by which a net of another make is told. Raises DamagedWeightsError."""
    try:
        answers = [np.asarray(answer) for answer in session.run(None, dict(feeds))]
        finite = all(bool(np.isfinite(answer).all()) for answer in answers)
    except Exception as error:  # from onnxruntime, or from numpy about answers that are not arrays of numbers
        raise weights.damaged(path, error) from error
    if not finite:
        raise weights.damaged(path, "its answers are not numbers")
    return answers
