"""Five experiments on b-mode frames that nobody trained for: how robust are a backbone's features?

After the seed paper "Robustness of self-supervised ViT features in b-mode images" (DINO keys, co-segmentation
after Amir et al., arXiv 2112.05814). Each takes domains and a backbone, and gives back what it found; blocks are
counted from 1 in whatever people read.
"""

# h, w height and width of the picture that the network sees; R, C rows and columns of patches; D width; P patches
# of all frames; L blocks.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from ...platform.core.errors import ConfigError
from ...platform.core.progress import track
from ...platform.models.backbone import Backbone
from .answers import (
    ROWS,
    Answer,
    Eyes,
    Score,
    Summary,
    ZeroshotConfig,
    answer,
    scores_of,
    summaries_of,
)
from .figures import MARKS, WORDS, Bar, Tile, bars, colours_of, curves, grid, overlay
from .frames import Domain, Frame, drawn_from, enough, picture_of, setup_of
from .record import Found

if TYPE_CHECKING:
    from torch import Tensor

NOTE = "found: filled, truth: yellow outline"

SPACES = {"normalised": lambda std: 1.0, "unit": lambda std: 1 / std, "8bit": lambda std: 1 / (255 * std)}
"""Space in which noise is added -> what one unit of it is in the normalised space, by the card's std."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SameDomainConfig(ZeroshotConfig):
    """Co-segmentation of images of one domain, in sets that grow."""

    sizes: tuple[int, ...] = (2, 3, 5, 10)
    """Images of a set; each set is a part of the larger ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossDomainConfig(ZeroshotConfig):
    """Co-segmentation of images of two domains together, beside each domain alone."""

    images: int = 5
    """Images of each domain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig(ZeroshotConfig):
    """Co-segmentation of images of one domain under noise that grows."""

    images: int = 5
    """Images of each domain, as many as it has at most."""
    levels: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    """Standard deviations of the noise."""
    space: Literal["normalised", "unit", "8bit"] = "normalised"
    """What a level of 1 is: one unit of the normalised picture, of pixels from 0 to 1, or one grey level of 255."""


def same_domain(domains: Sequence[Domain], backbone: Backbone, config: SameDomainConfig) -> Found:
    """Every domain, sets of growing size; how well they are found."""
    sizes = sorted(set(config.sizes))
    if not sizes or sizes[0] < 2:
        raise ConfigError(f"sizes {list(config.sizes)}: a set holds 2 images at least")
    domains, left_out = enough(domains, sizes[0])
    eyes = Eyes(backbone, config)
    drawn = {domain.name: drawn_from(domain, config.seed)[: sizes[-1]] for domain in domains}
    eyes.see([frame for frames in drawn.values() for frame in frames])
    work = [(name, size) for name, frames in drawn.items() for size in sizes if size <= len(frames)]
    left_out |= {
        f"{name} n{size}": f"it has {len(frames)} usable images"
        for name, frames in drawn.items()
        for size in sizes
        if size > len(frames)
    }
    told = _Sets(config)
    answers = {}
    for name, size in track(work, label="same-domain", unit="sets"):
        frames = drawn[name][:size]
        answers[name, size] = eyes.answer(frames, config)
        told.add(name, f"n{size}", frames, answers[name, size])
    shown = {name: max(size for other, size in work if other == name and size <= 5) for name in drawn}
    examples = {name: (drawn[name][:size], answers[name, size]) for name, size in shown.items()}
    pictures = {"examples": _examples("Same domain, sets of up to 5 images", examples)}
    for measure in ("dice", "iou"):
        pictures[measure] = bars(
            f"Same domain: {_said(measure)} by the number of images, {backbone.card.label}",
            _said(measure),
            [
                _bar(one, _by_place(told.summaries), measure, f"{one.part[1:]} images")
                for one in told.summaries
                if one.row == "cosegment"
            ],
            "bars: co-segmentation, lines: standard deviation over images",
        )
    return told.found("same-domain", pictures, left_out)


def cross_domain(domains: Sequence[Domain], backbone: Backbone, config: CrossDomainConfig) -> Found:
    """Each pair of domains together, as many images of each; beside every domain alone."""
    if config.images < 2:
        raise ConfigError(f"images {config.images}: a domain alone needs 2 at least")
    domains, left_out = enough(domains, config.images, domains_needed=2)
    eyes = Eyes(backbone, config)
    drawn = {domain.name: drawn_from(domain, config.seed)[: config.images] for domain in domains}
    eyes.see([frame for frames in drawn.values() for frame in frames])
    told = _Sets(config)
    for name, frames in track(drawn.items(), label="alone", unit="domains"):
        told.add(name, "alone", frames, eyes.answer(frames, config))
    examples: dict[str, tuple[Sequence[Frame], Answer]] = {}
    for a, b in track(list(combinations(domains, 2)), label="cross-domain", unit="pairs"):
        frames = (*drawn[a.name], *drawn[b.name])
        answered = eyes.answer(frames, config)
        told.add(
            f"{a.name} + {b.name}", "", frames, answered, {a.name: f"with {b.name}", b.name: f"with {a.name}"}
        )
        examples[f"{a.name} + {b.name}"] = _some(frames, answered, (0, 1, config.images, config.images + 1))
    pairs = _pairs(domains, told.summaries)
    pictures = {"examples": _examples("Two domains together, two images of each", examples)}
    for measure in ("dice", "iou"):
        pictures[measure] = bars(
            f"Two domains together: {_said(measure)} of each, {backbone.card.label}",
            _said(measure),
            list(_pair_bars(domains, told.summaries, measure)),
            "bars: co-segmentation; pale: the same images of the domain alone; lines: standard deviation over images",
        )
    return told.found("cross-domain", pictures, left_out, {"pairs": pairs}, _changes(pairs))


def noise(domains: Sequence[Domain], backbone: Backbone, config: NoiseConfig) -> Found:
    """Every domain under noise that grows; the noise of an image is one field, scaled."""
    if not config.levels or min(config.levels) < 0:
        raise ConfigError(f"levels {list(config.levels)}: give at least one, none below 0")
    domains, left_out = enough(domains, 2)
    eyes = Eyes(backbone, config)
    drawn = {domain.name: drawn_from(domain, config.seed)[: max(2, config.images)] for domain in domains}
    told = _Sets(config)
    rows: list[tuple[str, str, list[Tile]]] = []
    for name, frames in drawn.items():
        colour = colours_of(drawn)[name]
        seen, found = [], []
        for level in track(config.levels, label=f"noise, {name}", unit="levels"):
            noisy = [_noisy(frame, backbone, level, config) for frame in frames]
            looks = [[eye.look_at(*one) for one in noisy] for eye in (eyes.own, eyes.random)]
            answered = answer(frames, *looks, config)
            told.add(name, f"eps{level:g}", frames, answered)
            first, mask = frames[0], answered.masks["cosegment"][0]
            dice = scores_of(frames[:1], "", Answer({"cosegment": (mask,)}, 0, 0))[0].dice
            seen.append(Tile(noisy[0][1], f"eps {level:g}"))
            found.append(Tile(overlay(first.pixels, mask, colour, first.mask), below=f"Dice {dice:.2f}"))
        rows += [(name, colour, seen), (name, colour, found)]
    title = f"Noise of eps * N(0, 1) in the {config.space} space, one image a domain, {backbone.card.label}"
    pictures = {"grid": grid(title, rows, f"above: what the network sees; below: {NOTE}, on the clean image")}
    for measure in ("dice", "iou"):
        pictures[measure] = _noise_curves(told.summaries, measure, backbone.card.label)
    return told.found("noise", pictures, left_out)


class _Sets:
    """Collects the scores of sets, and what was drawn and chosen for each."""

    def __init__(self, config: ZeroshotConfig) -> None:
        self.config = config
        self.scores: list[Score] = []
        self.sets: dict[str, Any] = {}
        self.warnings: list[str] = []

    def add(
        self,
        name: str,
        part: str,
        frames: Sequence[Frame],
        answered: Answer,
        parts: Mapping[str, str] | None = None,
    ) -> None:
        """parts: domain -> the part that its images stand for, where a set has several domains."""
        for domain in dict.fromkeys(frame.domain for frame in frames):
            places = [place for place, frame in enumerate(frames) if frame.domain == domain]
            own, own_answer = _some(frames, answered, places)
            self.scores += scores_of(own, (parts or {}).get(domain, part), own_answer)
        title = f"{name} {part}".strip()
        self.sets[title] = {
            "images": [frame.key for frame in frames],
            "clusters": answered.clusters,
            "foreground": answered.foreground,
        }
        self.warnings += [f"{title}: {warning}" for warning in answered.warnings]

    @property
    def summaries(self) -> list[Summary]:
        """Of each domain, part and row."""
        return summaries_of(self.scores, self.config)

    def found(
        self,
        experiment: str,
        pictures: Mapping[str, bytes],
        left_out: Mapping[str, str],
        tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Found:
        """All of it under the experiment's name."""
        summaries = self.summaries
        told = {
            f"{experiment}/{measure}.{one.domain}.{one.part.replace(' ', '_')}.{one.row}{end}": value
            for one in summaries
            for measure in ("dice", "iou")
            for end, value in _measured(one, measure).items()
        }
        rows = {"images": [asdict(one) for one in self.scores], "summary": [asdict(one) for one in summaries]}
        return Found(
            told | {f"{experiment}/{name}": value for name, value in (metrics or {}).items()},
            rows | dict(tables or {}),
            pictures,
            facts={"sets": self.sets},
            left_out=left_out,
            warnings=tuple(self.warnings),
        )


def _measured(one: Summary, measure: str) -> dict[str, float]:
    """Ending of a metric's name -> value."""
    return {end: getattr(one, measure + end.replace(".", "_")) for end in ("", ".std", ".low", ".high")}


def _some(
    frames: Sequence[Frame], answered: Answer, places: Sequence[int]
) -> tuple[tuple[Frame, ...], Answer]:
    """A part of a set and of what was answered."""
    masks = {row: tuple(own[place] for place in places) for row, own in answered.masks.items()}
    return tuple(frames[place] for place in places), Answer(masks, answered.clusters, answered.foreground)


def _pairs(domains: Sequence[Domain], summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """For each pair, its domains and each row: Dice together and alone, with what differs between the domains."""
    mean = {(one.domain, one.part, one.row): one.dice for one in summaries}
    rows = []
    for a, b in combinations(domains, 2):
        for one, other in ((a, b), (b, a)):
            for row in ROWS:
                if (one.name, "alone", row) not in mean:
                    continue
                together, alone = mean[one.name, f"with {other.name}", row], mean[one.name, "alone", row]
                rows.append(
                    {
                        "domain": one.name,
                        "with": other.name,
                        "setup": setup_of(a, b),
                        "row": row,
                        "dice": together,
                        "dice_alone": alone,
                        "change": together - alone,
                    }
                )
    return rows


def _changes(pairs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean Dice of a row over the pairs of one set-up, and its mean change from the domains alone."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in pairs:
        groups.setdefault((one["setup"].replace(" ", "_"), one["row"]), []).append(one)
    return {
        f"{measure}.setup.{setup}.{row}": float(np.mean([one[key] for one in own]))
        for (setup, row), own in groups.items()
        for measure, key in (("dice", "dice"), ("dice_change", "change"))
    }


def _bar(one: Summary, by: Mapping[tuple[str, str, str], Summary], measure: str, group: str) -> Bar:
    """The method's bar with the other rows of the same set as marks."""
    marks = {
        row: getattr(by[one.domain, one.part, row], measure)
        for row in MARKS
        if (one.domain, one.part, row) in by
    }
    return Bar(
        group, one.domain, getattr(one, measure), getattr(one, f"{measure}_std"), marks, one.part == "alone"
    )


def _pair_bars(domains: Sequence[Domain], summaries: Sequence[Summary], measure: str) -> Iterator[Bar]:
    """For each pair four bars: either domain together with the other, and alone."""
    by = _by_place(summaries)
    for a, b in combinations(domains, 2):
        group = f"{a.name} + {b.name} ({setup_of(a, b)})"
        for one, other in ((a, b), (b, a)):
            for part in (f"with {other.name}", "alone"):
                yield _bar(by[one.name, part, "cosegment"], by, measure, group)


def _by_place(summaries: Sequence[Summary]) -> dict[tuple[str, str, str], Summary]:
    return {(one.domain, one.part, one.row): one for one in summaries}


def _examples(title: str, sets: Mapping[str, tuple[Sequence[Frame], Answer]]) -> bytes:
    """A row of overlays for each set, each in its domain's colour."""
    colours = colours_of({frame.domain for frames, _ in sets.values() for frame in frames})
    rows = []
    for name, (frames, answered) in sets.items():
        dice = {one.image: one.dice for one in scores_of(frames, "", answered) if one.row == "cosegment"}
        tiles = [
            Tile(
                overlay(frame.pixels, mask, colours[frame.domain], frame.mask),
                frame.name,
                f"Dice {dice[frame.name]:.2f}",
            )
            for frame, mask in zip(frames, answered.masks["cosegment"], strict=True)
        ]
        alone = len({frame.domain for frame in frames}) == 1
        rows.append((name, colours[frames[0].domain] if alone else "#222222", tiles))
    return grid(title, rows, NOTE)


def _noisy(frame: Frame, backbone: Backbone, level: float, config: NoiseConfig) -> tuple[Tensor, np.ndarray]:
    """A frame under noise as the network sees it, (1, h, w), and the same as pixels of the frame's size, uint8.

    The noise follows from the seed and the frame's pixels alone; it is neither rounded nor clipped for the network.
    """
    import torch

    picture_1hw = picture_of(frame, backbone, config.short)
    if level == 0:
        return picture_1hw, frame.pixels
    card = backbone.card
    random = np.random.default_rng([config.seed, int(frame.digest[:16], 16)])
    field_1hw = torch.from_numpy(random.standard_normal(picture_1hw.shape, dtype=np.float32))
    scale = level * SPACES[config.space](card.std)
    noisy_1hw = picture_1hw + scale * field_1hw.to(picture_1hw.device)
    grey_hw = (noisy_1hw[0].cpu().numpy() * card.std + card.mean) * 255
    height, width = frame.pixels.shape
    grey_HW = cv2.resize(grey_hw, (width, height), interpolation=cv2.INTER_LINEAR)
    return noisy_1hw, np.clip(np.round(grey_HW), 0, 255).astype(np.uint8)


def _noise_curves(summaries: Sequence[Summary], measure: str, label: str) -> bytes:
    """A panel for each row of the tables, a curve for each domain."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in ROWS:
        for one in summaries:
            if one.row == row:
                points = panels.setdefault(WORDS[row], {}).setdefault(one.domain, [])
                points.append((float(one.part.removeprefix("eps")), getattr(one, measure)))
    return curves(f"{_said(measure)} under noise, {label}", panels, "noise, eps", _said(measure))


def _said(measure: str) -> str:
    return {"dice": "Dice", "iou": "IoU"}[measure]
