"""Which organs, scans and slices an audit measures."""

from __future__ import annotations

import pytest

from vetdino.downstream.fewshot.audits.config import AuditConfig
from vetdino.downstream.fewshot.audits.targets import audit_targets, evenly_spaced
from vetdino.platform.core.errors import ConfigError


@pytest.fixture
def targets_of(small):
    """(volumes, settings) -> all targets in one list."""

    def targets(volumes, left_out=None, **settings):
        config = AuditConfig(**small, **settings)
        return [
            target
            for scan in audit_targets(volumes, config, {} if left_out is None else left_out)
            for target in scan
        ]

    return targets


def test_no_scans_are_refused(scans, targets_of):
    with pytest.raises(ConfigError, match="folds"):
        targets_of(scans())


def test_every_organ_of_every_scan_is_measured_once_and_the_rest_is_listed(scan, scans, targets_of):
    left_out: dict[str, str] = {}
    volumes = scans(scan(0), scan(1, organs=[1]), scan(2), scan(3), scan(9, labeled=False))
    targets = targets_of(volumes, left_out)
    expected = [
        (f"s{seed}", organ) for seed in (0, 1, 2, 3) for organ in (1, 2, 3) if seed != 1 or organ == 1
    ]
    assert [(target.query.name, target.support.organ) for target in targets] == expected
    assert [target.support.fold for target in targets] == [target.fold.number for target in targets]
    assert targets[0].parts == {1: 0, 2: 1, 3: 2, 4: 2}
    assert targets[0].query is not targets[0].support.volumes[0]
    assert left_out == {
        "s9": "no labels",
        "s1, right kidney": "the scan does not show it",
        "s1, left kidney": "the scan does not show it",
    }


def test_a_sample_of_scans_and_slices_is_evenly_spaced(scan, scans, targets_of):
    targets = targets_of(scans(*map(scan, range(4))), scans=2, per_organ=2)
    assert sorted({target.query.name for target in targets}) == ["s1", "s3"]
    assert {tuple(target.parts) for target in targets} == {(2, 4)}


def test_zero_wanted_are_all():
    assert evenly_spaced(3, 0) == [0, 1, 2]
    assert evenly_spaced(0, 2) == []
