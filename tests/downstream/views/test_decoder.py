"""The decoder starts at its base, keeps its best epoch; PSNR and SSIM are those of scikit-image."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vetdino.downstream.views.config import SynthesisConfig
from vetdino.downstream.views.decoder import PERFECT, Decoder, fit_decoder, psnr, ssim
from vetdino.downstream.views.pairs import epoch_pairs, load_view_tensors, mean_pictures, study_pairs


def test_psnr_and_ssim_are_those_of_scikit_image_inside_the_letterbox():
    random = np.random.default_rng(0)
    a_BSS, b_BSS = random.random((2, 12, 40, 40))
    a_BSS[:6] = np.clip(b_BSS[:6] + 0.05 * a_BSS[:6], 0, 1)
    inside_BSS = np.zeros(a_BSS.shape, bool)
    boxes = [(40, 40), (7, 40), (40, 7), *(tuple(random.integers(7, 41, 2)) for _ in range(9))]
    expected = []
    for a, b, inside, (rows, columns) in zip(a_BSS, b_BSS, inside_BSS, boxes, strict=True):
        top, left = (40 - rows) // 2, (40 - columns) // 2
        cut = np.s_[top : top + rows, left : left + columns]
        inside[cut] = True
        expected.append(
            (
                peak_signal_noise_ratio(b[cut], a[cut], data_range=1.0),
                structural_similarity(a[cut], b[cut], data_range=1.0),
            )
        )
    given = [torch.from_numpy(x) for x in (a_BSS, b_BSS, inside_BSS)]
    ours = np.stack([psnr(*given).numpy(), ssim(*given).numpy()], axis=1)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_the_truth_itself_gets_the_most_there_is_and_a_box_without_a_window_no_ssim():
    picture = torch.rand(1, 16, 16, dtype=torch.float64)
    inside = torch.ones(1, 16, 16, dtype=torch.bool)
    assert psnr(picture, picture, inside).item() == PERFECT
    assert ssim(picture, picture, inside).item() == pytest.approx(1)
    inside[:, 6:] = False
    assert ssim(picture, picture, inside).isnan().all()


def test_the_decoder_begins_at_its_base_and_is_light():
    base_JSS = torch.rand(4, 64, 64)
    config = SynthesisConfig()
    for patches, width in ((144, 128), (1369, 768)):
        decoder = Decoder(
            torch.randn(3, patches, width).half(), base_JSS, width=config.width, layers=config.layers
        )
        assert decoder.parameter_count <= 1_500_000
        target_B = torch.tensor([2, 0, 3])
        answer = decoder(torch.randn(3, patches, width), torch.tensor([0, 1, 2]), target_B)
        torch.testing.assert_close(answer, base_JSS[target_B])


@pytest.mark.slow
def test_the_epoch_of_least_loss_on_val_is_kept_and_training_stops_after_patience(source, place):
    how = {"side": 16, "batch": 32}
    train = load_view_tensors(source.backbone, place, "train", most=60, **how)
    val = load_view_tensors(source.backbone, place, "val", most=20, **how)
    pairs, val_pairs = study_pairs(train), study_pairs(val)
    torch.manual_seed(0)
    decoder = Decoder(train.tokens, mean_pictures(train), width=32, layers=1, heads=2)
    config = SynthesisConfig(epochs=40, patience=2, batch=8, lr=0.1, weight_decay=0.0, ssim_weight=0.5)
    fitted = fit_decoder(
        decoder, train, lambda epoch: epoch_pairs(train, pairs, 0, epoch), val, val_pairs, config
    )
    assert fitted.epochs == fitted.best + 2 < 40
    answer, truth, inside = (
        decoder.predict(val, val_pairs),
        val.gray(val_pairs[:, 1]),
        val.inside[val_pairs[:, 1]],
    )
    error = ((answer - truth).abs() * inside).sum((1, 2)) / inside.sum((1, 2))
    expected = (error + 0.5 * (1 - ssim(answer, truth, inside))).mean().item()
    assert fitted.loss == pytest.approx(expected, rel=0.05)  # the loss is that of pictures not yet clipped
