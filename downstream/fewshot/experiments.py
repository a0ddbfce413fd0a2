"""Few-shot experiments: encoders side by side, more or fewer labelled scans, one folder's scans teaching another's."""

# A, B folders that teach and that are asked.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...platform.core.device import resolve_device
from ...platform.core.errors import ConfigError, DataError
from ..volumes.volume import Volumes
from .config import FewshotConfig, FewshotEvaluateConfig, KshotConfig, XdomainConfig
from .figures import dice_bars, matrices, overlays, shot_curves
from .learn.adaptation import TestTimeTraining
from .learn.encoder import TrainableEncoder
from .learn.training import load_trained_encoders
from .measure import Evaluated, Score, Way, measure, plain, row_name, ways_by, ways_of
from .method.answers import Encoders, Lesson, classes_of
from .record import Lines, Work, leave, metrics_of, record, seconds_of, show
from .sources import backbone_of, data_of, floors_of, sources_of
from .summary import MEAN, NOTES, summary_of

if TYPE_CHECKING:
    import torch

    from ...platform.models.backbone import Backbone

Backbones = Mapping[str, "Backbone | None"]
"""Name of a source -> its backbone; None is pixels."""

ENCODER = "encoder"
"""Name of a table's only backbone."""


# Rows --------------------------------------------------------------------------------------------


def ways(backbones: Backbones, config: FewshotConfig, more: Sequence[Way] = ()) -> list[Way]:
    """The encoders' rows, then `more`, then those of the floors."""
    own = ways_of(sources_of(backbones, config), config, floors_of(backbones, config))
    return [*(way for way in own if not way.floor), *more, *(way for way in own if way.floor)]


def trained_ways(
    volumes: Volumes,
    backbones: Backbones,
    trained: Sequence[Path],
    config: FewshotConfig,
    device: torch.device | None = None,
) -> tuple[list[Way], dict[str, dict[tuple[int, int], TrainableEncoder]]]:
    """Rows of encoders that `vetdino fewshot train` left, each with the backbone that it was trained from; and these.

    Every fold and organ is answered by its own encoder, which has not seen that fold's scans. Raises ConfigError where
    none of the backbones is a folder's, and what `load_trained_encoders` raises.
    """
    found: dict[str, dict[tuple[int, int], TrainableEncoder]] = {}
    for out in trained:
        name, backbone = _origin(out, backbones)
        own = "trained" if name == ENCODER else f"{name}, trained"
        called = own if len(trained) == 1 else f"{own} ({Path(out).name})"
        found[called] = load_trained_encoders(
            out, backbone, config.slices, volumes=volumes, folds=config.folds, device=device
        )
    scans = max(config.shots) + 1
    return [
        way for name, encoders in found.items() for way in ways_by(name, Encoders(encoders, scans), config)
    ], found


def adapted_ways(
    encoders: Mapping[str, Callable[[Lesson], TrainableEncoder]], config: FewshotEvaluateConfig
) -> list[Way]:
    """Rows of encoders that are trained on each slice before they answer; none without steps."""
    if not config.adapt.steps:
        return []
    kept = tuple(dict.fromkeys((config.components, *config.components_beside)))
    return [
        Way(
            f"{name}, adapted",
            config.prototypes.compat,
            TestTimeTraining(learnable_for, config.adapt, config.prototypes),
            kept,
            shots,
            config.scan.smoothing(config.prototypes.compat),
        )
        for name, learnable_for in encoders.items()
        for shots in config.shots
    ]


def _origin(out: Path, backbones: Backbones) -> tuple[str, Backbone]:
    """The backbone that a folder of trained encoders belongs to, by its digest, and its name."""
    networks = {name: backbone for name, backbone in backbones.items() if backbone is not None}
    if not networks:
        raise ConfigError(f"{out}: trained encoders need the backbone that they were trained from")
    digest = backbone_of(out)
    for name, backbone in networks.items():
        if backbone.card.digest == digest:
            return name, backbone
    raise ConfigError(
        f"{out}: trained from another backbone ({digest[:12]}…) than {', '.join(networks)}; give that one too"
    )


# One folder --------------------------------------------------------------------------------------


def evaluate(
    volumes: Volumes,
    backbones: Backbones,
    config: FewshotEvaluateConfig,
    out: Path | str,
    trained: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """One encoder over a prepared folder: trained ones first, frozen, adapted at test time; leaves it in `out`.

    Raises ConfigError for training without a network, else as `measure` and `trained_ways` do.
    """
    device = resolve_device(config.device)
    more, encoders = trained_ways(volumes, backbones, trained, config, device)
    learnable_for: dict[str, Callable[[Lesson], TrainableEncoder]] = {
        name: lambda lesson, own=own: own[lesson.fold, lesson.organ] for name, own in encoders.items()
    }
    if config.adapt.steps:
        for name, backbone in backbones.items():
            if backbone is None:
                raise ConfigError(f"adapt.steps is {config.adapt.steps}: {name} has no network to train")
            fresh = TrainableEncoder(backbone, config.learn, config.slices, config.seed).to(device)
            learnable_for[name] = lambda _, fresh=fresh: fresh
    own = ways(backbones, config, adapted_ways(learnable_for, config))
    found = measure(volumes, [*more, *own], config)
    work = Work("evaluate", config, (volumes,), backbones, _names(trained))
    return record(found, work, out, tables={"adaptation": adaptation_of(found)})


def adaptation_of(found: Evaluated) -> list[dict[str, Any]]:
    """What training did on every slice, a line each; none where nothing was trained."""
    # Several rows share a way where components are cut differently.
    answers = {(way.source, way.shots): way.answer for way in found.ways.values()}
    return [
        {"source": source, "shots": shots, **asdict(report)}
        for (source, shots), answer in answers.items()
        if isinstance(answer, TestTimeTraining)
        for report in answer.reports
    ]


def compare(
    volumes: Volumes,
    backbones: Backbones,
    config: FewshotConfig,
    out: Path | str,
    trained: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Several encoders over a prepared folder, frozen and trained, each held against the first; leaves it in `out`."""
    more, _ = trained_ways(volumes, backbones, trained, config)
    found = measure(volumes, ways(backbones, config, more), config)
    return record(found, Work("compare", config, (volumes,), backbones, _names(trained)), out)


def _names(trained: Sequence[Path]) -> dict[str, str]:
    return {"trained": " ".join(Path(out).name for out in trained)} if trained else {}


def kshot(
    volumes: Volumes, backbones: Backbones, config: KshotConfig, out: Path | str
) -> list[dict[str, Any]]:
    """Every number of shots in every way to pool them, held against the first number in the same way.

    compat says how: `ours` one joint set of prototypes, `alpnet` their mean, `levayz` the largest of the shots' scores.
    """
    found = measure(volumes, ways(backbones, config), config)
    work = Work("kshot", config, (volumes,), backbones)
    return record(found, work, out, against=fewest_of(found, config), drawn=_curves)


def _curves(summary: Lines, label: str) -> dict[str, bytes]:
    return {
        "shots": shot_curves(summary, "dice", f"{label}: Dice by the published protocol"),
        "volume_shots": shot_curves(summary, "volume_dice", f"{label}: Dice of whole volumes, no truth used"),
    }


def fewest_of(found: Evaluated, config: FewshotConfig) -> dict[str, str]:
    """Row -> the row that differs in its shots alone, which are the first of the config's."""
    first = {
        (way.source, way.compat, components): row_name(
            replace(way, shots=config.shots[0]), components, config
        )
        for way in found.ways.values()
        for components in way.components
    }
    return {
        row_name(way, components, config): first[way.source, way.compat, components]
        for way in found.ways.values()
        for components in way.components
    }


# One folder teaches another ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Crossed:
    """All cells as one table. cells: row -> (teaching folder, asked folder); scans are named FOLDER/SCAN."""

    found: Evaluated
    cells: Mapping[str, tuple[str, str]]
    names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Crossed({', '.join(self.names)})"


def cross(
    folders: Sequence[Volumes], backbones: Backbones, config: XdomainConfig, trained: Sequence[Path] = ()
) -> tuple[Crossed, dict[str, Evaluated]]:
    """Every folder's supports teach every folder's queries, fold by fold, of the classes that all folders name alike.

    `config.organs` are numbers of the first folder. trained: encoders that answer where the folder that they were
    trained on teaches. What cannot be measured is left out and said. Raises DataError where no cell can be,
    ConfigError for folders of one name, folds that do not fit, or encoders of none of the folders.
    """
    names = tuple(volumes.folder.resolve().name for volumes in folders)
    if len(set(names)) < len(names) or len(names) < 2:
        raise ConfigError(f"folders {', '.join(names)}: give two or more, of different names")
    own_of = {out: data_of(out) for out in trained}
    for out, data in own_of.items():
        if data not in {volumes.digest for volumes in folders}:
            raise ConfigError(
                f"{out}: trained on none of {', '.join(names)}; give the folder that it was trained on"
            )
    shared, left_out = _shared(folders, config)
    cells: dict[str, Evaluated] = {}
    for teaching, teachers in zip(names, folders, strict=True):
        organs = tuple(number for number, name in teachers.classes.items() if plain(name) in shared)
        own = replace(config, organs=organs)
        outs = [out for out, data in own_of.items() if data == teachers.digest]
        more, _ = trained_ways(teachers, backbones, outs, own)
        for name, volumes in zip(names, folders, strict=True):
            try:
                cells[f"{teaching} -> {name}"] = measure(volumes, ways(backbones, own, more), own, teachers)
            except DataError as reason:
                left_out[f"{teaching} -> {name}"] = str(reason)
    if not cells:
        raise DataError(f"no folder can teach another: {next(iter(left_out.values()))}")
    return _joined(cells, left_out, names), cells


def _shared(folders: Sequence[Volumes], config: XdomainConfig) -> tuple[set[str], dict[str, str]]:
    """Plain names of the classes that all folders have, and what is missing where. Raises DataError for none."""
    named = [{plain(name): name for name in volumes.classes.values()} for volumes in folders]
    first = set(map(plain, classes_of(folders[0], config.organs).values()))
    asked = first if config.organs else set().union(*named)
    missing = {
        f"{volumes.folder.name}, {name}": "no class of this name there"
        for volumes, own in zip(folders, named, strict=True)
        for name in sorted(asked - own.keys())
    }
    shared = asked.intersection(*named)
    if not shared:
        told = "; ".join(
            f"{volumes.folder.name}: {', '.join(volumes.classes.values())}" for volumes in folders
        )
        raise DataError(
            f"no class has the same name in all folders ({told}); prepare them with equal --classes"
        )
    return shared, missing


def _joined(cells: Mapping[str, Evaluated], left_out: dict[str, str], names: tuple[str, ...]) -> Crossed:
    """Cells under one another: rows are named for their cell, classes as the first cell names them."""
    called: dict[str, str] = {}
    scores: list[Score] = []
    rows: dict[str, Way] = {}
    places: dict[str, tuple[str, str]] = {}
    for cell, found in cells.items():
        teaching, asked = cell.split(" -> ")
        main = next(iter(found.ways))
        row_of = {row: cell if row == main else f"{cell}, {row}" for row in found.ways}
        rows |= {row_of[row]: way for row, way in found.ways.items()}
        places |= dict.fromkeys(row_of.values(), (teaching, asked))
        scores += [
            replace(
                score,
                row=row_of[score.row],
                scan=f"{asked}/{score.scan}",
                organ=called.setdefault(plain(score.organ), score.organ),
            )
            for score in found.scores
        ]
        left_out |= {f"{cell}, {place}": reason for place, reason in found.left_out.items()}
    organs = {number: name for number, name in enumerate(called.values(), start=1)}
    seconds = {
        source: float(np.mean([found.seconds[source] for found in cells.values() if source in found.seconds]))
        for source in dict.fromkeys(source for found in cells.values() for source in found.seconds)
    }
    return Crossed(Evaluated(organs, tuple(scores), (), seconds, left_out, rows), places, names)


def xdomain(
    folders: Sequence[Volumes],
    backbones: Backbones,
    config: XdomainConfig,
    out: Path | str,
    trained: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """The matrix of who teaches whom, each cell held against what the asked folder's own scans teach; left in `out`."""
    crossed, cells = cross(folders, backbones, config, trained)
    found, names = crossed.found, crossed.names
    summary = summary_of(found, config, _own(crossed))
    work = Work("xdomain", config, tuple(folders), backbones, _names(trained))
    first = next(iter(backbones))
    pictures = {
        "matrix": matrices(_panels(summary, crossed, first), names, f"{work.label}: who teaches whom"),
        "dice": dice_bars(_by_cell(summary), "dice", f"{work.label}: Dice by the published protocol"),
    }
    for cell, one in cells.items():
        title = f"{work.label}, {cell}"
        pictures[f"examples, {cell.replace(' -> ', ' to ')}"] = overlays(one, title)
    told = leave(
        work,
        out,
        metrics=metrics_of(summary) | seconds_of(found),
        tables={"scans": [asdict(score) for score in found.scores], "summary": summary},
        pictures=pictures,
        facts={"organs": dict(found.organs), "notes": NOTES, "left_out": dict(found.left_out)},
    )
    show(summary, found.left_out, "Dice in percent, TEACHES -> ASKED [95 % interval over scans]")
    print(told)
    return summary


def _own(crossed: Crossed) -> dict[str, str]:
    """Row -> the same row of the cell in which the asked folder teaches itself."""
    rest = {
        row: row.removeprefix(f"{teaching} -> {asked}") for row, (teaching, asked) in crossed.cells.items()
    }
    return {row: f"{asked} -> {asked}{rest[row]}" for row, (_, asked) in crossed.cells.items()}


def _panels(summary: Lines, crossed: Crossed, first: str) -> dict[str, np.ndarray]:
    """Words -> (A, B): the first encoder by both kinds of Dice, and the copied mask."""
    wanted = {"published protocol": (first, "dice"), "whole volumes": (first, "volume_dice")}
    for line in summary:
        if not line["floor"] and line["source"] != first:
            wanted |= {f"{line['source']}, published protocol": (line["source"], "dice")}
    wanted |= {"copied mask, published protocol": ("copy", "dice")}
    panels = {}
    for words, (source, measured) in wanted.items():
        values_AB = np.full((len(crossed.names),) * 2, np.nan)
        for line in summary:
            place = tuple(crossed.names.index(name) for name in crossed.cells[line["row"]])
            # A cell's first row of a source is its main one.
            if line["organ"] == MEAN and line["source"] == source and np.isnan(values_AB[place]):
                values_AB[place] = line[measured]
        if not np.isnan(values_AB).all():
            panels[words] = values_AB
    return panels


def _by_cell(summary: Lines) -> Lines:
    """The encoders' lines alone: floors differ from cell to cell and would be lines across all."""
    return [line for line in summary if not line["floor"]]
