"""Generated b-mode frames: limbs nobody has, swept by probes nobody built, and the bones they cross.

A limb (`limb`) is met by the beams of a probe (`echo`), and the fan of beams becomes a picture with the heads
of the bones as its mask. Bytes depend on the seed and the frame alone: not on how many frames follow, not on
the workers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...core.errors import DataError
from ...core.files import atomic_write
from ...core.progress import Progress
from ..config import SonogramConfig
from ..folder import claim_folder, run_all
from .echo import CURVED, LINEAR, Device, Pose, displayed, envelope_of, tissue_of
from .limb import PARTS, Limb, Part, bone_head, draw_limb

# H rows and W columns of the picture; S samples along a beam, L beams.


@dataclass(frozen=True, slots=True)
class Domain:
    """One subject's arm or leg under one device; the numbers count from 1.

    >>> [domain_of(number).name for number in range(4)]
    ['s1-d1-arm', 's2-d1-arm', 's1-d2-arm', 's1-d1-leg']
    """

    subject: int
    device: int
    part: Part

    @property
    def name(self) -> str:
        """Also its folder."""
        return f"s{self.subject}-d{self.device}-{self.part}"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """pixels: (H, W) uint8, black outside the field; mask: (H, W) bool, the bone's head; pixel: mm."""

    pixels: np.ndarray
    mask: np.ndarray
    pixel: float

    def __repr__(self) -> str:
        return f"Frame({'x'.join(map(str, self.pixels.shape))}, bone {self.mask.mean():.3f})"


CUBE = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
"""Subject, device, part of eight domains: the first, its three neighbours, then the rest."""


def domain_of(number: int) -> Domain:
    """The number-th domain, from 0: eight share two subjects and two devices, the next eight have new ones."""
    block, within = divmod(number, len(CUBE))
    subject, device, part = CUBE[within]
    return Domain(2 * block + subject + 1, 2 * block + device + 1, PARTS[part])


def device_of(config: SonogramConfig, number: int) -> Device:
    """The number-th device, from 1: LINEAR, CURVED, then others like them, linear and curved in turn."""
    if number <= 2:
        return (LINEAR, CURVED)[number - 1]
    random = _random(config, 4, number)
    like = float(random.uniform(0.75, 1.35))
    shared = {
        "looks": int(random.integers(1, 4)),
        "white": float(random.uniform(26, 37)),
        "dynamic": float(random.uniform(48, 72)),
        "fade": float(random.uniform(-0.5, 2.0)),
        "noise": float(random.uniform(-36, -20)),
        "smoothing": float(random.uniform(0.03, 0.15)),
        "f_number": float(random.uniform(1.8, 3.0)),
    }
    if number % 2:
        size = {"width": float(random.uniform(38, 52)), "depth": float(random.uniform(36, 58))}
        return Device(megahertz=10.0 * like, focus=float(random.uniform(14, 28)), **size, **shared)
    size = {"radius": float(random.uniform(40, 65)), "depth": float(random.uniform(58, 85))}
    fan = {"angle": float(random.uniform(0.4, 0.6)), "focus": float(random.uniform(25, 42))}
    return Device(megahertz=5.0 * like, **size, **fan, **shared)


def limb_of(config: SonogramConfig, domain: Domain) -> Limb:
    """The limb of a domain: the same under every device."""
    part = PARTS.index(domain.part)
    return draw_limb(
        domain.part, _random(config, 1, domain.subject), _random(config, 2, domain.subject, part)
    )


def pose_of(config: SonogramConfig, domain: Domain, number: int) -> Pose:
    """How the probe is held for the number-th frame of a sweep: slow sines, so that there is always a next."""
    random = _random(config, 3, domain.subject, domain.device, PARTS.index(domain.part))
    size = np.array([3.5, 9.0, 0.08, 0.05, 0.6, 0.5, 0.6]) * random.uniform(0.7, 1.2, 7)
    period, phase = random.uniform(35, 70, (2, 7)), random.uniform(0, 2 * np.pi, (2, 7))
    turns = np.sin(2 * np.pi * number / (period * [[1], [0.37]]) + phase)
    x, z, tilt, press, *change = (size * (0.8 * turns[0] + 0.2 * turns[1])).tolist()
    gel = random.uniform(0.6, 3.0, 3) * (random.uniform(size=3) < (0.4, 0.25, 0.4))
    left, middle, right = (max(0.0, mean + more) for mean, more in zip(gel.tolist(), change, strict=True))
    return Pose(x, z, tilt, 0.05 + press, (left, middle if gel[1] else 0.0, right))


def frame_of(config: SonogramConfig, domain: Domain, number: int) -> Frame:
    """The number-th frame of a domain's sweep.

    >>> frame_of(SonogramConfig(side=96), domain_of(0), 0).pixels.shape
    (90, 96)
    """
    device, limb, pose = (
        device_of(config, domain.device),
        limb_of(config, domain),
        pose_of(config, domain, number),
    )
    random = _random(config, 5, domain.subject, domain.device, PARTS.index(domain.part), number)
    drawn = displayed(envelope_of(device, limb, pose, random), device)
    return _picture(drawn, device, limb, pose, config.side)


def _random(config: SonogramConfig, *what: int) -> np.random.Generator:
    return np.random.default_rng((config.seed, *what))


# The picture --------------------------------------------------------------------------------------


def _picture(drawn: np.ndarray, device: Device, limb: Limb, pose: Pose, side: int) -> Frame:
    """Scan conversion: the fan of beams as a picture with a long side of `side` pixels, black around it."""
    import cv2

    x, y, pixel = _pixels(device, side)
    beams = device.beams
    place = np.arctan2(x, y + np.float32(device.radius)) if device.radius else x
    depth = np.hypot(x, y + np.float32(device.radius)) - np.float32(device.radius) if device.radius else y
    columns = (place - beams[0]) / (beams[1] - beams[0])
    rows = depth / np.float32(device.step)
    field = (np.abs(place) <= beams[-1]) & (depth >= 0) & (depth <= device.samples[-1])
    grey = cv2.remap(
        drawn, columns.astype(np.float32), rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if device.smoothing > 0.2 * pixel:
        grey = cv2.GaussianBlur(grey, (0, 0), device.smoothing / pixel)
    head = bone_head(limb, *tissue_of(device, pose, x, y), pose.z)
    return Frame(np.rint(grey * field).astype(np.uint8), head & field, pixel)


def _pixels(device: Device, side: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(H, W) x and y of every pixel in mm, and the pixel's size: the field with MARGIN round it."""
    if device.radius:
        top = device.radius * (np.cos(device.angle) - 1)
        half = (device.radius + device.depth) * np.sin(device.angle)
    else:
        top, half = 0.0, device.width / 2
    wide, tall = 2 * half + 2 * MARGIN, device.depth - top + 2 * MARGIN
    pixel = max(wide, tall) / side
    columns, rows = round(wide / pixel), round(tall / pixel)
    x = (np.arange(columns, dtype=np.float32) - np.float32((columns - 1) / 2)) * np.float32(pixel)
    y = np.arange(rows, dtype=np.float32) * np.float32(pixel) + np.float32(top - MARGIN)
    x, y = np.meshgrid(x, y)
    return x, y, float(pixel)


MARGIN = 0.6
"""mm of black round the field."""


# Files --------------------------------------------------------------------------------------------

VERSION = 1
"""Of the frames: raised when the same config gives other bytes."""


def write_sonograms(out: Path | str, config: SonogramConfig) -> Path:
    """Write OUT/DOMAIN/images and masks, OUT/domains.csv, OUT/frames.csv and OUT/phantom.json; gives OUT.

    Images are 8-bit grey PNGs, masks of the same names 0 and 255. domains.csv: domain, folder, subject,
    device, body_part. frames.csv is an image table for ingest: a patient is a subject, a study is a sweep
    (`--table.study path` makes each frame a study). A finished frame is kept when run again with more frames
    or domains. Raises ConfigError where OUT holds frames of other settings, DataError where OUT cannot be
    written.
    """
    out = Path(out)
    wanted = [(number, frame) for number in range(config.domains) for frame in range(config.frames)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        claim_folder(out, config, VERSION, growing=("frames", "domains"), kind="ultrasound")
        todo = [which for which in wanted if not _image(out, which).exists()]
        with Progress("phantom", total=len(wanted), unit="frames") as progress:
            progress.advance(len(wanted) - len(todo))
            for _ in run_all(partial(_write_frame, out, config), todo, config.workers):
                progress.advance()
        atomic_write(out / "frames.csv", _frames_table(wanted))
        atomic_write(out / "domains.csv", _domains_table(config))
    except OSError as error:
        raise DataError(
            f"{out}: cannot write ({error.strerror or error}); "
            "make room and run again, finished frames are kept"
        ) from error
    return out


def _image(out: Path, which: tuple[int, int], kind: str = "images") -> Path:
    return out / domain_of(which[0]).name / kind / f"{which[1]:05d}.png"


def _write_frame(out: Path, config: SonogramConfig, which: tuple[int, int]) -> None:
    """Both files of a frame; the image comes last, so that where it is the mask is too."""
    import cv2

    frame = frame_of(config, domain_of(which[0]), which[1])
    for kind, pixels in (("masks", np.uint8(255) * frame.mask), ("images", frame.pixels)):
        atomic_write(_image(out, which, kind), cv2.imencode(".png", pixels)[1].tobytes())


def _domains_table(config: SonogramConfig) -> str:
    domains = map(domain_of, range(config.domains))
    rows = ((d.name, d.name, f"s{d.subject}", f"d{d.device}", d.part) for d in domains)
    return _table(("domain", "folder", "subject", "device", "body_part"), rows)


def _frames_table(wanted: list[tuple[int, int]]) -> str:
    def row(which: tuple[int, int]) -> tuple[object, ...]:
        domain, here = domain_of(which[0]), Path()
        image, mask = (_image(here, which, kind).as_posix() for kind in ("images", "masks"))
        return image, f"s{domain.subject}", domain.name, which[1], mask, f"d{domain.device}", domain.part

    return _table(("path", "patient", "study", "frame", "mask", "device", "body_part"), map(row, wanted))


def _table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue()
