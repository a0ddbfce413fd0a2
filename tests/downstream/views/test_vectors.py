"""Studies are chosen by their keys alone; pairs of projections have one name and one order."""

from dataclasses import replace

import pytest

from vetdino.downstream.views.vectors import chosen_keys, key_hash, ordered_pairs, pair_name, view_vectors
from vetdino.platform.core.errors import FeaturesError


def test_studies_are_chosen_by_key_whatever_their_order():
    keys = [f"{number:03d}" for number in range(50)]
    assert chosen_keys(keys, 10, 0) == chosen_keys(keys[::-1] * 2, 10, 0) != chosen_keys(keys, 10, 1)
    assert chosen_keys(keys[:40], 50, 0) == [key for key in chosen_keys(keys, 50, 0) if key in keys[:40]]


def test_a_hash_depends_on_key_and_seed_alone_and_stays():
    # printf '0:k7' | sha256sum
    assert key_hash("k7", 0) == 0xB3605C5DEC7C1025
    assert key_hash("k7", 0) != key_hash("k7", 1)


def test_pairs_of_projections_have_one_name_and_come_in_order():
    assert pair_name("RLAT", "DV") == pair_name("DV", "RLAT") == "DV-RLAT"
    assert ordered_pairs(["LLAT-RLAT", "VD-LLAT", "all", "VD-DV"])[0] == "all"
    assert set(ordered_pairs(["VD-DV", "all"])) == {"VD-DV", "all"}


def test_views_keep_projection_and_facts_of_their_files(place, source):
    features = source.features(level="view")
    views = view_vectors(features, place, "test", most=5, seed=0)
    assert sorted(set(views.features.keys)) == sorted(chosen_keys(features.of("test").keys, 5, 0))
    assert views.projections == ("VD", "LLAT") * 5
    assert len(views.facts) == len(views.features) == 10
    with pytest.raises(FeaturesError, match="other shards"):
        view_vectors(replace(features, splits=("val",) * len(features)), place, "val", 500, 0)
