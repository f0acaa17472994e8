"""Pictures and sounds become videos: crops the reference as training clips are cropped, samples, writes MP4s.

Resumable: each video's key says what it was made from, its digest which file it is; a finished one is not made again.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from dualforce_model.captions import MAX_CAPTION_CHARS
from dualforce_model.config import Frozen, digest
from dualforce_model.errors import InputError
from dualforce_model.media import read_frames, read_image, read_sound, write_video
from dualforce_model.pipeline import DualForcePipeline
from dualforce_model.storage import file_digest, write_json
from dualforce_model.train_config import PipelineRecord
from tasks.curation import CurateConfig, crop_picture

MANIFEST = "generated.json"
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$"


class GenerateItem(Frozen):
    """One video to make."""

    name: str = Field(pattern=NAME, description="name of the video, without ending")
    reference: str = Field(description="picture, or video whose first frame is meant")
    sound: str = Field(description="speech that drives the lips: any file with sound")
    cropped: bool = Field(False, description="the reference is a square face crop already")


class GenerateConfig(Frozen):
    """How videos are sampled."""

    seed: int = Field(0, ge=0, lt=2**31, description="of the noise")
    num_inference_steps: int | None = Field(
        None, ge=1, le=1000, description="Euler steps a chunk; none: the checkpoint's"
    )
    crop: CurateConfig | None = Field(
        None, description="how the reference is cropped, as the training clips were; none: at the checkpoint's size"
    )
    other_size: bool = Field(False, description="allow crops of another size than the checkpoint was trained on")
    text: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_CAPTION_CHARS,
        exclude_if=lambda text: text is None,  # videos of before there was a choice keep their keys
        description="said of every video, for models that were trained with text",
    )
    without_text: bool = Field(
        False, exclude_if=lambda chosen: not chosen, description="tell a model nothing that was trained with text"
    )
    batch: int = Field(8, ge=1, le=256, description="videos sampled together")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the sampler, where there is no GPU")


class GeneratedItem(Frozen):
    """A finished video."""

    name: str = Field(pattern=NAME)
    key: str = Field(description="what it was made from")
    path: str = Field(description="relative to the folder")
    digest: str = Field("", description="SHA-256 of the file: another run's video of that name is not this one")
    num_frames: int = Field(ge=1)


class Generated(Frozen):
    """All videos of a folder."""

    checkpoint: str
    items: tuple[GeneratedItem, ...] = ()


def generate(
    checkpoint: Path,
    items: Sequence[GenerateItem],
    folder: Path,
    config: GenerateConfig,
    progress: Callable[[Sequence[str]], None] = lambda names: None,
) -> tuple[Generated, int]:
    """Make the videos that are missing and say how many; `progress` hears the names of finished ones."""
    repeated = {item.name for item in items if sum(other.name == item.name for other in items) > 1}
    if repeated:
        raise InputError(f"two videos would be called {sorted(repeated)[0]!r}; names must differ")
    identity = file_digest(checkpoint / "state.json")
    keys = {item.name: item_key(item, identity, config) for item in items}
    done = {item.name: item for item in read_generated(folder).items if _is_finished(item, keys, folder)}
    progress(list(done))
    missing = [item for item in items if item.name not in done]
    pipeline = load_pipeline(checkpoint, config.threads) if missing else None
    for start in range(0, len(missing), config.batch):
        assert pipeline is not None
        for made in _batch(pipeline, missing[start : start + config.batch], keys, folder, config):
            done[made.name] = made
        ordered = tuple(done[item.name] for item in items if item.name in done)
        write_json(folder / MANIFEST, Generated(checkpoint=identity, items=ordered).model_dump(mode="json"))
        progress([item.name for item in missing[start : start + config.batch]])
    return Generated(checkpoint=identity, items=tuple(done[item.name] for item in items)), len(missing)


def load_pipeline(checkpoint: Path, threads: int) -> DualForcePipeline:
    """The checkpoint's pipeline on the GPU, or on some threads of the CPU."""
    pipeline = DualForcePipeline.from_pretrained(checkpoint)
    if torch.cuda.is_available():
        return pipeline.to("cuda")
    torch.set_num_threads(threads)
    return pipeline


def generate_one(
    checkpoint: Path, image: Path, audio: Path, output: Path, config: GenerateConfig, *, cropped: bool
) -> int:
    """One video where the caller wants it; its number of frames."""
    item = GenerateItem(name="one", reference=str(image), sound=str(audio), cropped=cropped)
    frames, sound = _sample(load_pipeline(checkpoint, config.threads), [item], config)[0]
    write_video(output, frames, sound)
    return len(frames)


def crop_for(record: PipelineRecord, config: GenerateConfig) -> CurateConfig:
    """How references are cropped for a checkpoint. Raises InputError for a size that it was not trained on."""
    trained = record.size
    if config.crop is None:
        return CurateConfig(crop_px=trained.crop_px)
    if config.crop.crop_px != trained.crop_px and not config.other_size:
        raise InputError(
            f"crops of {config.crop.crop_px} px: the checkpoint was trained on {trained.crop_px} px "
            f"({trained.latent_px}x{trained.latent_px} latent pixels); leave the size out, or allow other_size "
            "(--other-size)"
        )
    return config.crop


def item_key(item: GenerateItem, checkpoint: str, config: GenerateConfig) -> str:
    """What a video is made from."""
    settings = config.model_dump(mode="json", exclude={"batch", "threads"})
    return digest(checkpoint, file_digest(Path(item.reference)), file_digest(Path(item.sound)), item.cropped, settings)


def read_generated(folder: Path) -> Generated:
    """What a folder holds already."""
    path = folder / MANIFEST
    return (
        Generated.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else Generated(checkpoint="")
    )


def reference_picture(item: GenerateItem, crop: CurateConfig) -> np.ndarray:
    """The reference as uint8 [H, W, 3], a square face crop."""
    path = Path(item.reference)
    is_video = path.suffix.lower() in {".mp4", ".mkv", ".mov", ".webm", ".avi"}
    picture = next(iter(read_frames(path))) if is_video else read_image(path)
    return picture if item.cropped else crop_picture(picture, crop, str(path))


def _is_finished(item: GeneratedItem, keys: dict[str, str], folder: Path) -> bool:
    """Whether a video is wanted as it is: a run that was killed may have left its own under the same name."""
    path = folder / item.path
    return keys.get(item.name) == item.key and path.is_file() and file_digest(path) == item.digest


def _batch(
    pipeline: DualForcePipeline,
    items: Sequence[GenerateItem],
    keys: dict[str, str],
    folder: Path,
    config: GenerateConfig,
) -> list[GeneratedItem]:
    """Sample some videos together and write each."""
    made = []
    for item, (frames, sound) in zip(items, _sample(pipeline, items, config), strict=True):
        path = folder / f"{item.name}.mp4"
        write_video(path, frames, sound)
        made.append(
            GeneratedItem(
                name=item.name,
                key=keys[item.name],
                path=path.name,
                digest=file_digest(path),
                num_frames=len(frames),
            )
        )
    return made


def _sample(
    pipeline: DualForcePipeline, items: Sequence[GenerateItem], config: GenerateConfig
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames uint8 [T, H, W, 3] and sound float32 [n] of each item."""
    sounds = [read_sound(Path(item.sound)) for item in items]
    for item, sound in zip(items, sounds, strict=True):
        if not len(sound):
            raise InputError(f"{item.sound}: it has no sound to drive the lips with")
    crop = crop_for(pipeline.record, config)
    pictures = [reference_picture(item, crop) for item in items]
    for item, picture in zip(items, pictures, strict=True):
        if len(picture) != crop.crop_px and not config.other_size:
            raise InputError(
                f"{item.reference}: {picture.shape[1]}x{len(picture)} pixels, said to be cropped already; the "
                f"checkpoint was trained on crops of {crop.crop_px} px: give one, or a whole picture to be cropped"
            )
    videos = pipeline(
        image=pictures,
        audio=sounds,
        seed=config.seed,
        num_inference_steps=config.num_inference_steps,
        other_size=config.other_size,
        text=config.text,
        without_text=config.without_text,
    )
    return list(zip(videos, sounds, strict=True))
