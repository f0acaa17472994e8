"""What the downloader's errors mean: the words that sites use, and every way in which they are wrapped."""

import errno
import http.client
import sys
from email.message import Message
from types import SimpleNamespace
from typing import Any

import pytest
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError
from yt_dlp.utils import DownloadError as YtDlpError
from yt_dlp.utils import ExtractorError, GeoRestrictedError, UnavailableVideoError, UnsupportedError

from tasks.records import FailureClass, Impossible, Reason, Temporary
from tasks.ytdlp import DownloadError, Throttled, _one_video, _watch, explain
from tasks.ytdlp import Limits as DownloadLimits

TABLE = [
    ("ERROR: [youtube] XtySvTwIOfw: Video unavailable", Reason.GONE),
    ("ERROR: [youtube] x: Private video. Sign in if you've been granted access to this video", Reason.PRIVATE),
    ("ERROR: [youtube] x: This video has been removed by the uploader", Reason.GONE),
    (
        "[youtube] x: Video unavailable. This video is no longer available because the account has been terminated",
        Reason.GONE,
    ),
    ("The uploader has not made this video available in your country", Reason.GEO_BLOCKED),
    ("Video unavailable. The uploader has blocked it in your country on copyright grounds", Reason.GEO_BLOCKED),
    ("Video unavailable. This video is private", Reason.PRIVATE),
    ("[youtube] x: Join this channel to get access to members-only content", Reason.MEMBERS_ONLY),
    ("[x] This video is DRM protected", Reason.GONE),
    ("Sign in to confirm you\u2019re not a bot. Use --cookies-from-browser", FailureClass.BOT_WALL),
    ("Sign in to confirm you're not a bot", FailureClass.BOT_WALL),
    ("Sign in to confirm your age. This video may be inappropriate", Reason.AGE_RESTRICTED),
    ("Got HTTP Error 403 caused by Cloudflare anti-bot challenge", FailureClass.BOT_WALL),
    ("unable to download video data: HTTP Error 403: Forbidden", FailureClass.BOT_WALL),
    ("You've hit the request limit", FailureClass.THROTTLED),
    ("You\u2019ve hit the request limit", FailureClass.THROTTLED),
    ("HTTP Error 429: Too Many Requests", FailureClass.THROTTLED),
    (
        "Video unavailable. This content isn't available, try again later. Rate-limited by YouTube",
        FailureClass.THROTTLED,
    ),
    ("HTTP Error 404: Not Found", Reason.GONE),
    ("HTTP Error 410: Gone", Reason.GONE),
    ("HTTP Error 500: Internal Server Error", FailureClass.NETWORK),
    ("HTTP Error 503: Service Unavailable", FailureClass.NETWORK),
    ("[download] Got error: [Errno 104] Connection reset by peer", FailureClass.NETWORK),
    ("[download] Got error: 280 bytes read, 280 more expected", FailureClass.NETWORK),
    ("Unable to download webpage: The read operation timed out", FailureClass.NETWORK),
    ("Failed to resolve 'example.org' ([Errno -2] Name or service not known)", FailureClass.NETWORK),
    ("Did not get any data blocks", FailureClass.NETWORK),
    ("unable to write data: [Errno 28] No space left on device", FailureClass.DISK),
    ("[x] No video formats found!", Reason.NOT_MEDIA),
    ("The extracted extension ('exe') is unusual and will be skipped for safety reasons", Reason.NOT_MEDIA),
    ("Precondition check failed", None),
    ("Requested format is not available. Use --list-formats", None),
    ("something nobody has seen before", None),
]


@pytest.mark.parametrize(("text", "meaning"), TABLE)
def test_words(text: str, meaning: Reason | FailureClass | None) -> None:
    found = explain(YtDlpError(text))
    if isinstance(meaning, Reason):
        assert isinstance(found, Impossible)
        assert found.reason is meaning
    elif isinstance(meaning, FailureClass):
        assert isinstance(found, Temporary)
        assert found.failure is meaning
    else:
        assert isinstance(found, DownloadError)
        assert "update" in str(found)


def _http(status: int, **headers: str) -> HTTPError:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    response: Any = SimpleNamespace(status=status, reason=http.client.responses[status], headers=message)
    return HTTPError(response)


def _wrapped(cause: Exception, text: str = "Unable to download webpage") -> YtDlpError:
    """As yt-dlp does it: extractor error around the cause, download error around that."""
    try:
        raise ExtractorError(text, cause=cause, expected=True)
    except ExtractorError as error:
        return YtDlpError(f"ERROR: {error}", sys.exc_info())


def test_status_codes_inside_wrappers() -> None:
    gone = explain(_wrapped(_http(404)))
    assert isinstance(gone, Impossible)
    assert (gone.reason, gone.measured) == (Reason.GONE, "HTTP 404")
    slower = explain(_wrapped(_http(429, Retry_After="7")))
    assert isinstance(slower, Throttled)
    assert slower.failure is FailureClass.THROTTLED


@pytest.mark.parametrize(
    ("asked", "wait_s"), [("7", 7.0), ("", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("9" * 99, 0.0)]
)
def test_the_wait_a_server_asks_for(asked: str, wait_s: float) -> None:
    found = explain(_wrapped(_http(429, Retry_After=asked)))
    assert isinstance(found, Throttled)
    assert found.wait_s == wait_s


def test_a_wall_behind_a_handled_404_is_still_a_wall() -> None:
    found = explain(_wrapped(_http(404), "Sign in to confirm you\u2019re not a bot"))
    assert isinstance(found, Temporary)
    assert found.failure is FailureClass.BOT_WALL


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_full_disk_in_any_wrapper(code: int) -> None:
    cause = OSError(code, "x")
    try:
        try:
            raise cause
        except OSError as error:
            raise UnavailableVideoError(error)  # noqa: B904  (as yt-dlp does it)
    except UnavailableVideoError as error:
        unavailable = error
    for wrapped in (_wrapped(cause), unavailable, YtDlpError("x", (OSError, cause, None)), cause):
        found = explain(wrapped)
        assert isinstance(found, Temporary)
        assert found.failure is FailureClass.DISK


@pytest.mark.parametrize(
    "cause", [TransportError("x"), IncompleteRead(3, 4), ConnectionResetError(104, "x"), TimeoutError()]
)
def test_a_broken_connection_in_any_wrapper(cause: Exception) -> None:
    found = explain(_wrapped(cause))
    assert isinstance(found, Temporary)
    assert found.failure is FailureClass.NETWORK


def test_a_page_without_a_video_says_nothing_of_its_address() -> None:
    found = explain(_wrapped(UnsupportedError("http://127.0.0.1:4242/page")))
    assert isinstance(found, Impossible)
    assert found.reason is Reason.NOT_MEDIA
    assert "4242" not in found.measured


def test_a_country_wall_says_what_it_is() -> None:
    try:
        raise GeoRestrictedError("The uploader has not made this video available in your country", countries=["DE"])
    except GeoRestrictedError as error:
        found = explain(YtDlpError(str(error), sys.exc_info()))
    assert isinstance(found, Impossible)
    assert found.reason is Reason.GEO_BLOCKED
    assert "proxy_env" in found.measured


def test_a_video_for_adults_does_not_stop_the_others() -> None:
    """It is that video's own door, no wall around this machine: no systemic failure, and cookies may open it."""
    found = explain(YtDlpError("Sign in to confirm your age. This video may be inappropriate for some users."))
    assert isinstance(found, Impossible)
    assert "cookies_env" in found.measured


def test_long_messages_are_cut_and_empty_ones_named() -> None:
    assert len(str(explain(YtDlpError("x" * 5000)))) < 700
    assert "DownloadError" in str(explain(YtDlpError("")))


def test_one_video_and_no_more() -> None:
    assert _one_video({"id": "a"}) == {"id": "a"}
    assert _one_video({"_type": "playlist", "entries": iter([{"id": "a"}, None])}) == {"id": "a"}
    for info, reason in (
        (None, Reason.NOT_MEDIA),
        ({"_type": "playlist", "entries": []}, Reason.NOT_MEDIA),
        ({"_type": "playlist", "entries": [{"id": "a"}, {"id": "b"}]}, Reason.BAD_LISTING),
        ({"id": "a", "is_live": True}, Reason.BAD_LISTING),
    ):
        with pytest.raises(Impossible) as caught:
            _one_video(info)
        assert caught.value.reason is reason


def test_limits_of_a_download() -> None:
    roomy = _watch(DownloadLimits(max_bytes=100, time_limit_s=1000, socket_timeout_s=1, max_rate_bytes_per_s=None))
    roomy({"status": "downloading", "downloaded_bytes": 100, "total_bytes": None})
    with pytest.raises(Impossible, match="max_bytes"):
        roomy({"status": "downloading", "downloaded_bytes": 1, "total_bytes": 101})
    hurried = _watch(DownloadLimits(max_bytes=100, time_limit_s=1e-9, socket_timeout_s=1, max_rate_bytes_per_s=None))
    hurried({"status": "finished", "downloaded_bytes": 1})
    with pytest.raises(Temporary, match="time_limit_s"):
        hurried({"status": "downloading", "downloaded_bytes": 1})
