"""The simulated b-mode image: what a probe receives from a limb, beam by beam.

In the order of the physics: reflecting sheets and scatterers of the limb's section, blurred by the pulse into
speckle; bone reflects what reaches it and leaves a shadow; tissue and depth attenuate; the time-gain amplifies echo
and noise alike; then come the envelope and its logarithm.

S samples along a beam, L beams. Probe frame as in `probe`.
"""

from __future__ import annotations

import numpy as np

from .limb import Limb
from .probe import ProbePose, UltrasoundProbe, limb_coordinates
from .section import LimbSection, Sheet, cut_section
from .speckle import blurred_across, pulse_blurred, scatterers, speckle_gain

SHADOW = 42.0
"""Attenuation of the shadow behind bone, dB."""


def echo_envelope(
    probe: UltrasoundProbe, limb: Limb, pose: ProbePose, random: np.random.Generator
) -> np.ndarray:
    """(S, L) float32 amplitude of the echoes after time-gain; 1 is the mean echo of muscle at the skin."""
    depth = probe.samples[:, None]
    x, y = limb_coordinates(probe, pose, *sample_positions(probe))
    section = cut_section(limb, x, y, pose.z)
    through, reverberation, lit = _transmission(probe, section)
    reflected = sum(_reflected(sheet, probe) for sheet in section.sheets)
    strength = section.periosteum * (0.05 + _facing(section.bone, probe) ** 4) * lit
    bone = Sheet(section.bone, strength, 0.24, 0)
    echoes = []
    for look in range(probe.looks):
        noise = scatterers(limb.seed, x, y, pose.z, look)
        rough = 0.6 + 0.6 * noise.real
        field = noise * (section.scatter * speckle_gain(probe)) * through
        field += (reflected * through + _reflected(bone, probe)) * rough
        field += reverberation * noise
        field += _near_field(depth)
        echoes.append(np.abs(pulse_blurred(field, probe)))
    gain = 10 ** ((_contact(probe, random) - probe.fade * depth / 10) / 20)
    return np.float32(np.mean(echoes, axis=0) * gain) + _receiver_noise(probe, random)


def log_compressed(envelope: np.ndarray, probe: UltrasoundProbe) -> np.ndarray:
    """(S, L) float32 gray values 0 to 255: the logarithm of the envelope between black and white."""
    decibels = 20 * np.log10(np.maximum(envelope, 1e-6))
    share = np.clip((decibels - probe.white + probe.dynamic) / probe.dynamic, 0, 1)
    return np.float32(255) * share.astype(np.float32)


def sample_positions(probe: UltrasoundProbe) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every sample in the probe frame, (S, L) float32 mm each."""
    if not probe.radius:
        x, y = np.meshgrid(probe.beams, probe.samples)
        return x, y
    beams = probe.beams[None, :]
    reach = probe.samples[:, None] + np.float32(probe.radius)
    return reach * np.sin(beams), reach * np.cos(beams) - np.float32(probe.radius)


def _slopes(level: np.ndarray, probe: UltrasoundProbe) -> tuple[np.ndarray, np.ndarray]:
    """Change of a level (S, L) per mm along the beam and per mm across it, (S, L) each."""
    across = np.gradient(level, axis=1) / probe.pitch(probe.samples)[:, None]
    return np.gradient(level, np.float32(probe.step), axis=0), across


def _facing(level: np.ndarray, probe: UltrasoundProbe) -> np.ndarray:
    """Absolute cosine between the beam and the normal of a level's surfaces, (S, L)."""
    along, across = _slopes(level, probe)
    return np.abs(along) / np.maximum(np.hypot(along, across), 1e-6)


def _reflected(sheet: Sheet, probe: UltrasoundProbe) -> np.ndarray:
    """(S, L) amplitude reflected by a sheet: high close to it where it is perpendicular to the beam."""
    along, across = _slopes(sheet.level, probe)
    steep = np.hypot(along, across)
    distance = sheet.level / np.maximum(steep, 0.3)
    near = np.exp(-0.5 * (distance / np.float32(sheet.thickness)) ** 2)
    if not sheet.narrow:
        return near * sheet.strength
    return near * sheet.strength * (np.abs(along) / np.maximum(steep, 1e-6)) ** sheet.narrow


def _transmission(probe: UltrasoundProbe, section: LimbSection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S, L) each: share of the amplitude that returns from a sample; reverberation behind bone; and the share of a
    surface at the sample that has no bone in front of it.

    A beam is as wide as its aperture, so the edge of a shadow is soft, more so the deeper it lies below the bone.
    """
    blocked = np.maximum.accumulate(1 / (1 + np.exp(np.clip(section.bone / 0.12, -30, 30))), axis=0)
    behind = np.cumsum(blocked, axis=0) * np.float32(probe.step)
    first = float(probe.samples[int(np.argmax(blocked.max(axis=1) > 0.5))])
    soft = 0.3 + 0.09 * np.maximum(probe.samples - first, 0)
    lit = 1 / (1 + (behind / 0.7) ** 6)
    blocked = np.maximum(blurred_across(blocked, soft / probe.pitch(probe.samples)), 0)
    absorbed = np.cumsum(section.attenuation, axis=0) * np.float32(probe.step / 10)
    shade = 10 ** (-SHADOW * (1 - np.exp(-0.15 - behind / 2.2)) / 20)
    through = (1 - np.minimum(blocked, 1) * (1 - shade)) * 10 ** (-absorbed / 20)
    ringing = (behind > 0.4) * np.exp(-behind / 2.5) * (1 + 0.7 * np.cos(behind * (2 * np.pi / 1.9)))
    return through.astype(np.float32), (0.25 * blocked * ringing).astype(np.float32), lit


def _near_field(depth: np.ndarray) -> np.ndarray:
    """(S, 1) ringing of the probe itself: a bright face and a few lines that decay within 2 mm."""
    return 18 * np.exp(-depth / 0.25) + 2.5 * np.exp(-depth / 0.7) * np.cos(depth * (2 * np.pi / 0.75)) ** 8


def _contact(probe: UltrasoundProbe, random: np.random.Generator) -> np.ndarray:
    """(1, L) dB by which the coupling of each beam differs: skin, hair, and poor contact at the edges."""
    place = np.linspace(-1, 1, len(probe.beams))
    sines = sum(
        np.sin(place * random.uniform(2, 14) + random.uniform(0, 2 * np.pi)) * random.uniform(0, 0.8)
        for _ in range(4)
    )
    return (sines - 3 * np.abs(place) ** 8)[None, :]


def _receiver_noise(probe: UltrasoundProbe, random: np.random.Generator) -> np.ndarray:
    """(S, L) amplitude of the electronic noise, which the time-gain amplifies with depth."""
    parts = random.standard_normal((2, len(probe.samples), len(probe.beams)), np.float32)
    rise = probe.noise - 0.35 * probe.megahertz * (probe.depth - probe.samples) / 10 * 2
    return np.hypot(*parts) * (10 ** (rise / 20)).astype(np.float32)[:, None]
