"""The facts of a model card, read from files: the backbone's card, its training, the manifest, the evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...platform.core.config import from_json
from ...platform.core.errors import ConfigError, ShardError
from ...platform.data.manifest import Manifest, load_manifest
from ...platform.measure.results import MetricValue
from .config import ReportConfig
from .groups import measured_sources
from .runs import RunRecord, read_run

if TYPE_CHECKING:
    from ...platform.models.card import Card

THIS_BACKBONE = "this backbone"
"""Name of the backbone in the tables of its own card."""


@dataclass(frozen=True, slots=True, eq=False)
class CardFacts:
    """Everything that a model card is written from.

    values: task -> metric values of its evaluations, in which the backbone's source is called THIS_BACKBONE.
    left_out: task -> finding -> reason. manifests: digests of the shards of the evaluations.
    """

    card: Card
    training: RunRecord | None
    manifest: Manifest | None
    values: Mapping[str, Sequence[MetricValue]]
    left_out: Mapping[str, Mapping[str, str]]
    manifests: tuple[str, ...]


def read_facts(backbone: Path, config: ReportConfig) -> CardFacts:
    """Reads what there is; what is missing is None or empty.

    Raises ConfigError if there is no backbone folder or a run evaluated another backbone, DataError for damaged files.
    """
    from ...platform.models.card import CARD, Card

    if not (backbone / CARD).is_file():
        raise ConfigError(
            f"{backbone}: no backbone folder (no {CARD}); give one that `vetdino pretrain` wrote"
        )
    card = from_json(Card, (backbone / CARD).read_text(), source=str(backbone / CARD))
    folder = backbone.resolve().parent
    training = read_run(folder) if (folder / "params.json").is_file() else None
    if training is not None and training.tags.get("config") != card.origin.get("config"):
        training = None  # the folder is of another training
    evaluations = [
        _renamed(read_run(run), card) for run in map(Path, config.runs or _evaluations_near(folder, card))
    ]
    values: dict[str, Sequence[MetricValue]] = {}
    for run in evaluations:
        for task, table in run.values.items():
            values[task if task not in values else f"{task} ({run.name})"] = table
    return CardFacts(
        card=card,
        training=training,
        manifest=_training_manifest(card, training, config),
        values=values,
        left_out={task: reasons for run in evaluations for task, reasons in run.left_out.items()},
        manifests=tuple(dict.fromkeys(run.manifest for run in evaluations)),
    )


def _evaluations_near(folder: Path, card: Card) -> list[Path]:
    """Folders beside the backbone, or beside its training, that hold an evaluation of it."""
    folders = []
    for path in sorted({*folder.glob("*/metrics.json"), *folder.parent.glob("*/metrics.json")}):
        if (path.parent / "params.json").is_file():
            run = read_run(path.parent)
            if card.digest in run.backbones.values():
                folders.append(path.parent)
    return folders


def _renamed(run: RunRecord, card: Card) -> RunRecord:
    """The evaluation with this backbone called THIS_BACKBONE. Raises ConfigError if it is of another one."""
    source = next((name for name, digest in run.backbones.items() if digest == card.digest), None)
    if source is None:
        digests = ", ".join(digest[:12] for digest in run.backbones.values())
        raise ConfigError(
            f"{run.folder}: evaluated {digests or 'nothing'}, this backbone is {card.digest[:12]}; "
            "evaluate it, or leave this run out"
        )
    names = {source: THIS_BACKBONE}
    names |= {f"{source} - {other}": f"{THIS_BACKBONE} - {other}" for other in measured_sources(run)}
    values = {
        task: [replace(value, source=names.get(value.source, value.source)) for value in table]
        for task, table in run.values.items()
    }
    return replace(run, values=values)


def _training_manifest(card: Card, training: RunRecord | None, config: ReportConfig) -> Manifest | None:
    """The manifest of the training data, if it is still there unchanged."""
    for place in (config.shards, training.params.get("shards", "") if training else ""):
        try:
            manifest = load_manifest(place) if place else None
        except (ShardError, OSError):
            continue
        if manifest is not None and manifest.digest == card.origin.get("manifest"):
            return manifest
    return None
