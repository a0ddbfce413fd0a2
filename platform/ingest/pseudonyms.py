"""Pseudonyms: keyed hashes of patients and studies, and the split that follows from them."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from ..core.errors import ConfigError
from .config import IngestConfig

TAG = 16
"""Bytes of a seal before the hidden text; they are a keyed hash of it."""


def pseudonym(secret: bytes, text: str) -> str:
    """24 hexadecimal digits for a text: HMAC-SHA256, so that nobody without the secret can try names.

    >>> pseudonym(b"key", "Rex")
    '42355f1ec3ef1ee99c5ce4a9'
    """
    return hmac.new(secret, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:24]


def split_of(secret: bytes, patient: str, config: IngestConfig) -> str:
    """The split of a patient's pseudonym, the same whatever else the archive holds."""
    place = int(pseudonym(secret, f"split:{patient}"), 16) / 16**24
    if place < config.test:
        return "test"
    return "val" if place < config.test + config.val else "train"


def load_secret(path: Path) -> bytes:
    """The key in a file; where there is no file, 32 random bytes in one that only its owner can read.

    Raises ConfigError where the key is shorter than 16 bytes, or cannot be read or written.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError), open(path, "xb", opener=owner_only) as file:
                file.write(secrets.token_bytes(32))
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: the key of the pseudonyms cannot be read or written ({error.strerror}); "
            "give its file with --secret"
        ) from None
    if len(key) < 16:
        raise ConfigError(f"{path}: a secret of {len(key)} bytes can be guessed; give a file of 16 or more")
    return key


def seal(secret: bytes, text: str) -> bytes:
    """A text that only `unseal` with the same secret reads; the same text gives the same bytes.

    The first 16 bytes are an HMAC-SHA256 of the text. It is the nonce of the stream (SHAKE-256 under the secret) that
    hides the rest: a synthetic nonce, as in RFC 5297. The length shows.

    >>> unseal(b"key", seal(b"key", "Rex/00.dcm"))
    'Rex/00.dcm'
    """
    content = text.encode("utf-8", "surrogateescape")
    tag = hmac.new(secret, b"seal\0" + content, hashlib.sha256).digest()[:TAG]
    return tag + _hidden(secret, tag, content)


def unseal(secret: bytes, sealed: bytes) -> str:
    """The text under a seal. Raises ConfigError where it was sealed with another secret."""
    tag = sealed[:TAG]
    content = _hidden(secret, tag, sealed[TAG:])
    if hmac.new(secret, b"seal\0" + content, hashlib.sha256).digest()[:TAG] != tag:
        raise ConfigError("sealed with another secret; give the secret that was used before")
    return content.decode("utf-8", "surrogateescape")


def _hidden(secret: bytes, nonce: bytes, content: bytes) -> bytes:
    """The content XOR the stream that a secret and a nonce give; twice, it is the content again."""
    key = hmac.new(secret, b"stream", hashlib.sha256).digest()
    stream = hashlib.shake_256(key + nonce).digest(len(content))
    size = len(content)
    return (int.from_bytes(content, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def owner_only(path: str, flags: int) -> int:
    """An `opener` for `open`: the new file can be read by its owner alone."""
    return os.open(path, flags, mode=0o600)
