"""The x-ray detector and its image processing: attenuation paths in, 12-bit radiographs out.

H rows and W columns of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BITS = 12
"""Bits stored per pixel."""

MAX_PATH = 4.6
"""Path of the thickest parts after the tube voltage, and with it the beam's hardness, is set to the animal."""

LETTERS = {
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
}
"""Shapes of the lead markers."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """How one image is exposed and processed; drawn first, applied by `exposed_image`."""

    photons: float = 1500.0
    """Photon counts of a detector element behind the median of the animal, as automatic exposure sets them."""
    scatter: float = 0.35
    """Scattered radiation as a share of the blurred primary."""
    blur: float = 0.6
    """Detector blur, standard deviation in pixels of a 512-pixel image."""
    compression: float = 0.4
    """Share of the coarse image that processing subtracts (dynamic range compression)."""
    detail_gain: float = 0.4
    """Gain of fine detail."""
    gamma: float = 1.0
    low: float = 1.0
    high: float = 99.5
    """Percentiles of the exposed field that become black and white."""
    blades: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Part covered by the collimator blades: top, bottom, left, right, as shares of the side."""
    twist: float = 0.0
    """Rotation of the collimator, degrees."""
    shutter: bool = False
    """Paint the covered part black; otherwise it stays unexposed, that is bright."""
    marker: str = ""
    """Letter of the lead marker, L or R; none if empty."""
    marker_at: tuple[float, float] = (0.1, 0.1)
    """Middle of the marker as shares of (H, W)."""


def draw_exposure(
    random: np.random.Generator,
    spare: tuple[float, float, float, float],
    marker: str,
    right: bool | None = None,
) -> Exposure:
    """Exposure, processing, blades and marker of one image.

    spare: the part that the blades may cover on each side, as shares; right: whether the marker lies in the right
    half, None for either.
    """
    blades = np.where(random.uniform(size=4) < 0.7, random.uniform(0.0, 0.7, 4) * spare, 0.0)
    place = random.uniform((0.10, 0.10), (0.22, 0.17))
    at_bottom, at_right = random.uniform(size=2) < 0.5
    at_right = at_right if right is None else right
    edge = blades[[1 if at_bottom else 0, 3 if at_right else 2]]  # the marker lies inside the blades
    place = np.where((at_bottom, at_right), 1 - edge - place * (1 - edge), edge + place * (1 - edge))
    return Exposure(
        photons=float(np.exp(random.uniform(np.log(300), np.log(5000)))),
        scatter=float(random.uniform(0.15, 0.6)),
        blur=float(random.uniform(0.4, 0.9)),
        compression=float(random.uniform(0.3, 0.65)),
        detail_gain=float(random.uniform(0.1, 0.8)),
        gamma=float(np.exp(random.normal(0, 0.18))),
        low=float(random.uniform(0.3, 3)),
        high=float(random.uniform(99.0, 99.9)),
        blades=tuple(blades.tolist()),
        twist=float(random.normal(0, 0.8)),
        shutter=bool(random.uniform() < 0.85),
        marker=marker,
        marker_at=tuple(place.tolist()),
    )


def exposed_image(path: np.ndarray, exposure: Exposure, random: np.random.Generator) -> np.ndarray:
    """The stored radiograph of a path (H, W) float32: (H, W) uint16 of 12 bits, dense is bright.

    Counts are I0 exp(-path) plus scatter, blurred, with photon noise; the image is their -log, then processed.
    """
    import cv2

    side = max(path.shape)
    opened = open_field(exposure, path.shape)
    animal = path[path > 0.05]
    thick, middle = np.percentile(_thinned(animal), (97, 50)) if animal.size else (1, 1)
    hardening = np.float32(min(1.0, MAX_PATH / thick))
    textured = path * (hardening + np.float32(0.012) * tissue_texture(path.shape, random))
    light = np.exp(-(textured + marker_path(exposure, path.shape))) * (
        opened * np.float32(0.998) + np.float32(0.002)
    )
    light += np.float32(exposure.scatter) * _blurred(np.minimum(light, np.float32(0.08)), side / 12) * opened
    light = cv2.GaussianBlur(light, (0, 0), max(0.25, exposure.blur * side / 512))
    # A pixel of a small image gathers the photons of many detector elements: the same dose, less noise.
    photons = np.float32(exposure.photons * (512 / side) ** 2 * math.exp(middle * hardening))
    light += np.sqrt(light / photons) * random.standard_normal(path.shape, dtype=np.float32)
    return _processed(-np.log(np.maximum(light, np.float32(1e-4))), opened > 0.5, exposure)


def _processed(dense: np.ndarray, opened: np.ndarray, exposure: Exposure) -> np.ndarray:
    """The image after range compression, detail enhancement and a window set on the animal: (H, W) uint16.

    dense: (H, W) float32, -log of the counts; opened: (H, W) bool, not covered by blades.
    """
    side = max(dense.shape)
    animal = opened & (dense > np.float32(0.35))
    if not animal.any():
        animal = opened
    middle = np.float32(np.median(_thinned(dense[animal])))
    coarse = _blurred(np.where(animal, dense, middle), side / 9) - middle
    fine = dense - _blurred(np.where(opened, dense, middle), side / 40)
    gray = dense - np.float32(exposure.compression) * coarse + np.float32(exposure.detail_gain) * fine
    low, high = np.percentile(_thinned(gray[animal]), (exposure.low, exposure.high))
    low -= 0.06 * (high - low)
    share = np.clip((gray - np.float32(low)) / np.float32(max(high - low, 1e-3)), 0, 1)
    gray = share ** np.float32(exposure.gamma)
    if exposure.shutter:
        gray *= opened
    return np.round(gray * (2**BITS - 1)).astype(np.uint16)


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most about 20,000 to 40,000 of the values (n,), evenly picked, which is enough for a percentile."""
    return values[:: max(1, values.size // 20000)]


def open_field(exposure: Exposure, shape: tuple[int, int]) -> np.ndarray:
    """The part not covered by the blades: (H, W) float32, 1 open, 0 covered, with an edge of about a pixel."""
    rows, columns = shape
    if not any(exposure.blades):
        return np.ones(shape, np.float32)
    top, bottom, left, right = exposure.blades
    lean = np.float32(math.tan(math.radians(exposure.twist)))
    v = np.arange(rows, dtype=np.float32)[:, None]
    u = np.arange(columns, dtype=np.float32)[None]
    down, across = v + lean * (u - columns / 2), u - lean * (v - rows / 2)
    edge = np.minimum(down - top * rows if top else rows, rows * (1 - bottom) - down if bottom else rows)
    edge = np.minimum(edge, across - left * columns if left else columns)
    edge = np.minimum(edge, columns * (1 - right) - across if right else columns)
    return np.clip(edge + np.float32(0.5), 0, 1)


def marker_path(exposure: Exposure, shape: tuple[int, int]) -> np.ndarray:
    """Path added by the lead marker, (H, W) float32."""
    import cv2

    thick = np.zeros(shape, np.float32)
    if exposure.marker not in LETTERS:
        return thick
    glyph = np.array([[cell == "#" for cell in row] for row in LETTERS[exposure.marker]], np.float32)
    tall = max(7, round(0.06 * max(shape)))
    wide = max(5, round(tall * 5 / 7))
    letter = cv2.resize(glyph, (wide, tall), interpolation=cv2.INTER_LINEAR)
    top = min(max(0, round(exposure.marker_at[0] * shape[0]) - tall // 2), shape[0] - tall)
    left = min(max(0, round(exposure.marker_at[1] * shape[1]) - wide // 2), shape[1] - wide)
    thick[top : top + tall, left : left + wide] = 4 * letter
    return thick


def tissue_texture(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Random texture of tissue within organs, coarse to fine: (H, W) float32 of mean 0 and about unit variance."""
    import cv2

    clouds = np.zeros(shape, np.float32)
    for cells, weight in ((12, 0.8), (36, 0.5), (110, 0.35)):
        tall, wide = (max(2, round(cells * side / max(shape))) for side in shape)
        coarse = random.standard_normal((tall, wide), dtype=np.float32)
        clouds += np.float32(weight) * cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return clouds


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Wide Gaussian blur computed on a smaller image, which saves a kernel of six times `sigma` pixels."""
    import cv2

    step = max(1, int(sigma / 3))
    rows, columns = image.shape
    small = cv2.resize(image, (max(1, columns // step), max(1, rows // step)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / step, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (columns, rows), interpolation=cv2.INTER_LINEAR)
