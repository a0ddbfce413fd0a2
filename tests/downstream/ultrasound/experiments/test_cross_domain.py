"""Two domains together, compared with each of them alone."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.ultrasound.config import (
    CrossDomainConfig,
    SameDomainConfig,
)
from vetdino.downstream.ultrasound.experiments.cross_domain import cross_domain
from vetdino.downstream.ultrasound.experiments.same_domain import same_domain
from vetdino.downstream.ultrasound.method.comparison import ROWS


def test_a_pair_tells_each_domain_beside_itself_alone_and_what_differs(domains, tiny, quick):
    result = cross_domain(domains, tiny, CrossDomainConfig(images=2, **quick))
    assert list(result.facts["sets"]) == ["arm alone", "leg alone", "arm + leg"]
    assert len(result.facts["sets"]["arm + leg"]["images"]) == 4
    pairs = {(row["domain"], row["row"]): row for row in result.tables["pairs"]}
    assert set(pairs) == {(name, row) for name in ("arm", "leg") for row in ROWS}
    for (name, row), pair in pairs.items():
        other = "leg" if name == "arm" else "arm"
        assert (pair["with"], pair["setup"]) == (other, "body part")
        together = result.metrics[f"cross-domain/dice.{name}.with_{other}.{row}"]
        alone = result.metrics[f"cross-domain/dice.{name}.alone.{row}"]
        assert pair["change"] == pytest.approx(together - alone)
    changes = [pairs[name, "oracle"]["change"] for name in ("arm", "leg")]
    assert result.metrics["cross-domain/dice_change.setup.body_part.oracle"] == pytest.approx(
        np.mean(changes)
    )


@pytest.mark.slow
def test_a_domain_alone_scores_as_in_same_domain(domains, tiny, quick):
    alone = cross_domain(domains, tiny, CrossDomainConfig(images=3, **quick)).metrics
    same = same_domain(domains, tiny, SameDomainConfig(sizes=(3,), **quick)).metrics
    for row in ROWS:
        assert alone[f"cross-domain/dice.leg.alone.{row}"] == same[f"same-domain/dice.leg.n3.{row}"]
