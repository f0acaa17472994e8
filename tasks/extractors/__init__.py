"""Extractors: what is computed from a crop and stored. `EXTRACTORS` lists them by name."""

from tasks.extractors.audio import Audio, AudioConfig
from tasks.extractors.base import CropMedia, Extractor
from tasks.extractors.flame import Flame, FlameConfig
from tasks.extractors.reference import Reference, ReferenceConfig
from tasks.extractors.structure import Structure, StructureConfig
from tasks.extractors.video_latents import VideoLatents, VideoLatentsConfig

EXTRACTORS: dict[str, type[Extractor]] = {
    VideoLatents.name: VideoLatents,
    Structure.name: Structure,
    Audio.name: Audio,
    Flame.name: Flame,
    Reference.name: Reference,
}

__all__ = [
    "EXTRACTORS",
    "Audio",
    "AudioConfig",
    "CropMedia",
    "Extractor",
    "Flame",
    "FlameConfig",
    "Reference",
    "ReferenceConfig",
    "Structure",
    "StructureConfig",
    "VideoLatents",
    "VideoLatentsConfig",
]
