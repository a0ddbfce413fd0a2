"""Settings of reading a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class DicomConfig:
    """Which files become views, and how their pixels are normalized."""

    modalities: tuple[str, ...] = ("CR", "DX", "RG", "MG")
    """Modalities taken as radiographs."""
    burned_in: Literal["refuse", "mask", "report", "keep"] = "refuse"
    """What to do with text burned into the pixels, which may name the patient: refuse the file; mask: paint the
    text over (refused where BurnedInAnnotation is YES and none is found); report: keep it and list it in text.csv;
    keep: neither search nor list."""
    search_text: Literal["auto", "untagged", "all", "none"] = "auto"
    """Which pictures are searched for text by a network: untagged (unless BurnedInAnnotation is NO), all, or none, so
    that the tag alone decides. auto: untagged where the extra `ocr` is installed, else none."""
    crop: bool = False
    """Cut off the collimated border, where the header's collimator or shutter ends, if the pixels agree, else by the
    pixels alone."""
    side: int = 512
    """Long side of a stored view, in pixels; smaller pictures keep their size."""
    min_side: int = 16
    """A picture with a side below this, in pixels, is refused."""
    max_saturated: float = 0.3
    """A window of the file is ignored where it turns more than this fraction of the pixels black or white; pixels
    at the detector's limits do not count."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Where no window of the file can be used, these percentiles of the pixels become black and white."""
    border: float = 0.05
    """Fraction of each side left out when window and percentiles are judged: collimation lies there."""

    def __post_init__(self) -> None:
        if self.burned_in in ("mask", "report") and self.search_text == "none":
            raise ConfigError(
                f"burned_in {self.burned_in} needs the pixels searched; drop search_text none or choose refuse or keep"
            )
