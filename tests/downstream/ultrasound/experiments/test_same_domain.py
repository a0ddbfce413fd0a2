"""Sets of one domain grow, and the same settings give the same metrics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vetdino.downstream.common.record import finite_or_none
from vetdino.downstream.ultrasound.config import (
    CrossDomainConfig,
    SameDomainConfig,
)
from vetdino.downstream.ultrasound.experiments.cross_domain import cross_domain
from vetdino.downstream.ultrasound.experiments.same_domain import same_domain
from vetdino.downstream.ultrasound.method.comparison import ROWS
from vetdino.platform.core.errors import ConfigError, DataError


def test_sets_of_one_domain_grow_and_what_does_not_fit_is_named(domains, tiny, quick):
    result = same_domain(domains, tiny, SameDomainConfig(sizes=(2, 3, 10), **quick))
    sets = result.facts["sets"]
    assert list(sets) == ["arm n2", "arm n3", "leg n2", "leg n3"]
    for name in ("arm", "leg"):
        assert sets[f"{name} n3"]["images"][:2] == sets[f"{name} n2"]["images"]
    assert result.left_out == {"arm n10": "it has 5 usable images", "leg n10": "it has 6 usable images"}
    assert len(result.tables["images"]) == 2 * (2 + 3) * len(ROWS)
    assert {row["row"] for row in result.tables["summary"]} == set(ROWS)
    own = [
        row["dice"]
        for row in result.tables["images"]
        if (row["domain"], row["part"], row["row"]) == ("arm", "n3", "oracle")
    ]
    assert result.metrics["same-domain/dice.arm.n3.oracle"] == pytest.approx(np.mean(own))
    assert all(png.startswith(b"\x89PNG") for png in result.pictures.values())


@pytest.mark.slow
def test_the_same_settings_give_the_same_figures_whatever_the_order_of_frames(domains, tiny, quick):
    config = SameDomainConfig(sizes=(3,), **quick)
    turned = [replace(domain, frames=domain.frames[::-1]) for domain in domains]
    one, other = same_domain(turned, tiny, config).metrics, same_domain(domains, tiny, config).metrics
    assert finite_or_none(one) == finite_or_none(other)  # no interval of 3 images: NaN differs from itself


def test_a_set_of_one_image_and_a_domain_of_too_few_are_refused(domains, tiny):
    with pytest.raises(ConfigError, match="2 images at least"):
        same_domain(domains, tiny, SameDomainConfig(sizes=(1, 3)))
    with pytest.raises(ConfigError, match="at least once"):
        same_domain(domains, tiny, SameDomainConfig(seeds=0))
    with pytest.raises(DataError, match="0 usable domains"):
        same_domain(domains, tiny, SameDomainConfig(sizes=(20,)))
    with pytest.raises(DataError, match="1 usable domains, this needs 2"):
        cross_domain(domains[:1], tiny, CrossDomainConfig())


@pytest.mark.slow
def test_several_seeds_give_the_sets_of_each_and_mean_spread_and_worst_over_them(domains, tiny, quick):
    config = SameDomainConfig(sizes=(2, 3), seeds=3, seed=4, **quick)
    result = same_domain(domains, tiny, config)
    parts = [f"n{size} seed{seed}" for seed in (4, 5, 6) for size in (2, 3)]
    assert {row["part"] for row in result.tables["summary"]} == set(parts)
    drawn = {tuple(result.facts["sets"][f"leg n3 seed{seed}"]["images"]) for seed in (4, 5, 6)}
    assert len(drawn) == 3
    for row in result.tables["seeds"]:
        dice = [
            one["dice"]
            for one in result.tables["summary"]
            if (one["domain"], one["row"]) == (row["domain"], row["row"])
            and one["part"].startswith(row["part"])
        ]
        assert len(dice) == row["seeds"] == 3
        figures = (np.mean(dice), np.std(dice), min(dice))
        assert (row["dice"], row["dice_std"], row["dice_worst"]) == pytest.approx(figures)
        name = f"same-domain/dice.{row['domain']}.{row['part']}.{row['row']}.seeds"
        assert [result.metrics[f"{name}_{one}"] for one in ("mean", "std", "worst")] == pytest.approx(figures)
    alone = replace(config, seed=5, seeds=1, cosegment=replace(config.cosegment, seed=1))
    again = {
        (row["domain"], row["part"], row["row"]): row["dice"]
        for row in same_domain(domains, tiny, alone).tables["summary"]
        if not row["row"].startswith("random")  # its weights follow the first seed
    }
    for row in result.tables["summary"]:
        size, _, seed = row["part"].partition(" ")
        if seed == "seed5" and (place := (row["domain"], size, row["row"])) in again:
            assert row["dice"] == again[place]
