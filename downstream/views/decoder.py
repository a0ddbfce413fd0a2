"""A light decoder: the patch tokens of one view, its projection and another projection -> that other view.

A transformer decoder with one learned query per 8 x 8 pixels of the output (DETR's queries, arXiv 2005.12872,
section 3.2, as places of a picture). It predicts the difference from a typical picture of the target projection,
so that training starts at that baseline instead of learning it.

V views, P pairs, B pairs of a batch, N patches, D width of a token, W width of the decoder, Q queries,
S side of a picture, J projections.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...platform.core.errors import TrainingError
from ...platform.core.progress import Progress
from .config import CELL, SynthesisConfig
from .pairs import SMALLEST, ViewTensors

WINDOW = SMALLEST
"""Side of the window of SSIM, in pixels: scikit-image's default."""

PERFECT = 100.0
"""PSNR, in dB, of a picture that equals the truth, whose error 0 has no logarithm."""


class Decoder(nn.Module):
    """tokens (B, N, D) and two projections (B,) int64 -> pictures (B, S, S) float32, 0 black to 1 white."""

    token_mean_D: Tensor
    token_std_D: Tensor
    base_JSS: Tensor

    def __init__(
        self,
        tokens_VND: Tensor,
        base_JSS: Tensor,
        *,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        """tokens_VND: of the training views, which set the scale. base_JSS: each projection's typical picture,
        0..1, S a multiple of CELL. Weights are drawn from torch's default generator."""
        super().__init__()
        patches, token_width = tokens_VND.shape[1:]
        projections, side, _ = base_JSS.shape
        mean_D, std_D = _scale(tokens_VND)
        self.register_buffer("token_mean_D", mean_D)
        self.register_buffer("token_std_D", std_D)
        self.register_buffer("base_JSS", base_JSS.float())
        self.cells = side // CELL
        self.embed = nn.Linear(token_width, width)
        self.position_NW = _table(patches, width)
        self.query_QW = _table(self.cells**2, width)
        self.source_JW = _table(projections, width)
        self.target_JW = _table(projections, width)
        layer = nn.TransformerDecoderLayer(
            width, heads, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))
        # Kernels twice as wide as their stride overlap, which leaves no seams between the cells.
        self.to_pixels = nn.ConvTranspose2d(width, 1, 2 * CELL, stride=CELL, padding=CELL // 2)
        # Zero weights start at the base. Adam moves all weights by the same length, and a pixel sums `width` of
        # them: without the scale the first steps would overshoot.
        self.output_scale = width**-0.5
        nn.init.zeros_(self.to_pixels.weight)
        assert self.to_pixels.bias is not None
        nn.init.zeros_(self.to_pixels.bias)

    def forward(self, tokens_BND: Tensor, source_B: Tensor, target_B: Tensor) -> Tensor:
        scaled_BND = (tokens_BND.float() - self.token_mean_D) / self.token_std_D
        memory_BNW = self.embed(scaled_BND) + self.position_NW + self.source_JW[source_B][:, None]
        query_BQW = self.query_QW + self.target_JW[target_B][:, None]
        output_BQW = self.layers(query_BQW, memory_BNW)
        output_BWCC = output_BQW.transpose(1, 2).unflatten(2, (self.cells, self.cells))
        return self.base_JSS[target_B] + self.output_scale * self.to_pixels(output_BWCC)[:, 0].float()

    def decode(self, views: ViewTensors, pairs_B2: Tensor) -> Tensor:
        """Pictures (B, S, S) decoded from the first view of each pair for the projection of the second."""
        device = self.base_JSS.device
        source_B, target_B = views.projection[pairs_B2].T.to(device)
        with _half(device):
            return self(views.tokens[pairs_B2[:, 0]].to(device), source_B, target_B)

    def predict(self, views: ViewTensors, pairs_B2: Tensor) -> Tensor:
        """As `decode`, without gradient, clipped to 0..1, on the CPU."""
        self.eval()
        with torch.no_grad():
            return self.decode(views, pairs_B2).clamp(0, 1).cpu()

    @property
    def parameter_count(self) -> int:
        """Trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters())


def _table(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(rows, width), std=0.02))


def _half(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU; on a CPU it is slower than float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _scale(tokens_VND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension, (D,) float32; in blocks, to save memory."""
    count = tokens_VND.shape[0] * tokens_VND.shape[1]
    blocks = tokens_VND.split(64)
    mean_D = sum(block.double().sum((0, 1)) for block in blocks) / count
    variance_D = sum((block.double() - mean_D).square().sum((0, 1)) for block in blocks) / count
    return mean_D.float(), variance_D.sqrt().clamp_min(1e-6).float()


@dataclass(frozen=True, slots=True)
class DecoderFit:
    """Epochs that were run, the epoch whose weights were kept (from 1), and its loss on val or NaN."""

    epochs: int
    best: int
    loss: float


def fit_decoder(
    decoder: Decoder,
    train: ViewTensors,
    pairs_of_epoch: Callable[[int], Tensor],
    val: ViewTensors,
    val_pairs_P2: Tensor,
    config: SynthesisConfig,
) -> DecoderFit:
    """AdamW, a warm-up of a twentieth of the steps, then a cosine to zero; the epoch of least val loss is kept.

    pairs_of_epoch: epoch -> pairs (P, 2) of train, equally many in every epoch. Stops after `config.patience` epochs
    without a smaller val loss; without pairs of val it runs to the end. Raises TrainingError for a non-finite loss.
    """
    epochs, batch, ssim_weight = config.epochs, config.batch, config.ssim_weight
    steps = epochs * math.ceil(len(pairs_of_epoch(0)) / batch)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_factor(step, steps))
    best, weights, epoch = DecoderFit(0, 0, math.nan), None, 0
    with Progress("synthesis: decoder", steps, unit="steps") as progress:
        for epoch in range(1, epochs + 1):
            decoder.train()
            for pairs_B2 in pairs_of_epoch(epoch - 1).split(batch):
                loss = _loss(decoder, train, pairs_B2, ssim_weight).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                value = loss.item()
                if not math.isfinite(value):
                    raise TrainingError("non-finite loss of the synthesis decoder; lower synthesis.lr")
                notes = {"val": best.loss} if best.epochs else {}
                progress.advance(1, loss=value, **notes)
            if not len(val_pairs_P2):
                continue
            val_loss = _mean_loss(decoder, val, val_pairs_P2, batch, ssim_weight)
            if weights is None or val_loss < best.loss:
                best, weights = DecoderFit(epoch, epoch, val_loss), copy.deepcopy(decoder.state_dict())
            elif epoch - best.best >= config.patience:
                progress.total = progress.done
                break
    if weights is None:
        return DecoderFit(epochs, epochs, math.nan)
    decoder.load_state_dict(weights)
    return DecoderFit(epoch, best.best, best.loss)


def _rate_factor(step: int, steps: int) -> float:
    """Factor on the learning rate: it rises in a twentieth of the steps, on a cosine that falls to zero."""
    warm = max(1, steps // 20)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _loss(decoder: Decoder, views: ViewTensors, pairs_B2: Tensor, ssim_weight: float) -> Tensor:
    """(B,): mean absolute error inside the letterbox plus `ssim_weight` times 1 - SSIM.

    Absolute error, since a few views with white margins, which no other view predicts, dominate the squared error.
    """
    output_BSS = decoder.decode(views, pairs_B2)
    target_B = pairs_B2[:, 1]
    truth_BSS, inside_BSS = (x.to(output_BSS.device) for x in (views.gray(target_B), views.inside[target_B]))
    error_B = _mean_inside((output_BSS - truth_BSS).abs(), inside_BSS)
    return error_B + ssim_weight * (1 - ssim(output_BSS, truth_BSS, inside_BSS))


def _mean_loss(
    decoder: Decoder, views: ViewTensors, pairs_P2: Tensor, batch: int, ssim_weight: float
) -> float:
    decoder.eval()
    with torch.no_grad():
        losses = [_loss(decoder, views, pairs_B2, ssim_weight) for pairs_B2 in pairs_P2.split(batch)]
    return torch.cat(losses).mean().item()


def _mean_inside(x_BSS: Tensor, inside_BSS: Tensor) -> Tensor:
    inside_BSS = inside_BSS.to(x_BSS.dtype)
    return (x_BSS * inside_BSS).sum((1, 2)) / inside_BSS.sum((1, 2))


def psnr(a_BSS: Tensor, b_BSS: Tensor, inside_BSS: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,), in dB, of pictures in 0..1, over the pixels inside; at most PERFECT."""
    error_B = _mean_inside((a_BSS - b_BSS) ** 2, inside_BSS)
    return (-10 * torch.log10(error_B)).clamp_max(PERFECT)


def ssim(a_BSS: Tensor, b_BSS: Tensor, inside_BSS: Tensor) -> Tensor:
    """Structural similarity (B,) of pictures in 0..1, averaged over the windows that are completely inside.

    Wang et al. 2004 (Image quality assessment: from error visibility to structural similarity), equation 13,
    with scikit-image's defaults: even windows of WINDOW pixels, sample covariances, K1 0.01, K2 0.03. Where
    the inside is a rectangle, it is scikit-image's figure of the rectangle cut out. NaN where no window fits.
    """

    def mean(x_BSS: Tensor) -> Tensor:
        return F.avg_pool2d(x_BSS[:, None], WINDOW, stride=1)[:, 0]

    mean_a, mean_b = mean(a_BSS), mean(b_BSS)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    var_a = sample * (mean(a_BSS * a_BSS) - mean_a**2)
    var_b = sample * (mean(b_BSS * b_BSS) - mean_b**2)
    both = sample * (mean(a_BSS * b_BSS) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    similarity = similarity / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    whole = (mean(inside_BSS.to(a_BSS.dtype)) > 1 - 0.5 / WINDOW**2).to(a_BSS.dtype)
    return (similarity * whole).sum((1, 2)) / whole.sum((1, 2))
