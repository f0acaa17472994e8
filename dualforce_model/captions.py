"""Captions: what a list, or a configuration, says of a clip in words. Cleaned once, then named by a digest."""

import hashlib
import unicodedata

MAX_CAPTION_CHARS = 2000
TEXT_TOKENS = 512  # Wan fills every prompt up to this length, with zeros, and attends to them
TEXT_NAME = r"^[0-9a-f]{32}/[0-9a-f]{32}$"  # <fingerprint of the encoder>/<digest of the caption>
MAX_RAW_CHARS = 4 * MAX_CAPTION_CHARS  # of what is looked at: NFC takes quadratic time over a run of accents
_JOINERS = "\u200c\u200d"  # format characters that are part of words and of emoji


def clean_caption(text: str) -> str:
    """The text in NFC without control characters, runs of white space as one space, at most 2000 characters.

    May come out empty. What is clean stays as it is.
    """
    spaced = "".join(_shown(character) for character in text[:MAX_RAW_CHARS])
    words = " ".join(unicodedata.normalize("NFC", spaced).split())
    return words[:MAX_CAPTION_CHARS].rstrip()


def caption_digest(caption: str) -> str:
    """32 hex digits of the SHA-256 of a clean caption."""
    return hashlib.sha256(caption.encode()).hexdigest()[:32]


def _shown(character: str) -> str:
    """The character, a space for any white space, nothing for controls, marks of direction and half characters."""
    if character.isspace():
        return " "
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in _JOINERS
    return "" if hidden else character
