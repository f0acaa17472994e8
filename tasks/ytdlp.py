"""yt-dlp, kept on a short lead: the only module that knows it.

In-process, with no configuration file, plug-in, cache, netrc or terminal output of its own, and every error told apart
as impossible, temporary or not understood. While bytes come in there is no ffmpeg: it would open whatever a hostile
playlist names. It merges streams that are down already.
"""

import errno
import io
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg  # type: ignore[import-untyped]
import yt_dlp
from yt_dlp.globals import plugin_dirs
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import UnsupportedError, determine_protocol

from dualforce_model.errors import InfrastructureError
from tasks.records import FailureClass, Impossible, Reason, Temporary

PAGE_BYTES = 32 * 2**20  # no page or manifest that leads to a video is larger
PROTOCOLS = frozenset({"http", "https", "m3u8", "m3u8_native", "http_dash_segments"})
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})

_log = logging.getLogger(__name__)


class DownloadError(InfrastructureError):
    """The downloader failed in a way that blames neither the video nor the network; the message says what to try."""


class Throttled(Temporary):
    """Told to slow down; `wait_s` is what the server asked for, 0 if it did not say."""

    def __init__(self, failure: FailureClass, message: str, wait_s: float = 0.0) -> None:
        super().__init__(failure, message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Limits:
    """What one download may take."""

    max_bytes: int
    time_limit_s: float
    socket_timeout_s: float
    max_rate_bytes_per_s: int | None


@dataclass(frozen=True)
class Secrets:
    """Names of environment variables; their values are read when a download starts and kept nowhere."""

    cookies_env: str | None  # holds the path of a Netscape cookie file
    proxy_env: str | None  # holds the URL of a proxy


@dataclass(frozen=True)
class Download:
    """A file that came down, and how long the site says it is (none: it does not say)."""

    path: Path
    announced_s: float | None


def download(url: str, folder: Path, formats: str, limits: Limits, secrets: Secrets) -> Download:
    """Download the one video that `url` names into `folder` as `media.<suffix>`; an earlier part is continued.

    Raises Impossible or Temporary, and DownloadError for what is neither.
    """
    plugin_dirs.value = []  # code from the user's home has no place in here
    try:
        with _Session(_options(folder, formats, limits, secrets)) as session:
            info = _one_video(session.extract_info(url, download=False))
            info = session.process_ie_result(info, download=True)
    except (Impossible, Temporary, MemoryError):
        raise
    except Exception as error:
        meaning = explain(error)
        # What is understood needs no yt-dlp internals in its traceback; what is not needs all of them.
        raise meaning from (error if isinstance(meaning, DownloadError) else None)
    found = [Path(done["filepath"]) for done in info.get("requested_downloads") or () if done.get("filepath")]
    if len(found) != 1 or not found[0].is_file():
        raise DownloadError(f"yt-dlp reported success and left {len(found)} files where one was expected")
    return Download(found[0], float(info["duration"]) if info.get("duration") else None)


class _Session(yt_dlp.YoutubeDL):
    """yt-dlp with bounds on what a page may make it do."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._answers: list[Any] = []
        super().__init__(options)

    def __exit__(self, *args: object) -> None:
        for answer in self._answers:
            answer.close()
        super().__exit__(*args)

    def urlopen(self, req: Any) -> Any:
        """An answer of which at most PAGE_BYTES are read at once; videos are read piece by piece."""
        try:
            response = super().urlopen(req)
        except HTTPError as error:
            self._keep(error.response)
            raise
        self._keep(response)
        read = response.read

        def bounded(amount: int | None = None) -> bytes:
            if amount is not None and amount >= 0:
                return bytes(read(amount))
            data = bytes(read(PAGE_BYTES + 1))
            if len(data) > PAGE_BYTES:
                raise Impossible(Reason.NOT_MEDIA, f"a page of more than {PAGE_BYTES} bytes in the place of a video")
            return data

        response.read = bounded
        return response

    def _keep(self, answer: Any) -> None:
        """To be closed in the end: yt-dlp forgets those of which it read the head alone."""
        self._answers = [*(earlier for earlier in self._answers if not earlier.closed), answer]

    def dl(self, name: str, info: dict[str, Any], subtitle: bool = False, test: bool = False) -> Any:
        """Bring one stream down, by a known protocol, out of ffmpeg's reach."""
        if unknown := set(determine_protocol(info).split("+")) - PROTOCOLS:
            raise Impossible(Reason.NOT_MEDIA, f"a stream by {', '.join(sorted(unknown))}; http and https are fetched")
        merger = self.params["ffmpeg_location"]
        self.params["ffmpeg_location"] = os.path.join(os.devnull, "none")
        try:
            return super().dl(name, info, subtitle, test)
        finally:
            self.params["ffmpeg_location"] = merger


class _Log:
    """Where yt-dlp talks to. Its errors are raised as well, so here they are details like the rest."""

    def debug(self, message: str) -> None:
        _log.debug("%s", message)

    info = warning = error = debug


def _options(folder: Path, formats: str, limits: Limits, secrets: Secrets) -> dict[str, Any]:
    return {
        "format": formats,
        "paths": {"home": str(folder.resolve())},
        "outtmpl": {"default": "media.%(ext)s"},
        "ffmpeg_location": imageio_ffmpeg.get_ffmpeg_exe(),
        "external_downloader": "native",
        "cachedir": False,
        "usenetrc": False,
        "default_search": "error",
        "noplaylist": True,
        "playlist_items": "1:2",  # enough to see that there is more than one
        "retries": 0,  # attempts are counted in one place, by the caller
        "extractor_retries": 0,
        "fragment_retries": 3,
        "skip_unavailable_fragments": False,  # a video with holes is no success
        "continuedl": True,
        "overwrites": False,
        "updatetime": False,
        "fixup": "never",
        "socket_timeout": limits.socket_timeout_s,
        "ratelimit": limits.max_rate_bytes_per_s,
        "progress_hooks": [_watch(limits)],
        "proxy": _secret(secrets.proxy_env),
        "cookiefile": _cookies(secrets.cookies_env),
        "logger": _Log(),
        "quiet": True,
        "noprogress": True,
        "color": "no_color",
    }


def _watch(limits: Limits) -> Callable[[Mapping[str, Any]], None]:
    """A progress hook that ends a download which is too large or takes too long."""
    started = time.monotonic()

    def check(progress: Mapping[str, Any]) -> None:
        size = max(progress.get("downloaded_bytes") or 0, progress.get("total_bytes") or 0)
        if size > limits.max_bytes:
            raise Impossible(Reason.UNDECODABLE, f"over {limits.max_bytes} bytes, the limit max_bytes")
        if progress.get("status") == "downloading" and time.monotonic() - started > limits.time_limit_s:
            message = f"not down after {limits.time_limit_s:g} s (time_limit_s); the next attempt goes on from here"
            raise Temporary(FailureClass.TIMEOUT, message)

    return check


def _secret(name: str | None) -> str | None:
    if name is None:
        return None
    value = os.environ.get(name)
    if not value:
        raise DownloadError(f"the environment variable {name} is not set; the fetch settings name it")
    return value


def _cookies(name: str | None) -> io.StringIO | None:
    """A copy in memory: yt-dlp writes cookies back, and the user's file is not ours to change."""
    path = _secret(name)
    if path is None:
        return None
    try:
        return io.StringIO(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DownloadError(f"the cookie file that {name} names cannot be read: {error.__class__.__name__}") from error


def _one_video(info: Any) -> dict[str, Any]:
    """What the page holds, if it is one video with an end."""
    if not info:
        raise Impossible(Reason.NOT_MEDIA, "the page names no video")
    if info.get("_type") in ("playlist", "multi_video"):
        entries = [entry for entry in info.get("entries") or () if entry]
        if len(entries) > 1:
            raise Impossible(Reason.BAD_LISTING, "the page holds several videos; list each by its own URL")
        return _one_video(entries[0] if entries else None)
    if info.get("is_live"):
        raise Impossible(Reason.BAD_LISTING, "a live stream, which has no end")
    return dict(info)


# ------------------------------------------------------------------------------------------------- what errors mean

# Sites say in words what their status codes do not. The order matters: a wall or a limit may quote the words of a loss,
# and a video taken for dead is lost, while one taken for alive costs another attempt.
WALL = ("not a bot", "captcha", "unusual traffic", "anti-bot")
LIMIT = ("rate-limited", "rate limit", "request limit", "too many requests", "try again later")
STALE = ("precondition check failed", "requested format is not available")
LOST: tuple[
    tuple[Reason, tuple[str, ...]], ...
] = (  # the first that fits: "unavailable" is said beside the real reason
    (Reason.PRIVATE, ("private video", "video is private")),
    (
        Reason.MEMBERS_ONLY,
        ("members-only", "join this channel", "available to this channel's members", "premium members"),
    ),
    (Reason.AGE_RESTRICTED, ("confirm your age", "age-restricted", "inappropriate for some users")),
    (
        Reason.GEO_BLOCKED,
        ("available in your country", "blocked it in your country", "geo restriction", "from your location"),
    ),
    (
        Reason.GONE,
        (
            "video unavailable",
            "has been removed",
            "has been deleted",
            "no longer available",
            "has been terminated",
            "video is not available",
            "video does not exist",
            "drm protect",
        ),
    ),
)
BEHIND_A_DOOR = {  # what opens it; `dualforce rerun` tries these again
    Reason.PRIVATE: "cookies of an account that may see it (cookies_env)",
    Reason.MEMBERS_ONLY: "cookies of a member (cookies_env)",
    Reason.AGE_RESTRICTED: "cookies of an adult's account (cookies_env)",
    Reason.GEO_BLOCKED: "a proxy in another country (proxy_env)",
}
NO_VIDEO = ("unsupported url", "no video formats found", "unusual and will be skipped for safety reasons")
FFMPEG_ALONE = ("ffmpeg could not be found",)
BROKEN_LINE = (
    "timed out",
    "connection reset",
    "connection refused",
    "connection aborted",
    "connection broken",
    "remote end closed",
    "broken pipe",
    "more expected",
    "content too short",
    "did not get any data blocks",
    "failed to resolve",
    "name resolution",
    "name or service not known",
    "network is unreachable",
    "no route to host",
    "eof occurred",
)
_STATUS = re.compile(r"HTTP Error (\d{3})")


def explain(error: BaseException) -> Exception:
    """What a failure of yt-dlp means: Impossible, Temporary, or DownloadError where it cannot be told."""
    message = _message(error)
    text = message.replace("\u2019", "'").lower()
    causes = list(_causes(error))
    if any(isinstance(one, OSError) and one.errno in DISK_ERRORS for one in causes) or "no space left" in text:
        return Temporary(FailureClass.DISK, f"{message}; make room below the media root, or move it", systemic=True)
    if _any(WALL, text):
        remedy = "wait, or give cookies (cookies_env) or a proxy (proxy_env)"
        return Temporary(FailureClass.BOT_WALL, f"{message}; {remedy}", systemic=True)
    answer = next((one for one in causes if isinstance(one, HTTPError)), None)
    status = int(answer.status) if answer is not None else int((_STATUS.search(message) or [0, 0])[1])
    if _any(LIMIT, text) or status == 429:
        asked = answer.response.headers.get("Retry-After", "") if answer is not None else ""
        return Throttled(FailureClass.THROTTLED, message, float(asked) if re.fullmatch(r"\d{1,6}", asked) else 0.0)
    if status:
        return _by_status(status, message)
    if any(isinstance(one, UnsupportedError) for one in causes) or _any(NO_VIDEO, text):
        return Impossible(Reason.NOT_MEDIA, "the URL leads to no video: a page or another kind of file")
    if _any(FFMPEG_ALONE, text):
        return Impossible(Reason.NOT_MEDIA, "a stream that only ffmpeg could fetch, which is kept from lists")
    if _any(STALE, text):
        return DownloadError(f"{message}; yt-dlp is older than the site, update it")
    if (lost := _lost(text)) is not None:
        return Impossible(lost, f"{message}; it takes {BEHIND_A_DOOR[lost]}" if lost in BEHIND_A_DOOR else message)
    if any(isinstance(one, TransportError | TimeoutError | ConnectionError) for one in causes) or _any(
        BROKEN_LINE, text
    ):
        return Temporary(FailureClass.NETWORK, message)
    return DownloadError(f"{message}; if it stays, update yt-dlp or take the line out of the list")


def _lost(text: str) -> Reason | None:
    """Why a site does not give a video, if it says so."""
    return next((reason for reason, phrases in LOST if _any(phrases, text)), None)


def _by_status(status: int, message: str) -> Exception:
    if status in (404, 410, 451):
        return Impossible(Reason.GONE, f"HTTP {status}")
    if status in (401, 403, 407):
        remedy = "this address may be blocked, or yt-dlp too old: update it, or give cookies or a proxy"
        return Temporary(FailureClass.BOT_WALL, f"{message}; {remedy}", systemic=True)
    return Temporary(FailureClass.NETWORK, message)


def _any(phrases: tuple[str, ...], text: str) -> bool:
    return any(phrase in text for phrase in phrases)


def _message(error: BaseException) -> str:
    text = str(error).removeprefix("ERROR: ").strip() or error.__class__.__name__
    return text if len(text) <= 500 else text[:497] + "..."


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and everything it was made from, whichever of yt-dlp's ways it was wrapped in; each once."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, getattr(one, "cause", None), getattr(one, "reason", None)]
        waiting += [*(getattr(one, "exc_info", None) or ()), *one.args]
