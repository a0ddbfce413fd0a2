"""Frames of generated ultrasound: the fan of beams scan-converted into an image, and the mask of the bones.

H rows and W columns of the image; S samples along a beam, L beams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config import SonogramConfig
from .bmode import echo_envelope, log_compressed
from .probe import UltrasoundProbe, limb_coordinates
from .section import bone_head_mask
from .sweeps import SonogramDomain, domain_limb, nth_probe, probe_pose

MARGIN = 0.6
"""Width in mm of the black margin around the field of view."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedFrame:
    """One b-mode image and its truth.

    pixels: (H, W) uint8, black outside the field of view; mask: (H, W) bool, heads of the bones; pixel: mm.
    """

    pixels: np.ndarray
    mask: np.ndarray
    pixel: float

    def __repr__(self) -> str:
        return f"GeneratedFrame({'x'.join(map(str, self.pixels.shape))}, bone {self.mask.mean():.3f})"


def generate_frame(config: SonogramConfig, domain: SonogramDomain, number: int) -> GeneratedFrame:
    """Frame `number` of a domain's sweep.

    >>> from vetdino.platform.phantom.limb.sweeps import nth_domain
    >>> generate_frame(SonogramConfig(side=96), nth_domain(0), 0)
    GeneratedFrame(90x96, bone 0.097)
    """
    probe, limb = nth_probe(config, domain.device), domain_limb(config, domain)
    pose = probe_pose(config, domain, number)
    random = np.random.default_rng((config.seed, 5, *domain.key, number))
    beams = log_compressed(echo_envelope(probe, limb, pose, random), probe)
    x, y, pixel = pixel_positions(probe, config.side)
    pixels, field = scan_converted(beams, probe, x, y, pixel)
    head = bone_head_mask(limb, *limb_coordinates(probe, pose, x, y), pose.z)
    return GeneratedFrame(pixels, head & field, pixel)


def scan_converted(
    beams: np.ndarray, probe: UltrasoundProbe, x: np.ndarray, y: np.ndarray, pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W) uint8 of beams (S, L) float32, and the field of view (H, W) bool, outside of which it is black.

    x, y: (H, W) mm of the pixels in the probe frame; pixel: their size, mm.
    """
    import cv2

    directions = probe.beams
    place = np.arctan2(x, y + np.float32(probe.radius)) if probe.radius else x
    depth = np.hypot(x, y + np.float32(probe.radius)) - np.float32(probe.radius) if probe.radius else y
    columns = (place - directions[0]) / (directions[1] - directions[0])
    rows = depth / np.float32(probe.step)
    field = (np.abs(place) <= directions[-1]) & (depth >= 0) & (depth <= probe.samples[-1])
    gray = cv2.remap(
        beams, columns.astype(np.float32), rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if probe.smoothing > 0.2 * pixel:
        gray = cv2.GaussianBlur(gray, (0, 0), probe.smoothing / pixel)
    return np.rint(gray * field).astype(np.uint8), field


def pixel_positions(probe: UltrasoundProbe, side: int) -> tuple[np.ndarray, np.ndarray, float]:
    """x and y of every pixel in the probe frame, (H, W) float32 mm, and the pixel size in mm.

    The image holds the field of view with MARGIN around it; its long side is `side` pixels.
    """
    if probe.radius:
        top = probe.radius * (np.cos(probe.angle) - 1)
        half = (probe.radius + probe.depth) * np.sin(probe.angle)
    else:
        top, half = 0.0, probe.width / 2
    width, height = 2 * half + 2 * MARGIN, probe.depth - top + 2 * MARGIN
    pixel = max(width, height) / side
    columns, rows = round(width / pixel), round(height / pixel)
    x = (np.arange(columns, dtype=np.float32) - np.float32((columns - 1) / 2)) * np.float32(pixel)
    y = np.arange(rows, dtype=np.float32) * np.float32(pixel) + np.float32(top - MARGIN)
    x, y = np.meshgrid(x, y)
    return x, y, float(pixel)
