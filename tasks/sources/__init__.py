"""Sources: the lists of data sets, read in their own formats.

listing = make_source(HdtfConfig(folder=Path("HDTF_dataset"))).listing()
"""

from pathlib import Path
from typing import Annotated, get_args

from pydantic import Field

from tasks.sources.base import Listing, ListingProblem, Source, SourceError, SourceSettings
from tasks.sources.celebvhq import CelebvHqConfig, CelebvHqSource
from tasks.sources.celebvtext import CelebvTextConfig, CelebvTextSource
from tasks.sources.cutting import cut_spans
from tasks.sources.folder import FolderConfig, FolderSource
from tasks.sources.hdtf import HdtfConfig, HdtfSource
from tasks.sources.mead import MeadConfig, MeadSource
from tasks.sources.multitalk import MultiTalkConfig, MultiTalkSource
from tasks.sources.panda70m import Panda70mConfig, Panda70mSource
from tasks.sources.talkvid import TalkVidConfig, TalkVidSource
from tasks.sources.urls import UrlsConfig, UrlsSource
from tasks.sources.vfhq import VfhqConfig, VfhqSource
from tasks.sources.voxceleb import VoxCelebConfig, VoxCelebSource
from tasks.sources.voxceleb2 import VoxCeleb2Config, VoxCeleb2Source

SOURCES: dict[str, type[Source]] = {
    HdtfSource.name: HdtfSource,
    CelebvHqSource.name: CelebvHqSource,
    CelebvTextSource.name: CelebvTextSource,
    MultiTalkSource.name: MultiTalkSource,
    VfhqSource.name: VfhqSource,
    TalkVidSource.name: TalkVidSource,
    VoxCelebSource.name: VoxCelebSource,
    VoxCeleb2Source.name: VoxCeleb2Source,
    Panda70mSource.name: Panda70mSource,
    MeadSource.name: MeadSource,
    FolderSource.name: FolderSource,
    UrlsSource.name: UrlsSource,
}

AnyConfig = (
    HdtfConfig
    | CelebvHqConfig
    | CelebvTextConfig
    | MultiTalkConfig
    | VfhqConfig
    | TalkVidConfig
    | VoxCelebConfig
    | VoxCeleb2Config
    | Panda70mConfig
    | MeadConfig
    | FolderConfig
    | UrlsConfig
)
SourceConfig = Annotated[AnyConfig, Field(discriminator="name")]

CONFIGS: dict[str, type[SourceSettings]] = {model.model_fields["name"].default: model for model in get_args(AnyConfig)}
LOCAL = frozenset(name for name, source in SOURCES.items() if source.local)  # their videos stay where they are


def make_source(config: SourceSettings) -> Source:
    """The source that a config describes."""
    name: str = config.name  # type: ignore[attr-defined]  # every source's config has one, of its own type
    return SOURCES[name](config)


def config_at(name: str, path: Path) -> SourceSettings:
    """The config of a source whose list, or folder, is at a path; all else as it is by default.

    Case, `-` and `_` in the name do not matter: CelebV-HQ is celebvhq. Raises SourceError for an unknown name.
    """
    model = CONFIGS.get("".join(character for character in name.lower() if character not in "-_"))
    if model is None:
        raise SourceError(f"no source is named {name!r}; expected one of {', '.join(SOURCES)}")
    if "frame_list" in model.model_fields and path.is_file():
        return model.model_validate({"folder": path.parent, "frame_list": path})
    return model.model_validate({"folder" if "folder" in model.model_fields else "file": path})


__all__ = [
    "CONFIGS",
    "LOCAL",
    "SOURCES",
    "AnyConfig",
    "CelebvHqConfig",
    "CelebvTextConfig",
    "FolderConfig",
    "FolderSource",
    "HdtfConfig",
    "HdtfSource",
    "Listing",
    "ListingProblem",
    "MeadConfig",
    "MultiTalkConfig",
    "Panda70mConfig",
    "Source",
    "SourceConfig",
    "SourceError",
    "TalkVidConfig",
    "UrlsConfig",
    "UrlsSource",
    "VfhqConfig",
    "VoxCeleb2Config",
    "VoxCelebConfig",
    "config_at",
    "cut_spans",
    "make_source",
]
