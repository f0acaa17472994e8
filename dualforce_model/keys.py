"""Names in a store: which keys are allowed, and how an unfinished write is called."""

import re
import secrets
from functools import lru_cache

from dualforce_model.errors import InputError

MAX_KEY_CHARS = 1024
MAX_NAME_BYTES = 200  # a file system allows 255; a temporary's name is longer than its target's
CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


def temporary_name(name: str) -> str:
    """Temporary twin of a file name: hidden, unique, recognised by `is_temporary`."""
    return f".{name}.{secrets.token_hex(6)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a file name is that of an unfinished write."""
    return name.startswith(".") and name.endswith(".tmp")


@lru_cache(maxsize=65_536)
def check_key(key: str) -> str:
    """Return the key if it is a plain relative POSIX path, else raise InputError saying what is wrong with it."""
    parts = key.split("/")
    if not key or len(key) > MAX_KEY_CHARS:
        raise InputError(f"store key {key[:80]!r}: expected 1 to {MAX_KEY_CHARS} characters, found {len(key)}")
    if CONTROL.search(key) or key.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"store key {key!r}: expected names joined by '/', no leading '/', '..', backslash or control")
    if any(len(part.encode()) > MAX_NAME_BYTES or is_temporary(part) for part in parts):
        raise InputError(f"store key {key!r}: a name is over {MAX_NAME_BYTES} bytes, or that of a temporary")
    return key
