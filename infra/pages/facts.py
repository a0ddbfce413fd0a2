"""The facts of a model card, read from files: the backbone's card, its training, the manifest, the evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
    left_out: task -> finding -> reason. trained_on: the manifests of the training data, none where not all of them are
    still there unchanged. manifests: digests of the shards of the evaluations.
    """

    card: Card
    training: RunRecord | None
    trained_on: tuple[Manifest, ...]
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
        trained_on=_training_manifests(card, training, config),
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


def _training_manifests(card: Card, training: RunRecord | None, config: ReportConfig) -> tuple[Manifest, ...]:
    """The manifests of the training data in the order of the card, if all are still there unchanged."""
    found: dict[str, Manifest] = {}
    for place in (config.shards, *_trained_folders(training)):
        with suppress(ShardError, OSError):
            if place:
                manifest = load_manifest(place)
                found[manifest.digest] = manifest
    digests = card.origin.get("manifest", "").split()
    return tuple(found[digest] for digest in digests) if set(digests) <= set(found) else ()


def _trained_folders(training: RunRecord | None) -> list[str]:
    """The folders of shards that a training names; before there were mixes it named one as plain text."""
    text = str(training.params.get("shards", "")) if training else ""
    return json.loads(text) if text.startswith("[") else [text]
