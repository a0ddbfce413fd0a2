"""Shared by the three co-segmentation experiments: scores of sets collected into tables, metrics and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from ...common.figures import Tile, colors_by_name, grid, overlay
from ..config import ZeroshotConfig
from ..figures import MARKERS, Bar
from ..frames import Frame
from ..method.comparison import SetMasks
from ..method.scores import ImageScore, SeedSummary, SetSummary, score_images, summarize
from ..record import ZeroshotResult

Summary = TypeVar("Summary", SetSummary, SeedSummary)

MEASURES = {"dice": "Dice", "iou": "IoU"}
"""Field of a score -> its name in a figure."""

LEGEND = "found: filled, truth: yellow outline"


class SetResults:
    """Collects the scores of sets, and which images and clusters each set had."""

    def __init__(self, config: ZeroshotConfig) -> None:
        self.config = config
        self.scores: list[ImageScore] = []
        self.sets: dict[str, Any] = {}
        self.warnings: list[str] = []

    def add(
        self,
        name: str,
        part: str,
        frames: Sequence[Frame],
        set_masks: SetMasks,
        parts: Mapping[str, str] | None = None,
    ) -> None:
        """Scores one set. parts: domain -> the part that its images belong to, where a set has several domains."""
        for domain in dict.fromkeys(frame.domain for frame in frames):
            places = [place for place, frame in enumerate(frames) if frame.domain == domain]
            domain_frames = [frames[place] for place in places]
            self.scores += score_images(
                domain_frames, (parts or {}).get(domain, part), set_masks.part(places)
            )
        title = f"{name} {part}".strip()
        self.sets[title] = {
            "images": [frame.key for frame in frames],
            "clusters": set_masks.clusters,
            "foreground": set_masks.foreground,
            "saliency": set_masks.saliency,
        }
        self.warnings += [f"{title}: {warning}" for warning in set_masks.warnings]

    @property
    def summaries(self) -> list[SetSummary]:
        """One for each domain, part and row."""
        return summarize(self.scores, self.config)

    def outcome(
        self,
        experiment: str,
        pictures: Mapping[str, bytes],
        left_out: Mapping[str, str],
        tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> ZeroshotResult:
        """Everything that was collected, with further tables and metrics, under the experiment's name."""
        summaries = self.summaries
        set_metrics = {
            f"{experiment}/{measure}.{one.domain}.{one.part.replace(' ', '_')}.{one.row}{ending}": value
            for one in summaries
            for measure in MEASURES
            for ending, value in _with_spread(one, measure).items()
        }
        rows = {"images": [asdict(one) for one in self.scores], "summary": [asdict(one) for one in summaries]}
        return ZeroshotResult(
            set_metrics | {f"{experiment}/{name}": value for name, value in (metrics or {}).items()},
            rows | dict(tables or {}),
            pictures,
            facts={"sets": self.sets},
            left_out=left_out,
            warnings=tuple(self.warnings),
        )


def _with_spread(summary: SetSummary, measure: str) -> dict[str, float]:
    """Ending of a metric's name -> value."""
    endings = ("", ".std", ".low", ".high")
    return {ending: getattr(summary, measure + ending.replace(".", "_")) for ending in endings}


def by_place(summaries: Sequence[Summary]) -> dict[tuple[str, str, str], Summary]:
    """Summaries by (domain, part, row)."""
    return {(one.domain, one.part, one.row): one for one in summaries}


def summary_bar(
    summary: Summary, summaries: Mapping[tuple[str, str, str], Summary], measure: str, group: str
) -> Bar:
    """The bar of one row, with the baselines and oracles of the same set as markers."""
    marks = {
        row: getattr(summaries[summary.domain, summary.part, row], measure)
        for row in MARKERS
        if (summary.domain, summary.part, row) in summaries
    }
    value, std = getattr(summary, measure), getattr(summary, f"{measure}_std")
    return Bar(group, summary.domain, value, std, marks, summary.part == "alone")


def examples_figure(title: str, sets: Mapping[str, tuple[Sequence[Frame], SetMasks]]) -> bytes:
    """A row of overlays for each set, each in its domain's color: PNG bytes."""
    colors = colors_by_name({frame.domain for frames, _ in sets.values() for frame in frames})
    rows = []
    for name, (frames, set_masks) in sets.items():
        dice = {one.image: one.dice for one in score_images(frames, "", set_masks) if one.row == "cosegment"}
        tiles = [
            Tile(
                overlay(frame.pixels, mask, colors[frame.domain], frame.mask),
                frame.name,
                f"Dice {dice[frame.name]:.2f}",
            )
            for frame, mask in zip(frames, set_masks.masks["cosegment"], strict=True)
        ]
        one_domain = len({frame.domain for frame in frames}) == 1
        rows.append((name, colors[frames[0].domain] if one_domain else "#222222", tiles))
    return grid(title, rows, LEGEND)
