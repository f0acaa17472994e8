"""Silero VAD: how much of the time somebody speaks. Music, hum and clatter are told from speech, however loud."""

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from dualforce_model.clock import SAMPLE_RATE_HZ
from dualforce_model.onnx_session import open_session, tried
from dualforce_model.pretrained import PRETRAINED, Weights, fingerprint
from tasks.evidence import Evidence
from tasks.measures.base import MeasureConfig
from tasks.records import Score

METHOD = "Silero VAD"
WINDOW, CONTEXT = 512, 64  # samples at 16 kHz: what is judged at a time, and what the net is shown again of before
SPEECH = 0.5  # probability above which a window is speech; the net's makers use the same
WEIGHTS = PRETRAINED["silero"]


class Silero:
    """The net of Silero VAD 5 and later: it takes a state and gives it back, window by window."""

    name: ClassVar[str] = "silero"
    version: ClassVar[int] = 1
    weights: ClassVar[Weights] = WEIGHTS
    scores: ClassVar[tuple[str, ...]] = ("speech_share",)
    needs_face: ClassVar[bool] = False
    needs_landmarks: ClassVar[bool] = False

    def __init__(self, config: MeasureConfig) -> None:
        self.config = config
        self.path = WEIGHTS.find(config.weights)
        self._net: Any = None

    def fingerprint(self) -> str:
        return fingerprint(self.name, self.version, self.path, self.config)

    def load(self) -> None:
        net = open_session(WEIGHTS, self.path, inputs=("input", "state", "sr"))
        answers = tried(WEIGHTS, self.path, net, _question(np.zeros(CONTEXT + WINDOW, np.float32), _silence()))
        shapes = [answer.shape for answer in answers]
        if shapes != [(1, 1), _silence().shape]:
            raise WEIGHTS.damaged(self.path, f"it answers {shapes}, expected a probability [1, 1] and a state")
        self._net = net

    def __call__(self, clip: Evidence) -> dict[str, Score]:
        speech = self.probabilities(clip.sound) > SPEECH
        return {"speech_share": Score(method=METHOD, value=float(speech.mean()) if len(speech) else 0.0)}

    def probabilities(self, sound: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " w"]:
        """How surely each window of 32 ms is speech, 0 to 1; the last is filled up with silence."""
        assert self._net is not None, "load() comes first"
        num_windows = -(-len(sound) // WINDOW)
        padded = np.zeros(CONTEXT + num_windows * WINDOW, np.float32)
        padded[CONTEXT : CONTEXT + len(sound)] = sound
        state, found = _silence(), np.zeros(num_windows, np.float32)
        for index in range(num_windows):
            window = padded[index * WINDOW : index * WINDOW + CONTEXT + WINDOW]
            probability, state = self._net.run(None, _question(window, state))
            found[index] = probability[0, 0]
        return found


def _silence() -> Float32[np.ndarray, "2 1 128"]:
    """The state before anything was heard."""
    return np.zeros((2, 1, 128), np.float32)


def _question(window: Float32[np.ndarray, " c"], state: Float32[np.ndarray, "2 1 128"]) -> dict[str, np.ndarray]:
    return {"input": window[None], "state": state, "sr": np.array(SAMPLE_RATE_HZ, np.int64)}
