"""Crops become features: a crop is decoded once, and every extractor that is wanted reads the same pixels.

    worker = ExtractWorker(ExtractConfig(), media_root, parts_root)
    worker.load()
    worker(job)        # {"video": {"part": "video/<clip>-<key>.safetensors", "key": ...}, ...}

A part is one modality of one clip in a file of its own, until a shard holds it. Its name holds its key, so that after
a kill whatever was finished is found and not made again. A modality that cannot be made says why in its place, and
leaves the others of its clip alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Self

import cv2
import numpy as np
from jaxtyping import UInt8
from pydantic import AfterValidator, Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dualforce_model import clock, media, storage
from dualforce_model.batching import BatchSize
from dualforce_model.config import Frozen, digest_after
from dualforce_model.encoders import Modality
from dualforce_model.schema import Feature, SchemaError, check_feature
from dualforce_model.stamp import is_same_file
from tasks.decoding import ReadAhead
from tasks.device import DeviceChoice, device_for
from tasks.encoding import Lack, encode, is_short, lack_of
from tasks.extractors import (
    EXTRACTORS,
    AudioConfig,
    CropMedia,
    Extractor,
    FlameConfig,
    ReferenceConfig,
    StructureConfig,
    VideoLatentsConfig,
)
from tasks.extractors.text import TextConfig
from tasks.records import FailureClass, Reason, Temporary
from tasks.worker import ShortOfMemory, is_systemic

NO_SOUND = {"reason": Reason.NO_SOUND.value, "measured": "the crop has no sound stream"}
PICTURED: tuple[Modality, ...] = ("video", "structure", "reference")  # made of single frames too
BEGUN = ".begun"  # beside a part while it is being made: what it says when its worker died

RelativePath = Annotated[str, AfterValidator(storage.check_key)]


class ExtractConfig(Frozen):
    """What is computed from crops."""

    modalities: tuple[Modality, ...] = Field(
        ("video", "structure", "audio"), min_length=1, description="features that are made; video alone for pretraining"
    )
    video: VideoLatentsConfig = VideoLatentsConfig()
    structure: StructureConfig = StructureConfig()
    audio: AudioConfig = AudioConfig()
    flame: FlameConfig = FlameConfig()
    reference: ReferenceConfig = ReferenceConfig()
    text: TextConfig | None = Field(
        None, description="features of captions, which clips share; null: none, and models are told nothing"
    )
    device: DeviceChoice = Field(
        "auto", description="where encoders with weights run; auto: a GPU of CUDA where there is one"
    )
    clips_per_message: int = Field(
        8, ge=1, le=64, description="clips that a worker is handed at a time: it decodes the next while it encodes one"
    )
    clips_per_batch: int = Field(
        1,
        ge=1,
        le=64,
        description="clips that an extractor which can takes at once; halved where memory runs out. 1: numbers are the "
        "same bit for bit on every engine",
    )
    decoded_mb: int = Field(
        1024, ge=1, le=1_000_000, description="MiB of decoded clips that a worker may hold; a clip or two may go beyond"
    )

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities {list(self.modalities)} name one twice")
        pictured = {name: getattr(self, name).num_references for name in PICTURED if name in self.modalities}
        if len(set(pictured.values())) > 1:
            told = " and ".join(f"{name}.num_references {count}" for name, count in pictured.items())
            raise ValueError(f"{told}: a window's step 0 is one picture in all features, make them equal")
        if self.clips_per_batch > self.clips_per_message:
            raise ValueError(
                f"clips_per_batch {self.clips_per_batch} is more than clips_per_message {self.clips_per_message}: a "
                "worker never has so many; raise the latter"
            )
        if "text" in self.modalities:
            raise ValueError("text is of captions, not of clips: leave it out of modalities and set extract.text: {}")
        return self


class ExtractJob(Frozen):
    """One crop to extract features from."""

    job_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$", description="the clip's id")
    crop_path: RelativePath = Field(description="the crop, relative to the media root")
    crop_digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="its SHA-256, as curate recorded it")
    num_frames: int = Field(ge=1, le=1_000_000, description="its frames, 4k+1, as curate recorded them")
    wanted: dict[Modality, Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]] = Field(
        min_length=1, description="feature key of each modality that is wanted"
    )


def part_name(modality: str, clip_id: str, key: str) -> str:
    """Where a part lies, below the folder of parts."""
    return f"{modality}/{clip_id}-{key}.safetensors"


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


@dataclass
class Decoded:
    """One clip on its way through a worker."""

    job: ExtractJob
    crop: CropMedia
    value: dict[Modality, dict[str, Any]] = field(default_factory=dict)  # of what there was already, or is by now
    feared: frozenset[Modality] = frozenset()  # what was being made when an earlier worker died

    @property
    def num_bytes(self) -> int:
        """Memory of the crop."""
        return self.crop.frames.nbytes + self.crop.samples.nbytes

    def lacks(self, modality: Modality) -> bool:
        """Whether it is wanted and not there."""
        return modality in self.job.wanted and modality not in self.value


class ExtractWorker:
    """Worker of the extract stage. Folders are given; everything in jobs and answers is relative to them."""

    def __init__(self, config: ExtractConfig, media_root: Path, parts_root: Path) -> None:
        self.config = config
        self.media_root = media_root
        self.parts_root = parts_root
        self.extractors = make_extractors(config)
        self.sizes = {modality: BatchSize(config.clips_per_batch) for modality in self.extractors}

    def load(self) -> None:
        """Ready every extractor; one thread per worker."""
        cv2.setNumThreads(1)
        device = device_for(self.config.device, (each.weights_digest for each in self.extractors.values()))
        for extractor in self.extractors.values():
            extractor.load(device)

    def __call__(self, job: ExtractJob) -> dict[str, Any]:
        """Part and key of every wanted modality; in place of one that cannot be made, a `Lack` says why."""
        result = next(self.batch([job]))
        if isinstance(result, Exception):
            raise result
        return result.value if isinstance(result, ShortOfMemory) else result

    def batch(self, jobs: Sequence[ExtractJob]) -> Iterator[dict[str, Any] | ShortOfMemory | Exception]:
        """What `__call__` says of each job, in their order: while some are encoded the next are decoded."""
        reads = [partial(self._read, job) for job in jobs]
        with ReadAhead(reads, self.config.decoded_mb * 2**20) as ahead:
            for chunk in ahead.chunks(self.config.clips_per_batch):
                self._make([clip for clip in chunk if isinstance(clip, Decoded)])
                for clip in chunk:
                    yield clip if isinstance(clip, Exception) else _answer(clip)

    def _make(self, clips: Sequence[Decoded]) -> None:
        """Every modality that the clips lack; last what an earlier worker may have died of."""
        feared = {modality for clip in clips for modality in clip.feared}
        for modality in sorted(self.extractors, key=lambda name: (name in feared, name)):
            extractor = self.extractors[modality]
            lacking = [clip for clip in clips if clip.lacks(modality)]
            for clip in lacking:
                if "samples" in extractor.needs and not len(clip.crop.samples):
                    clip.value[modality] = NO_SOUND
            making = [clip for clip in lacking if clip.lacks(modality)]
            for clip in making:
                self._mark(clip.job, modality).touch()
            crops = [clip.crop for clip in making]
            for clip, made in zip(making, encode(extractor, crops, self.sizes[modality]), strict=True):
                clip.value[modality] = self._kept(clip.job, modality, made)
                self._mark(clip.job, modality).unlink(missing_ok=True)

    def _kept(self, job: ExtractJob, modality: Modality, made: Feature | Lack) -> dict[str, Any]:
        """Write a part and say where it is; or what was said in its place."""
        if "failure" in made or "reason" in made:
            return made
        try:
            check_feature(modality, job.job_id, made)
        except SchemaError as error:
            return lack_of(error)
        key = job.wanted[modality]
        part = part_name(modality, job.job_id, key)
        # safetensors writes the memory as it lies: an array that is not in C order would come back scrambled.
        plain = {name: np.ascontiguousarray(array) for name, array in made.items()}
        try:
            storage.write_bytes(self.parts_root / part, save(plain))
        except OSError as error:
            if is_systemic(error):
                raise
            return lack_of(error)  # this clip's own: those that share its batch are written
        return {"part": part, "key": key}

    def _mark(self, job: ExtractJob, modality: Modality) -> Path:
        part = self.parts_root / part_name(modality, job.job_id, job.wanted[modality])
        return part.with_suffix(BEGUN)

    def _read(self, job: ExtractJob) -> Decoded:
        """The crop of a job, as far as what is missing needs it."""
        there: dict[Modality, dict[str, Any]] = {}
        for modality, key in job.wanted.items():
            part = part_name(modality, job.job_id, key)
            (self.parts_root / part).parent.mkdir(parents=True, exist_ok=True)
            if is_part(self.parts_root / part, modality):
                there[modality] = {"part": part, "key": key}
        missing = [modality for modality in job.wanted if modality not in there]
        if not missing:
            return Decoded(job, CropMedia(np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0, np.float32)), there)
        self._check_keys(job)
        feared = frozenset(modality for modality in missing if self._mark(job, modality).exists())
        needs = frozenset[str]().union(*(self.extractors[modality].needs for modality in missing))
        return Decoded(job, self._decode(job, needs), there, feared)

    def _check_keys(self, job: ExtractJob) -> None:
        """A key that this worker would not give means that driver and worker disagree about the configuration."""
        for modality, key in job.wanted.items():
            if modality not in self.extractors:
                made = ", ".join(self.extractors)
                raise ValueError(f"{job.job_id}: {modality} is wanted, but this worker makes only {made}")
            ours = feature_key(self.extractors[modality], job.crop_digest)
            if key != ours:
                raise ValueError(f"{job.job_id}: {modality} is wanted under key {key}, this worker's is {ours}")

    def _decode(self, job: ExtractJob, needs: frozenset[str]) -> CropMedia:
        path = self.media_root / job.crop_path
        if not is_same_file(path, job.crop_digest):
            found = "is not the one that curate wrote" if path.is_file() else "is gone"
            message = f"{job.job_id}: the crop {path} {found}; `dualforce rerun` makes it again"
            raise Temporary(FailureClass.DISK, message)
        clock.num_steps(job.num_frames)
        frames, samples = np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0, np.float32)
        if "frames" in needs:
            frames = _read_frames(path, job.num_frames)
        if "samples" in needs:
            samples = media.read_sound(path, 0.0, job.num_frames / clock.FPS, clock.SAMPLE_RATE_HZ)
        return CropMedia(frames, samples)


def _read_frames(path: Path, num_frames: int) -> UInt8[np.ndarray, "T H W 3"]:
    """All frames of a crop, straight to their places: a list of them beside the array would take as much again."""
    pictures = media.read_frames(path, fps=clock.FPS)
    first = next(pictures)
    frames = np.empty((num_frames, *first.shape), np.uint8)
    count = 0
    for count, picture in enumerate(chain([first], pictures), start=1):
        if count <= num_frames:
            frames[count - 1] = picture
    if count != num_frames:
        raise ValueError(f"{path} holds {count} frames, curate recorded {num_frames}; `dualforce rerun` makes it again")
    return frames


def _answer(clip: Decoded) -> dict[str, Any] | ShortOfMemory:
    value = {str(modality): clip.value[modality] for modality in clip.job.wanted}
    return ShortOfMemory(value) if is_short(list(value.values())) else value


def is_part(path: Path, modality: str) -> bool:
    """Whether a whole part lies there already. Parts are renamed into place, so that one that is there is whole."""
    if not path.is_file():
        return False
    try:
        check_feature(modality, path.name, load_part(path))
    except (SafetensorError, SchemaError):
        return False
    return True
