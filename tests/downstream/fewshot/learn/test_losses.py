"""The loss of one episode."""

from __future__ import annotations

import pytest
import torch

from vetdino.downstream.fewshot.learn.config import LearnConfig
from vetdino.downstream.fewshot.learn.encoder import TrainableEncoder
from vetdino.downstream.fewshot.learn.episodes import Episode, Episodes, EpisodeScans
from vetdino.downstream.fewshot.learn.losses import EpisodeLosses, episode_losses


@pytest.fixture
def loss_of(tiny, quick):
    """(encoder, episode, swapped) -> losses."""

    def losses(encoder: TrainableEncoder, episode: Episode, swapped: bool = False) -> EpisodeLosses:
        pair = (episode.query, episode.support) if swapped else (episode.support, episode.query)
        return episode_losses(encoder, *pair, quick.prototypes)

    return losses


@pytest.fixture
def episode(volumes_class, quick):
    """(number, neighbors) -> episode of two scans."""

    def drawn(number: int = 0, neighbors: int = 0) -> Episode:
        scans = EpisodeScans(volumes_class(), quick.episodes)
        return Episodes(scans, ("0", "1"), (0,), neighbors=neighbors)[number]

    return drawn


@pytest.mark.parametrize("learn", [LearnConfig(), LearnConfig(neighbours=3)])
def test_the_loss_falls_on_one_repeated_episode(tiny, quick, loss_of, episode, learn):
    encoder = TrainableEncoder(tiny, learn, quick.slices)
    repeated = episode(neighbors=learn.neighbours)
    optimizer = torch.optim.SGD(encoder.trainable_parameters(), 0.02, momentum=0.9)
    values = []
    for _ in range(20):
        loss = loss_of(encoder, repeated).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.8 * values[0]


def test_the_total_is_segmentation_plus_alignment(tiny, quick, loss_of, episode):
    losses = loss_of(TrainableEncoder(tiny, slices=quick.slices), episode(3))
    assert losses.segmentation > 0
    assert losses.alignment > 0
    assert torch.equal(losses.total, losses.segmentation + losses.alignment)


def test_swapping_support_and_query_changes_the_loss(tiny, quick, loss_of, episode):
    encoder = TrainableEncoder(tiny, slices=quick.slices)
    one, other = (loss_of(encoder, episode(3), swapped=swapped) for swapped in (False, True))
    assert not torch.equal(one.segmentation, other.segmentation)
