"""Audio tokens by HuBERT, in windows: no token knows more of what is still to come than is declared.

Legend: T frames, J = 2T tokens, a entries per token, n windows of w samples.

HuBERT looks both ways, so tokens cut from one pass over a clip would hold all of its future, and a stream could never
have them. Here a pass hears a window and answers for a few frames of it: frame 0 alone, then `hop_frames` at a time, by
default those of one step. The window ends `look_ahead_frames` after the first frame that it answers for (the last one
sees the least) and begins `window_s` earlier, or where the sound does: before that is nothing, not silence. After the
sound's end is silence, so that silence added there changes nothing. A window's samples get zero mean and unit variance
where the published extractor does that, by what the window holds; 40 zeros on each side make it two tokens per frame,
token k centred on sample 320k + 160.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field, model_validator

from dualforce_model import clock
from dualforce_model.batching import BatchSize, in_like_batches
from dualforce_model.config import Frozen
from dualforce_model.encoders.base import Modality
from dualforce_model.encoders.exact import exact_arithmetic
from dualforce_model.encoders.hub import PREPROCESSOR_NAME, Form, PublishedConfig, PublishedEncoder, Told
from dualforce_model.pretrained import PRETRAINED, Weights

HOP = clock.SAMPLE_RATE_HZ // clock.AUDIO_HZ  # 320
REACH = 400  # samples that one token of the net's front end sees
EDGE = (REACH - HOP) // 2
VARIANCE_FLOOR = 1e-7  # of the published extractor


class HubertConfig(PublishedConfig):
    """Settings of the HuBERT audio encoder."""

    layer: int | None = Field(
        None,
        ge=0,
        le=200,
        description="hidden state that is taken: 0 goes into the first layer, k comes out of layer k; empty: what the "
        "net puts out, after its last normalisation",
    )
    window_s: float = Field(2.0, ge=clock.TOKENS_PER_FRAME / clock.AUDIO_HZ, le=60.0, description="longest window, s")
    look_ahead_frames: int = Field(
        5, ge=0, le=250, description="no token of frame t hears beyond frame t + this; frames of 40 ms"
    )
    hop_frames: int = Field(
        clock.FRAMES_PER_STEP, ge=1, le=250, description="frames that one window answers for; the last sees the least"
    )
    batch_windows: int = Field(
        16, ge=1, le=1024, description="windows of equal length in one pass of the net; fewer where memory runs out"
    )

    @property
    def window_frames(self) -> int:
        """Frames in the longest window."""
        return round(self.window_s * clock.FPS)

    @model_validator(mode="after")
    def _windows_hold_their_frames(self) -> Self:
        if abs(self.window_s * clock.FPS - self.window_frames) > 1e-6:
            raise ValueError(f"window_s {self.window_s} is no whole number of frames of {1 / clock.FPS} s")
        if self.hop_frames > self.look_ahead_frames + 1:
            raise ValueError(
                f"hop_frames {self.hop_frames} must not exceed look_ahead_frames {self.look_ahead_frames} + 1: the "
                "first of these frames hears the last"
            )
        if self.window_frames < self.look_ahead_frames + 1:
            raise ValueError(
                f"window_s {self.window_s} is shorter than {self.look_ahead_frames} frames ahead and its own"
            )
        return self


class _HubertTold(Told):
    """config.json; what is left out has the default of transformers' class."""

    hidden_size: int = Field(768, ge=1, le=8192)
    num_hidden_layers: int = Field(12, ge=1, le=200)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    feat_extract_norm: str = "group"


class _ExtractorTold(Told):
    """preprocessor_config.json."""

    sampling_rate: int = clock.SAMPLE_RATE_HZ
    do_normalize: bool


class Window(NamedTuple):
    """Frames that are heard, begin to end, and those among them that are answered for, first to last; ends excluded."""

    begin: int
    end: int
    first: int
    last: int


class Heard(NamedTuple):
    """A window and its sound."""

    samples: Float32[np.ndarray, " w"]
    window: Window


class Hubert(PublishedEncoder):
    """Sound to tokens. `version` rises with anything that changes them; the size of a batch changes rounding alone."""

    name: ClassVar[str] = "hubert"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "audio"
    config_type: ClassVar[type[Frozen]] = HubertConfig
    weights: ClassVar[Weights | None] = PRETRAINED["hubert"]
    form: ClassVar[Form] = Form("transformers", "HubertModel", ("hubert",), others=("lm_head.",))
    unsaid: ClassVar[frozenset[str]] = PublishedEncoder.unsaid | {"batch_windows"}

    def __init__(self, config: HubertConfig | None = None) -> None:
        self._config = config or HubertConfig()
        super().__init__(self._config)
        told = self.told(_HubertTold, self.said)
        self._width = told.hidden_size
        if _reach(told.conv_kernel, told.conv_stride) != (REACH, HOP):
            self._refuse(
                f"conv_kernel {list(told.conv_kernel)} and conv_stride {list(told.conv_stride)} do not make one token "
                f"of {REACH} samples every {HOP}"
            )
        if self._config.layer is not None and self._config.layer > told.num_hidden_layers:
            self._refuse(f"it has {told.num_hidden_layers} layers; layer {self._config.layer} was asked for")
        normal = {"do_normalize": told.feat_extract_norm == "layer"}  # as all those published do it
        extractor = self.told(_ExtractorTold, normal | self.preprocessor(), PREPROCESSOR_NAME)
        if extractor.sampling_rate != clock.SAMPLE_RATE_HZ:
            self._refuse(f"made for sound at {extractor.sampling_rate} Hz, expected {clock.SAMPLE_RATE_HZ}")
        self._normalize = extractor.do_normalize
        self._batch = BatchSize(self._config.batch_windows)

    @property
    def config(self) -> HubertConfig:
        """What this encoder was built with."""
        return self._config

    @property
    def num_features(self) -> int:
        """Entries per token: the net's width, 1024 for HuBERT-Large."""
        return self._width

    @property
    def look_ahead_ms(self) -> int:
        """Latency: how far a token hears, at most, beyond the end of its frame."""
        return self._config.look_ahead_frames * 1000 // clock.FPS

    def __call__(self, samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "J a"]:
        """Tokens [2T, a] of 640T samples at 16 kHz. Raises ValueError for another number of samples."""
        return self.many([samples])[0]

    def many(self, sounds: Sequence[Float[np.ndarray, " _"]]) -> list[Float32[np.ndarray, "_ a"]]:
        """Tokens of each sound, as a call says them but for rounding; windows of all share passes of the net."""
        heard = [self._windows(samples) for samples in sounds]
        said = iter(self.answer([each for windows in heard for each in windows]))
        return [np.concatenate([next(said) for _ in windows]) for windows in heard]

    def stream(self) -> "HubertStream":
        """For sound that is still growing."""
        return HubertStream(self)

    def window(self, first: int) -> Window:
        """The window that answers for the frames from `first` on, in a sound without end."""
        config = self._config
        end = first + config.look_ahead_frames + 1
        last = first + config.hop_frames if first else 1
        return Window(max(end - config.window_frames, 0), end, first, last)

    def answer(self, heard: Sequence[Heard]) -> list[Float32[np.ndarray, "_ a"]]:
        """Tokens of the frames that each window answers for; windows of equal length share a pass of the net."""
        return in_like_batches(self._batch, self._pass, heard, lambda each: len(each.samples))

    def _windows(self, samples: Float[np.ndarray, " n"]) -> list[Heard]:
        """All windows of a whole sound."""
        if samples.ndim != 1 or not samples.size or samples.size % clock.SAMPLES_PER_FRAME:
            raise ValueError(
                f"sound of shape {samples.shape}: expected one channel with {clock.SAMPLES_PER_FRAME} samples per frame"
            )
        stream = self.stream()
        return [*stream.hear(samples), *stream.end()]

    def _prepared(self, sound: Float32[np.ndarray, " w"]) -> Float32[np.ndarray, " v"]:
        if self._normalize:
            sound = (sound - sound.mean()) / np.sqrt(sound.var() + np.float32(VARIANCE_FLOOR))
        return np.pad(sound, EDGE)

    @torch.inference_mode()
    @exact_arithmetic()
    def _pass(self, alike: list[Heard]) -> list[Float32[np.ndarray, "_ a"]]:
        layer = self._config.layer
        sounds = np.stack([self._prepared(each.samples) for each in alike])
        said: Any = self.net(
            torch.from_numpy(sounds).to(self.device, self.dtype), output_hidden_states=layer is not None
        )
        hidden = said.last_hidden_state if layer is None else said.hidden_states[layer]
        tokens: np.ndarray = hidden.float().cpu().numpy()
        assert tokens.shape[1] * HOP == len(alike[0].samples), "the front end is checked when it is built"
        return [self._wanted(each, window) for each, (_, window) in zip(tokens, alike, strict=True)]

    def _wanted(self, tokens: Float32[np.ndarray, "j a"], window: Window) -> Float32[np.ndarray, "_ a"]:
        """Of a window's tokens those of the frames that it answers for; a copy, so that the others are let go."""
        first, last = (clock.num_audio_tokens(frame - window.begin) for frame in (window.first, window.last))
        return tokens[first:last].copy()


class HubertStream:
    """Tokens of a sound as it comes: together they are those of the whole sound. One per sound."""

    def __init__(self, encoder: Hubert) -> None:
        self._encoder = encoder
        self._kept = np.zeros(0, np.float32)  # from frame `_begin` on: all that later windows hear
        self._begin = 0
        self._next = 0  # first frame that was not answered for

    def push(self, samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "j a"]:
        """Tokens of the frames whose windows are complete with these samples, perhaps none."""
        return self._answered(self.hear(samples))

    def finish(self) -> Float32[np.ndarray, "j a"]:
        """Tokens of the last frames: where their windows end after the sound does, they hear silence."""
        return self._answered(self.end())

    def hear(self, samples: Float[np.ndarray, " n"]) -> list[Heard]:
        """The windows that are complete with these samples: what `push` answers."""
        if samples.ndim != 1:
            raise ValueError(f"sound of shape {samples.shape}: expected one channel")
        if not np.isfinite(samples).all():
            raise ValueError("the sound holds values that are no numbers (nan or infinity)")
        self._kept = np.concatenate([self._kept, samples.astype(np.float32)])
        heard = self._begin + len(self._kept) // clock.SAMPLES_PER_FRAME
        windows = []
        while (window := self._encoder.window(self._next)).end <= heard:
            windows.append(window)
            self._next = window.last
        return self._taken(windows)

    def end(self) -> list[Heard]:
        """The last windows, with silence where they end after the sound does: what `finish` answers."""
        if len(self._kept) % clock.SAMPLES_PER_FRAME:
            raise ValueError(
                f"the sound does not end with a frame: {clock.SAMPLES_PER_FRAME} samples each are expected"
            )
        end, windows = self._begin + len(self._kept) // clock.SAMPLES_PER_FRAME, []
        while self._next < end:
            window = self._encoder.window(self._next)
            windows.append(window._replace(last=min(window.last, end)))
            self._next = window.last
        heard = clock.num_samples(windows[-1].end - self._begin) if windows else 0
        self._kept = np.pad(self._kept, (0, max(heard - len(self._kept), 0)))
        return self._taken(windows)

    def _taken(self, windows: list[Window]) -> list[Heard]:
        """The windows with their sound. What none of those to come will hear is let go."""
        sounds = [self._kept[slice(*(clock.num_samples(edge - self._begin) for edge in each[:2]))] for each in windows]
        begin = self._encoder.window(self._next).begin
        self._kept = self._kept[clock.num_samples(max(begin - self._begin, 0)) :]
        self._begin = max(begin, self._begin)
        return [Heard(*each) for each in zip(sounds, windows, strict=True)]

    def _answered(self, heard: list[Heard]) -> Float32[np.ndarray, "j a"]:
        none = np.zeros((0, self._encoder.num_features), np.float32)
        return np.concatenate([none, *self._encoder.answer(heard)])


def _reach(kernels: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """Samples that one token of a stack of convolutions sees, and samples between two tokens."""
    reach, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=False):
        reach, hop = reach + (kernel - 1) * hop, hop * stride
    return reach, hop
