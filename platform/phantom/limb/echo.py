"""What a probe makes of a limb: beams, speckle, mirrors and shadows, in the order in which sound meets them.

The beams of a probe meet scatterers and sheets (`limb`), the pulse blurs them into speckle, bone mirrors what
reaches it and leaves a shadow, depth weakens and the time-gain amplifies echo and noise alike; then come the
envelope and its logarithm. A linear model of the pulse (Gaussian along the beam, a wider one across it) on
complex normal scatterers: its envelope over even tissue is Rayleigh's (Wagner et al. 1983, IEEE Trans. Sonics
Ultrason. 30(3)), as fully developed speckle is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .limb import Limb, Section, Sheet, section

# S samples along a beam, L beams.
# Probe frame, mm: x along the probe, y into the body, 0 at the middle of the probe's face.


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A probe with its settings.

    megahertz: centre frequency; width: mm of a linear probe's face; radius: mm of a curved one's, 0 for
    linear; angle: half its fan, radians; depth: mm shown; focus: mm; f_number: focus over aperture; looks:
    directions compounded; white: dB above a mean muscle's echo that is drawn white; dynamic: dB from white to
    black; fade: dB for each cm that the time-gain leaves out; noise: dB of the receiver's at the lowest
    depth; smoothing: mm of the picture's final blur.
    """

    megahertz: float = 10.0
    width: float = 48.0
    radius: float = 0.0
    angle: float = 0.0
    depth: float = 45.0
    focus: float = 20.0
    f_number: float = 2.8
    looks: int = 3
    white: float = 30.0
    dynamic: float = 56.0
    fade: float = 3.0
    noise: float = -24.0
    smoothing: float = 0.06

    @property
    def wavelength(self) -> float:
        """mm, at 1540 m/s."""
        return 1.54 / self.megahertz

    @property
    def axial(self) -> float:
        """Standard deviation of the pulse's envelope in mm of depth: two and a half cycles, there and back."""
        return 2.5 * self.wavelength / 2 / 2.355

    @property
    def step(self) -> float:
        """mm between samples."""
        return 0.7 * self.axial

    @property
    def beams(self) -> np.ndarray:
        """(L,) where each beam leaves the probe: mm along a linear face, radians of a curved one."""
        half = self.angle if self.radius else self.width / 2
        pitch = 0.45 * self.wavelength * self.f_number / (self.radius + self.focus if self.radius else 1)
        return np.linspace(-half, half, 2 * int(half / pitch) + 1, dtype=np.float32)

    @property
    def samples(self) -> np.ndarray:
        """(S,) mm along a beam."""
        return np.arange(0, self.depth, self.step, dtype=np.float32)

    def pitch(self, depth: np.ndarray) -> np.ndarray:
        """mm between neighbouring beams at each depth."""
        apart = float(self.beams[1] - self.beams[0])
        return apart * (self.radius + depth) if self.radius else np.full_like(depth, apart)

    def lateral(self, depth: np.ndarray) -> np.ndarray:
        """Standard deviation in mm of the beam across, at each depth: narrowest at the focus."""
        waist = self.wavelength * self.f_number / 2.355
        return waist * np.sqrt(1 + ((depth - self.focus) / (0.8 * self.focus)) ** 2)


LINEAR = Device()
CURVED = Device(
    megahertz=5.0, radius=45.0, angle=0.48, depth=60.0, focus=28.0, f_number=2.0, looks=1,
    white=33.0, dynamic=66.0, fade=1.0, noise=-30.0, smoothing=0.12,
)  # fmt: skip
"""The two scanners of the first eight domains."""


@dataclass(frozen=True, slots=True)
class Pose:
    """How a probe is held: mm along the skin (x) and along the limb (z), radians of tilt, share of the soft
    tissue that pressure takes, mm of gel: more at the left edge, everywhere, more at the right edge."""

    x: float
    z: float
    tilt: float
    press: float
    gel: tuple[float, float, float]


# What the probe hears -----------------------------------------------------------------------------


def tissue_of(device: Device, pose: Pose, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The limb's own (x, y) at points of the probe frame, mm, float32.

    The skin lies along the probe's face, or along the gel before it; how much it is bent fades with depth, as
    does what pressure takes, so that bones keep their shape.
    """
    half = device.radius * np.sin(device.angle) if device.radius else device.width / 2
    across = np.clip(x, -half, half)
    left, middle, right = pose.gel
    aside = across / half
    skin = middle + left * np.clip(-aside, 0, 1) ** 2 + right * np.clip(aside, 0, 1) ** 2
    if device.radius:
        skin += np.sqrt(device.radius**2 - across * across) - device.radius
    below = y - skin
    below += skin * (1 - np.exp(-np.maximum(below, 0) / BEND))
    below += pose.press * BEND * (1 - np.exp(-np.maximum(below, 0) / BEND))
    return (x + pose.x + np.tan(pose.tilt) * below).astype(np.float32), below.astype(np.float32)


BEND = 12.0
"""mm of depth over which the skin's form and the probe's pressure fade."""


def envelope_of(device: Device, limb: Limb, pose: Pose, random: np.random.Generator) -> np.ndarray:
    """(S, L) float32 amplitude of the echoes after time-gain; 1 is the mean of a muscle at the skin."""
    depth = device.samples[:, None]
    x, y = _places(device)
    along, deep = tissue_of(device, pose, x, y)
    cut = section(limb, along, deep, pose.z)
    through, hidden, lit = _transmission(device, cut)
    mirrored = sum(_mirrored(sheet, device) for sheet in cut.sheets)
    bone = Sheet(cut.bone, cut.periosteum * (0.05 + _facing(cut.bone, device) ** 4) * lit, 0.24, 0)
    echoes = []
    for look in range(device.looks):
        noise = _scatterers(limb.seed, along, deep, pose.z, look)
        rough = 0.6 + 0.6 * noise.real
        field = noise * (cut.scatter * _speckle_gain(device)) * through
        field += (mirrored * through + _mirrored(bone, device)) * rough
        field += hidden * noise
        field += _near_field(device, depth)
        echoes.append(np.abs(blurred(field, device)))
    gain = 10 ** ((_contact(device, random) - device.fade * depth / 10) / 20)
    return np.float32(np.mean(echoes, axis=0) * gain) + _receiver(device, random)


def _places(device: Device) -> tuple[np.ndarray, np.ndarray]:
    """(S, L) x and y of every sample in the probe frame, mm."""
    beams, depth = device.beams[None, :], device.samples[:, None]
    if not device.radius:
        return np.broadcast_to(beams, (len(depth), beams.size)), np.broadcast_to(
            depth, (len(depth), beams.size)
        )
    reach = depth + np.float32(device.radius)
    return reach * np.sin(beams), reach * np.cos(beams) - np.float32(device.radius)


def _slopes(level: np.ndarray, device: Device) -> tuple[np.ndarray, np.ndarray]:
    """How a level changes for each mm along the beam and across it, (S, L) each."""
    across = np.gradient(level, axis=1) / device.pitch(device.samples)[:, None]
    return np.gradient(level, np.float32(device.step), axis=0), across


def _facing(level: np.ndarray, device: Device) -> np.ndarray:
    """Cosine between the beam and the surface's normal."""
    along, across = _slopes(level, device)
    return np.abs(along) / np.maximum(np.hypot(along, across), 1e-6)


def _mirrored(sheet: Sheet, device: Device) -> np.ndarray:
    """(S, L) amplitude of a sheet: strong where it is near and lies square to the beam."""
    along, across = _slopes(sheet.level, device)
    steep = np.hypot(along, across)
    distance = sheet.level / np.maximum(steep, 0.3)
    near = np.exp(-0.5 * (distance / np.float32(sheet.thickness)) ** 2)
    if not sheet.narrow:
        return near * sheet.strength
    return near * sheet.strength * (np.abs(along) / np.maximum(steep, 1e-6)) ** sheet.narrow


def _transmission(device: Device, cut: Section) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S, L) share of the amplitude that comes back from each sample; what reverberates behind bone; and the
    share of a surface there that has no bone before it.

    A beam is as wide as its aperture: the shadow's edge is soft, and the softer the deeper below the bone.
    """
    blocked = np.maximum.accumulate(1 / (1 + np.exp(np.clip(cut.bone / 0.12, -30, 30))), axis=0)
    behind = np.cumsum(blocked, axis=0) * np.float32(device.step)
    first = float(device.samples[int(np.argmax(blocked.max(axis=1) > 0.5))])
    soft = 0.3 + 0.09 * np.maximum(device.samples - first, 0)
    lit = 1 / (1 + (behind / 0.7) ** 6)
    blocked = np.maximum(across(blocked, soft / device.pitch(device.samples)), 0)
    swallowed = np.cumsum(cut.muddle, axis=0) * np.float32(device.step / 10)
    shade = 10 ** (-SHADOW * (1 - np.exp(-0.15 - behind / 2.2)) / 20)
    through = (1 - np.minimum(blocked, 1) * (1 - shade)) * 10 ** (-swallowed / 20)
    ringing = (behind > 0.4) * np.exp(-behind / 2.5) * (1 + 0.7 * np.cos(behind * (2 * np.pi / 1.9)))
    return through.astype(np.float32), (0.25 * blocked * ringing).astype(np.float32), lit


SHADOW = 42.0
"""dB that a shadow hides."""


def _near_field(device: Device, depth: np.ndarray) -> np.ndarray:
    """(S, 1) the probe's own ringing: a bright face and a few lines that die away within 2 mm."""
    return 18 * np.exp(-depth / 0.25) + 2.5 * np.exp(-depth / 0.7) * np.cos(depth * (2 * np.pi / 0.75)) ** 8


def _contact(device: Device, random: np.random.Generator) -> np.ndarray:
    """(1, L) dB by which each beam hears better or worse: skin, hair, a poor coupling at the edges."""
    place = np.linspace(-1, 1, len(device.beams))
    sines = sum(
        np.sin(place * random.uniform(2, 14) + random.uniform(0, 2 * np.pi)) * random.uniform(0, 0.8)
        for _ in range(4)
    )
    return (sines - 3 * np.abs(place) ** 8)[None, :]


def _receiver(device: Device, random: np.random.Generator) -> np.ndarray:
    """(S, L) amplitude of the electronic noise, which the time-gain lifts with depth."""
    parts = random.standard_normal((2, len(device.samples), len(device.beams)), np.float32)
    rise = device.noise - 0.35 * device.megahertz * (device.depth - device.samples) / 10 * 2
    return np.hypot(*parts) * (10 ** (rise / 20)).astype(np.float32)[:, None]


# Speckle ------------------------------------------------------------------------------------------

GRAIN = (0.08, 0.12)
"""mm of depth and width that one scatterer stands for."""

SLICE = 1.6
"""mm along the limb after which other scatterers fill the beam."""


def _scatterers(key: tuple[int, ...], x: np.ndarray, y: np.ndarray, z: float, look: int) -> np.ndarray:
    """The scatterers at the points of the limb: complex64, circular normal, E|.|^2 = 1.

    Each look of a compound sees others (the same ones from a quite different place).
    """
    import cv2

    knot, part = divmod(z / SLICE, 1)
    columns = (x / np.float32(GRAIN[1]) + np.float32(331 * look)) % CLOUD
    rows = (y / np.float32(GRAIN[0]) + np.float32(277 * look)) % CLOUD
    weights = np.cos(part * np.pi / 2), np.sin(part * np.pi / 2)
    seen = [
        cv2.remap(_cloud(key, int(knot) + more), columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_WRAP)
        for more in (0, 1)
    ]
    mixed = sum(np.float32(weight) * cloud for weight, cloud in zip(weights, seen, strict=True))
    return np.ascontiguousarray(mixed).view(np.complex64)[..., 0]


CLOUD = 1024
"""Scatterers a side before they come again: 82 mm of depth, 123 mm of width."""


@lru_cache(maxsize=6)
def _cloud(key: tuple[int, ...], knot: int) -> np.ndarray:
    random = np.random.default_rng((*key, 9, knot + 2**20))
    return random.standard_normal((CLOUD, CLOUD, 2), np.float32) * np.float32(0.5**0.5)


def _speckle_gain(device: Device) -> np.ndarray:
    """(S, 1) by which scatterers are multiplied so that `blurred` leaves their power 1 at every depth."""
    axial = device.axial / device.step
    lateral = device.lateral(device.samples) / device.pitch(device.samples)
    return (2 * np.sqrt(np.pi) * np.sqrt(axial * lateral))[:, None].astype(np.float32)


def blurred(field: np.ndarray, device: Device) -> np.ndarray:
    """(S, L) complex64 convolved with the pulse: Gaussian along the beam, a wider one across, by depth."""
    import cv2

    field = np.ascontiguousarray(field, np.complex64)
    parts = field.view(np.float32).reshape(*field.shape, 2)
    parts = cv2.GaussianBlur(parts, (1, 0), sigmaX=0.01, sigmaY=device.axial / device.step)
    return across(
        np.ascontiguousarray(parts).view(np.complex64)[..., 0],
        device.lateral(device.samples) / device.pitch(device.samples),
    )


def across(field: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Each row of (S, L) under a Gaussian of its own standard deviation, sigma (S,) in beams; kind kept."""
    from scipy import fft

    beams = field.shape[1]
    margin = int(4 * sigma.max()) + 1
    padded = np.pad(field, ((0, 0), (margin, margin)), mode="reflect" if margin < beams else "wrap")
    size = fft.next_fast_len(padded.shape[1])
    real = not np.iscomplexobj(field)
    rate = (fft.rfftfreq if real else fft.fftfreq)(size)[None, :]
    kept = np.exp(-2 * (np.pi * rate * sigma[:, None]) ** 2).astype(np.float32)
    forth, back = (fft.rfft, fft.irfft) if real else (fft.fft, fft.ifft)
    return back(forth(padded, size, axis=1) * kept, size, axis=1)[:, margin : margin + beams]


# What the screen shows ----------------------------------------------------------------------------


def displayed(envelope: np.ndarray, device: Device) -> np.ndarray:
    """(S, L) float32 grey in 0..255: the logarithm of the envelope between black and white."""
    decibels = 20 * np.log10(np.maximum(envelope, 1e-6))
    share = np.clip((decibels - device.white + device.dynamic) / device.dynamic, 0, 1)
    return np.float32(255) * share.astype(np.float32)
