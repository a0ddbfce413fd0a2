"""The sections of a model card. Every sentence follows from a file; what no file says is called unknown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...platform.data.manifest import Manifest
from ...platform.data.study import SPLITS
from ...platform.measure.results import MetricValue
from .blocks import Block, CardCode, CardPicture, CardTable
from .config import ReportConfig
from .facts import THIS_BACKBONE, CardFacts
from .metric_sections import CHANCE, value_cell

PRIVATE_SETTINGS = ("shards", "out", "start", "resume")
"""Settings that name places on the machine that trained."""

FEW_STUDIES = 10_000
"""Below this number of training studies the card says that they are few."""


def card_sections(facts: CardFacts, config: ReportConfig) -> dict[str, list[Block]]:
    """Title -> blocks, in order."""
    return {
        "Description": list(_description(facts)),
        "Training data": list(_training_data(facts)),
        "Recipe": list(_recipe(facts)),
        "Results": list(_results(facts)),
        "Limitations": list(_limitations(facts)),
        "Usage": list(_usage()),
        "License": [
            "The code of vetdino is under the Apache License 2.0. "
            + (config.licence or "No license was stated for these weights; ask whoever trained them.")
        ],
    }


def _description(facts: CardFacts) -> Iterator[Block]:
    card, network = facts.card, facts.card.config
    gives = "It gives one vector per image or study, and one per patch."
    if teacher := card.origin.get("teacher"):
        yield (
            "A Vision Transformer for gray images that learned, without labels, the CLS and patch tokens of "
            f"{teacher}. {gives}"
        )
    elif card.origin.get("recipe") or facts.training:
        yield f"A Vision Transformer for gray images, trained without labels by multi-view distillation. {gives}"
    else:
        yield "A Vision Transformer for gray images. Its card does not say how it was trained."
    rows = {
        "architecture": network.name,
        "image side": f"{card.input_side or network.side} px",
        "patch": f"{network.patch} px" if network.patch else "as in the architecture",
        "width": network.width or "as in the architecture",
        "blocks": network.depth or "as in the architecture",
        "heads": network.heads or "as in the architecture",
        "preprocessing": f"letterboxed on black, gray scaled to 0..1, minus {card.mean:g}, divided by {card.std:g}",
        "digest": card.digest,
        "weights, SHA-256": card.weights_sha256 or "unknown",
    }
    yield CardTable(["", ""], [[name, str(value)] for name, value in rows.items()])


def _training_data(facts: CardFacts) -> Iterator[Block]:
    digests = facts.card.origin.get("manifest", "").split()
    names = ", ".join(f"`{digest}`" for digest in digests)
    yield (
        f"Manifest{'s' * (len(digests) > 1)} of the shards: {names}."
        if digests
        else "The card names no data."
    )
    if not facts.trained_on:
        yield "The shards were not available when this card was written; their counts are unknown."
        return
    for manifest in facts.trained_on:
        rows = [
            [split, f"{manifest.studies(split):,}", f"{sum(shard.views for shard in manifest.of(split)):,}"]
            for split in SPLITS
        ]
        if len(digests) > 1:
            yield f"Of {manifest.name} (`{manifest.digest[:12]}`):"
        yield CardTable(["split", "studies", "views"], rows)
        if "patients" in manifest.counts:
            yield f"{manifest.counts['patients']:,} patients; every patient is in one split only."
        yield f"Findings in the labels, which pretraining did not use: {', '.join(manifest.findings) or 'none'}."


def _recipe(facts: CardFacts) -> Iterator[Block]:
    origin = [[name, value] for name, value in facts.card.origin.items() if name != "manifest" and value]
    if origin:
        yield CardTable(["", ""], origin)
    training = facts.training
    if training is None:
        yield "The training folder is not beside the backbone; of its settings only the digest is known."
        return
    settings = [[name, str(value)] for name, value in training.params.items() if name not in PRIVATE_SETTINGS]
    yield CardTable(["setting", "value"], settings)
    last = {name: curve[max(curve)] for name, curve in training.curves.items() if name.startswith("probe/")}
    if last:
        yield "Last k-NN probe on the validation split during training:"
        yield CardTable(["probe", "value"], [[name, f"{value:.3f}"] for name, value in last.items()])


def _results(facts: CardFacts) -> Iterator[Block]:
    if not facts.values:
        yield "Not evaluated: no evaluation was given, and none is beside the backbone."
        return
    yield (
        "On the test split; 95 % intervals by bootstrap over patients. "
        f"Shards: {', '.join(f'`{digest[:12]}`' for digest in facts.manifests)}."
    )
    for task, values in facts.values.items():
        for metric in dict.fromkeys(value.metric for value in values):
            of_metric = [value for value in values if value.metric == metric]
            if metric in CHANCE:
                from ...platform.measure.plots import interval_plot

                name = f"{task}-{metric.lower()}.png".replace(" ", "-").replace("(", "").replace(")", "")
                alone = [value for value in of_metric if " - " not in value.source]
                yield CardPicture(name, interval_plot(alone, CHANCE[metric]), f"{task}: {metric}")
            yield _values_table(f"{task}: {metric}", of_metric)
        for finding, reason in facts.left_out.get(task, {}).items():
            yield f"{task}: {finding} was left out ({reason})."


def _values_table(title: str, values: Sequence[MetricValue]) -> CardTable:
    sources = list(dict.fromkeys(value.source for value in values))
    by_cell = {(value.finding, value.source): value for value in values}
    rows = []
    for finding in dict.fromkeys(value.finding for value in values):
        cells = [by_cell.get((finding, source)) for source in sources]
        counts = next(f"{value.present} of {value.known}" for value in cells if value)
        rows.append([finding, counts, *(value_text(value) if value else "" for value in cells)])
    return CardTable([title, "present", *sources], rows)


def value_text(value: MetricValue) -> str:
    """A metric value with its interval: `0.812 (0.780 to 0.840)`."""
    if math.isnan(value.value):
        return "not measured"
    cell = value_cell(value)
    return f"{cell.value} ({cell.interval})"


def _limitations(facts: CardFacts) -> Iterator[Block]:
    """What the facts do not support, one sentence each."""
    yield "Not verified clinically. It is for research, not for patient care."
    if facts.trained_on:
        yield from _data_limitations(facts.trained_on)
    training_manifests = set(facts.card.origin.get("manifest", "").split())
    if not facts.values:
        yield "Without an evaluation nothing is known about its features."
    elif training_manifests & set(facts.manifests):
        yield (
            "It was evaluated on patients it was not trained on, but from the same archive: how it does on another "
            "scanner, hospital or species is unknown."
        )
    if set(facts.manifests) - training_manifests:
        yield (
            "It was evaluated on other shards than it was trained on; no file says whether their patients were in "
            "the training data."
        )
    for task, values in facts.values.items():
        yield from _result_limitations(task, values)


def _data_limitations(manifests: Sequence[Manifest]) -> Iterator[Block]:
    from ...platform.phantom.config import FINDINGS

    if any(manifest.findings and set(manifest.findings) <= set(FINDINGS) for manifest in manifests):
        yield (
            "The findings of its shards are those of `vetdino phantom`: it was trained on generated studies, its files "
            "show no real radiograph, and its results say nothing about real ones."
        )
    studies = sum(manifest.studies("train") for manifest in manifests)
    if studies < FEW_STUDIES:
        yield (
            f"{studies:,} training studies are few: recipes of this kind are made for hundreds of thousands."
        )


def _result_limitations(task: str, values: Sequence[MetricValue]) -> Iterator[Block]:
    aurocs = [value for value in values if value.metric == "AUROC"]
    at_chance = [
        value.finding
        for value in aurocs
        if value.source == THIS_BACKBONE and value.finding != "macro" and not value.low > CHANCE["AUROC"]
    ]
    if at_chance:
        yield f"{task}: not distinguishable from chance (AUROC interval includes 0.5): {', '.join(at_chance)}."
    for value in aurocs:
        if value.finding == "macro" and value.source.startswith(f"{THIS_BACKBONE} - "):
            other = value.source.removeprefix(f"{THIS_BACKBONE} - ")
            if value.high < 0:
                yield f"{task}: worse than {other} (macro AUROC {value_text(value)})."
            elif not value.low > 0:
                yield f"{task}: not significantly better than {other} (macro AUROC {value_text(value)})."


def _usage() -> Iterator[Block]:
    yield "The folder holds the weights (safetensors) and `card.json`; loading checks the digest of the weights."
    yield CardCode(
        "import vetdino\n\n"
        'backbone = vetdino.load("FOLDER")\n'
        "tokens = backbone.tokens(backbone.prepare(pixels)[None])   # pixels: (H, W) uint8, bright is dense\n"
        "tokens.cls, tokens.patches                                 # (1, D), (1, N, D)"
    )
    yield CardCode("vetdino embed FOLDER SHARDS OUT\nvetdino evaluate FOLDER SHARDS --out OUT")


def example_studies(backbone: Path, config: ReportConfig) -> Iterator[Block]:
    """Patch similarity and attention on a few studies. Raises as `panels.panel_studies`."""
    from ...platform.models.loading import load
    from .panels import CAPTION, backbone_panels, panel_studies

    yield f"Tiles: {CAPTION}."
    studies = panel_studies(config.shards, config.split, config.studies)
    for number, (title, _, encoded) in enumerate(backbone_panels({"": load(backbone)}, studies)):
        yield CardPicture(f"study{number}.jpg", encoded, title)
