"""Every source obeys the same contract, whatever it reads."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.sources import SOURCES, FolderConfig, HdtfConfig, SourceConfig, UrlsConfig, make_source

ADAPTER: TypeAdapter[HdtfConfig | FolderConfig | UrlsConfig] = TypeAdapter(SourceConfig)


def _config(name: str, folder: Path) -> HdtfConfig | FolderConfig | UrlsConfig:
    (folder / "RD_video_url.txt").write_text("Ada http://h/a.mp4\n")
    (folder / "RD_annotion_time.txt").write_text("Ada.mp4 00:00-00:10\n")
    (folder / "urls.txt").write_text("http://h/a.mp4\n")
    (folder / "a.mp4").write_bytes(b"x")
    place = {"file": folder / "urls.txt"} if name == "urls" else {"folder": folder}
    return ADAPTER.validate_python({"name": name, **place})


@pytest.mark.parametrize("name", SOURCES)
def test_source(name: str, tmp_path: Path) -> None:
    config = _config(name, tmp_path)
    assert ADAPTER.validate_json(config.model_dump_json()) == config
    source = make_source(config)
    assert type(source) is SOURCES[name]
    assert (source.name, bool(source.licence)) == (name, True)
    first, second = source.listing(), make_source(config).listing()
    assert first == second
    (clip,) = first.clips
    assert clip.source == name
    assert str(tmp_path) not in clip.clip_id + clip.video_id


def test_every_config_belongs_to_a_source() -> None:
    configs = get_args(get_args(SourceConfig)[0])
    assert {config.model_fields["name"].default for config in configs} == set(SOURCES)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ValidationError, match="hdtf"):
        ADAPTER.validate_python({"name": "hdtv", "folder": "."})
