"""Sweeps of generated ultrasound: which subject, device and body part, and how the probe moves.

A domain is one subject's arm or leg under one device. Every draw depends on the seed and its own numbers alone, so
more frames or domains change no earlier ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config import SonogramConfig
from .limb import BODY_PARTS, BodyPart, Limb, draw_limb
from .probe import CURVED, LINEAR, ProbePose, UltrasoundProbe

CUBE = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
"""Subject, device, part of eight domains: the first, the three that differ in one of these, then the rest."""


@dataclass(frozen=True, slots=True)
class SonogramDomain:
    """One subject's arm or leg under one device; subjects and devices count from 1.

    >>> [nth_domain(number).name for number in range(4)]
    ['s1-d1-arm', 's2-d1-arm', 's1-d2-arm', 's1-d1-leg']
    """

    subject: int
    device: int
    part: BodyPart

    @property
    def key(self) -> tuple[int, int, int]:
        """Numbers of subject, device and part, for the random numbers of the domain."""
        return self.subject, self.device, BODY_PARTS.index(self.part)

    @property
    def name(self) -> str:
        """Name of the domain and of its folder."""
        return f"s{self.subject}-d{self.device}-{self.part}"


def nth_domain(number: int) -> SonogramDomain:
    """Domain `number`, from 0: eight share two subjects and two devices, the next eight have new ones."""
    block, within = divmod(number, len(CUBE))
    subject, device, part = CUBE[within]
    return SonogramDomain(2 * block + subject + 1, 2 * block + device + 1, BODY_PARTS[part])


def nth_probe(config: SonogramConfig, number: int) -> UltrasoundProbe:
    """The probe of device `number`, from 1: LINEAR, CURVED, then variants, linear and curved in turn."""
    if number <= 2:
        return (LINEAR, CURVED)[number - 1]
    random = np.random.default_rng((config.seed, 4, number))
    frequency = float(random.uniform(0.75, 1.35))
    looks = int(random.integers(1, 4))

    def drawn(**ranges: tuple[float, float]) -> dict[str, float]:
        return {name: float(random.uniform(*limits)) for name, limits in ranges.items()}

    settings = drawn(
        white=(26, 37), dynamic=(48, 72), fade=(-0.5, 2.0), noise=(-36, -20), smoothing=(0.03, 0.15),
        f_number=(1.8, 3.0),
    )  # fmt: skip
    if number % 2:
        settings |= drawn(width=(38, 52), depth=(36, 58), focus=(14, 28))
        return UltrasoundProbe(megahertz=10.0 * frequency, looks=looks, **settings)
    settings |= drawn(radius=(40, 65), depth=(58, 85), angle=(0.4, 0.6), focus=(25, 42))
    return UltrasoundProbe(megahertz=5.0 * frequency, looks=looks, **settings)


def domain_limb(config: SonogramConfig, domain: SonogramDomain) -> Limb:
    """The limb of a domain, the same under every device."""
    subject, _, part = domain.key
    shared = np.random.default_rng((config.seed, 1, subject))
    return draw_limb(domain.part, shared, np.random.default_rng((config.seed, 2, subject, part)))


def probe_pose(config: SonogramConfig, domain: SonogramDomain, number: int) -> ProbePose:
    """How the probe is held for frame `number` of a sweep; it moves in slow sines, so a sweep has no end."""
    random = np.random.default_rng((config.seed, 3, *domain.key))
    size = np.array([3.5, 9.0, 0.08, 0.05, 0.6, 0.5, 0.6]) * random.uniform(0.7, 1.2, 7)
    period, phase = random.uniform(35, 70, (2, 7)), random.uniform(0, 2 * np.pi, (2, 7))
    waves = np.sin(2 * np.pi * number / (period * [[1], [0.37]]) + phase)
    x, z, tilt, press, *change = (size * (0.8 * waves[0] + 0.2 * waves[1])).tolist()
    gel = random.uniform(0.6, 3.0, 3) * (random.uniform(size=3) < (0.4, 0.25, 0.4))
    left, middle, right = (max(0.0, mean + more) for mean, more in zip(gel.tolist(), change, strict=True))
    return ProbePose(x, z, tilt, 0.05 + press, (left, middle if gel[1] else 0.0, right))
