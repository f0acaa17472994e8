"""Text features: each distinct caption is encoded once, into a file of its own that proves itself.

    text/<fingerprint of the encoder>/<digest of the caption>.safetensors     array `tokens`, float16 [n, e]

`<fingerprint>/<digest>` is the text's name: what a snapshot's rows say. The bytes of a file follow from its name and
its array alone, checksums included, so that a reader that makes them anew finds any byte that is not as it was written.
Legend: n tokens of a caption, e their width, l = 512 tokens as the towers see them.
"""

import hashlib
import json
import re
from collections import OrderedDict
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Float, Float16

from dualforce_model.captions import TEXT_NAME, TEXT_TOKENS, caption_digest
from dualforce_model.config import canonical_json
from dualforce_model.schema import SchemaError
from dualforce_model.storage import Storage

FORMAT = "dualforce.text/1"
FOLDER = "text"
CACHE_BYTES = 64 << 20
MAX_HEADER_BYTES = 4096
LARGEST = float(np.finfo(np.float16).max)


class DamagedTextError(SchemaError):
    """Bytes of a text's file are not those that were written; the message names the file and the remedy."""


def text_name(fingerprint: str, caption: str) -> str:
    """Name of a clean caption under an encoder."""
    return f"{fingerprint}/{caption_digest(caption)}"


def text_key(name: str) -> str:
    """Store key of a text by its name."""
    if not re.fullmatch(TEXT_NAME, name):
        raise SchemaError(f"{name[:80]!r} is not a text's name (<fingerprint>/<digest>, 32 hex digits each)")
    return f"{FOLDER}/{name}.safetensors"


def names_of(store: Storage, fingerprint: str) -> set[str]:
    """Names of all texts that one encoder has made."""
    prefix = f"{FOLDER}/{fingerprint}"
    return {key.removeprefix(f"{FOLDER}/").removesuffix(".safetensors") for key in store.list(prefix)}


def pack_text(store: Storage, fingerprint: str, caption: str, tokens: Float[np.ndarray, "n e"]) -> str:
    """Store the tokens of a clean caption and return the text's name. Raises SchemaError for what is none."""
    name = text_name(fingerprint, caption)
    if tokens.ndim != 2 or not tokens.size or len(tokens) > TEXT_TOKENS:
        raise SchemaError(f"text {name}: tokens {list(tokens.shape)}, expected 1 to {TEXT_TOKENS} rows of one width")
    if not np.isfinite(tokens).all() or np.abs(tokens).max() > LARGEST:
        raise SchemaError(
            f"text {name}: tokens reach {np.abs(tokens).max():g}, which half precision does not hold (up to "
            f"{LARGEST:g}); the encoder, or its precision, is at fault"
        )
    store.write(text_key(name), encode_text(name, tokens.astype(np.float16)), points="text")
    return name


def encode_text(name: str, tokens: Float16[np.ndarray, "n e"]) -> bytes:
    """The file of a text: a function of name and tokens."""
    data = np.ascontiguousarray(tokens, dtype="<f2").tobytes()
    checksums = {"crc32c": f"{google_crc32c.value(data):08x}", "sha256": hashlib.sha256(data).hexdigest()}
    entry = {"dtype": "F16", "shape": list(tokens.shape), "data_offsets": [0, len(data)]}
    header = canonical_json({"__metadata__": {"format": FORMAT, "name": name, **checksums}, "tokens": entry}).encode()
    header += b" " * (-len(header) % 8)  # safetensors readers want the payload aligned
    return len(header).to_bytes(8, "little") + header + data


def decode_text(name: str, data: bytes, where: str) -> Float16[np.ndarray, "n e"]:
    """Inverse of `encode_text`; raises DamagedTextError for any byte that it would not have written."""
    length = int.from_bytes(data[:8], "little")
    try:
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        rows, width = json.loads(data[8 : 8 + length])["tokens"]["shape"]
        tokens: np.ndarray = np.frombuffer(data, dtype="<f2", offset=8 + length).reshape(int(rows), int(width))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(where, f"no header of {FORMAT}: {error}") from error
    if not tokens.size or encode_text(name, tokens) != data:
        raise _damaged(where, "its checksums are not those of its bytes, or it is another text's")
    return tokens.astype(np.float16, copy=False)


def _damaged(where: str, why: str) -> DamagedTextError:
    return DamagedTextError(f"{where}: damaged: {why}; remove the file, and extract makes it again")


def read_text(store: Storage, name: str) -> Float16[np.ndarray, "n e"]:
    """Tokens of a text, every byte checked. Raises MissingKeyError or DamagedTextError."""
    key = text_key(name)
    return decode_text(name, store.read(key), store.url(key))


def pad_text(tokens: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "l e"]:
    """The tokens filled up with zeros as Wan has it: no mask is needed, and none would be right."""
    padded: np.ndarray = np.pad(tokens, ((0, TEXT_TOKENS - len(tokens)), (0, 0)))
    return padded


class TextFeatures:
    """Reads texts by name and remembers the last few. Picklable and fork-safe: it holds no open file."""

    def __init__(self, store: Storage, cache_bytes: int = CACHE_BYTES) -> None:
        self._store, self._cache_bytes = store, cache_bytes
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()  # the one used last comes last
        self._known_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"_store": self._store, "_cache_bytes": self._cache_bytes, "_known": OrderedDict(), "_known_bytes": 0}

    def tokens(self, name: str) -> Float16[np.ndarray, "n e"]:
        """Tokens of a text, not to be written to. Raises MissingKeyError or DamagedTextError."""
        found = self._known.get(name)
        if found is None:
            found = read_text(self._store, name)
            self._known[name], self._known_bytes = found, self._known_bytes + found.nbytes
            while self._known_bytes > self._cache_bytes and len(self._known) > 1:
                self._known_bytes -= self._known.popitem(last=False)[1].nbytes
        self._known.move_to_end(name)
        return found
