"""DualForcePipeline: one picture and one sound in, a talking head out.

    pipe = DualForcePipeline.from_pretrained("runs/demo/.../checkpoints/step-00000600")
    frames = pipe(image=picture, audio=samples, seed=0)      # uint8 [T, H, W, 3], 25 frames a second

Legend: b clips of one call, T frames, S steps, n samples at 16 kHz, r reference features of width e, k numbers of key
points at rest.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from dualforce_model import clock
from dualforce_model.checkpoint import EMA_NAME, EMA_VARIANT, MODEL_FOLDER, CheckpointError, load_record
from dualforce_model.config import validate
from dualforce_model.diffusion.guidance import Guidance
from dualforce_model.diffusion.sampler import Conditions, Sampler, SamplerConfig
from dualforce_model.encoders import VideoDecoder, make_encoder
from dualforce_model.encoders.structure import Measured, measure
from dualforce_model.errors import InputError
from dualforce_model.model import DualForce
from dualforce_model.prompting import Prompting, Told
from dualforce_model.schema import TensorStatistics
from dualforce_model.storage import write_json
from dualforce_model.train_config import RECORD_FORMAT, PipelineRecord

RECORD_NAME = "pipeline.json"


class GenerationInputError(InputError):
    """A picture or a sound that cannot be used; the message says what was found and what is expected."""


@dataclass(frozen=True)
class _Prepared:
    """Model inputs of all clips of a call, and how many frames each clip is to have."""

    conditions: Conditions
    num_frames: tuple[int, ...]


class DualForcePipeline:
    """Model, encoders and statistics of one checkpoint. Averaged weights are taken where the checkpoint has them.

    Reference features (a model with `video.feature_dim` above 0) are those handed over, else what `encoders.reference`
    of the checkpoint makes of the picture ([h, w, 3] to [r, e]). With neither a call is refused: the model does work
    without, its attention to them then adds exactly 0, but it has learned to only with `feature_dropout` above 0, and
    a condition that is missing by oversight would show in nothing but the pictures. `without_features` allows it.
    """

    def __init__(self, model: DualForce, record: PipelineRecord) -> None:
        self.model = model.eval()
        self.record = record
        self.codec: Any = make_encoder(record.encoders.video.name, record.encoders.video.config)
        self.structure: Any = make_encoder(record.encoders.structure.name, record.encoders.structure.config)
        self.hearing: Any = make_encoder(record.encoders.audio.name, record.encoders.audio.config)
        looking = record.encoders.reference if model.settings.video.feature_dim else None
        self.looking: Any = make_encoder(looking.name, looking.config) if looking is not None else None
        self.prompting = Prompting(model.settings, record)
        self._loaded_on = ""  # the device that the encoders read their weights to

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read a checkpoint of the trainer, or what `save_pretrained` wrote. Raises CheckpointError."""
        folder = Path(folder)
        record = load_pipeline_record(folder)
        variant = EMA_VARIANT if (folder / MODEL_FOLDER / EMA_NAME).is_file() else None
        return cls(DualForce.from_pretrained(folder / MODEL_FOLDER, variant=variant, use_safetensors=True), record)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and record so that `from_pretrained` reads them; the weights in use become the weights."""
        folder = Path(folder)
        shutil.rmtree(folder / MODEL_FOLDER, ignore_errors=True)
        self.model.save_pretrained(folder / MODEL_FOLDER, safe_serialization=True)
        write_json(folder / RECORD_NAME, self.record.model_dump(mode="json"))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move the model; encoders with weights follow it when they are next used, in the precision they have."""
        self.model.to(device=device, dtype=dtype)
        return self

    @overload
    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        audio: Float32[np.ndarray, " n"],
        seed: int = 0,
        *,
        num_inference_steps: int | None = None,
        chunk_steps: int | None = None,
        guidance: float | None = None,
        other_size: bool = False,
        features: Float32[np.ndarray, "r e"] | None = None,
        without_features: bool = False,
        text: Told | None = None,
        without_text: bool = False,
    ) -> UInt8[np.ndarray, "t h w 3"]: ...

    @overload
    def __call__(
        self,
        image: Sequence[UInt8[np.ndarray, "h w 3"]],
        audio: Sequence[Float32[np.ndarray, " n"]],
        seed: int | Sequence[int] = 0,
        *,
        num_inference_steps: int | None = None,
        chunk_steps: int | None = None,
        guidance: float | None = None,
        other_size: bool = False,
        features: Sequence[Float32[np.ndarray, "r e"]] | None = None,
        without_features: bool = False,
        text: Told | Sequence[Told] | None = None,
        without_text: bool = False,
    ) -> list[UInt8[np.ndarray, "t h w 3"]]: ...

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"] | Sequence[UInt8[np.ndarray, "h w 3"]],
        audio: Float32[np.ndarray, " n"] | Sequence[Float32[np.ndarray, " n"]],
        seed: int | Sequence[int] = 0,
        *,
        num_inference_steps: int | None = None,
        chunk_steps: int | None = None,
        guidance: float | None = None,
        other_size: bool = False,
        features: Float32[np.ndarray, "r e"] | Sequence[Float32[np.ndarray, "r e"]] | None = None,
        without_features: bool = False,
        text: Told | Sequence[Told] | None = None,
        without_text: bool = False,
    ) -> UInt8[np.ndarray, "t h w 3"] | list[UInt8[np.ndarray, "t h w 3"]]:
        """Frames at 25 per second, exactly as many as the sound fills (a started frame counts).

        Lists are sampled as one batch: sounds are padded with silence to the longest, results trimmed. Clip i of a list
        is sampled with seed + i, or with its own from a list of seeds. What is left out has the checkpoint's default.
        Pictures are of the size that the model was trained on (`record.size.crop_px`), unless `other_size` is allowed.
        `features`: reference features of each picture, where the checkpoint names no encoder of them (see the class).
        `text`: words, where the checkpoint names an encoder of them, or their tokens [n, e]; one of each clip, or one
        for all. A model that was trained with text is not left without by oversight: `without_text` allows that.
        """
        images = [image] if isinstance(image, np.ndarray) else list(image)
        sounds = [audio] if isinstance(audio, np.ndarray) else list(audio)
        seeds = [seed + number for number in range(len(images))] if isinstance(seed, int) else list(seed)
        given = [features] if isinstance(features, np.ndarray) else features
        said = self.prompting(text, len(images), without=without_text, device=str(self.model.device))
        prepared = self._prepare(images, sounds, seeds, other_size, given, without_features, said)
        settings = self._settings(num_inference_steps, chunk_steps, guidance)
        sampler = Sampler(self.model, self.record.diffusion.schedule, settings, self.record.reading())
        decoders = [self.codec.decoder() for _ in seeds]
        parts = [self._decode(chunk.video, decoders) for chunk in sampler.stream(prepared.conditions, seeds)]
        clips = [
            np.concatenate(clip)[:count]
            for clip, count in zip(zip(*parts, strict=True), prepared.num_frames, strict=True)
        ]
        return clips[0] if isinstance(image, np.ndarray) else clips

    def stream(
        self, image: UInt8[np.ndarray, "h w 3"], audio: Float32[np.ndarray, " n"], seed: int = 0, **options: Any
    ) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
        """The frames of one clip as they are made, chunk by chunk; together they equal what a call returns."""
        features, without = options.pop("features", None), options.pop("without_features", False)
        given, other_size = None if features is None else [features], options.pop("other_size", False)
        text, silent = options.pop("text", None), options.pop("without_text", False)
        said = self.prompting(text, 1, without=silent, device=str(self.model.device))
        prepared = self._prepare([image], [audio], [seed], other_size, given, without, said)
        settings = self._settings(**{"num_inference_steps": None, "chunk_steps": None, "guidance": None, **options})
        left = prepared.num_frames[0]
        sampler = Sampler(self.model, self.record.diffusion.schedule, settings, self.record.reading())
        decoders = [self.codec.decoder()]
        for chunk in sampler.stream(prepared.conditions, [seed]):
            frames = self._decode(chunk.video, decoders)[0][:left]
            left -= len(frames)
            if len(frames):
                yield frames

    # --------------------------------------------------------------------------------------------------- in and out

    def _settings(
        self, num_inference_steps: int | None, chunk_steps: int | None, guidance: float | None
    ) -> SamplerConfig:
        given = self.record.sampler
        scale = given.guidance.audio_scale if guidance is None else guidance
        return SamplerConfig(
            num_inference_steps=given.num_inference_steps if num_inference_steps is None else num_inference_steps,
            chunk_steps=given.chunk_steps if chunk_steps is None else chunk_steps,
            guidance=Guidance(audio_scale=scale, off_below_sigma=given.guidance.off_below_sigma),
        )

    def _prepare(
        self,
        images: Sequence[UInt8[np.ndarray, "h w 3"]],
        sounds: Sequence[Float32[np.ndarray, " n"]],
        seeds: Sequence[int],
        other_size: bool,
        features: Sequence[Float32[np.ndarray, "r e"]] | None,
        without_features: bool,
        text: Float[Tensor, "b l e"] | None,
    ) -> _Prepared:
        if not len(images) == len(sounds) == len(seeds) or not images:
            raise GenerationInputError(
                f"{len(images)} pictures, {len(sounds)} sounds and {len(seeds)} seeds: one of each per clip is expected"
            )
        for image in images:
            _check_picture(image, images[0].shape, None if other_size else self.record.size.crop_px)
        counts = tuple(_num_frames(sound) for sound in sounds)
        if without_features and features is not None:
            raise GenerationInputError("features were given together with without_features: leave out one of them")
        self._load_encoders()
        known = None if without_features else self._known(images, features)
        longest = clock.ceil_frames(max(counts))
        latents = [self._standardise("video.latents", self.codec.encode_image(image)[None])[0] for image in images]
        measured = [measure(self.structure, image[None]) for image in images]
        motions = [self._standardise("structure.motion", each.motion)[0] for each in measured]
        tokens = [self.hearing(_padded(sound, longest)) for sound in sounds]
        return _Prepared(self._conditions(latents, motions, tokens, known, self._at_rest(measured), text), counts)

    def _at_rest(self, measured: Sequence[Measured]) -> list[Float32[np.ndarray, " k"]] | None:
        """Standardised key points at rest of each picture; nothing for a model that takes none."""
        structure = self.model.settings.structure
        if structure is None or not structure.canonical_dim:
            return None
        found = [each.canonical for each in measured if each.canonical is not None]
        if len(found) < len(measured):
            raise CheckpointError(
                f"the model takes key points at rest, and encoders.structure of the checkpoint is "
                f"{self.record.encoders.structure.name}, which tells none; use the encoder that it was trained with"
            )
        return [self._standardise("structure.canonical", rows)[0] for rows in found]

    def _known(
        self, images: Sequence[UInt8[np.ndarray, "h w 3"]], given: Sequence[Float32[np.ndarray, "r e"]] | None
    ) -> list[Float32[np.ndarray, "r e"]] | None:
        """Reference features of each picture; nothing for a model that takes none."""
        width = self.model.settings.video.feature_dim
        if given is None and not width:
            return None
        if given is None and self.looking is None:
            raise GenerationInputError(
                f"the model takes reference features of width {width}, none were given and the checkpoint names no "
                "encoder of them (encoders.reference): hand over features, or allow without_features, which it has "
                "learned only if it was trained with feature_dropout above 0"
            )
        found = [self.looking(image) for image in images] if given is None else list(given)
        if len(found) != len(images):
            raise GenerationInputError(f"reference features of {len(found)} pictures for {len(images)}: one of each")
        for features in found:
            _check_features(features, width)
        return found

    def _conditions(
        self,
        latents: list[np.ndarray],
        motions: list[np.ndarray],
        tokens: list[np.ndarray],
        known: list[Float32[np.ndarray, "r e"]] | None,
        canonical: list[Float32[np.ndarray, " k"]] | None,
        text: Float[Tensor, "b l e"] | None,
    ) -> Conditions:
        device, dtype = self.model.device, self.model.dtype
        audio = torch.stack([clock.fold_audio(torch.from_numpy(each)) for each in tokens]).to(device, dtype)
        audio[:, 0] = 0  # step 0 is a picture: nothing is heard there, in training neither
        mask = torch.ones(audio.shape[:3], dtype=torch.bool, device=device)
        mask[:, 0] = False
        motion = torch.from_numpy(np.stack(motions)).to(device, dtype)
        return Conditions(
            reference=torch.from_numpy(np.stack(latents)).to(device, dtype),
            structure=None
            if self.model.settings.structure is None
            else motion[:, None].expand(-1, clock.FRAMES_PER_STEP, -1).contiguous(),
            audio=audio,
            audio_mask=mask,
            features=None if known is None else _stacked(known).to(device, dtype),
            features_mask=None if known is None else _there(known).to(device),
            canonical=None if canonical is None else torch.from_numpy(np.stack(canonical)).to(device, dtype),
            text=None if text is None else text.to(device, dtype),
        )

    def _decode(self, video: Tensor, decoders: Sequence[VideoDecoder]) -> list[UInt8[np.ndarray, "t h w 3"]]:
        """Frames of the next steps of each clip."""
        statistics = self._statistics("video.latents")
        latents = video.float().cpu().numpy()
        return [decoder(statistics.restore(clip)) for decoder, clip in zip(decoders, latents, strict=True)]

    def _load_encoders(self) -> None:
        device = str(self.model.device)
        if device == self._loaded_on:
            return
        for encoder in (self.codec, self.structure, self.hearing, self.looking):
            if encoder is not None:
                encoder.load(device)
        self._loaded_on = device

    def _standardise(self, name: str, rows: np.ndarray) -> np.ndarray:
        standardised: np.ndarray = self._statistics(name).standardise(rows)
        return standardised

    def _statistics(self, name: str) -> TensorStatistics:
        if name not in self.record.statistics:
            raise CheckpointError(f"{RECORD_NAME} has no statistics of {name}; it has {sorted(self.record.statistics)}")
        return self.record.statistics[name]


def load_pipeline_record(folder: Path) -> PipelineRecord:
    """What a checkpoint says about its use, without its weights. Raises CheckpointError, also for an older layout."""
    path = folder / RECORD_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {RECORD_NAME}; expected a checkpoint folder such as .../step-00000600")
    data = load_record(path)
    found = data.get("format") if isinstance(data, dict) else None
    if found != RECORD_FORMAT:
        raise CheckpointError(
            f"{path}: record of format {found or 1}, this version reads {RECORD_FORMAT} (it says which crops the model "
            "was trained on); train again"
        )
    return validate(PipelineRecord, data, str(path))


def _check_picture(image: np.ndarray, shape: tuple[int, ...], crop_px: int | None) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise GenerationInputError(f"picture {image.dtype} {list(image.shape)}: expected uint8 [height, width, 3]")
    if image.shape[0] != image.shape[1]:
        raise GenerationInputError(
            f"picture of {image.shape[1]}x{image.shape[0]} pixels: crop the face to a square first"
        )
    if image.shape != shape:
        raise GenerationInputError(
            f"pictures of {shape[1]} and {image.shape[1]} pixels in one batch: bring them to one size"
        )
    if crop_px is not None and image.shape[0] != crop_px:
        raise GenerationInputError(
            f"picture of {image.shape[1]} pixels: the model was trained on crops of {crop_px}; bring it to that size, "
            "or allow other_size"
        )


def _check_features(features: np.ndarray, width: int) -> None:
    if not width:
        raise GenerationInputError("features were given, but the model takes no reference features: leave them out")
    found = features.shape if isinstance(features, np.ndarray) else type(features).__name__
    if not isinstance(features, np.ndarray) or features.ndim != 2 or not features.size or features.shape[1] != width:
        raise GenerationInputError(
            f"reference features {found}: expected an array [features, {width}] for each picture"
        )
    if not np.issubdtype(features.dtype, np.floating) or not np.isfinite(features).all():
        raise GenerationInputError(f"reference features of {features.dtype}: expected finite floating-point numbers")


def _stacked(known: list[Float32[np.ndarray, "r e"]]) -> Float[Tensor, "b r e"]:
    """One batch, padded with zeros to the clip with the most; `_there` says which are real."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(each.astype(np.float32)) for each in known], batch_first=True
    )


def _there(known: list[Float32[np.ndarray, "r e"]]) -> Bool[Tensor, "b r"]:
    counts = torch.tensor([len(each) for each in known])
    return torch.arange(int(counts.max())) < counts[:, None]


def _num_frames(sound: np.ndarray) -> int:
    if sound.ndim != 1 or not sound.size:
        raise GenerationInputError(f"sound of shape {list(sound.shape)}: expected a row of samples at 16 kHz")
    return -(-sound.size // clock.SAMPLES_PER_FRAME)


def _padded(sound: np.ndarray, num_frames: int) -> np.ndarray:
    """The sound with silence up to the given number of frames, float32."""
    padded: np.ndarray = np.pad(sound.astype(np.float32), (0, clock.num_samples(num_frames) - sound.size))
    return padded
