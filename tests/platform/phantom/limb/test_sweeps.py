"""Domains, devices and the motion of the probe."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from vetdino.platform.phantom.config import SonogramConfig
from vetdino.platform.phantom.limb.sweeps import domain_limb, nth_domain, probe_pose

SMALL = SonogramConfig(side=96, frames=2, seed=3, workers=1)


def test_a_limb_is_the_same_under_both_devices_and_an_arm_differs_from_a_leg():
    arm, arm_again, leg = (domain_limb(SMALL, nth_domain(n)) for n in (0, 2, 3))
    assert arm == arm_again
    assert (len(arm.bones), len(leg.bones)) == (1, 2)
    assert arm.skin == leg.skin  # one subject's


def test_four_domains_hold_pairs_that_differ_in_exactly_each_and_in_two():
    def differing(count: int) -> set[tuple[str, ...]]:
        pairs = combinations(map(nth_domain, range(count)), 2)
        words = ("subject", "device", "part")
        return {tuple(w for w in words if getattr(a, w) != getattr(b, w)) for a, b in pairs}

    singles = {("subject",), ("device",), ("part",)}
    assert singles | {("subject", "part"), ("subject", "device"), ("device", "part")} == differing(4)
    assert differing(8) == differing(4) | {("subject", "device", "part")}
    assert len({nth_domain(n) for n in range(64)}) == 64
    assert {nth_domain(n).subject for n in range(8, 16)} == {3, 4}


def test_the_probe_moves_smoothly_and_stays_near():
    poses = [probe_pose(SMALL, nth_domain(0), number) for number in range(200)]
    places = np.array([(pose.x, pose.z, 50 * pose.tilt) for pose in poses])
    assert np.abs(places).max() < 12
    steps = np.abs(np.diff(places, axis=0)).max(1)
    assert steps.max() < 2.5
    assert steps.min() > 0
    assert all(min(pose.gel) >= 0 for pose in poses)
