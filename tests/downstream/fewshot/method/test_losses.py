"""Both losses of an episode against loops and finite differences."""

import pytest
import torch
import torch.nn.functional as F

from vetdino.downstream.fewshot.method.config import PrototypeConfig
from vetdino.downstream.fewshot.method.losses import alignment_loss, segmentation_loss
from vetdino.downstream.fewshot.method.prototypes import predict

COMPATS = ("ours", "alpnet", "levayz")


def test_the_loss_is_the_weighted_cross_entropy_on_the_image():
    logits, label = torch.randn(3, 8, 8), torch.randint(0, 3, (20, 24))
    label[:3] = 255
    large = F.interpolate(logits[None], (20, 24), mode="bilinear")
    wanted = F.cross_entropy(large, label[None], torch.tensor([0.05, 1, 1]), ignore_index=255)
    torch.testing.assert_close(segmentation_loss(logits, label), wanted)
    total = weight = 0.0
    for row in range(20):
        for column in range(24):
            number = int(label[row, column])
            if number != 255:
                w = 0.05 if number == 0 else 1.0
                total -= w * float(large[0, :, row, column].double().log_softmax(0)[number])
                weight += w
    assert float(wanted) == pytest.approx(total / weight, rel=1e-5)


def test_a_label_that_counts_nowhere_costs_nothing():
    assert segmentation_loss(torch.randn(2, 4, 4), torch.full((8, 8), 255)) == 0


@pytest.mark.parametrize("compat", COMPATS)
def test_alignment_makes_the_query_segment_each_support(draw_episode, alp_loops, compat):
    query, supports, masks = draw_episode(1, 3, blob=0.7)
    config = PrototypeConfig(compat=compat)
    logits = predict(query, supports, masks, config, training=True)
    predicted = logits.argmax(dim=0)
    assert 0 < predicted.sum() < 64
    losses = []
    for support, mask in zip(supports, masks, strict=True):
        back = alp_loops(
            support.numpy(), query.numpy()[None], predicted.double().numpy()[None], config, training=True
        )
        large = F.interpolate(torch.from_numpy(back)[None], mask.shape, mode="bilinear")
        losses.append(F.cross_entropy(large, mask.long()[None]))
    torch.testing.assert_close(
        alignment_loss(query, supports, masks, logits, config),
        torch.stack(losses).mean(),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("value", [0, 1])
def test_alignment_of_a_prediction_of_nothing_or_of_everything_is_finite_and_has_gradients(
    draw_episode, value
):
    query, supports, masks = draw_episode()
    query.requires_grad_()
    logits = torch.zeros(2, 8, 8)
    logits[value] = 1
    loss = alignment_loss(query, supports, masks, logits)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(query.grad).all()
    assert query.grad.abs().sum() > 0


@pytest.mark.parametrize("compat", COMPATS)
@pytest.mark.parametrize("blob", [0.2, 0.8])
def test_gradients_of_both_losses_are_right(draw_episode, compat, blob):
    query, supports, masks = draw_episode(5, 2, 4, 5, width=2, blob=blob)
    config = PrototypeConfig(compat=compat, tau=5)

    def total(query, supports):
        logits = predict(query, supports, masks, config, training=True)
        return segmentation_loss(logits, masks[0], config) + alignment_loss(
            query, supports, masks, logits, config
        )

    assert torch.autograd.gradcheck(
        total, (query.requires_grad_(), supports.requires_grad_()), fast_mode=True
    )


def test_features_of_no_length_have_no_direction_and_finite_gradients(draw_episode):
    query, supports, masks = draw_episode()
    query, supports = torch.zeros_like(query).requires_grad_(), torch.zeros_like(supports).requires_grad_()
    logits = predict(query, supports, masks)
    assert torch.equal(logits, torch.zeros_like(logits))
    logits.sum().backward()
    assert torch.isfinite(query.grad).all()
    assert torch.isfinite(supports.grad).all()


def test_a_step_down_the_loss_lowers_it(draw_episode):
    query, supports, masks = draw_episode(blob=0.6)
    query.requires_grad_()
    before = segmentation_loss(predict(query, supports, masks, training=True), masks[0])
    before.backward()
    stepped = query.detach() - 0.5 * query.grad
    assert segmentation_loss(predict(stepped, supports, masks, training=True), masks[0]) < before
