"""A seed depends on everything that it is derived from, and on nothing else."""

from __future__ import annotations

from vetdino.pretrain.batches.seeds import derived_seed


def test_a_derived_seed_is_known_and_fits_64_bits():
    # On record: another value would change the data of every training.
    assert derived_seed(0, 0, "order") == 13932772642666305074


def test_seed_epoch_and_key_each_change_it():
    seeds = [derived_seed(*parts) for parts in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**64 for seed in seeds)
