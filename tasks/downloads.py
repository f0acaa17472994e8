"""One file over HTTP: continued where it broke off, checked against what is known of it, never half there.

`.<name>.part` is what has come so far and `.<name>.part.json` whose part that is. A part is continued only if the
server confirms that the file has not changed meanwhile.
"""

import logging
import os
import random
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from pydantic import Field, ValidationError, field_validator
from tqdm import tqdm

from dualforce_model import storage
from dualforce_model.config import Frozen
from dualforce_model.errors import InfrastructureError, InputError

HUB = "https://huggingface.co"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_REDIRECTS = 10
PROGRESS_BYTES = 1 << 20  # an attempt that brought this much was no failure: the next one counts anew
SPARE_BYTES = 64 << 20  # left free on the disk
SHA256 = re.compile(r"^[0-9a-f]{64}$")
PASSING = (408, 425, 429, 500, 502, 503, 504)  # a server that may answer later
AnswerT = TypeVar("AnswerT")


class NetworkError(InfrastructureError):
    """Network or server gave way. What has come so far is kept, and the same command goes on from there."""


class WrongBytesError(InputError):
    """What a server offers or sent is not the file that was published. Nothing of it is kept."""


class DownloadConfig(Frozen):
    """From where, and how patiently."""

    mirror: str = Field("", description="scheme and host (and path) that stand in for every other; empty: none")
    hub_mirror: str = Field("", description="the same for files of the Hugging Face hub alone")
    tries: int = Field(8, ge=1, le=100, description="attempts in a row that bring nothing before it is given up")
    first_wait_s: float = Field(1.0, ge=0, le=600, description="wait after the first of them; doubled each time")
    max_wait_s: float = Field(60.0, ge=0, le=3600, description="longest wait between attempts")
    silence_s: float = Field(30.0, gt=0, le=600, description="silence after which a connection counts as dead")
    max_bytes: int = Field(64 << 30, ge=1, description="largest file that is taken")

    @field_validator("mirror", "hub_mirror")
    @classmethod
    def _plain(cls, url: str) -> str:
        """An address alone: what it may hold of secrets would end in messages."""
        try:
            told = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"not a URL: {error}") from error
        if url and (told.scheme not in ("http", "https") or not told.host or told.userinfo or told.query):
            raise ValueError("expected http(s)://host, perhaps with a path, and neither user nor query")
        return url.rstrip("/")

    @classmethod
    def from_environment(cls, mirror: str | None = None, environment: Mapping[str, str] = os.environ) -> Self:
        """`mirror`, else DUALFORCE_MIRROR, stands in for every host, HF_ENDPOINT for the hub. Raises InputError."""
        given = {
            "mirror": mirror or environment.get("DUALFORCE_MIRROR", ""),
            "hub_mirror": environment.get("HF_ENDPOINT", ""),
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            (first, *_) = error.errors()
            named = {"mirror": "--mirror or DUALFORCE_MIRROR", "hub_mirror": "HF_ENDPOINT"}[str(first["loc"][0])]
            raise InputError(f"{named}: {first['msg']}; write it as https://mirror.example") from None

    def source(self, url: str) -> str:
        """Where a published URL is asked for."""
        on_hub = url.startswith(f"{HUB}/")
        base = self.mirror or (self.hub_mirror if on_hub else "")
        return base + httpx.URL(url).raw_path.decode() if base else url


@dataclass(frozen=True)
class Wanted:
    """A file as it was published; what is not known is empty or 0."""

    url: str
    sha256: str = ""
    num_bytes: int = 0


@dataclass(frozen=True)
class Arrived:
    """A file that has come whole."""

    sha256: str
    num_bytes: int
    vouched: str  # who says that these are the right bytes: "reported" by other projects, "hub", or "" for nobody
    commit: str = ""  # of the hub's repository, where the server told it


@dataclass(frozen=True)
class _Told:
    """What the hub says of a file beside its bytes."""

    sha256: str = ""
    commit: str = ""

    def and_by(self, headers: httpx.Headers, own: bool) -> "_Told":
        """The first of the hub's `own` answers counts; what a store or mirror says of its bytes vouches for nothing."""
        if not own:
            return self
        tags = [headers.get(name, "").removeprefix("W/").strip('"') for name in ("x-linked-etag", "etag")]
        digest = next((tag for tag in tags if SHA256.match(tag)), "")
        return _Told(self.sha256 or digest, self.commit or headers.get("x-repo-commit", ""))


class _Part(Frozen):
    """Whose bytes a part holds."""

    url: str
    validator: str = Field(description="strong ETag, or date of the last change, by which the server knows the file")

    @staticmethod
    def note(part: Path) -> Path:
        """The file beside a part."""
        return part.with_name(f"{part.name}.json")

    @classmethod
    def read(cls, part: Path) -> Self | None:
        """The note of a part; none where there is no part, or no note that can be read."""
        if not part.is_file() or not cls.note(part).is_file():
            return None
        try:
            return cls.model_validate_json(cls.note(part).read_bytes())
        except ValidationError:
            return None  # a part that nobody can vouch for is begun anew


class _AgainError(Exception):
    """An attempt that failed in a way that may pass."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class Downloader:
    """Fetches files. `token` goes to the hub alone, and to no host that the hub sends us on to."""

    def __init__(self, config: DownloadConfig, token: str = "", show: bool = False, hub: str = HUB) -> None:
        self.config = config
        self._token, self._show, self._hub = token, show, httpx.URL(hub)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole URLs, and redirects are signed
        self._client = httpx.Client(
            timeout=httpx.Timeout(config.silence_s), headers={"user-agent": "dualforce", "accept-encoding": "identity"}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fetch(self, wanted: Wanted, part: Path) -> Arrived:
        """Bring a file down to `part`, or go on with what is there of it; `drop` it when it has its name.

        Raises NetworkError when the network stays away (the part is kept), WrongBytesError for other bytes than the
        published ones (nothing is kept), InputError for what the server refuses, or a part that is no plain file.
        """
        if os.path.lexists(part) and not stat.S_ISREG(part.lstat().st_mode):
            raise InputError(
                f"{part}: a link, folder or device where a part should be; see who put it there, remove it"
            )
        return self._patiently(wanted.url, lambda: self._attempt(wanted, part), lambda: _size(part))

    def listing(self, url: str) -> Any:
        """A JSON answer of the hub."""
        limit = 16 << 20

        def ask() -> Any:
            with self._answer(self.config.source(url), {}) as (response, _):
                self._refuse(response)
                body = b""
                for piece in response.iter_raw():
                    body += piece
                    if len(body) > limit:
                        raise WrongBytesError(f"{_shown(url)}: the list of files is over {limit} bytes long")
                return httpx.Response(200, content=body).json()

        try:
            return self._patiently(url, ask, lambda: 0)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise WrongBytesError(f"{_shown(url)}: not a list of files but something else: {error}") from error

    def _patiently(self, url: str, attempt: Callable[[], AnswerT], size: Callable[[], int]) -> AnswerT:
        """Try until it works, or until several attempts in a row brought nothing."""
        failures = 0
        while True:
            before = size()
            try:
                return attempt()
            except (httpx.TransportError, _AgainError) as error:
                failures = 1 if size() >= before + PROGRESS_BYTES else failures + 1
                if failures >= self.config.tries:
                    raise NetworkError(
                        f"{_shown(self.config.source(url))}: {_reason(error)}, {failures} times in a row; what has "
                        "come is kept: run the same command again to go on, or name another source by --mirror"
                    ) from error
                wait_s = self.config.first_wait_s * 2 ** (failures - 1) * random.uniform(0.5, 1.0)
                time.sleep(min(max(wait_s, getattr(error, "wait_s", 0.0)), self.config.max_wait_s))

    def _attempt(self, wanted: Wanted, part: Path) -> Arrived:
        source = self.config.source(wanted.url)
        held = _Part.read(part)
        begun = _size(part) if held is not None and held.url == wanted.url else 0
        if wanted.sha256 and begun and begun == wanted.num_bytes:  # stopped between the last byte and its check
            return self._checked(wanted, _Told(), part, continued=True)
        headers = {"range": f"bytes={begun}-", "if-range": held.validator} if held and begun else {}
        with self._answer(source, headers) as (response, told):
            told = told if self.asks_hub(wanted.url) else _Told()
            if response.status_code == 416:
                drop(part)
                raise _AgainError("the server has no more of this file than what is here")
            self._refuse(response)
            start = begun if _continues(response, begun) else 0
            total = self._admit(wanted, told, response, start, part)
            _remember(part, wanted.url, response.headers)
            self._write(response, part, start, total or wanted.num_bytes)
        return self._checked(wanted, told, part, continued=start > 0)

    @contextmanager
    def _answer(self, url: str, headers: Mapping[str, str]) -> Iterator[tuple[httpx.Response, _Told]]:
        """The answer at the end of all redirects, not read yet, and what was told on the way."""
        told = _Told()
        for _ in range(MAX_REDIRECTS):
            self._check_scheme(url)
            request = self._client.build_request("GET", url, headers={**headers, **self._credentials(url)})
            response = self._client.send(request, stream=True)
            try:
                told = told.and_by(response.headers, own=self._is_hub(url))
                if not response.has_redirect_location:
                    yield response, told
                    return
                url = str(httpx.URL(url).join(response.headers["location"]))
            finally:
                response.close()
        raise InputError(f"{_shown(url)}: more than {MAX_REDIRECTS} redirects; name another source by --mirror")

    def _credentials(self, url: str) -> dict[str, str]:
        """The token, for the hub itself."""
        return {"authorization": f"Bearer {self._token}"} if self._token and self._is_hub(url) else {}

    def asks_hub(self, url: str) -> bool:
        """Whether a published URL is one of the hub's and is asked of the hub itself: no mirror speaks for it."""
        return url.startswith(f"{HUB}/") and self._is_hub(self.config.source(url))

    def _is_hub(self, url: str) -> bool:
        return _origin(httpx.URL(url)) == _origin(self._hub)

    def _check_scheme(self, url: str) -> None:
        """https, but for a mirror that the user named as http."""
        told = httpx.URL(url)
        if told.scheme == "https":
            return
        for mirror in (self.config.mirror, self.config.hub_mirror):
            named = httpx.URL(mirror)
            near = named.host in LOOPBACK and told.host in LOOPBACK
            if told.scheme == "http" == named.scheme and (near or _origin(told) == _origin(named)):
                return
        raise InputError(f"{_shown(url)}: only https is followed; the server, or a redirect of it, leads elsewhere")

    def _refuse(self, response: httpx.Response) -> None:
        """What a server says no with: for now, or for good."""
        code, where = response.status_code, _shown(str(response.url))
        if code in (200, 206):
            return
        if code in PASSING:
            asked = response.headers.get("retry-after", "")
            raise _AgainError(f"the server answers {code}", float(asked) if asked.isdecimal() else 0.0)
        remedy = {
            401: "it asks who you are: accept the terms on its page and set HF_TOKEN",
            403: "it refuses you: accept the terms on its page and set HF_TOKEN",
            404: "there is no such file any more: get it by hand, or name a mirror that has it",
        }.get(code, "get it by hand, or name another source by --mirror")
        raise InputError(f"{where}: the server answers {code}; {remedy}")

    def _admit(self, wanted: Wanted, told: _Told, response: httpx.Response, start: int, part: Path) -> int:
        """Bytes of the whole file (0: not told), if it may be the one that is wanted and there is room for it."""
        where = _shown(str(response.url))
        length = response.headers.get("content-length", "")
        total = start + int(length) if length.isdecimal() else 0
        if response.headers.get("content-encoding", "identity") != "identity":
            raise WrongBytesError(f"{where}: the server packs what it sends, though asked not to; name another source")
        if response.headers.get("content-type", "").startswith("text/html"):
            raise WrongBytesError(f"{where}: a web page and not the file; open it in a browser to see what it wants")
        if wanted.sha256 and told.sha256 and wanted.sha256 != told.sha256:
            raise WrongBytesError(f"{where}: the hub has SHA-256 {told.sha256}, published was {wanted.sha256}")
        if total and wanted.num_bytes and total != wanted.num_bytes:
            raise WrongBytesError(f"{where}: {total} bytes are offered, published were {wanted.num_bytes}")
        if not (total or wanted.num_bytes or wanted.sha256 or told.sha256):
            raise WrongBytesError(f"{where}: neither length nor digest is known: a cut file could not be told")
        if max(total, wanted.num_bytes) > self.config.max_bytes:
            raise WrongBytesError(f"{where}: {total} bytes, more than the {self.config.max_bytes} that are taken")
        check_room(part.parent, max(total, wanted.num_bytes) - start)
        return total

    def _write(self, response: httpx.Response, part: Path, start: int, total: int) -> None:
        limit = total or self.config.max_bytes
        with open(part, "r+b" if start else "wb", opener=_unfollowed) as file:
            file.seek(start)
            file.truncate()
            name = part.name.removeprefix(".").removesuffix(".part")
            bar = tqdm(total=total or None, initial=start, desc=name, unit="B", unit_scale=True, disable=not self._show)
            with bar:
                for piece in response.iter_raw():  # as it comes: what is cut off then is written already
                    file.write(piece)
                    bar.update(len(piece))
                    if file.tell() > limit:
                        drop(part)
                        raise WrongBytesError(f"{_shown(str(response.url))}: more than {limit} bytes come")

    def _checked(self, wanted: Wanted, told: _Told, part: Path, continued: bool) -> Arrived:
        """The file, if its bytes are the right ones; else nothing of it stays."""
        num_bytes, digest = _size(part), storage.file_digest(part)
        expected = wanted.sha256 or told.sha256
        if (expected and digest != expected) or (wanted.num_bytes and num_bytes != wanted.num_bytes) or not num_bytes:
            drop(part)
            if continued:  # the earlier piece may have been the wrong one
                raise _AgainError("the pieces do not make the published file")
            raise WrongBytesError(
                f"{_shown(self.config.source(wanted.url))}: what came has {num_bytes} bytes and SHA-256 {digest}, "
                f"expected {wanted.num_bytes or 'some'} bytes and SHA-256 {expected or 'any'}; nothing was kept"
            )
        return Arrived(digest, num_bytes, "reported" if wanted.sha256 else "hub" if told.sha256 else "", told.commit)


def _continues(response: httpx.Response, begun: int) -> bool:
    """Whether an answer goes on where we are. A server that sends another piece than the wanted one raises."""
    if response.status_code != 206:
        return False
    told = re.fullmatch(r"bytes (\d+)-\d+/(?:\d+|\*)", response.headers.get("content-range", ""))
    if told is None or int(told[1]) != begun:
        raise _AgainError(f"asked for bytes from {begun}, the server sends {told[0] if told else 'others'}")
    return begun > 0


def _remember(part: Path, url: str, headers: httpx.Headers) -> None:
    """Note whose the part is, if the server gives something to ask by later."""
    tag = headers.get("etag", "")
    validator = tag if tag and not tag.startswith("W/") else headers.get("last-modified", "")
    if validator:
        storage.write_json(_Part.note(part), _Part(url=url, validator=validator).model_dump())
    else:
        _Part.note(part).unlink(missing_ok=True)


def check_room(folder: Path, num_bytes: int) -> None:
    """Raises InputError where so many bytes, and some to spare, are not free."""
    needed = num_bytes + SPARE_BYTES
    if (free := shutil.disk_usage(folder).free) < needed:
        raise InputError(f"{folder}: {free} bytes are free, {needed} are needed; make room, or name --to")


def _unfollowed(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def drop(part: Path) -> None:
    """Forget a part: it has its name now, or it is no use."""
    part.unlink(missing_ok=True)
    _Part.note(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _shown(url: str) -> str:
    """A URL for messages: what may be secret in it (user, query) is left out."""
    told = httpx.URL(url)
    return f"{told.scheme}://{told.netloc.decode().rpartition('@')[2]}{told.path}"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
