"""Segments organs in new scans from one labeled scan: `vetdino fewshot segment`."""

# Z slices, H, W rows and columns.

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.config import to_json
from ...platform.core.errors import ConfigError, DataError
from ...platform.core.files import atomic_write
from ...platform.core.progress import track
from ..common.record import METRICS, check_ours, replaced
from ..volumes.classes import class_names, label_classes
from ..volumes.config import PrepareConfig
from ..volumes.discovery import ScanFiles
from ..volumes.files import file_kind
from ..volumes.grid import grid_from_card
from ..volumes.label_values import LabelValues
from ..volumes.names import safe_name, stem
from ..volumes.overlays import overlay_sheet
from ..volumes.prepare_scan import prepare_scan
from ..volumes.volume import Volume, save_mask
from .config import FewshotSegmentConfig
from .learn.adaptation import AdaptivePredictor
from .learn.encoder import TrainableEncoder
from .method.alignment import Aligner, volume_parts
from .method.choice import SupportChosen, mode_predictor, source_choice
from .method.masks import label_map, slice_margins
from .method.predictors import EncoderChoice, Predictor
from .method.support import SupportSet, build_support_set
from .sources import slice_features

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone

Milliliters = dict[str, dict[str, float | None]]
"""Scan -> organ -> milliliters; None where the scan's spacing is unknown."""

log = logging.getLogger(__name__)


def segment(
    scans: Sequence[Path],
    support: Path,
    mask: Path,
    backbone: Backbone | None,
    out: Path | str,
    config: FewshotSegmentConfig | None = None,
) -> Milliliters:
    """Writes masks/NAME.nii.gz (the mask's label values on the scan's own grid), overlays/NAME.png and metrics.json.

    backbone: None for pixel features. A scan that cannot be read, or is sliced in another plane than the support, is
    left out with a warning. Raises DataError if the support or all scans are unusable, or `out` holds what is not ours.
    """
    config = config or FewshotSegmentConfig()
    check_ours(out)
    predictor, encoder_for = segmentation_predictor(backbone, config)
    ours = config.prototypes.compat == "ours"
    aligner = Aligner(encoder_for) if ours else None
    spread_over = encoder_for if ours and config.scan.spread and not config.adapt.steps else None
    names, values = label_classes([Path(mask)], class_names(config.prepare.classes, Path(support)))
    labeled = _read_scan(Path(support), Path(mask), values, config.prepare)
    supports = _support_sets(labeled, names)
    left_out: dict[str, str] = {}
    milliliters: Milliliters = {}
    with replaced(out) as folder:
        for path in track([Path(scan) for scan in scans], label="segment", unit="scans"):
            try:
                query = _read_scan(path, None, values, config.prepare)
                if query.name in milliliters:
                    raise DataError(
                        f"{path}: a second scan called '{query.name}'; give each a name of its own"
                    )
                if query.plane != labeled.plane:
                    raise DataError(
                        f"{path}: {query.plane} slices, the support has {labeled.plane} ones; give --prepare.plane"
                    )
            except DataError as reason:
                left_out[path.name] = str(reason)
                log.warning("left out: %s", reason)
                continue
            labels_ZHW = predicted_labels(query, supports, predictor, config, aligner, spread_over)
            milliliters[query.name] = _save_scan(folder, query, labels_ZHW, supports, values.values)
        if not milliliters:
            raise DataError(f"none of {len(scans)} scans could be segmented: {next(iter(left_out.values()))}")
        digest, label = (
            (backbone.card.digest, backbone.card.label) if backbone is not None else ("", "pixels")
        )
        facts = {
            "backbone": {"digest": digest, "label": label},
            "support": labeled.name,
            "organs": {str(values.values.get(number, number)): one.name for number, one in supports.items()},
            "chosen": _choices(encoder_for, supports, config),
            "millilitres": milliliters,
            "left_out": left_out,
        }
        atomic_write(folder / METRICS, json.dumps(facts, indent=1) + "\n")
        atomic_write(folder / "config.json", to_json(config))
    return milliliters


def _choices(
    encoder_for: EncoderChoice, supports: Mapping[int, SupportSet], config: FewshotSegmentConfig
) -> dict[str, str]:
    """Organ -> the features that its support chose, also logged; empty where there was no choice."""
    if not isinstance(encoder_for, SupportChosen) or config.prototypes.compat != "ours":
        return {}
    chosen = {support.name: str(encoder_for.choice(support)) for support in supports.values()}
    for name, choice in chosen.items():
        log.info("%s: its support chose %s", name, choice)
    return chosen


def segmentation_predictor(
    backbone: Backbone | None, config: FewshotSegmentConfig
) -> tuple[Predictor, EncoderChoice]:
    """Prototypes over the backbone's features, or pixels, and these; with `adapt.steps`, trained on each query slice.

    Raises ConfigError for test-time training without a backbone.
    """
    if not config.adapt.steps:
        choice = source_choice(slice_features(backbone, config), config, 2)
        return mode_predictor(choice, config.prototypes), choice
    if backbone is None:
        raise ConfigError("adapt.steps trains a network, pixels have none; give a backbone, or 0 steps")
    encoder = TrainableEncoder(backbone, config.learn, config.slices, config.adapt.seed)
    return AdaptivePredictor(lambda _: encoder, config.adapt, config.prototypes), lambda _: encoder


def predicted_labels(
    query: Volume,
    supports: Mapping[int, SupportSet],
    predictor: Predictor,
    config: FewshotSegmentConfig,
    aligner: Aligner | None = None,
    spread_over: EncoderChoice | None = None,
) -> np.ndarray:
    """(Z, H, W) uint8 class numbers of a scan without labels. supports: by class number; spread_over: see `Method`."""
    shape = query.image_ZHW.shape
    parts = {
        organ: volume_parts(aligner, support, query, config.scan.reach) for organ, support in supports.items()
    }
    refinement = config.scan.refinement(config.prototypes.compat)
    margins = {
        organ: slice_margins(
            predictor,
            support,
            query,
            parts[organ],
            **refinement,
            features=None if spread_over is None else spread_over(support),
        )[0]
        for organ, support in supports.items()
    }
    return label_map(margins, parts, supports, config.components, shape)


def _support_sets(labeled: Volume, names: Mapping[int, str]) -> dict[int, SupportSet]:
    """A support set for every class of the label map. Raises DataError if there is none."""
    assert labeled.labels_ZHW is not None, f"{labeled.name} has no labels"
    numbers = [int(number) for number in np.unique(labeled.labels_ZHW) if number]
    if not numbers:
        raise DataError(f"{labeled.name}: no label is left on the prepared slices; look at the mask")
    return {
        number: build_support_set(number, names.get(number, f"class {number}"), [labeled])
        for number in numbers
    }


def _read_scan(path: Path, mask: Path | None, values: LabelValues, config: PrepareConfig) -> Volume:
    """A scan, with its labels if a mask is given. Raises DataError that names the file."""
    if not file_kind(path):
        raise DataError(f"{path}: no NIfTI file, folder of DICOM slices or of pictures; give one of these")
    files = ScanFiles(safe_name(stem(path.name)), path, mask, path.name, mask.name if mask else "")
    try:
        image_ZHW, labels_ZHW, card = prepare_scan(files, config, values)
    except DataError as reason:
        raise DataError(f"{path}: {reason}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})") from None
    for doubt in card["doubts"]:
        log.warning("%s: %s", path.name, doubt)
    grid = grid_from_card(card["grid"])
    image_ZHW = image_ZHW.astype(np.float32)
    return Volume(
        files.name,
        image_ZHW,
        labels_ZHW,
        grid.spacing,
        card["modality"],
        grid.affine,
        grid,
        card["in_mm"],
    )


def _save_scan(
    folder: Path,
    query: Volume,
    labels_ZHW: np.ndarray,
    supports: Mapping[int, SupportSet],
    values: Mapping[int, int],
) -> dict[str, float | None]:
    """Writes one scan's mask and overlay; returns milliliters by organ, None where the spacing is unknown.

    values: class number -> value in the mask, where it is another.
    """
    names = {number: support.name for number, support in supports.items()}
    if not labels_ZHW.any():
        log.warning("%s: no organ was predicted", query.name)
    stored_ZHW = labels_ZHW
    if values:
        table = np.array([values.get(number, 0) for number in range(256)], np.uint16)
        stored_ZHW = table[labels_ZHW]
    save_mask(folder / "masks" / f"{query.name}.nii.gz", stored_ZHW, query)
    png = overlay_sheet(query.image_ZHW, labels_ZHW, names, title=query.name, plane=query.plane)
    atomic_write(folder / "overlays" / f"{query.name}.png", png)
    voxel = query.voxel_ml
    if voxel is None:
        log.warning("%s: its spacing is unknown, so its organs have no volume", query.name)
        return dict.fromkeys(names.values())
    return {
        name: round(voxel * int(np.count_nonzero(labels_ZHW == number)), 1) for number, name in names.items()
    }
