"""Measures methods of few-shot segmentation over the folds of a prepared folder.

Every method segments the same scans, by the published protocol (`method.protocol`) and as whole volumes. Sources:
arXiv 2403.03273, 2007.09886.
"""

# Z slices of a scan, H, W pixels.

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...platform.core.errors import DataError
from ...platform.core.progress import Progress
from ..volumes.volume import Volume, Volumes
from .config import FewshotConfig
from .finished import FinishedQueries, QueryResults
from .learn.adaptation import AdaptationReport, AdaptivePredictor
from .method.alignment import volume_parts
from .method.config import Components
from .method.masks import label_map, organ_mask, slice_margins
from .method.protocol import Fold, cross_validation_folds, dice, hd95, parts_from_truth
from .method.support import SupportSet, build_support_set, class_list, organ_truth, selected_classes
from .methods import Method, methods_by_row, row_name, shots_label
from .results import ExampleSlices, FewshotResults, ScanScore, example_slices

log = logging.getLogger(__name__)


def measure(
    volumes: Volumes,
    methods: Sequence[Method],
    config: FewshotConfig,
    support_volumes: Volumes | None = None,
    finished: FinishedQueries | None = None,
) -> FewshotResults:
    """Measures every method on every labeled scan.

    support_volumes: folder of the supports, fold by fold, if not `volumes`; classes are then matched by name, and
    `config.organs` are its numbers. finished: where queries are kept as soon as they are measured, and read back
    instead of being measured again. The results do not depend on the order of the methods, nor on interruptions but
    for `seconds`. Raises DataError if nothing can be measured, ConfigError for folds, shots or organs that do not fit.
    """
    rows = methods_by_row(methods, config)
    left_out: dict[str, str] = {}
    data = _FoldData(volumes, support_volumes or volumes, config, left_out)
    pairs = [(fold, name) for fold in data.folds() for name in fold.queries]
    _warn_of_several_planes(volumes, support_volumes or volumes)
    measured: list[QueryResults] = []
    dice_so_far: list[float] = []
    with Progress("few-shot", len(pairs), "scans") as progress:
        for fold, name in pairs:
            results = finished.load(fold.number, name) if finished else None
            if results is None:
                results = _measure_query(data, fold, name, methods, left_out)
                if finished:
                    finished.save(fold.number, results)
            else:
                _restore(results, methods, left_out)
            measured.append(results)
            dice_so_far += [score.dice for score in results.scores if score.row == next(iter(rows))]
            progress.advance(fold=f"{fold.number + 1}/{config.folds}", dice=_mean(dice_so_far))
    scores = tuple(score for results in measured for score in results.scores)
    if not scores:
        raise DataError(f"{volumes.folder}: nothing can be measured; {next(iter(left_out.values()), '')}")
    seconds: dict[str, float] = defaultdict(float)
    for results in measured:
        for source, value in results.seconds.items():
            seconds[source] += value / len(pairs)
    examples = tuple(results.example for results in measured)
    return FewshotResults(data.organs, scores, examples, dict(seconds), left_out, rows)


def _warn_of_several_planes(*folders: Volumes) -> None:
    """Slices of different planes can be compared, but an organ does not look alike on them."""
    cards = [card for volumes in folders for card in volumes.cards.values()]
    planes = sorted({card.get("grid", {}).get("plane", "axial") for card in cards})
    if len(planes) > 1:
        log.warning(
            "scans are sliced in several planes (%s); prepare them with one --plane", ", ".join(planes)
        )


def _measure_query(
    data: _FoldData, fold: Fold, name: str, methods: Sequence[Method], left_out: dict[str, str]
) -> QueryResults:
    """Every method on one scan; what is left out is added to `left_out`."""
    before = dict(left_out)
    query = data.query(name)
    scans = {
        shots: _QueryScan(query, fold, data.support_sets(fold, shots), data.config, left_out)
        for shots in {method.shots for method in methods}
    }
    scores: list[ScanScore] = []
    seconds: dict[str, float] = defaultdict(float)
    reports: dict[int, list[dict[str, Any]]] = {}
    example: ExampleSlices | None = None
    for number, method in enumerate(methods):
        reports_before = len(_reports(method))
        start = time.monotonic()
        its_scores, labels_ZHW = scans[method.shots].scores(method)
        seconds[method.source] += time.monotonic() - start
        scores += its_scores
        example = example or example_slices(query, labels_ZHW, data.organs)
        if new := _reports(method)[reports_before:]:
            reports[number] = list(map(asdict, new))
    assert example is not None, "no method"
    new_left_out = {key: reason for key, reason in left_out.items() if before.get(key) != reason}
    return QueryResults(tuple(scores), example, seconds, new_left_out, reports)


def _restore(results: QueryResults, methods: Sequence[Method], left_out: dict[str, str]) -> None:
    """Does what measuring a finished query did beside its scores."""
    left_out.update(results.left_out)
    for number, lines in results.reports.items():
        _reports(methods[number]).extend(AdaptationReport(**line) for line in lines)


def _reports(method: Method) -> list[AdaptationReport]:
    """The predictor's reports on test-time training so far."""
    return method.predictor.reports if isinstance(method.predictor, AdaptivePredictor) else []


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


class _FoldData:
    """Queries of one folder and support sets of another, or of the same.

    organs: class number -> name in the folder of the supports; a class missing among the queries is left out.
    """

    def __init__(
        self, volumes: Volumes, support_volumes: Volumes, config: FewshotConfig, left_out: dict[str, str]
    ) -> None:
        self.volumes, self.support_volumes = volumes, support_volumes
        self.config, self.left_out = config, left_out
        self.organs = selected_classes(support_volumes, config.organs)
        self._numbers = None if support_volumes is volumes else self._matched_numbers()
        self._fold = -1
        self._supports: list[Volume] = []
        self._support_sets: dict[int, dict[int, SupportSet]] = {}

    def _matched_numbers(self) -> np.ndarray:
        """(256,) uint8: class number of the queries -> that of the same name among the supports, else 0."""
        query_numbers = {normalized_name(name): number for number, name in self.volumes.classes.items()}
        numbers = np.zeros(256, np.uint8)
        for number, name in list(self.organs.items()):
            if normalized_name(name) in query_numbers:
                numbers[query_numbers[normalized_name(name)]] = number
            else:
                del self.organs[number]
                self.left_out[f"{self.volumes.folder.name}, {name}"] = "no class of this name there"
        if not self.organs:
            raise DataError(
                f"{self.support_volumes.folder} and {self.volumes.folder} share no class "
                f"({class_list(self.support_volumes)}; {class_list(self.volumes)}); "
                "prepare them with `--classes` of equal names"
            )
        return numbers

    def folds(self) -> list[Fold]:
        """The queries' folds, each with the supports of the fold of the same number in the supports' folder."""
        most = max(self.config.shots)
        query_folds, support_folds = (
            cross_validation_folds(self._labeled(volumes), self.config.folds, most)
            for volumes in (self.volumes, self.support_volumes)
        )
        pairs = zip(query_folds, support_folds, strict=True)
        return [replace(fold, supports=other.supports) for fold, other in pairs]

    def _labeled(self, volumes: Volumes) -> list[str]:
        names = [name for name in volumes.names if volumes.cards[name]["labelled"]]
        self.left_out.update({name: "no labels" for name in volumes.names if name not in names})
        return names

    def query(self, name: str) -> Volume:
        """A query scan, its labels in the class numbers of the supports."""
        query = self.volumes.load(name)
        if self._numbers is None:
            return query
        assert query.labels_ZHW is not None, f"{name} has no labels"
        return replace(query, labels_ZHW=self._numbers[query.labels_ZHW])

    def support_sets(self, fold: Fold, shots: int) -> dict[int, SupportSet]:
        """Organ -> its support set among a fold's first supports; organs that none of them shows are left out."""
        if fold.number != self._fold:
            self._fold = fold.number
            self._supports = [self.support_volumes.load(name) for name in fold.supports]
            self._support_sets.clear()
        if shots not in self._support_sets:
            self._support_sets[shots] = self._build_support_sets(fold, shots)
        return self._support_sets[shots]

    def _build_support_sets(self, fold: Fold, shots: int) -> dict[int, SupportSet]:
        supports = self._supports[:shots]
        suffix = f", {shots_label(shots)}" if len(self.config.shots) > 1 else ""
        support_sets: dict[int, SupportSet] = {}
        for organ, name in self.organs.items():
            try:
                support = build_support_set(organ, name, supports, fold.number)
            except DataError as reason:
                self.left_out[f"fold {fold.number}, {name}{suffix}"] = str(reason)
                continue
            support_sets[organ] = support
            for volume in supports:
                if volume not in support.volumes:
                    self.left_out[f"fold {fold.number}, {name}, support {volume.name}"] = (
                        f"does not show it; the other supports are used ({len(support.volumes)} of {shots})"
                    )
        return support_sets


@dataclass(frozen=True, eq=False)
class _QueryScan:
    """One query scan with the support sets of its fold, by organ."""

    query: Volume
    fold: Fold
    supports: Mapping[int, SupportSet]
    config: FewshotConfig
    left_out: dict[str, str]

    @cached_property
    def truth(self) -> dict[int, np.ndarray]:
        """Organ -> (Z, H, W) bool."""
        return {organ: organ_truth(self.query, organ) for organ in self.supports}

    @cached_property
    def protocol_parts(self) -> dict[int, dict[int, int]]:
        """Organ -> slice -> part, from the query's ground truth."""
        return {organ: parts_from_truth(truth_ZHW) for organ, truth_ZHW in self.truth.items()}

    def volume_parts(self, method: Method) -> dict[int, dict[int, int]]:
        """The same without ground truth, over the whole volume."""
        reach = self.config.scan.reach
        return {
            organ: volume_parts(method.aligner, support, self.query, reach)
            for organ, support in self.supports.items()
        }

    def scores(self, method: Method) -> tuple[list[ScanScore], np.ndarray]:
        """A score for every organ that the query shows, and the label map of the method's first components."""
        shape = self.query.image_ZHW.shape
        protocol_margins, volume_margins = {}, {}
        parts = self.volume_parts(method)
        for organ, support in self.supports.items():
            plans = self.protocol_parts[organ], parts[organ]
            features = None if method.spread_over is None else method.spread_over(support)
            protocol_margins[organ], volume_margins[organ] = slice_margins(
                method.predictor, support, self.query, *plans, **method.refinement, features=features
            )
        maps = [
            label_map(volume_margins, parts, self.supports, components, shape)
            for components in method.components
        ]
        scores = [
            score
            for components, labels_ZHW in zip(method.components, maps, strict=True)
            for score in self._organ_scores(method, components, protocol_margins, labels_ZHW)
        ]
        return scores, maps[0]

    def _organ_scores(
        self,
        method: Method,
        components: Components,
        margins: Mapping[int, Mapping[int, np.ndarray]],
        labels_ZHW: np.ndarray,
    ) -> Iterator[ScanScore]:
        """One score per organ; an organ that the query does not show is left out."""
        for organ, support in self.supports.items():
            parts, truth_ZHW = self.protocol_parts[organ], self.truth[organ]
            if not parts:
                self.left_out[f"{self.query.name}, {support.name}"] = "the scan does not show it"
                continue
            mask_ZHW = organ_mask(margins[organ], parts, support, components, labels_ZHW.shape)
            steps, predicted_ZHW = self.query.steps, labels_ZHW == organ
            yield ScanScore(
                row=row_name(method, components, self.config),
                source=method.source,
                compat=method.compat,
                components=components,
                shots=method.shots,
                fold=self.fold.number,
                scan=self.query.name,
                supports=" ".join(volume.name for volume in support.volumes),
                organ=support.name,
                slices=len(parts),
                dice=dice(mask_ZHW, truth_ZHW),
                volume_dice=dice(predicted_ZHW, truth_ZHW),
                volume_hd95=math.nan if steps is None else hd95(predicted_ZHW, truth_ZHW, steps),
                missed=not predicted_ZHW.any(),
                chosen=str(method.chosen.choice(support)) if method.chosen else "",
            )


def normalized_name(name: str) -> str:
    """A class name for comparison with another folder's: case, hyphens, underscores and spaces do not count.

    >>> normalized_name("Right_Kidney ") == normalized_name("right kidney")
    True
    """
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
