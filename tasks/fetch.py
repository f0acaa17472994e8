"""One video: brought down, looked at, and put in its place in one step.

`<media_root>/raw/<source>/<video id>.<suffix>` is the video, the JSON file beside it what is known of it, and the
folder `<video id>.partial` what a killed or failed attempt left: the next one continues there. A video of a local
folder stays where it is.
"""

import logging
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from pydantic import Field, ValidationError

from dualforce_model import faults, media, storage
from dualforce_model.config import Frozen
from dualforce_model.errors import InputError
from dualforce_model.stamp import Stamp
from tasks.records import MEDIA_REASONS, FailureClass, Impossible, Reason, Temporary
from tasks.sources import LOCAL
from tasks.sources.base import WEB_SCHEMES, check_url
from tasks.sources.folder import is_text

ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
SHORTER_BY_S = 2.0  # a download may be this much, or 2 %, shorter than its site says

LOCATION = "location.txt"
SUFFIXES = (
    ".video",
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".flv",
    ".gif",
    ".3gp",
    ".ogv",
)
RETRIED = (FailureClass.NETWORK, FailureClass.THROTTLED)
_log = logging.getLogger(__name__)


class FetchConfig(Frozen):
    """How videos are brought down. Secrets are named by environment variable, never written here."""

    format: str = Field("bestvideo*+bestaudio/best", max_length=500, description="yt-dlp's format selector; with sound")
    schemes: tuple[str, ...] = Field(WEB_SCHEMES, min_length=1, description="URL schemes that are fetched")
    retries: int = Field(3, ge=0, le=20, description="further attempts after a network error or a request to slow down")
    first_wait_s: float = Field(1.0, ge=0, le=600, description="wait before the first of them; doubled each time")
    max_wait_s: float = Field(60.0, ge=0, le=3600, description="longest wait between attempts")
    socket_timeout_s: float = Field(20.0, gt=0, le=600, description="silence after which a connection counts as dead")
    time_limit_s: float = Field(1800.0, gt=0, le=86_400, description="longest attempt at one video")
    max_bytes: int = Field(4 * 2**30, ge=1, description="largest file")
    max_rate_bytes_per_s: int | None = Field(None, ge=1024, description="bandwidth of one download; none: all there is")
    pause_s: float = Field(
        0.0, ge=0, le=600, description="wait before each download of a worker, varied by half: sites wall off the hasty"
    )
    cookies_env: str | None = Field(
        None, pattern=ENV_NAME, description="environment variable with the path of a Netscape cookie file"
    )
    proxy_env: str | None = Field(None, pattern=ENV_NAME, description="environment variable with a proxy's URL")
    limits: media.MediaLimits = media.MediaLimits()


class FetchJob(Frozen):
    """One video to fetch."""

    job_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$", description="the video's id, and its file's name")
    location: str = Field(max_length=4096, description="URL; of videos that lie here, the file:// URL")
    source: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$", description="name of the data set's list")


class Fetched(Frozen):
    """What is known of a fetched video."""

    path: str = Field(description="relative to the media root; absolute for a video of a local folder")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file")
    num_bytes: int = Field(ge=0)
    mtime_ns: int = Field(ge=0, description="when the file was last changed, nanoseconds since 1970")
    duration_s: float = Field(ge=0, description="duration of the pictures; measured where it is not announced")
    width_px: int
    height_px: int
    fps: float
    video_codec: str
    has_sound: bool = Field(description="there is a sound stream, perhaps silent")
    sound_duration_s: float


class Fetcher:
    """A worker of the acquire stage."""

    def __init__(self, config: FetchConfig, media_root: Path) -> None:
        self.config = config
        self.media_root = media_root

    def load(self) -> None:
        """Import the downloader, which takes a second that only workers need; see that the secrets are there."""
        from tasks import ytdlp  # noqa: F401

        for name in (self.config.cookies_env, self.config.proxy_env):
            if name is not None and not os.environ.get(name):
                raise InputError(f"the environment variable {name}, which the fetch settings name, is not set")

    def __call__(self, job: FetchJob) -> dict[str, Any]:
        """Fetch one video; the result is a `Fetched` as plain data.

        Raises Impossible (gone, not media, undecodable, bad listing) or Temporary (network, throttled, bot_wall, disk,
        timeout), both with what was found.
        """
        if job.source in LOCAL:
            path = local_path(job.location)
            return self._describe(path, str(path), self._probe(path)).model_dump()
        from tasks import ytdlp

        try:
            fetched = self._finished(job) or self._remote(job)
            shutil.rmtree(self._partial(job), ignore_errors=True)  # nothing in it is needed any more
            return fetched.model_dump()
        except OSError as error:
            if error.errno in ytdlp.DISK_ERRORS:
                remedy = f"make room below {self.media_root}, or move it"
                raise Temporary(FailureClass.DISK, f"{error}; {remedy}", systemic=True) from error
            raise

    def _finished(self, job: FetchJob) -> Fetched | None:
        """The video of an earlier run, also of one that was killed before it could say so."""
        present = [path for path in self._places(job) if path.is_file()]
        if not present:
            return None
        path = max(present, key=lambda place: place.stat().st_mtime_ns)
        digest = storage.file_digest(path)
        known = _read_note(self._note(job))
        if known is not None and known.path == self._key(path):
            if known.digest != digest:
                _log.warning("%s: the file that is there is not the one that came down; downloading again", job.job_id)
                self._note(job).unlink()
                path.unlink()
                return None
            if known.duration_s > 0:  # notes of old have 0 for videos that do not announce it
                return known.model_copy(update=Stamp.of(path).model_dump())
        try:
            fetched = self._describe(path, self._key(path), self._probe(path), digest)
        except Impossible as error:
            _log.warning("%s: the file that is there is no use (%s); downloading again", job.job_id, error.measured)
            path.unlink()
            return None
        storage.write_json(self._note(job), fetched.model_dump())
        return fetched

    def _remote(self, job: FetchJob) -> Fetched:
        try:
            check_url(job.location, self.config.schemes)
        except ValueError as error:
            raise Impossible(Reason.BAD_LISTING, str(error)) from error
        partial = self._partial(job)
        _prepare(partial, job.location)
        try:
            path, found = self._attempts(job, partial)
        except Impossible:
            shutil.rmtree(partial)
            raise
        return self._keep(job, path, found)

    def _attempts(self, job: FetchJob, partial: Path) -> tuple[Path, media.Probe]:
        """Download, trying again after what may pass. Waits grow, with jitter so that workers do not march in step."""
        jitter = random.Random(job.job_id)
        time.sleep(self.config.pause_s * jitter.uniform(0.5, 1.5))
        for attempt in range(self.config.retries + 1):
            try:
                return self._attempt(job, partial)
            except Temporary as error:
                if error.failure not in RETRIED or attempt == self.config.retries:
                    raise
                wait_s = min(self.config.first_wait_s * 2**attempt, self.config.max_wait_s) * jitter.uniform(0.5, 1.0)
                wait_s = max(wait_s, min(getattr(error, "wait_s", 0.0), self.config.max_wait_s))
                _log.info("%s: %s; attempt %d in %.1f s", job.job_id, error, attempt + 2, wait_s)
                time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, job: FetchJob, partial: Path) -> tuple[Path, media.Probe]:
        from tasks import ytdlp

        config = self.config
        limits = ytdlp.Limits(
            config.max_bytes, config.time_limit_s, config.socket_timeout_s, config.max_rate_bytes_per_s
        )
        continued = any(path.name != LOCATION for path in partial.iterdir())
        secrets = ytdlp.Secrets(config.cookies_env, config.proxy_env)
        down = ytdlp.download(job.location, partial, config.format, limits, secrets)
        try:
            found = self._probe(down.path)
        except Impossible as error:
            if not continued:
                raise
            _restart(partial, job.location)
            message = f"{error.measured} after going on from an earlier part, which may have been another file's"
            raise Temporary(FailureClass.NETWORK, message) from error
        announced_s = down.announced_s or 0.0
        if found.duration_s < announced_s - max(SHORTER_BY_S, 0.02 * announced_s):
            _restart(partial, job.location)
            raise Temporary(FailureClass.NETWORK, f"{found.duration_s:g} s came down of {announced_s:g} s announced")
        return down.path, found

    def _keep(self, job: FetchJob, path: Path, found: media.Probe) -> Fetched:
        """Give a verified file its name, then write down what it is."""
        suffix = path.suffix.lower()
        target = self._folder(job) / f"{job.job_id}{suffix if suffix in SUFFIXES else SUFFIXES[0]}"
        fetched = self._describe(path, self._key(target), found)
        faults.point("download.before_rename")
        with storage.atomic_path(target) as temporary:
            os.replace(path, temporary)
        faults.point("download.after_rename")
        for older in self._places(job):
            if older != target:
                older.unlink(missing_ok=True)
        storage.write_json(self._note(job), fetched.model_dump())
        return fetched

    def _probe(self, path: Path) -> media.Probe:
        """What the video says of itself, with its duration in any case: spans are cut by it."""
        try:
            found = media.probe(path, self.config.limits)
            measured_s = media.measured_duration_s(path, self.config.limits)
            return found.model_copy(update={"duration_s": measured_s})
        except media.MediaError as error:
            raise Impossible(MEDIA_REASONS[error.kind], str(error)) from error

    def _describe(self, path: Path, key: str, found: media.Probe, digest: str | None = None) -> Fetched:
        facts = {name: value for name, value in found.model_dump().items() if name in Fetched.model_fields}
        stamp = Stamp.of(path)  # before the bytes are read: what changes meanwhile is noticed later
        digest = digest or storage.file_digest(path)
        return Fetched(path=key, digest=digest, **stamp.model_dump(), **facts)

    def _folder(self, job: FetchJob) -> Path:
        return self.media_root / "raw" / job.source

    def _partial(self, job: FetchJob) -> Path:
        return self._folder(job) / f"{job.job_id}.partial"

    def _places(self, job: FetchJob) -> list[Path]:
        return [self._folder(job) / f"{job.job_id}{suffix}" for suffix in SUFFIXES]

    def _note(self, job: FetchJob) -> Path:
        return self._folder(job) / f"{job.job_id}.json"

    def _key(self, path: Path) -> str:
        return path.relative_to(self.media_root).as_posix()


def local_path(location: str) -> Path:
    """The file of a `file://` URL as the folder source lists it: real, regular, reached through no link."""
    if not location.startswith("file:///"):
        raise Impossible(Reason.BAD_LISTING, "not the file:// URL of a file on this machine")
    path = Path(os.fsdecode(unquote_to_bytes(location.removeprefix("file://"))))
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise Impossible(Reason.GONE, f"the file is no longer there ({error.__class__.__name__})") from error
    if real != path:
        raise Impossible(Reason.BAD_LISTING, "the path leads through a link, which it did not when it was listed")
    if not path.is_file() or not is_text(path):
        raise Impossible(Reason.BAD_LISTING, "not a regular file with a name in UTF-8")
    return path


def _prepare(partial: Path, location: str) -> None:
    """An empty folder for a download, or that of an earlier attempt at the very same URL."""
    note = partial / LOCATION
    if not note.is_file() or note.read_text(encoding="utf-8") != location:
        _restart(partial, location)


def _restart(partial: Path, location: str) -> None:
    if partial.exists():
        shutil.rmtree(partial)
    storage.write_text(partial / LOCATION, location)


def _read_note(path: Path) -> Fetched | None:
    """What was written down beside a video; none if there is nothing that can be read."""
    try:
        return Fetched.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
