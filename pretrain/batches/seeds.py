"""Random seeds that depend on what is drawn, never on rank, worker or time."""

from __future__ import annotations

import hashlib


def derived_seed(seed: int, epoch: int, key: str) -> int:
    """A 64-bit seed for one study (or another named thing) in one epoch (or step).

    >>> derived_seed(0, 0, "a") == derived_seed(0, 0, "a") != derived_seed(0, 1, "a")
    True
    """
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
