"""Organs of new scans from one labelled scan: what a person with a scan, a mask and new patients asks for."""

# Z slices, H, W rows and columns.

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...platform.core.config import to_json
from ...platform.core.errors import ConfigError, DataError
from ...platform.core.files import atomic_write
from ...platform.core.progress import track
from ..common.record import METRICS, check_ours, replaced
from ..volumes.classes import class_names, organ_classes
from ..volumes.config import PrepareConfig
from ..volumes.discovery import ScanFiles
from ..volumes.files import file_kind
from ..volumes.grid import grid_from_card
from ..volumes.names import safe_name, stem
from ..volumes.overlays import overlay_sheet
from ..volumes.prepare_scan import prepare_scan
from ..volumes.volume import Volume, save_mask
from .config import FewshotSegmentConfig
from .learn.adaptation import TestTimeTraining
from .learn.encoder import TrainableEncoder
from .method.answers import Answer, Lesson, Remembered, answered, by_prototypes, label_map, lesson_of
from .method.protocol import guessed_parts
from .sources import features_of

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone

log = logging.getLogger(__name__)


def segment(
    scans: Sequence[Path],
    support: Path,
    mask: Path,
    backbone: Backbone | None,
    out: Path | str,
    config: FewshotSegmentConfig | None = None,
) -> dict[str, dict[str, float]]:
    """Leaves masks/NAME.nii.gz (class numbers on the scan's own grid), overlays/NAME.png and metrics.json in `out`.

    Gives back millilitres by scan and organ. A scan that cannot be read is left out and said. Raises DataError
    where the support cannot be used, none of the scans can, or `out` holds what is not ours.
    """
    config = config or FewshotSegmentConfig()
    check_ours(out)
    answer = answer_of(backbone, config)
    names = class_names(config.prepare.classes, Path(support))
    teacher = _read(Path(support), Path(mask), names, config.prepare)
    lessons = _lessons(teacher, names)
    left_out: dict[str, str] = {}
    found: dict[str, dict[str, float]] = {}
    with replaced(out) as folder:
        for path in track([Path(scan) for scan in scans], label="segment", unit="scans"):
            try:
                query = _read(path, None, names, config.prepare)
                if query.name in found:
                    raise DataError(
                        f"{path}: a second scan called '{query.name}'; give each a name of its own"
                    )
            except DataError as reason:
                left_out[path.name] = str(reason)
                log.warning("left out: %s", reason)
                continue
            labels_ZHW = found_in(query, lessons, answer, config)
            found[query.name] = _save(folder, query, labels_ZHW, lessons)
        if not found:
            raise DataError(f"none of {len(scans)} scans could be segmented: {next(iter(left_out.values()))}")
        label = backbone.card.label if backbone is not None else "pixels"
        told = {
            "backbone": {"digest": backbone.card.digest if backbone is not None else "", "label": label},
            "support": teacher.name,
            "organs": {str(number): lesson.name for number, lesson in lessons.items()},
            "millilitres": found,
            "left_out": left_out,
        }
        atomic_write(folder / METRICS, json.dumps(told, indent=1) + "\n")
        atomic_write(folder / "config.json", to_json(config))
    return found


def answer_of(backbone: Backbone | None, config: FewshotSegmentConfig) -> Answer:
    """Prototypes over the backbone's features, trained on each slice where that is asked for.

    Raises ConfigError where there is no backbone to train.
    """
    if not config.adapt.steps:
        return by_prototypes(Remembered(features_of(backbone, config), 2), config.prototypes)
    if backbone is None:
        raise ConfigError("adapt.steps trains a network, pixels have none; give a backbone, or 0 steps")
    learnable = TrainableEncoder(backbone, config.learn, config.slices, config.adapt.seed)
    return TestTimeTraining(lambda _: learnable, config.adapt, config.prototypes)


def found_in(
    query: Volume, lessons: Mapping[int, Lesson], answer: Answer, config: FewshotSegmentConfig
) -> np.ndarray:
    """(Z, H, W) uint8 class numbers of a scan of which nothing is known but its image."""
    shape = query.image_ZHW.shape
    parts = {
        organ: guessed_parts(shape[0], lesson.volumes(), config.scan.reach)
        for organ, lesson in lessons.items()
    }
    smooth = config.scan.smoothing(config.prototypes.compat)
    ahead = {
        organ: answered(answer, lesson, query, parts[organ], smooth=smooth)[0]
        for organ, lesson in lessons.items()
    }
    return label_map(ahead, parts, lessons, config.components, shape)


def _lessons(teacher: Volume, names: Mapping[int, str]) -> dict[int, Lesson]:
    """Every class of the support's label map. Raises DataError where there is none."""
    numbers = [int(number) for number in np.unique(teacher.labels_ZHW) if number]
    if not numbers:
        raise DataError(f"{teacher.name}: no label is left on the prepared slices; look at the mask")
    return {number: lesson_of(number, names.get(number, f"class {number}"), [teacher]) for number in numbers}


def _read(path: Path, mask: Path | None, names: Mapping[int, str], config: PrepareConfig) -> Volume:
    """A scan with its labels, where a mask is given. Raises DataError that names the file."""
    if not file_kind(path):
        raise DataError(f"{path}: no NIfTI file, folder of DICOM slices or of pictures; give one of these")
    told = ScanFiles(safe_name(stem(path.name)), path, mask, path.name, mask.name if mask else "")
    try:
        image_ZHW, labels_ZHW, card = prepare_scan(told, config, organ_classes([mask], names))
    except DataError as reason:
        raise DataError(f"{path}: {reason}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})") from None
    for doubt in card["doubts"]:
        log.warning("%s: %s", path.name, doubt)
    grid = grid_from_card(card["grid"])
    return Volume(
        told.name, image_ZHW.astype(np.float32), labels_ZHW, grid.spacing, card["modality"], grid.affine, grid
    )


def _save(
    folder: Path, query: Volume, labels_ZHW: np.ndarray, lessons: Mapping[int, Lesson]
) -> dict[str, Any]:
    """Writes one scan's mask and overlay; millilitres by organ."""
    names = {number: lesson.name for number, lesson in lessons.items()}
    if not labels_ZHW.any():
        log.warning("%s: nothing was found", query.name)
    save_mask(folder / "masks" / f"{query.name}.nii.gz", labels_ZHW, query)
    png = overlay_sheet(query.image_ZHW, labels_ZHW, names, title=query.name)
    atomic_write(folder / "overlays" / f"{query.name}.png", png)
    voxel = float(np.prod(query.spacing)) / 1000
    return {
        name: round(voxel * int(np.count_nonzero(labels_ZHW == number)), 1) for number, name in names.items()
    }
