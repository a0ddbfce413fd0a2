"""A model card: what a backbone is, what it learnt from, how good it is beside floors, and what it is not for.

Every sentence follows from a file: the backbone's card, the training's folder beside it, the manifest, the
evaluations. What no file tells is said to be unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...platform.core.config import from_json
from ...platform.core.errors import ConfigError, ShardError
from ...platform.core.files import atomic_write
from ...platform.data.shards import Manifest, load_manifest
from ...platform.data.study import SPLITS
from ...platform.measure.metrics import Figure
from . import html as page
from .config import ReportConfig
from .runs import Record, record_of

if TYPE_CHECKING:
    from ...platform.models.backbone import Card

OWN = "this backbone"
"""What the backbone is called in its own tables."""

PRIVATE = ("shards", "out", "start", "resume")
"""Settings that name places of the machine that trained."""

CHANCE = {"AUROC": 0.5}


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of words."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture, its file name and what it shows."""

    name: str
    encoded: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Code:
    """Words for a machine."""

    text: str


Block = str | Table | Picture | Code


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """All that a card is written from. figures: of evaluations, own source first and called OWN."""

    card: Card
    training: Record | None
    manifest: Manifest | None
    figures: Mapping[str, Sequence[Figure]]
    left_out: Mapping[str, Mapping[str, str]]
    measured_on: tuple[str, ...]


def report(backbone: Path, out: Path, config: ReportConfig | None = None) -> Path:
    """Writes card.md, card.html and pictures into `out`, and gives back the folder.

    Raises ConfigError where there is no backbone folder or a run evaluated another backbone, DataError for
    damaged files.
    """
    config = config or ReportConfig()
    facts = facts_of(Path(backbone), config)
    sections = sections_of(facts, config)
    if config.shards:
        sections["What it sees"] = list(_looks(Path(backbone), config))
    for block in (block for blocks in sections.values() for block in blocks):
        if isinstance(block, Picture):
            atomic_write(out / block.name, block.encoded)
    name = f"Model card: {facts.card.label}"
    atomic_write(out / "card.md", as_markdown(name, sections))
    atomic_write(out / "card.html", as_html(name, sections))
    return out


def facts_of(backbone: Path, config: ReportConfig) -> Facts:
    """Reads everything that there is. Raises as `report`."""
    from ...platform.models.backbone import CARD, Card

    if not (backbone / CARD).is_file():
        raise ConfigError(
            f"{backbone}: no backbone folder (no {CARD}); give one that `vetdino pretrain` left"
        )
    card = from_json(Card, (backbone / CARD).read_text(), source=str(backbone / CARD))
    beside = backbone.resolve().parent
    training = record_of(beside) if (beside / "params.json").is_file() else None
    if training is not None and training.tags.get("config") != card.origin.get("config"):
        training = None  # the folder's training is another one
    evaluations = [_own(record_of(run), card) for run in config.runs or _beside(beside, card)]
    figures: dict[str, Sequence[Figure]] = {}
    for record in evaluations:
        for task, told in record.figures.items():
            name = task if task not in figures else f"{task} ({record.name})"
            figures[name] = told
    return Facts(
        card=card,
        training=training,
        manifest=_manifest(card, training, config),
        figures=figures,
        left_out={task: reasons for record in evaluations for task, reasons in record.left_out.items()},
        measured_on=tuple(dict.fromkeys(record.manifest for record in evaluations)),
    )


def _beside(folder: Path, card: Card) -> list[Path]:
    """Folders beside the backbone, or beside its training, that hold an evaluation of it."""
    found = []
    for path in sorted({*folder.glob("*/metrics.json"), *folder.parent.glob("*/metrics.json")}):
        if (path.parent / "params.json").is_file():
            record = record_of(path.parent)
            if card.digest in record.backbones.values():
                found.append(path.parent)
    return found


def _own(record: Record, card: Card) -> Record:
    """The evaluation with this backbone under the name OWN. Raises ConfigError where it is of another."""
    own = next((name for name, digest in record.backbones.items() if digest == card.digest), None)
    if own is None:
        raise ConfigError(
            f"{record.folder}: evaluated {', '.join(d[:12] for d in record.backbones.values()) or 'nothing'}, "
            f"this backbone is {card.digest[:12]}; evaluate it, or leave this run out"
        )
    renamed = {own: OWN, **{f"{own} - {other}": f"{OWN} - {other}" for other in _sources(record)}}
    figures = {
        task: [replace(one, source=renamed.get(one.source, one.source)) for one in told]
        for task, told in record.figures.items()
    }
    return replace(record, figures=figures)


def _sources(record: Record) -> list[str]:
    told = [figure.source for figures in record.figures.values() for figure in figures]
    return list(dict.fromkeys(source for source in told if " - " not in source))


def _manifest(card: Card, training: Record | None, config: ReportConfig) -> Manifest | None:
    """What it was trained on, where that is still there unchanged."""
    for place in (config.shards, training.params.get("shards", "") if training else ""):
        try:
            manifest = load_manifest(place) if place else None
        except (ShardError, OSError):
            continue
        if manifest is not None and manifest.digest == card.origin.get("manifest"):
            return manifest
    return None


def sections_of(facts: Facts, config: ReportConfig) -> dict[str, list[Block]]:
    """The card's chapters, in order."""
    return {
        "What it is": list(_what(facts)),
        "Data": list(_data(facts)),
        "Recipe": list(_recipe(facts)),
        "Figures": list(_figures(facts)),
        "Limits": list(_limits(facts)),
        "Use": list(_use(facts)),
        "Terms": [
            "The code of vetdino is under the Apache License 2.0. "
            + (config.licence or "No terms were stated for these weights; ask whoever trained them.")
        ],
    }


def _what(facts: Facts) -> Iterator[Block]:
    card, origin = facts.card, facts.card.origin
    built = card.config
    yield (
        "A Vision Transformer for grey images, trained without labels by multi-view distillation. It answers "
        "with one vector for an image or study, and with one for each patch."
        if origin.get("recipe") or facts.training
        else "A Vision Transformer for grey images. Its card does not tell how it was trained."
    )
    named = {
        "architecture": built.name,
        "image side": f"{built.side} px",
        "patch": f"{built.patch} px" if built.patch else "as the architecture's",
        "width": built.width or "as the architecture's",
        "blocks": built.depth or "as the architecture's",
        "heads": built.heads or "as the architecture's",
        "preprocessing": f"letterboxed on black, grey scaled to 0..1, minus {card.mean:g}, over {card.std:g}",
        "digest": card.digest,
        "weights, SHA-256": card.weights_sha256 or "unknown",
    }
    yield Table(["", ""], [[key, str(value)] for key, value in named.items()])


def _data(facts: Facts) -> Iterator[Block]:
    digest = facts.card.origin.get("manifest", "")
    yield f"Manifest of the shards: `{digest}`." if digest else "The card names no data."
    manifest = facts.manifest
    if manifest is None:
        yield "The shards were not at hand when this card was written; their counts are unknown."
        return
    views = {split: sum(shard.views for shard in manifest.of(split)) for split in SPLITS}
    rows = [[split, f"{manifest.studies(split):,}", f"{views[split]:,}"] for split in SPLITS]
    yield Table(["split", "studies", "views"], rows)
    if "patients" in manifest.counts:
        yield f"{manifest.counts['patients']:,} patients; every patient is in one split only."
    yield f"Findings in the labels, which pretraining did not see: {', '.join(manifest.findings) or 'none'}."


def _recipe(facts: Facts) -> Iterator[Block]:
    origin = facts.card.origin
    told = [[key, value] for key, value in origin.items() if key != "manifest" and value]
    if told:
        yield Table(["", ""], told)
    training = facts.training
    if training is None:
        yield "The folder of its training is not beside it; the settings are known by their digest only."
        return
    yield Table(
        ["setting", "value"],
        [[key, str(value)] for key, value in training.params.items() if key not in PRIVATE],
    )
    last = {name: curve[max(curve)] for name, curve in training.curves.items() if name.startswith("probe/")}
    if last:
        yield "Last of the k-NN trials on the validation split while it was trained:"
        yield Table(["trial", "value"], [[name, f"{value:.3f}"] for name, value in last.items()])


def _figures(facts: Facts) -> Iterator[Block]:
    if not facts.figures:
        yield "Nobody has evaluated it: no evaluation was given, and none lies beside it."
        return
    yield (
        "On the test split; 95 % intervals by bootstrap over patients. "
        f"Shards: {', '.join(f'`{one[:12]}`' for one in facts.measured_on)}."
    )
    for task, told in facts.figures.items():
        for metric in dict.fromkeys(figure.metric for figure in told):
            rows = [figure for figure in told if figure.metric == metric]
            alone = [figure for figure in rows if " - " not in figure.source]
            if metric in CHANCE:
                from ...platform.measure.figures import interval_plot

                name = f"{task}-{metric.lower()}.png".replace(" ", "-").replace("(", "").replace(")", "")
                yield Picture(name, interval_plot(alone, CHANCE[metric]), f"{task}: {metric}")
            yield _table_of(f"{task}: {metric}", rows)
        for finding, reason in facts.left_out.get(task, {}).items():
            yield f"{task}: {finding} was left out ({reason})."


def _table_of(title: str, figures: Sequence[Figure]) -> Table:
    sources = list(dict.fromkeys(figure.source for figure in figures))
    by = {(figure.finding, figure.source): figure for figure in figures}
    rows = []
    for finding in dict.fromkeys(figure.finding for figure in figures):
        cells = [by.get((finding, source)) for source in sources]
        count = next(f"{cell.present} of {cell.known}" for cell in cells if cell)
        rows.append([finding, count, *(_said(cell) if cell else "" for cell in cells)])
    return Table([title, "present", *sources], rows)


def _said(figure: Figure) -> str:
    form = "+.3f" if " - " in figure.source else ".3f"
    if math.isnan(figure.value):
        return "not measured"
    between = "no interval" if math.isnan(figure.low) else f"{figure.low:{form}} to {figure.high:{form}}"
    return f"{figure.value:{form}} ({between})"


def _limits(facts: Facts) -> Iterator[Block]:
    """What the facts do not support, one sentence each."""
    yield "Nobody has verified it clinically. It is for research, not for the care of a patient."
    if facts.manifest is not None:
        yield from _limits_of_data(facts.manifest)
    if not facts.figures:
        yield "Without an evaluation nothing is known of what its vectors tell."
    elif facts.card.origin.get("manifest") in facts.measured_on:
        yield (
            "It was measured on patients it never trained on, but of the archive it was trained on: how it does "
            "on another scanner, hospital or species is unknown."
        )
    if set(facts.measured_on) - {facts.card.origin.get("manifest")}:
        yield (
            "It was measured on other shards than it was trained on; whether their patients were among those that "
            "it trained on, no file tells."
        )
    for task, told in facts.figures.items():
        yield from _limits_of_task(task, told)


def _limits_of_data(manifest: Manifest) -> Iterator[Block]:
    from ...platform.phantom.config import FINDINGS

    if manifest.findings and set(manifest.findings) <= set(FINDINGS):
        yield (
            "The findings of its shards are those that `vetdino phantom` draws: it was trained on generated studies, "
            "has seen no real radiograph as far as its files tell, and its figures say nothing about real ones."
        )
    if manifest.studies("train") < 10_000:
        yield (
            f"{manifest.studies('train'):,} training studies are few: recipes of this kind are made for hundreds "
            "of thousands."
        )


def _limits_of_task(task: str, told: Sequence[Figure]) -> Iterator[Block]:
    own = [one for one in told if one.metric == "AUROC" and one.source == OWN]
    chance = [one.finding for one in own if one.finding != "macro" and not one.low > CHANCE["AUROC"]]
    if chance:
        yield f"{task}: not told from chance (the interval of its AUROC reaches 0.5): {', '.join(chance)}."
    for figure in told:
        if figure.metric == "AUROC" and figure.finding == "macro" and figure.source.startswith(f"{OWN} - "):
            other = figure.source.removeprefix(f"{OWN} - ")
            if figure.high < 0:
                yield f"{task}: worse than {other} (macro AUROC {_said(figure)})."
            elif not figure.low > 0:
                yield f"{task}: no better than {other} beyond doubt (macro AUROC {_said(figure)})."


def _use(facts: Facts) -> Iterator[Block]:
    yield "The folder holds the weights (safetensors) and `card.json`; loading compares them with their digest."
    yield Code(
        "import vetdino\n\n"
        'backbone = vetdino.load("FOLDER")\n'
        "tokens = backbone.tokens(backbone.prepare(pixels)[None])   # pixels: (H, W) uint8, bright is dense\n"
        "tokens.cls, tokens.patches                                 # (1, D), (1, N, D)"
    )
    yield Code("vetdino embed FOLDER SHARDS OUT\nvetdino evaluate FOLDER SHARDS --out OUT")


def _looks(backbone: Path, config: ReportConfig) -> Iterator[Block]:
    """Attention and patch similarity on a few studies. Raises as `panels.shown_of`."""
    from ...platform.models.backbone import load
    from .panels import CAPTION, panels, shown_of

    yield f"Tiles: {CAPTION}."
    shown = shown_of(config.shards, config.split, config.studies)
    for number, (name, _, encoded) in enumerate(panels({"": load(backbone)}, shown)):
        yield Picture(f"study{number}.jpg", encoded, name)


def as_markdown(name: str, sections: Mapping[str, Sequence[Block]]) -> str:
    """The card as Markdown; pictures are files beside it."""
    lines = [f"# {name}"]
    for title, blocks in sections.items():
        lines += ["", f"## {title}"]
        for block in blocks:
            lines += ["", _markdown(block)]
    return "\n".join(lines) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Table):
        rows = [block.head, ["---"] * len(block.head), *block.rows]
        return "\n".join(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows
        )
    if isinstance(block, Picture):
        return f"![{block.caption}]({block.name})"
    if isinstance(block, Code):
        return "\n".join(f"    {line}".rstrip() for line in block.text.splitlines())
    return block


def as_html(name: str, sections: Mapping[str, Sequence[Block]]) -> str:
    """The card as one page with its pictures inside."""
    body = [page.title(name, 1)]
    for title, blocks in sections.items():
        body.append(page.title(title))
        body += [_html(block) for block in blocks]
    return page.page(name, body)


def _html(block: Block) -> str:
    if isinstance(block, Table):
        return page.table(block.head, block.rows)
    if isinstance(block, Picture):
        return page.picture(block.encoded, block.caption)
    if isinstance(block, Code):
        return page.code(block.text)
    return page.text(block)
