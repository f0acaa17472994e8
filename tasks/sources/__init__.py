"""Sources: the lists of data sets, read in their own formats.

listing = make_source(HdtfConfig(folder=Path("HDTF_dataset"))).listing()
"""

from typing import Annotated

from pydantic import Field

from tasks.sources.base import Listing, ListingProblem, Source, SourceError, cut_spans
from tasks.sources.folder import FolderConfig, FolderSource
from tasks.sources.hdtf import HdtfConfig, HdtfSource
from tasks.sources.urls import UrlsConfig, UrlsSource

SOURCES: dict[str, type[Source]] = {
    HdtfSource.name: HdtfSource,
    FolderSource.name: FolderSource,
    UrlsSource.name: UrlsSource,
}

SourceConfig = Annotated[HdtfConfig | FolderConfig | UrlsConfig, Field(discriminator="name")]


def make_source(config: HdtfConfig | FolderConfig | UrlsConfig) -> Source:
    """The source that a config describes."""
    return SOURCES[config.name](config)


__all__ = [
    "SOURCES",
    "FolderConfig",
    "FolderSource",
    "HdtfConfig",
    "HdtfSource",
    "Listing",
    "ListingProblem",
    "Source",
    "SourceConfig",
    "SourceError",
    "UrlsConfig",
    "UrlsSource",
    "cut_spans",
    "make_source",
]
