"""Generated ultrasound on disk: images and bone masks of each domain, and their tables."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from ...core.files import atomic_write
from ..config import SonogramConfig
from ..folder import FolderContents, csv_text, fill_folder
from .frames import generate_frame
from .sweeps import nth_domain

VERSION = 1
"""Version of the frames; raised when the same config gives other bytes."""


def write_sonograms(out: Path | str, config: SonogramConfig) -> Path:
    """Write OUT/DOMAIN/images and masks, OUT/domains.csv, OUT/frames.csv and OUT/phantom.json; returns OUT.

    Images are 8-bit gray PNGs, masks of the same names 0 and 255. domains.csv: domain, folder, subject,
    device, body_part. frames.csv is an image table for ingest: a patient is a subject, a study is a sweep
    (`--table.study path` makes each frame a study). A finished frame is kept when run again with more frames
    or domains. Raises ConfigError where OUT holds frames of other settings, DataError where OUT cannot be
    written.
    """
    out = Path(out)
    frames = list(product(range(config.domains), range(config.frames)))
    contents = FolderContents(
        version=VERSION,
        unit="frames",
        growing=("frames", "domains"),
        items=frames,
        is_written=lambda frame: _file(out, frame, "images").exists(),
        write=partial(_write_frame, out, config),
        tables={"frames.csv": _frames_table(frames), "domains.csv": _domains_table(config.domains)},
        card={"kind": "ultrasound"},
    )
    fill_folder(out, config, contents)
    return out


def _file(out: Path, frame: tuple[int, int], kind: str) -> Path:
    """File of a frame (domain, number); kind: images or masks."""
    domain, number = frame
    return out / nth_domain(domain).name / kind / f"{number:05d}.png"


def _write_frame(out: Path, config: SonogramConfig, frame: tuple[int, int]) -> None:
    """Write mask and image; the image comes last, so that a frame with an image has its mask too."""
    import cv2

    domain, number = frame
    generated = generate_frame(config, nth_domain(domain), number)
    for kind, pixels in (("masks", np.uint8(255) * generated.mask), ("images", generated.pixels)):
        atomic_write(_file(out, frame, kind), cv2.imencode(".png", pixels)[1].tobytes())


def _domains_table(count: int) -> str:
    domains = map(nth_domain, range(count))
    rows = ((d.name, d.name, f"s{d.subject}", f"d{d.device}", d.part) for d in domains)
    return csv_text(("domain", "folder", "subject", "device", "body_part"), rows)


def _frames_table(frames: list[tuple[int, int]]) -> str:
    def row(frame: tuple[int, int]) -> tuple[object, ...]:
        domain = nth_domain(frame[0])
        image, mask = (_file(Path(), frame, kind).as_posix() for kind in ("images", "masks"))
        return image, f"s{domain.subject}", domain.name, frame[1], mask, f"d{domain.device}", domain.part

    return csv_text(("path", "patient", "study", "frame", "mask", "device", "body_part"), map(row, frames))
