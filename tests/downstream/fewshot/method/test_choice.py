"""The labeled support chooses features: candidates, their scores against the method itself, and what is chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.config import FewshotConfig
from vetdino.downstream.fewshot.method.choice import (
    SHIFTS,
    SupportChosen,
    _Task,
    candidate_blocks,
    candidate_scores,
    layer_sets,
    mode_predictor,
    shifted,
    source_choice,
    spread,
)
from vetdino.downstream.fewshot.method.config import PrototypeConfig, SliceConfig
from vetdino.downstream.fewshot.method.grid import grid_mask
from vetdino.downstream.fewshot.method.predictors import prototype_predictor
from vetdino.downstream.fewshot.method.prototypes import prototype_scores, prototype_sets
from vetdino.downstream.fewshot.method.slices import body_coordinates
from vetdino.downstream.fewshot.method.support import build_support_set
from vetdino.downstream.fewshot.method.token_features import LayerTokens, TokenFeatures

DEPTH = 12
USEFUL = 9


class DrawnTokens:
    """Tokens of the candidate blocks, 6 channels each: noise, but for the labels in one block."""

    def __init__(self, useful: int = USEFUL) -> None:
        self.useful = useful

    def __call__(self, volume, slices):
        blocks = candidate_blocks(DEPTH)
        rows = []
        for z in slices:
            tokens = torch.randn(len(blocks), 6, 16, 16, generator=torch.Generator().manual_seed(int(z)))
            shown = torch.stack([torch.from_numpy(volume.labels_ZHW[z] == organ) for organ in range(3)])
            place = blocks.index(self.useful)
            tokens[place] *= 0.1
            tokens[place, :3] += 2 * grid_mask(shown, 16, 16)
            rows.append(tokens.flatten(0, 1))
        return torch.stack(rows)


def choosing(**slices) -> SupportChosen:
    return SupportChosen(DrawnTokens(), DEPTH, SliceConfig(**slices), PrototypeConfig())


@pytest.mark.parametrize(
    ("depth", "sets"),
    [
        (1, ((0,),)),
        (2, ((0, 1), (0,), (1,))),
        (10, ((6, 7), (6,), (4, 6, 7), (7,), (4,), (9,))),
        (24, ((15, 19), (15,), (11, 15, 19), (19,), (11,), (23,))),
    ],
)
def test_candidates_follow_the_depth_and_hold_the_last_block(depth, sets):
    assert layer_sets(depth) == sets
    assert candidate_blocks(depth)[-1] == depth - 1


def test_the_block_that_knows_the_organ_is_chosen(organ_scan):
    chosen, support = choosing(), build_support_set(1, "liver", [organ_scan(0)])
    choice = chosen.choice(support)
    assert choice.layers == (USEFUL,)
    assert choice.dice > 0.8
    assert chosen.choice(build_support_set(1, "liver", list(support.volumes))) is choice
    other = SupportChosen(DrawnTokens(5), DEPTH, SliceConfig(), PrototypeConfig())
    assert other.choice(support).layers == (5,)


def test_every_organ_and_scan_has_a_choice_of_its_own_that_does_not_depend_on_their_order(organ_scan):
    sets = [build_support_set(organ, "", [organ_scan(seed)]) for organ in (1, 2) for seed in (0, 1)]
    forward, backward = choosing(), choosing()
    there = [forward.choice(one) for one in sets]
    back = [backward.choice(one) for one in reversed(sets)][::-1]
    assert there == back
    assert len({one.dice for one in there}) == len(sets)


@pytest.mark.parametrize("coordinates", [0.0, 1.4])
def test_margins_are_those_of_the_method_itself(organ_scan, coordinates):
    chosen, volume = choosing(coordinates=coordinates), organ_scan(0)
    for organ in (1, 2):
        truth = volume.labels_ZHW == organ
        task = _Task(chosen, volume, truth, {2: 3, 4: 3}, ((0.0, 0.0),))
        for candidate in chosen.candidates():
            features = chosen.features(candidate.layers, candidate.coordinates)
            mask = grid_mask(torch.from_numpy(truth[[3]]), 16, 16)
            sets = prototype_sets(features(volume, [3]), mask, PrototypeConfig(tau=candidate.tau))
            background, foreground = prototype_scores(features(volume, [2, 4]), sets)
            [margins] = task.groups[0].margins(candidate, task.blocks)
            torch.testing.assert_close(margins, foreground - background, atol=2e-4, rtol=1e-4)


def test_an_organ_without_local_prototypes_is_scored_by_its_mean(organ_scan):
    volume = organ_scan(0)
    labels = np.zeros_like(volume.labels_ZHW)
    labels[2:6, 12:15, 12:15] = 1  # less than a window
    volume, chosen = replace(volume, labels_ZHW=labels), choosing()
    task = _Task(chosen, volume, labels == 1, {2: 3}, ((0.0, 0.0),))
    candidate = chosen.candidates()[0]
    features = chosen.features(candidate.layers, candidate.coordinates)
    mask = grid_mask(torch.from_numpy(labels[[3]] == 1), 16, 16)
    sets = prototype_sets(features(volume, [3]), mask, PrototypeConfig(tau=candidate.tau))
    assert not sets.members[1].any()
    background, foreground = prototype_scores(features(volume, [2]), sets)
    [margins] = task.groups[0].margins(candidate, task.blocks)
    torch.testing.assert_close(margins, foreground - background, atol=2e-4, rtol=1e-4)


def test_an_organ_on_a_single_slice_can_choose(organ_scan):
    volume = organ_scan(0)
    labels = np.where(np.arange(8)[:, None, None] == 4, volume.labels_ZHW, 0)
    support = build_support_set(1, "liver", [replace(volume, labels_ZHW=labels)])
    assert choosing().choice(support).layers == (USEFUL,)


def test_candidates_do_not_exceed_the_settings_and_zero_stays_zero():
    every = choosing(coordinates=1.0).candidates()
    assert {one.coordinates for one in every} == {0.5, 0.7, 1.0}
    assert {one.tau for one in every} == {20.0, 40.0}
    assert {one.coordinates for one in choosing(coordinates=0.0).candidates()} == {0.0}


def test_scores_are_means_over_both_tasks_and_all_supports(organ_scan):
    chosen = choosing()
    first, second = (build_support_set(1, "liver", [organ_scan(seed)]) for seed in (0, 1))
    both = build_support_set(1, "liver", [organ_scan(0), organ_scan(1)])
    of_first, of_second = candidate_scores(chosen, first), candidate_scores(chosen, second)
    for candidate, score in candidate_scores(chosen, both).items():
        assert score == pytest.approx((of_first[candidate] + of_second[candidate]) / 2)


def test_places_are_shifted_by_shares_of_the_body():
    body = np.zeros((40, 40), np.float32)
    body[:, :] = 1.0
    at = torch.from_numpy(body_coordinates(body, 20, 20)).flatten(1).T
    # 20 cells are two half sizes: two cells are 0.2 of one.
    moved = shifted(at, 0.2, 0.0).T.unflatten(1, (20, 20))[:, :-2]
    expected = at.T.unflatten(1, (20, 20))[:, 2:]
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)
    assert len({abs(step) for shift in SHIFTS for step in shift if step}) == 1


def test_few_slices_are_all_segmented_many_are_spread():
    assert spread({3: 1, 5: 2}) == {3: 1, 5: 2}
    thinned = spread({z: z % 3 for z in range(100)})
    assert len(thinned) == 12
    assert all(part == z % 3 for z, part in thinned.items())


def test_features_of_one_source_without_blocks_have_no_choice(organ_scan, pixels):
    encoder_for = source_choice(pixels, FewshotConfig(), 2)
    support = build_support_set(1, "liver", [organ_scan(0)])
    query = organ_scan(1)
    torch.testing.assert_close(encoder_for(support)(query, [3]), pixels(query, [3]))


@pytest.mark.parametrize("compat", ["alpnet", "levayz"])
def test_released_modes_take_the_last_block_bit_for_bit(tiny, organ_scan, compat):
    config = FewshotConfig(slices=SliceConfig(grid=8))
    tokens = LayerTokens(tiny, config.slices, candidate_blocks(len(tiny.vit.blocks)))
    support, query = build_support_set(1, "liver", [organ_scan(0)]), organ_scan(1)
    prototypes = PrototypeConfig(compat=compat)
    mine = mode_predictor(source_choice(tokens, config, 2), prototypes)(support, 1, query, [3, 4])
    last = TokenFeatures(tiny, replace(config.slices, layers=(-1,)))
    assert torch.equal(mine, prototype_predictor(last, prototypes)(support, 1, query, [3, 4]))


def test_in_our_mode_the_chosen_features_segment(tiny, organ_scan):
    config = FewshotConfig(slices=SliceConfig(grid=8, scales=(1.0, 0.5)))
    tokens = LayerTokens(tiny, config.slices, candidate_blocks(len(tiny.vit.blocks)))
    support, query = build_support_set(1, "liver", [organ_scan(0)]), organ_scan(1)
    chosen = source_choice(tokens, config, 2)
    choice = chosen.choice(support)
    fixed = TokenFeatures(tiny, replace(config.slices, layers=choice.layers, coordinates=choice.coordinates))
    expected = prototype_predictor(fixed, PrototypeConfig(tau=choice.tau))
    # With two scales and several blocks channels come in another order.
    torch.testing.assert_close(
        mode_predictor(chosen, PrototypeConfig())(support, 1, query, [3]),
        expected(support, 1, query, [3]),
        atol=1e-4,
        rtol=1e-4,
    )
