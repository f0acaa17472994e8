"""One file over real HTTP on this machine: cut, continued, changed meanwhile, wrong, redirected, refused."""

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualforce_model.errors import InfrastructureError, InputError
from tasks.downloads import DownloadConfig, Downloader, NetworkError, Wanted, WrongBytesError, drop

DownloaderOf = Callable[..., Downloader]
HOST = "https://models.example"
CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WANTED = Wanted(f"{HOST}/m/model.onnx", SHA256, len(CONTENT))
UNKNOWN = Wanted(f"{HOST}/m/model.onnx")
ON_HUB = Wanted("https://huggingface.co/o/r/resolve/main/model.onnx")


def nothing_left(part: Path) -> bool:
    return not any(part.parent.iterdir())


def test_a_file_comes_whole_and_is_compared(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    server.add("/m/model.onnx", CONTENT)
    arrived = downloader_of().fetch(WANTED, part)
    assert (arrived.sha256, arrived.num_bytes, arrived.vouched) == (SHA256, len(CONTENT), "reported")
    assert part.read_bytes() == CONTENT
    drop(part)
    assert nothing_left(part)


def test_a_cut_file_is_continued_from_its_last_byte(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    server.add("/m/model.onnx", CONTENT, faults=["cut:100000", "503", "drop", "cut:100000"])
    assert downloader_of(tries=5).fetch(WANTED, part).sha256 == SHA256
    assert server.ranges() == ["", *["bytes=100000-"] * 3, "bytes=200000-"]
    assert {headers["if-range"] for _, headers in server.asked if "range" in headers} == {'"v1"'}


def test_another_process_goes_on_where_one_gave_up(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    entry = server.add("/m/model.onnx", CONTENT, faults=["cut:1000", "drop", "drop"])
    with pytest.raises(NetworkError, match="3 times in a row; what has come is kept") as caught:
        downloader_of().fetch(WANTED, part)
    assert isinstance(caught.value, InfrastructureError)
    assert part.read_bytes() == CONTENT[:1000]
    assert entry.faults == []
    assert downloader_of().fetch(WANTED, part).sha256 == SHA256
    assert server.ranges()[-1] == "bytes=1000-"


def test_a_file_that_changed_meanwhile_is_begun_anew(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    other = bytes(reversed(CONTENT))
    server.add("/m/model.onnx", other, etag='"v0"', faults=["cut:1000", "drop", "drop"])
    with pytest.raises(NetworkError):
        downloader_of().fetch(UNKNOWN, part)
    server.add("/m/model.onnx", CONTENT, etag='"v1"')
    assert downloader_of().fetch(UNKNOWN, part).sha256 == SHA256


def test_a_server_without_ranges_sends_all_again(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    server.add("/m/model.onnx", CONTENT, ranges=False, faults=["cut:1000"])
    assert downloader_of().fetch(WANTED, part).sha256 == SHA256


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_tag_nothing_is_continued(
    server: Any, downloader_of: DownloaderOf, part: Path, etag: str
) -> None:
    server.add("/m/model.onnx", CONTENT, etag=etag, faults=["cut:1000"])
    assert downloader_of().fetch(WANTED, part).sha256 == SHA256
    assert server.ranges() == ["", ""]


def test_the_date_of_the_last_change_does_as_well(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.add("/m/model.onnx", CONTENT, etag="", headers={"Last-Modified": date}, faults=["cut:1000"])
    assert downloader_of().fetch(WANTED, part).sha256 == SHA256
    assert server.asked[-1][1]["if-range"] == date


def test_another_range_than_the_wanted_one_is_not_taken(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    server.add("/m/model.onnx", CONTENT, faults=["cut:1000", "shift"])
    assert downloader_of().fetch(WANTED, part).sha256 == SHA256
    assert len(server.asked) == 3


def test_a_part_longer_than_the_file_is_thrown_away(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    server.add("/m/model.onnx", CONTENT)
    part.write_bytes(CONTENT * 2)
    part.with_name(f"{part.name}.json").write_text(json.dumps({"url": UNKNOWN.url, "validator": '"v1"'}))
    assert downloader_of().fetch(UNKNOWN, part).sha256 == SHA256
    assert len(server.asked) == 2


@pytest.mark.parametrize("note", ["", "{", '{"url": 1}', json.dumps({"url": f"{HOST}/other", "validator": '"v1"'})])
def test_a_part_of_unknown_origin_is_begun_anew(
    server: Any, downloader_of: DownloaderOf, part: Path, note: str
) -> None:
    server.add("/m/model.onnx", CONTENT)
    part.write_bytes(b"x" * 1000)
    part.with_name(f"{part.name}.json").write_text(note)
    assert downloader_of().fetch(UNKNOWN, part).sha256 == SHA256
    assert server.ranges() == [""]


def test_what_was_killed_before_its_check_is_only_checked(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    part.write_bytes(CONTENT)
    part.with_name(f"{part.name}.json").write_text(json.dumps({"url": WANTED.url, "validator": '"v1"'}))
    assert downloader_of().fetch(WANTED, part).sha256 == SHA256
    assert server.asked == []


def test_damage_in_an_earlier_piece_costs_one_more_download(
    server: Any, downloader_of: DownloaderOf, part: Path
) -> None:
    server.add("/m/model.onnx", CONTENT)
    part.write_bytes(b"x" * 1000)
    part.with_name(f"{part.name}.json").write_text(json.dumps({"url": WANTED.url, "validator": '"v1"'}))
    assert downloader_of().fetch(WANTED, part).sha256 == SHA256
    assert server.ranges() == ["bytes=1000-", ""]


def test_a_wrong_digest_leaves_nothing(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    server.add("/m/model.onnx", bytes(len(CONTENT)))
    with pytest.raises(WrongBytesError, match=f"SHA-256 .*expected {len(CONTENT)} bytes and SHA-256 {SHA256}"):
        downloader_of().fetch(WANTED, part)
    assert nothing_left(part)
    assert len(server.asked) == 1  # it would be the same again


def test_a_wrong_size_is_refused_before_it_is_sent(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    server.add("/m/model.onnx", CONTENT + b"x")
    with pytest.raises(WrongBytesError, match=f"{len(CONTENT) + 1} bytes are offered, published were {len(CONTENT)}"):
        downloader_of().fetch(WANTED, part)
    assert nothing_left(part)


@pytest.mark.parametrize(
    ("options", "wanted", "said"),
    [
        ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, UNKNOWN, "a web page and not the file"),
        ({"headers": {"Content-Encoding": "gzip"}}, WANTED, "packs what it sends"),
        ({"length": False}, UNKNOWN, "neither length nor digest is known"),
        ({"length": False}, Wanted(UNKNOWN.url, "", 1000), "more than 1000 bytes come"),
        ({}, Wanted(UNKNOWN.url, "", 1 << 50), f"{len(CONTENT)} bytes are offered"),
    ],
)
def test_what_cannot_be_the_file_is_refused(
    server: Any, downloader_of: DownloaderOf, part: Path, options: dict[str, Any], wanted: Wanted, said: str
) -> None:
    server.add("/m/model.onnx", CONTENT, **options)
    with pytest.raises(WrongBytesError, match=said):
        downloader_of().fetch(wanted, part)
    assert nothing_left(part)


def test_a_file_of_absurd_size_is_refused(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    server.add("/m/model.onnx", CONTENT)
    with pytest.raises(WrongBytesError, match="more than the 1000 that are taken"):
        downloader_of(max_bytes=1000).fetch(UNKNOWN, part)


def test_a_full_disk_is_told_before_anything_comes(
    server: Any, downloader_of: DownloaderOf, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/m/model.onnx", CONTENT)
    monkeypatch.setattr("tasks.downloads.SPARE_BYTES", 1 << 60)
    with pytest.raises(InputError, match=r"bytes are free, \d+ are needed; make room"):
        downloader_of().fetch(WANTED, part)


@pytest.mark.parametrize(("code", "said"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "no such file"), (418, "418")])
def test_a_refusal_is_not_asked_again(
    server: Any, downloader_of: DownloaderOf, part: Path, code: int, said: str
) -> None:
    server.add("/m/model.onnx", CONTENT, faults=[str(code)] * 5)
    with pytest.raises(InputError, match=said):
        downloader_of().fetch(WANTED, part)
    assert len(server.asked) == 1


def test_attempts_that_bring_much_do_not_count(
    server: Any, downloader_of: DownloaderOf, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.downloads.PROGRESS_BYTES", 10_000)
    server.add("/m/model.onnx", CONTENT, faults=["cut:10000"] * 8)
    assert downloader_of(tries=2).fetch(WANTED, part).sha256 == SHA256


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_what_was_put_in_a_part_s_place_is_not_written_to(
    server: Any, downloader_of: DownloaderOf, part: Path, kind: str
) -> None:
    server.add("/m/model.onnx", CONTENT)
    other = part.parent / "other"
    if kind == "link":
        other.write_bytes(b"precious")
        part.symlink_to(other)
    elif kind == "dangling link":
        part.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(part)
    else:
        part.mkdir()
    with pytest.raises(InputError, match=r"\.model\.onnx\.part: a link, folder or device"):
        downloader_of().fetch(WANTED, part)
    assert server.asked == []
    assert (other.read_bytes() if kind == "link" else other.exists()) == (b"precious" if kind == "link" else False)


def test_a_link_that_is_put_there_meanwhile_is_not_followed(
    server: Any, downloader_of: DownloaderOf, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/m/model.onnx", CONTENT)
    other = part.parent / "other"
    other.write_bytes(b"precious")
    monkeypatch.setattr("tasks.downloads.check_room", lambda *_: part.symlink_to(other))
    with pytest.raises(OSError, match="symbolic links"):
        downloader_of().fetch(WANTED, part)
    assert other.read_bytes() == b"precious"


# ------------------------------------------------------------------------------------------------------------ the hub


def test_the_hub_s_own_digest_is_held_to(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    linked = {"X-Linked-Etag": f'"{SHA256}"', "X-Repo-Commit": "c" * 40}
    server.add("/o/r/resolve/main/model.onnx", b"", redirect="/store", headers=linked)
    server.add("/store", CONTENT, etag='"md5 of the store"')
    arrived = downloader_of(hub=server.url).fetch(ON_HUB, part)
    assert (arrived.vouched, arrived.commit) == ("hub", "c" * 40)
    server.add("/store", CONTENT[:-1])
    with pytest.raises(WrongBytesError, match=f"expected some bytes and SHA-256 {SHA256}"):
        downloader_of(hub=server.url).fetch(ON_HUB, part)
    assert nothing_left(part)


def test_a_mirror_announces_nothing_for_the_hub(
    server: Any, elsewhere: Any, downloader_of: DownloaderOf, part: Path
) -> None:
    linked = {"X-Linked-Etag": f'"{SHA256}"', "X-Repo-Commit": "c" * 40}
    server.add("/o/r/resolve/main/model.onnx", CONTENT, headers=linked)
    arrived = downloader_of().fetch(ON_HUB, part)
    assert (arrived.vouched, arrived.commit) == ("", "")
    # Not even where it sends us on to some file of the hub.
    server.add("/o/r/resolve/main/model.onnx", b"", redirect=f"{elsewhere.url}/other")
    elsewhere.add("/other", CONTENT, headers=linked)
    assert downloader_of(hub=elsewhere.url).fetch(ON_HUB, part).vouched == ""


def test_another_file_on_the_hub_than_the_published_one_is_not_fetched(
    server: Any, downloader_of: DownloaderOf, part: Path
) -> None:
    server.add("/o/r/resolve/main/model.onnx", CONTENT, etag=f'"{SHA256}"')
    with pytest.raises(WrongBytesError, match=f"the hub has SHA-256 {SHA256}, published was {'0' * 64}"):
        downloader_of(hub=server.url).fetch(Wanted(ON_HUB.url, "0" * 64), part)
    assert nothing_left(part)
    # A mirror's, or a store's, need be none.
    server.add("/o/r/resolve/main/model.onnx", CONTENT, etag=f'"{"0" * 64}"')
    assert downloader_of().fetch(ON_HUB, part).vouched == ""


def test_elsewhere_an_etag_is_no_digest(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    server.add("/m/model.onnx", CONTENT, etag=f'"{"0" * 64}"')
    assert downloader_of().fetch(UNKNOWN, part).vouched == ""


def test_the_token_goes_to_the_hub_and_nowhere_else(
    server: Any, elsewhere: Any, downloader_of: DownloaderOf, part: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.add("/o/r/resolve/main/model.onnx", b"", redirect="/again")
    server.add("/again", b"", redirect=f"{elsewhere.url}/store?signature=secret")
    elsewhere.add("/store?signature=secret", CONTENT, faults=["403"])
    caplog.set_level("INFO")
    downloader = downloader_of(token="hf_secret", hub=server.url)
    with pytest.raises(InputError, match="/store: the server answers 403") as caught:
        downloader.fetch(ON_HUB, part)
    downloader.fetch(ON_HUB, part)
    assert {headers.get("authorization") for _, headers in server.asked} == {"Bearer hf_secret"}
    assert all("authorization" not in headers for _, headers in elsewhere.asked)
    assert len(elsewhere.asked) == 2
    assert "secret" not in str(caught.value)
    assert "secret" not in caplog.text


def test_a_mirror_gets_no_token(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    server.add("/o/r/resolve/main/model.onnx", CONTENT)
    downloader_of(token="hf_secret").fetch(ON_HUB, part)
    assert "authorization" not in server.asked[0][1]


def test_a_list_of_files_is_json(server: Any, downloader_of: DownloaderOf) -> None:
    server.add("/api", b'{"sha": "c"}', faults=["503"])
    assert downloader_of().listing(f"{HOST}/api") == {"sha": "c"}
    server.add("/api", b"<html>")
    with pytest.raises(WrongBytesError, match="not a list of files"):
        downloader_of().listing(f"{HOST}/api")


# ------------------------------------------------------------------------------------------------- where it is fetched


@pytest.mark.parametrize(
    "target",
    ["http://models.example/x", "http://10.0.0.1/x", "file:///etc/passwd", "ftp://models.example/x"],
)
def test_a_redirect_leads_to_https_or_the_mirror_alone(
    server: Any, downloader_of: DownloaderOf, part: Path, target: str
) -> None:
    server.add("/m/model.onnx", b"", redirect=target)
    with pytest.raises(InputError, match="only https is followed"):
        downloader_of().fetch(WANTED, part)


def test_redirects_end(server: Any, downloader_of: DownloaderOf, part: Path) -> None:
    server.add("/m/model.onnx", b"", redirect="/m/model.onnx")
    with pytest.raises(InputError, match="more than 10 redirects"):
        downloader_of().fetch(WANTED, part)


def test_plain_http_is_refused_without_a_mirror(part: Path) -> None:
    with Downloader(DownloadConfig()) as downloader, pytest.raises(InputError, match="only https"):
        downloader.fetch(Wanted("http://127.0.0.1:9/model"), part)


def test_mirrors_stand_in_for_scheme_and_host() -> None:
    url = "https://huggingface.co/o/r/resolve/main/a.json?x=1"
    both = DownloadConfig.from_environment(None, {"DUALFORCE_MIRROR": "", "HF_ENDPOINT": "https://hf.example/"})
    assert both.source(url) == "https://hf.example/o/r/resolve/main/a.json?x=1"
    assert both.source(f"{HOST}/a") == f"{HOST}/a"
    named = DownloadConfig.from_environment(
        "http://here:8000/base", {"DUALFORCE_MIRROR": "https://other", "HF_ENDPOINT": "https://hf.example"}
    )
    assert named.source(url) == "http://here:8000/base/o/r/resolve/main/a.json?x=1"
    assert named.source(f"{HOST}/a") == "http://here:8000/base/a"


@pytest.mark.parametrize("mirror", ["mirror.example", "ftp://m", "https://user:password@m", "https://m?token=password"])
def test_a_mirror_that_is_none_is_refused_without_its_secrets(mirror: str) -> None:
    with pytest.raises(InputError, match="--mirror or DUALFORCE_MIRROR: ") as caught:
        DownloadConfig.from_environment(mirror, {})
    assert "password" not in str(caught.value)
    with pytest.raises(InputError, match="HF_ENDPOINT: "):
        DownloadConfig.from_environment(None, {"HF_ENDPOINT": mirror})
