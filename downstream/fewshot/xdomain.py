"""Few-shot segmentation across domains: supports of one prepared folder, queries of another, every pair of folders."""

# A, B folders of the supports and of the queries.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...platform.core.errors import ConfigError, DataError
from ..common.record import Rows
from ..volumes.volume import Volumes
from .config import XdomainConfig
from .experiments import trained_tags
from .figures import dice_bars, dice_matrices, example_overlays
from .finished import FinishedQueries
from .measure import measure, normalized_name
from .method.support import selected_classes
from .methods import Method, backbone_methods, trained_methods
from .record import FewshotExperiment, finished_queries, record_summary
from .results import FewshotResults, ScanScore
from .sources import Backbones, trained_data_digest
from .summary import MEAN, summary_lines


@dataclass(frozen=True, slots=True, eq=False)
class CrossDomainResults:
    """All cells as one table. cells: row -> (support folder, query folder); scans are named FOLDER/SCAN."""

    results: FewshotResults
    cells: Mapping[str, tuple[str, str]]
    folders: tuple[str, ...]

    def __repr__(self) -> str:
        return f"CrossDomainResults({', '.join(self.folders)})"


def xdomain(
    folders: Sequence[Volumes],
    backbones: Backbones,
    config: XdomainConfig,
    out: Path | str,
    trained: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Measures every pair of folders, each compared with the query folder's own supports; writes to `out`."""
    experiment = FewshotExperiment("xdomain", config, tuple(folders), backbones, trained_tags(trained))
    crossed, cells = measure_pairs(
        folders,
        backbones,
        config,
        trained,
        lambda cell: finished_queries(experiment, out, trained, cell=cell),
    )
    results = crossed.results
    summary = summary_lines(results, config, _own_support_rows(crossed))
    label = experiment.label
    panels = _panels(summary, crossed, next(iter(backbones)))
    # Encoders alone: baselines differ from cell to cell and would be lines across all cells.
    encoder_lines = [line for line in summary if not line["floor"]]
    figures = {
        "matrix": dice_matrices(
            panels, crossed.folders, f"{label}: supports of one folder, queries of another"
        ),
        "dice": dice_bars(encoder_lines, "dice", f"{label}: Dice by the published protocol"),
    }
    for cell, one in cells.items():
        figures[f"examples, {cell.replace(' -> ', ' to ')}"] = example_overlays(one, f"{label}, {cell}")
    title = "Dice in percent, SUPPORTS -> QUERIES [95 % interval over scans]"
    record_summary(summary, results, experiment, out, figures=figures, title=title)
    return summary


def measure_pairs(
    folders: Sequence[Volumes],
    backbones: Backbones,
    config: XdomainConfig,
    trained: Sequence[Path] = (),
    finished_for: Callable[[str], FinishedQueries] | None = None,
) -> tuple[CrossDomainResults, dict[str, FewshotResults]]:
    """Every folder's supports on every folder's queries, fold by fold, of the classes that all folders name alike.

    `config.organs` are numbers of the first folder. trained: encoders, used where the supports are of the folder that
    they were trained on. finished_for: cell -> where its finished queries are kept. Cells that cannot be measured are
    left out. Raises DataError if none can be, ConfigError for folders of one name, folds that do not fit, or encoders
    trained on none of the folders.
    """
    names = tuple(volumes.folder.resolve().name for volumes in folders)
    if len(set(names)) < len(names) or len(names) < 2:
        raise ConfigError(f"folders {', '.join(names)}: give two or more, of different names")
    data_of_trained = {out: trained_data_digest(out) for out in trained}
    for out, data in data_of_trained.items():
        if data not in {volumes.digest for volumes in folders}:
            raise ConfigError(
                f"{out}: trained on none of {', '.join(names)}; give the folder that it was trained on"
            )
    shared, left_out = _shared_classes(folders, config)
    cells: dict[str, FewshotResults] = {}
    for support_name, supports in zip(names, folders, strict=True):
        organs = tuple(number for number, name in supports.classes.items() if normalized_name(name) in shared)
        cell_config = replace(config, organs=organs)
        outs = [out for out, data in data_of_trained.items() if data == supports.digest]
        extra, _ = trained_methods(supports, backbones, outs, cell_config)
        for query_name, queries in zip(names, folders, strict=True):
            cell = f"{support_name} -> {query_name}"
            methods = backbone_methods(backbones, cell_config, extra)
            try:
                finished = finished_for(cell) if finished_for else None
                cells[cell] = measure(queries, methods, cell_config, supports, finished)
            except DataError as reason:
                left_out[cell] = str(reason)
    if not cells:
        raise DataError(f"no pair of folders can be measured: {next(iter(left_out.values()))}")
    return _joined(cells, left_out, names), cells


def _shared_classes(folders: Sequence[Volumes], config: XdomainConfig) -> tuple[set[str], dict[str, str]]:
    """Normalized names of the classes that all folders have, and which are missing where. Raises DataError for none."""
    names_by_folder = [{normalized_name(name) for name in volumes.classes.values()} for volumes in folders]
    selected = {normalized_name(name) for name in selected_classes(folders[0], config.organs).values()}
    wanted = selected if config.organs else set().union(*names_by_folder)
    missing = {
        f"{volumes.folder.name}, {name}": "no class of this name there"
        for volumes, names in zip(folders, names_by_folder, strict=True)
        for name in sorted(wanted - names)
    }
    shared = wanted.intersection(*names_by_folder)
    if not shared:
        classes = "; ".join(
            f"{volumes.folder.name}: {', '.join(volumes.classes.values())}" for volumes in folders
        )
        raise DataError(
            f"no class has the same name in all folders ({classes}); prepare them with equal --classes"
        )
    return shared, missing


def _joined(
    cells: Mapping[str, FewshotResults], left_out: dict[str, str], folders: tuple[str, ...]
) -> CrossDomainResults:
    """All cells in one table: rows are named for their cell, classes as the first cell names them."""
    class_names: dict[str, str] = {}
    scores: list[ScanScore] = []
    methods: dict[str, Method] = {}
    cell_of_row: dict[str, tuple[str, str]] = {}
    for cell, results in cells.items():
        support_name, query_name = cell.split(" -> ")
        main = next(iter(results.methods))
        row_names = {row: cell if row == main else f"{cell}, {row}" for row in results.methods}
        methods |= {row_names[row]: method for row, method in results.methods.items()}
        cell_of_row |= dict.fromkeys(row_names.values(), (support_name, query_name))
        scores += [
            replace(
                score,
                row=row_names[score.row],
                scan=f"{query_name}/{score.scan}",
                organ=class_names.setdefault(normalized_name(score.organ), score.organ),
            )
            for score in results.scores
        ]
        left_out |= {f"{cell}, {place}": reason for place, reason in results.left_out.items()}
    organs = {number: name for number, name in enumerate(class_names.values(), start=1)}
    sources = dict.fromkeys(source for results in cells.values() for source in results.seconds)
    seconds = {
        source: float(np.mean([one.seconds[source] for one in cells.values() if source in one.seconds]))
        for source in sources
    }
    results = FewshotResults(organs, tuple(scores), (), seconds, left_out, methods)
    return CrossDomainResults(results, cell_of_row, folders)


def _own_support_rows(crossed: CrossDomainResults) -> dict[str, str]:
    """Row -> the same row of the cell in which the query folder has its own supports."""
    return {
        row: f"{queries} -> {queries}" + row.removeprefix(f"{supports} -> {queries}")
        for row, (supports, queries) in crossed.cells.items()
    }


def _panels(summary: Rows, crossed: CrossDomainResults, first: str) -> dict[str, np.ndarray]:
    """Title -> (A, B): the first encoder by both kinds of Dice, other encoders by one, and the copied mask."""
    wanted = {"published protocol": (first, "dice"), "whole volumes": (first, "volume_dice")}
    for line in summary:
        if not line["floor"] and line["source"] != first:
            wanted |= {f"{line['source']}, published protocol": (line["source"], "dice")}
    wanted |= {"copied mask, published protocol": ("copy", "dice")}
    panels = {}
    for title, (source, measured) in wanted.items():
        values_AB = np.full((len(crossed.folders),) * 2, np.nan)
        for line in summary:
            supports, queries = (crossed.folders.index(name) for name in crossed.cells[line["row"]])
            # The first row of a source in a cell is its main one.
            if line["organ"] == MEAN and line["source"] == source and np.isnan(values_AB[supports, queries]):
                values_AB[supports, queries] = line[measured]
        if not np.isnan(values_AB).all():
            panels[title] = values_AB
    return panels
