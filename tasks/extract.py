"""Crops become features: a crop is decoded once, and every extractor that is wanted reads the same pixels.

    worker = ExtractWorker(ExtractConfig(), media_root, parts_root)
    worker.load()
    worker(job)        # {"video": {"part": "video/<clip>-<key>.safetensors", "key": ...}, ...}

A part is one modality of one clip in a file of its own, until a shard holds it. Its name holds its key, so that after
a kill whatever was finished is found and not made again.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import cv2
import numpy as np
from pydantic import AfterValidator, Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dualforce_model import clock, media, storage
from dualforce_model.config import Frozen, digest_after
from dualforce_model.encoders import NO_WEIGHTS, Modality
from dualforce_model.schema import Feature, SchemaError, check_feature
from dualforce_model.stamp import is_same_file
from tasks.extractors import EXTRACTORS, AudioConfig, CropMedia, Extractor, StructureConfig, VideoLatentsConfig
from tasks.records import FailureClass, Reason, Temporary

NO_SOUND = {"reason": Reason.NO_SOUND.value, "measured": "the crop has no sound stream"}

RelativePath = Annotated[str, AfterValidator(storage.check_key)]


class ExtractConfig(Frozen):
    """What is computed from crops."""

    modalities: tuple[Modality, ...] = Field(
        ("video", "structure", "audio"), min_length=1, description="features that are made; video alone for pretraining"
    )
    video: VideoLatentsConfig = VideoLatentsConfig()
    structure: StructureConfig = StructureConfig()
    audio: AudioConfig = AudioConfig()
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where encoders with weights run; auto: a GPU of CUDA where there is one"
    )

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities {list(self.modalities)} name one twice")
        return self


class ExtractJob(Frozen):
    """One crop to extract features from."""

    job_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$", description="the clip's id")
    crop_path: RelativePath = Field(description="the crop, relative to the media root")
    crop_digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="its SHA-256, as curate recorded it")
    wanted: dict[Modality, Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]] = Field(
        min_length=1, description="feature key of each modality that is wanted"
    )


def make_extractors(config: ExtractConfig) -> dict[Modality, Extractor]:
    """The extractors of a config by modality, not loaded yet."""
    return {
        kind.modality: kind(getattr(config, kind.modality))
        for kind in EXTRACTORS.values()
        if kind.modality in config.modalities
    }


def feature_key(extractor: Extractor, crop_digest: str, upstream: Iterable[str] = ()) -> str:
    """32 hex digits over all that decides a feature: the extractor, the crop's bytes, keys of features it reads."""
    return feature_keys(extractor)(crop_digest, upstream)


def feature_keys(extractor: Extractor) -> Callable[[str, Iterable[str]], str]:
    """`feature_key` of one extractor for many crops: what does not depend on the crop is computed once."""
    begun = digest_after("feature", extractor.fingerprint())
    return lambda crop_digest, upstream: begun(crop_digest, sorted(upstream))


def wanted_features(config: ExtractConfig, crop_digest: str) -> dict[Modality, tuple[str, str]]:
    """Key and fingerprint of every feature that a crop should have."""
    extractors = make_extractors(config)
    return {
        modality: (feature_key(extractor, crop_digest), extractor.fingerprint())
        for modality, extractor in extractors.items()
    }


class FeatureKeys:
    """`feature_key` of all of a config's features for many crops."""

    def __init__(self, config: ExtractConfig) -> None:
        self._keys = {modality: feature_keys(each) for modality, each in make_extractors(config).items()}

    def __call__(self, crop_digest: str) -> dict[Modality, str]:
        """The key of every feature that a crop should have."""
        return {modality: key(crop_digest, []) for modality, key in self._keys.items()}

    def of(self, modality: str, crop_digest: str) -> str | None:
        """The key of one of them; none for a feature that is not made."""
        key = self._keys.get(modality)  # type: ignore[call-overload]  # a row's feature may be of another config
        return None if key is None else key(crop_digest, [])


def load_part(path: Path) -> Feature:
    """The arrays of a part. Raises SafetensorError for a file that is none."""
    return dict(load_file(path))


class ExtractWorker:
    """Worker of the extract stage. Folders are given; everything in jobs and answers is relative to them."""

    def __init__(self, config: ExtractConfig, media_root: Path, parts_root: Path) -> None:
        self.config = config
        self.media_root = media_root
        self.parts_root = parts_root
        self.extractors = make_extractors(config)

    def load(self) -> None:
        """Ready every extractor; one thread per worker."""
        cv2.setNumThreads(1)
        for extractor in self.extractors.values():
            extractor.load(self._device())

    def _device(self) -> str:
        """The device of all encoders. Torch is asked only where one of them has weights: it takes seconds to import."""
        if self.config.device != "auto" or all(each.weights_digest == NO_WEIGHTS for each in self.extractors.values()):
            return "cpu" if self.config.device == "auto" else self.config.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def __call__(self, job: ExtractJob) -> dict[str, Any]:
        """Part and key of every wanted modality; of one that needs sound the crop has not, reason and measurement."""
        parts: dict[Modality, str] = {
            modality: f"{modality}/{job.job_id}-{key}.safetensors" for modality, key in job.wanted.items()
        }
        missing = {modality for modality, part in parts.items() if not _is_part(self.parts_root / part, modality)}
        silent: set[Modality] = set()
        if missing:
            self._check_keys(job)
            crop = self._decode(job, [self.extractors[modality] for modality in missing])
            silent = {modality for modality in missing if _lacks_sound(self.extractors[modality], crop)}
            for modality in sorted(missing - silent):
                feature = self.extractors[modality](crop)
                check_feature(modality, job.job_id, feature)
                # safetensors writes the memory as it lies: an array that is not in C order would come back scrambled.
                plain = {name: np.ascontiguousarray(array) for name, array in feature.items()}
                storage.write_bytes(self.parts_root / parts[modality], save(plain))
        return {
            modality: NO_SOUND if modality in silent else {"part": parts[modality], "key": key}
            for modality, key in job.wanted.items()
        }

    def _check_keys(self, job: ExtractJob) -> None:
        """A key that this worker would not give means that driver and worker disagree about the configuration."""
        for modality, key in job.wanted.items():
            if modality not in self.extractors:
                made = ", ".join(self.extractors)
                raise ValueError(f"{job.job_id}: {modality} is wanted, but this worker makes only {made}")
            ours = feature_key(self.extractors[modality], job.crop_digest)
            if key != ours:
                raise ValueError(f"{job.job_id}: {modality} is wanted under key {key}, this worker's is {ours}")

    def _decode(self, job: ExtractJob, extractors: list[Extractor]) -> CropMedia:
        path = self.media_root / job.crop_path
        if not is_same_file(path, job.crop_digest):
            found = "is not the one that curate wrote" if path.is_file() else "is gone"
            message = f"{job.job_id}: the crop {path} {found}; `dualforce rerun` makes it again"
            raise Temporary(FailureClass.DISK, message)
        frames = np.stack(list(media.read_frames(path, fps=clock.FPS)))
        clock.num_steps(len(frames))
        if not any("samples" in extractor.needs for extractor in extractors):
            return CropMedia(frames, np.zeros(0, np.float32))
        return CropMedia(frames, media.read_sound(path, 0.0, len(frames) / clock.FPS, clock.SAMPLE_RATE_HZ))


def _lacks_sound(extractor: Extractor, crop: CropMedia) -> bool:
    return "samples" in extractor.needs and not len(crop.samples)


def _is_part(path: Path, modality: Modality) -> bool:
    """Whether a whole part lies there already. Parts are renamed into place, so that one that is there is whole."""
    if not path.is_file():
        return False
    try:
        check_feature(modality, path.name, load_part(path))
    except (SafetensorError, SchemaError):
        return False
    return True
