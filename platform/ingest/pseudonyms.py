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


def owner_only(path: str, flags: int) -> int:
    """An `opener` for `open`: the new file can be read by its owner alone."""
    return os.open(path, flags, mode=0o600)
