"""Audit of the connected-component step."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.fewshot.audits.components import CcaAuditResult, cca_audit
from vetdino.downstream.fewshot.audits.config import CcaConfig
from vetdino.downstream.fewshot.audits.record import cca_record
from vetdino.downstream.fewshot.audits.summary import audit_summary
from vetdino.downstream.fewshot.method.protocol import dice
from vetdino.platform.core.errors import DataError

BOTH = "right kidney + left kidney"


@pytest.fixture(scope="module")
def volumes(scan, scans):
    return scans(*map(scan, range(4)))


@pytest.fixture(scope="module")
def result(volumes, small) -> CcaAuditResult:
    """Pixel features, baselines and ground truth; no network."""
    return cca_audit(volumes, None, CcaConfig(**small))


def test_the_upper_bound_of_one_component_is_the_larger_kidney_alone(volumes, scan, small):
    joined = cca_audit(volumes, None, CcaConfig(together=("2+3",), **small))
    summary = audit_summary(joined.scores, joined.before, joined.organs, CcaConfig(**small))
    lines = {(line["row"], line["organ"]): line for line in summary}
    labels = [scan(seed).labels_ZHW for seed in range(4)]
    expected = np.mean([dice(each == 2, each >= 2) for each in labels])
    assert lines["truth, components 1", BOTH]["dice"] == pytest.approx(expected)
    assert lines["truth, components 1", BOTH]["worse"] == 1
    assert lines["truth, components n", BOTH]["dice"] == lines["truth", BOTH]["dice"] == 1
    assert (lines["truth", BOTH]["parts"], lines["truth", BOTH]["several"]) == (2, 1)
    assert lines["truth, components 1", "liver"]["dice"] == 1


def test_every_source_has_a_row_per_setting_and_one_component_is_one(result):
    assert {row.partition(",")[0] for row in result.before} == {"pixels", "copy", "oracle", "truth"}
    assert len(result.before) == 4 * 3
    assert all(score.parts <= 1 for score in result.scores if score.row.endswith("components 1"))
    assert result.left_out == {}


def test_an_encoder_is_a_source_when_given(tiny, volumes, small):
    encoder = cca_audit(volumes, tiny, CcaConfig(scans=1, per_organ=1, **small))
    assert "encoder, components 1" in encoder.before


def test_the_record_has_tables_and_pictures(result, small):
    record = cca_record(result, "pixels", CcaConfig(**small))
    assert {"dice", "harm", "parts"} <= record.pictures.keys()
    assert all(png.startswith(b"\x89PNG") for png in record.pictures.values())
    assert len(record.tables["slices"]) == len(result.scores)


def test_nothing_to_measure_is_an_error(scan, scans, small):
    with pytest.raises(DataError, match="class 2"):
        cca_audit(
            scans(*(scan(seed, organs=[1]) for seed in range(3))), None, CcaConfig(organs=(2,), **small)
        )
