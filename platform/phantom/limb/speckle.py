"""Fully developed speckle: random scatterers of a limb, blurred by the pulse of a probe.

A linear model: a pulse that is Gaussian along the beam and wider across it, on complex normal scatterers. Its envelope
over uniform tissue has Rayleigh's distribution (Wagner et al. 1983, IEEE Trans. Sonics Ultrason. 30(3)).

S samples along a beam, L beams.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .probe import UltrasoundProbe

GRAIN = (0.08, 0.12)
"""Height and width in mm of the cell that one scatterer represents."""

SLICE = 1.6
"""Distance in mm along the limb after which other scatterers are in the beam."""

PERIOD = 1024
"""Period of the scatterers in cells: they repeat after 82 mm of depth and 123 mm of width."""


def scatterers(key: tuple[int, ...], x: np.ndarray, y: np.ndarray, z: float, look: int) -> np.ndarray:
    """Scatterers at points (x, y) of the limb frame at z, mm: complex64, circular normal, E|.|^2 = 1.

    key: seed of the limb. Each look of a compound image takes them from another place of the same field.
    """
    import cv2

    index, share = divmod(z / SLICE, 1)
    columns = (x / np.float32(GRAIN[1]) + np.float32(331 * look)) % PERIOD
    rows = (y / np.float32(GRAIN[0]) + np.float32(277 * look)) % PERIOD
    near, far = (
        cv2.remap(
            _scatterer_field(key, int(index) + k),
            columns,
            rows,
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_WRAP,
        )
        for k in (0, 1)
    )
    mixed = np.float32(np.cos(share * np.pi / 2)) * near + np.float32(np.sin(share * np.pi / 2)) * far
    return np.ascontiguousarray(mixed).view(np.complex64)[..., 0]


@lru_cache(maxsize=6)
def _scatterer_field(key: tuple[int, ...], index: int) -> np.ndarray:
    """Real and imaginary parts, (PERIOD, PERIOD, 2) float32, of the scatterers of one slice of the limb."""
    random = np.random.default_rng((*key, 9, index + 2**20))
    return random.standard_normal((PERIOD, PERIOD, 2), np.float32) * np.float32(0.5**0.5)


def speckle_gain(probe: UltrasoundProbe) -> np.ndarray:
    """Factor (S, 1) for scatterers that keeps their mean power at 1 after `pulse_blurred`, at every depth."""
    axial = probe.axial / probe.step
    lateral = probe.lateral(probe.samples) / probe.pitch(probe.samples)
    return (2 * np.sqrt(np.pi) * np.sqrt(axial * lateral))[:, None].astype(np.float32)


def pulse_blurred(field: np.ndarray, probe: UltrasoundProbe) -> np.ndarray:
    """(S, L) complex64 convolved with the pulse; its width across the beam depends on depth."""
    import cv2

    field = np.ascontiguousarray(field, np.complex64)
    parts = field.view(np.float32).reshape(*field.shape, 2)
    along = cv2.GaussianBlur(parts, (1, 0), sigmaX=0.01, sigmaY=probe.axial / probe.step)
    lateral = probe.lateral(probe.samples) / probe.pitch(probe.samples)
    return blurred_across(np.ascontiguousarray(along).view(np.complex64)[..., 0], lateral)


def blurred_across(field: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Each row of a real or complex (S, L) blurred by a Gaussian of standard deviation sigma (S,), in beams."""
    from scipy import fft

    beams = field.shape[1]
    margin = int(4 * sigma.max()) + 1
    padded = np.pad(field, ((0, 0), (margin, margin)), mode="reflect" if margin < beams else "wrap")
    size = fft.next_fast_len(padded.shape[1])
    real = not np.iscomplexobj(field)
    rate = (fft.rfftfreq if real else fft.fftfreq)(size)[None, :]
    transfer = np.exp(-2 * (np.pi * rate * sigma[:, None]) ** 2).astype(np.float32)
    forth, back = (fft.rfft, fft.irfft) if real else (fft.fft, fft.ifft)
    return back(forth(padded, size, axis=1) * transfer, size, axis=1)[:, margin : margin + beams]
