"""Experiment `noise`: how much Gaussian noise co-segmentation withstands.

After the seed paper "Robustness of self-supervised ViT features in b-mode images".
"""

# H, W height and width of a frame; h, w of the network's input.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ....platform.core.errors import ConfigError
from ....platform.core.progress import track
from ....platform.models.backbone import Backbone
from ...common.figures import Tile, colors_by_name, grid, overlay
from ..config import NoiseConfig
from ..domains import Domain, shuffled_frames, usable_domains
from ..figures import ROW_LABELS, curves
from ..frames import Frame, network_input
from ..method.comparison import ROWS, compare_rows
from ..method.encoding import EncoderPair
from ..method.masks import dice_and_iou
from ..method.scores import SetSummary
from ..record import ZeroshotResult
from .sets import LEGEND, MEASURES, SetResults

if TYPE_CHECKING:
    from torch import Tensor

SPACES = {"normalised": lambda std: 1.0, "unit": lambda std: 1 / std, "8bit": lambda std: 1 / (255 * std)}
"""Space in which noise is added -> what one unit of it is in the normalized space, by the card's std."""


def noise(domains: Sequence[Domain], backbone: Backbone, config: NoiseConfig) -> ZeroshotResult:
    """Co-segments every domain under growing noise; the noise of an image is one field, scaled by the level.

    Raises ConfigError for no level or one below 0, DataError where no domain has 2 images.
    """
    if not config.levels or min(config.levels) < 0:
        raise ConfigError(f"levels {list(config.levels)}: give at least one, none below 0")
    domains, left_out = usable_domains(domains, 2)
    encoders = EncoderPair(backbone, config)
    by_domain = {
        domain.name: shuffled_frames(domain, config.seed)[: max(2, config.images)] for domain in domains
    }
    colors = colors_by_name(list(by_domain))
    results = SetResults(config)
    rows: list[tuple[str, str, list[Tile]]] = []
    for name, frames in by_domain.items():
        inputs, overlays = [], []
        for level in track(config.levels, label=f"noise, {name}", unit="levels"):
            noisy = [noisy_input(frame, backbone, level, config) for frame in frames]
            encoded, random = (
                [encoder.encode_input(*one) for one in noisy]
                for encoder in (encoders.backbone, encoders.random)
            )
            set_masks = compare_rows(frames, encoded, random, config)
            results.add(name, f"eps{level:g}", frames, set_masks)
            first, mask = frames[0], set_masks.masks["cosegment"][0]
            dice, _ = dice_and_iou(mask, first.truth)
            inputs.append(Tile(noisy[0][1], f"eps {level:g}"))
            painted = overlay(first.pixels, mask, colors[name], first.mask)
            overlays.append(Tile(painted, below=f"Dice {dice:.2f}"))
        rows += [(name, colors[name], inputs), (name, colors[name], overlays)]
    label = backbone.card.label
    title = f"Noise of eps * N(0, 1) in the {config.space} space, one image a domain, {label}"
    pictures = {
        "grid": grid(title, rows, f"above: what the network sees; below: {LEGEND}, on the clean image")
    }
    for measure in MEASURES:
        pictures[measure] = _noise_curves(results.summaries, measure, label)
    return results.outcome("noise", pictures, left_out)


def noisy_input(
    frame: Frame, backbone: Backbone, level: float, config: NoiseConfig
) -> tuple[Tensor, np.ndarray]:
    """A frame under noise as the network's input, (1, h, w), and the same as pixels of the frame's size, uint8.

    The noise depends on the seed and the frame's pixels alone; it is neither rounded nor clipped for the network.
    """
    import torch

    input_1hw = network_input(frame, backbone, config.short)
    if level == 0:
        return input_1hw, frame.pixels
    card = backbone.card
    random = np.random.default_rng([config.seed, int(frame.digest[:16], 16)])
    field_1hw = torch.from_numpy(random.standard_normal(input_1hw.shape, dtype=np.float32))
    scale = level * SPACES[config.space](card.std)
    noisy_1hw = input_1hw + scale * field_1hw.to(input_1hw.device)
    gray_hw = (noisy_1hw[0].cpu().numpy() * card.std + card.mean) * 255
    height, width = frame.pixels.shape
    gray_HW = cv2.resize(gray_hw, (width, height), interpolation=cv2.INTER_LINEAR)
    return noisy_1hw, np.clip(np.round(gray_HW), 0, 255).astype(np.uint8)


def _noise_curves(summaries: Sequence[SetSummary], measure: str, label: str) -> bytes:
    """A panel for each row of the tables, a curve for each domain."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in ROWS:
        for one in summaries:
            if one.row == row:
                points = panels.setdefault(ROW_LABELS[row], {}).setdefault(one.domain, [])
                points.append((float(one.part.removeprefix("eps")), getattr(one, measure)))
    ylabel = MEASURES[measure]
    return curves(f"{ylabel} under noise, {label}", panels, "noise, eps", ylabel)
