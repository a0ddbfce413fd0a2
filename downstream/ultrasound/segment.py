"""Masks for frames that nobody drew on: what a person with a few new frames asks for."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...platform.core.config import atomic_write, to_json
from ...platform.core.progress import track
from ...platform.models.backbone import load
from ..common.record import METRICS, check_ours, replaced
from .answers import Eye, ZeroshotConfig, found_in
from .figures import COLOURS, overlay
from .frames import frames_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig(ZeroshotConfig):
    """How frames without truth are segmented."""

    method: Literal["cosegment", "tokencut"] = "cosegment"
    """What all frames have in common, or what stands out in each by itself."""


def segment(
    images: Sequence[Path | str], backbone: str | Path, out: Path | str, config: SegmentConfig | None = None
) -> dict[str, float]:
    """Leaves masks/NAME.png (0 and 255, the frame's own size), overlays/NAME.png and metrics.json in `out`.

    images: pictures or folders of them; together they are one set. Gives back the share of each frame that was
    found, by name. Raises DataError where none of them is a frame, or `out` holds what is not ours.
    """
    config = config or SegmentConfig()
    check_ours(out)
    frames, left_out = frames_of(images)
    for file, reason in left_out.items():
        log.warning("%s left out: %s", file, reason)
    network = load(backbone)
    eye = Eye(network, config, cuts=config.method == "tokencut")
    looks = [eye.look(frame) for frame in track(frames, label="look", unit="frames")]
    answered = found_in(looks, config.method, config)
    found = {frame.name: mask for frame, mask in zip(frames, answered.masks[config.method], strict=True)}
    shares = {name: float(mask.mean()) for name, mask in found.items()}
    nothing = [f"{name}: nothing was found" for name, share in shares.items() if not share]
    for warning in (*answered.warnings, *nothing):
        log.warning("%s", warning)
    with replaced(out) as folder:
        for frame in frames:
            mask_HW = found[frame.name]
            _save(folder / "masks" / f"{frame.name}.png", mask_HW.astype(np.uint8) * 255)
            _save(folder / "overlays" / f"{frame.name}.png", overlay(frame.pixels, mask_HW, COLOURS[0]))
        told = {
            "backbone": {"digest": network.card.digest, "label": network.card.label},
            "method": config.method,
            "clusters": answered.clusters,
            "foreground": answered.foreground,
            "found_share": shares,
            "left_out": left_out,
            "warnings": [*answered.warnings, *nothing],
        }
        atomic_write(folder / METRICS, json.dumps(told, indent=1) + "\n")
        atomic_write(folder / "config.json", to_json(config))
    return shares


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="PNG")
    atomic_write(path, png.getvalue())
