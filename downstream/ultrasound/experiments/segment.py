"""Masks for new frames without truth (`vetdino zeroshot segment`)."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ....platform.core.config import to_json
from ....platform.core.files import atomic_write
from ....platform.core.progress import track
from ....platform.measure.plots import COLORS
from ....platform.models.loading import load
from ...common.figures import overlay
from ...common.record import METRICS, check_ours, replaced
from ..config import ZeroshotSegmentConfig
from ..frames import read_frames
from ..method.comparison import segment_set
from ..method.encoding import FrameEncoder

log = logging.getLogger(__name__)


def segment(
    images: Sequence[Path | str],
    backbone: str | Path,
    out: Path | str,
    config: ZeroshotSegmentConfig | None = None,
) -> dict[str, float]:
    """Writes masks/NAME.png (0 and 255, the frame's own size), overlays/NAME.png, frames.csv and metrics.json to `out`.

    images: pictures or folders of them; together they are one set. Returns the foreground share of each frame by
    name. Raises DataError where none of them is a frame, or `out` holds files that are not ours.
    """
    config = config or ZeroshotSegmentConfig()
    check_ours(out)
    frames, left_out = read_frames(images)
    for file, reason in left_out.items():
        log.warning("%s left out: %s", file, reason)
    network = load(backbone, config.device)
    encoder = FrameEncoder(network, config, tokencut=config.method == "tokencut")
    encoded = [encoder.encode(frame) for frame in track(frames, label="encode", unit="frames")]
    set_masks = segment_set(encoded, [frame.name for frame in frames], config.method, config)
    masks = {frame.name: mask for frame, mask in zip(frames, set_masks.masks[config.method], strict=True)}
    shares = {name: float(mask.mean()) for name, mask in masks.items()}
    for warning in set_masks.warnings:
        log.warning("%s", warning)
    with replaced(out) as folder:
        for frame in frames:
            mask_HW = masks[frame.name]
            _save_png(folder / "masks" / f"{frame.name}.png", mask_HW.astype(np.uint8) * 255)
            _save_png(folder / "overlays" / f"{frame.name}.png", overlay(frame.pixels, mask_HW, COLORS[0]))
        metrics = {
            "backbone": {"digest": network.card.digest, "label": network.card.label},
            "method": config.method,
            "clusters": set_masks.clusters,
            "foreground": set_masks.foreground,
            "saliency": set_masks.saliency,
            "found_share": shares,
            "left_out": left_out,
            "warnings": set_masks.warnings,
        }
        atomic_write(folder / "frames.csv", _table(shares))
        atomic_write(folder / METRICS, json.dumps(metrics, indent=1) + "\n")
        atomic_write(folder / "config.json", to_json(config))
    return shares


def _table(shares: Mapping[str, float]) -> str:
    """A row for each frame, also for those whose mask is empty."""
    text = io.StringIO()
    rows = [(name, f"{share:.6g}", int(not share)) for name, share in shares.items()]
    csv.writer(text, lineterminator="\n").writerows([("frame", "found_share", "empty"), *rows])
    return text.getvalue()


def _save_png(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="PNG")
    atomic_write(path, png.getvalue())
