"""encoders.json: which of a training's encoders is for which fold and organs; written at the end, read back here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ....platform.core.errors import CheckpointError, DataError
from ....platform.core.files import atomic_write
from ..method.config import SliceConfig
from .config import TrainConfig
from .encoder import TrainableEncoder, load_encoder
from .jobs import EncoderJob

if TYPE_CHECKING:
    import torch

    from ....platform.models.backbone import Backbone
    from ...volumes.volume import Volumes

ENCODERS = "encoders.json"


def save_encoder_index(
    out: Path, jobs: Sequence[EncoderJob], volumes: Volumes, backbone: Backbone, config: TrainConfig
) -> None:
    """Writes encoders.json; its presence says that the training is finished."""
    index = {
        "data": volumes.digest,
        "backbone": {"digest": backbone.card.digest, "label": backbone.card.label},
        "setting": config.setting,
        "folds": config.folds,
        "encoders": [
            {"fold": job.fold, "organs": job.organs, "folder": job.name, "scans": job.scans} for job in jobs
        ],
    }
    atomic_write(out / ENCODERS, json.dumps(index, indent=1) + "\n")


def load_trained_encoders(
    out: Path | str,
    backbone: Backbone,
    slices: SliceConfig | None = None,
    *,
    volumes: Volumes | None = None,
    folds: int | None = None,
    device: torch.device | None = None,
) -> dict[tuple[int, int], TrainableEncoder]:
    """(fold, class number) -> encoder, for all that `train` left; organs of one group share one object.

    volumes, folds: data of the evaluation; if given, they must be those of the training, so that no encoder is
    evaluated on a scan it was trained on. device: where encoders go; None: where the backbone is. Raises
    CheckpointError if the training is unfinished, damaged or of another backbone, DataError for other scans or folds,
    ConfigError for other features.
    """
    out = Path(out)
    try:
        index = json.loads((out / ENCODERS).read_text())
        entries = [(entry["fold"], entry["organs"], out / entry["folder"]) for entry in index["encoders"]]
        data, trained_folds = index["data"], index["folds"]
    except FileNotFoundError:
        raise CheckpointError(
            f"{out}: no {ENCODERS} here; `vetdino fewshot train` writes it when all encoders are done, run it again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{out / ENCODERS}: damaged; run `vetdino fewshot train` again") from None
    if volumes is not None and volumes.digest != data:
        raise DataError(f"{out}: trained on other scans than {volumes.folder}; train on these")
    if folds is not None and folds != trained_folds:
        raise DataError(
            f"{out}: trained for {trained_folds} folds, not for {folds}; give --folds {trained_folds}"
        )
    encoders: dict[tuple[int, int], TrainableEncoder] = {}
    for fold, organs, folder in entries:
        encoder = load_encoder(backbone, folder, slices).to(device or backbone.device)
        encoders |= {(fold, organ): encoder for organ in organs}
    return encoders
