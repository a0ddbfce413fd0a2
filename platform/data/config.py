"""Settings of the shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardConfig:
    """How views are stored and how large a shard grows."""

    encoding: Literal["jpeg", "png", "png16"] = "jpeg"
    """Format of a stored view: jpeg is half the size and three times as fast to read, png is lossless, png16 is
    lossless with 16 bits a pixel."""
    quality: int = 95
    """JPEG quality, 1 to 100; 95 keeps 48 dB on radiographs."""
    max_bytes: int = 256 * 1024**2
    """A shard is closed before it grows beyond this many bytes; a study is never divided."""
