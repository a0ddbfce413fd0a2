"""A set of b-mode frames answered in every way: the method, TokenCut, the floors beside them, the oracle.

A backbone looks once at each frame and everything asked afterwards is remembered. The rows of every table are
those of `ROWS`; two of them use the truth (`oracle`, `mean_mask`) and say what can be had, not what was found.
"""

# H, W height and width of a frame as it came; h, w of the picture that the network sees; R, C rows and columns
# of its patches; D width, A heads.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from ...platform.core.errors import ConfigError
from ...platform.core.progress import track
from ...platform.measure.metrics import bootstrap_interval
from ...platform.models.backbone import Backbone, random_like
from ...platform.models.facets import facets_of
from .cosegmentation import (
    Cosegmentation,
    CosegmentConfig,
    best_by_truth,
    cosegment,
    enlarged,
    everything,
    mean_of_others,
    overlap,
    refined,
)
from .descriptors import log_binned
from .frames import Frame, picture_of
from .tokencut import tokencut

if TYPE_CHECKING:
    from torch import Tensor

ROWS = ("cosegment", "tokencut", "oracle", "random", "random_oracle", "mean_mask", "everything")
"""Ways of answering, in the order of every table. random: the same method on random weights of the same
architecture; oracle: those clusters that the truth would choose; mean_mask: where at least half of the other
frames' masks lie; everything: the whole frame."""

FEW = 5
"""Under so many images there is no interval."""

MOST_CUT = 4096
"""Most patches of a frame that TokenCut is asked about: its matrix has as many rows and columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroshotConfig:
    """How frames are looked at, and how a mask is made of it."""

    facet: Literal["query", "key", "value", "token"] = "key"
    """What describes a patch."""
    block: int | None = None
    """Block that it is taken from, the first is 1; None: the last."""
    attention_block: int | None = None
    """Block whose CLS token votes, the first is 1; None: the last."""
    stride: int | None = None
    """Pixels from patch to patch, a divisor of the patch's side; None: the side itself, no overlap."""
    position: Literal["dino", "timm"] | None = None
    """Whose rule resamples position embeddings to another grid; None: the checkpoint's own."""
    short: int = 224
    """Shorter side of the picture that the network sees, in pixels."""
    log_binning: bool = False
    """Describe a patch by its surroundings as well (17 bins)."""
    cosegment: CosegmentConfig = field(default_factory=CosegmentConfig)
    """How descriptors become masks."""
    resamples: int = 1000
    """Bootstrap resamples of images behind each interval."""
    seed: int = 0
    """Of the sets that are drawn, the noise, the random weights and the bootstrap."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a backbone says of one picture.

    descriptors: (R, C, D). attention: (A, R, C), the CLS row of `attention_block`. covered: the part of the frame that
    the patches cover, (rows, columns) in pixels of the frame. pixels: (H, W) uint8, what was looked at. cut:
    TokenCut's mask (R, C), None where it was not asked.
    """

    descriptors: np.ndarray
    attention: np.ndarray
    covered: tuple[float, float]
    pixels: np.ndarray
    cut: np.ndarray | None = None

    def enlarged(self, mask_RC: np.ndarray) -> np.ndarray:
        """A mask of patches at the frame's size: (H, W) bool."""
        return enlarged(mask_RC, *self.pixels.shape, self.covered)

    def share(self, mask_HW: np.ndarray) -> np.ndarray:
        """Which part of each patch's place a mask covers: (R, C), 0..1."""
        return share_of(mask_HW, self.descriptors.shape[:2], self.covered)


class Eye:
    """A backbone with the settings that it looks by. It looks at each frame once."""

    def __init__(self, backbone: Backbone, config: ZeroshotConfig, cuts: bool = False) -> None:
        """cuts: whether TokenCut is wanted. Raises ConfigError for a block that there is not."""
        self.backbone = backbone
        self.config = config
        self.cuts = cuts
        self.block = block_of(config.block, backbone)
        self.attention_block = block_of(config.attention_block, backbone)
        self._seen: dict[str, Look] = {}

    def look(self, frame: Frame) -> Look:
        """What it says of a frame; asked again, it remembers."""
        if frame.key not in self._seen:
            picture_1hw = picture_of(frame, self.backbone, self.config.short)
            self._seen[frame.key] = self.look_at(picture_1hw, frame.pixels)
        return self._seen[frame.key]

    def look_at(self, picture_1hw: Tensor, pixels_HW: np.ndarray) -> Look:
        """What it says of a picture made of a frame; `pixels` are what the picture shows, at the frame's size."""
        config = self.config
        facets = facets_of(
            self.backbone,
            picture_1hw[None],
            blocks=(self.block,),
            kinds=tuple(dict.fromkeys((config.facet, "key"))),
            attention=(self.attention_block,),
            stride=config.stride,
            position=config.position,
        )
        grid = facets.grid
        (attention_1AN,) = facets.cls_attention.values()
        of = lambda kind: facets.of[self.block, kind][0].reshape(*grid, -1).cpu().numpy()
        keys_RCD = of("key")
        cuts = self.cuts and grid[0] * grid[1] <= MOST_CUT
        return Look(
            descriptors=of(config.facet),
            attention=attention_1AN[0].reshape(-1, *grid).cpu().numpy(),
            covered=covered_of(grid, picture_1hw.shape[-2:], pixels_HW.shape, self.backbone, config.stride),
            pixels=pixels_HW,
            cut=tokencut(keys_RCD) if cuts else None,
        )

    def __repr__(self) -> str:
        return f"Eye({self.backbone.card.label}, {len(self._seen)} frames seen)"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Masks of a set of frames by row, each (H, W) bool in the order of the frames, and how they were had."""

    masks: Mapping[str, tuple[np.ndarray, ...]]
    clusters: int
    foreground: int
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        rows = ", ".join(self.masks)
        return f"Answer({rows}; {self.foreground} of {self.clusters} clusters are foreground)"


@dataclass(frozen=True, slots=True)
class Score:
    """How well one image of one set was answered in one way; `part` tells the set (`n5`, `with leg`, `eps1`)."""

    domain: str
    image: str
    part: str
    row: str
    dice: float
    iou: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Dice and IoU over the images of a set: mean, standard deviation (ddof 0), 95 % interval over images.

    Without an interval (NaN) where there are fewer than `FEW` images.
    """

    domain: str
    part: str
    row: str
    images: int
    dice: float
    dice_std: float
    dice_low: float
    dice_high: float
    iou: float
    iou_std: float
    iou_low: float
    iou_high: float


def answer(
    frames: Sequence[Frame], looks: Sequence[Look], floor: Sequence[Look], config: ZeroshotConfig
) -> Answer:
    """Every row's masks of a set whose truth is known. floor: the same frames as random weights see them."""
    found, floor_found = cosegmented(looks, config), cosegmented(floor, config)
    masks = {
        "cosegment": _whole(found.masks, looks, config.cosegment),
        "tokencut": tuple(look.enlarged(look.cut) for look in looks if look.cut is not None),
        "oracle": _whole(_by_truth(found, frames, looks), looks, config.cosegment),
        "random": _whole(floor_found.masks, floor, config.cosegment),
        "random_oracle": _whole(_by_truth(floor_found, frames, floor), floor, config.cosegment),
        "mean_mask": mean_of_others([frame.mask for frame in frames]),
        "everything": tuple(everything(*frame.mask.shape) for frame in frames),
    }
    warnings = tuple(found.warnings)
    if len(masks["tokencut"]) < len(frames):
        del masks["tokencut"]
        warnings += (f"TokenCut is left out: a frame has more than {MOST_CUT} patches",)
    return Answer(masks, len(found.votes), len(found.foreground), warnings)


class Eyes:
    """A backbone, and the same architecture at random weights beside it."""

    def __init__(self, backbone: Backbone, config: ZeroshotConfig) -> None:
        self.own = Eye(backbone, config, cuts=True)
        self.random = Eye(random_like(backbone, config.seed).eval(), config)

    def answer(self, frames: Sequence[Frame], config: ZeroshotConfig) -> Answer:
        """Every row's masks of a set."""
        looks = [self.own.look(frame) for frame in frames]
        return answer(frames, looks, [self.random.look(frame) for frame in frames], config)

    def see(self, frames: Sequence[Frame]) -> None:
        """Looks at frames ahead of the sets that hold them, where there is something to wait for."""
        for frame in track(frames, label="look", unit="frames"):
            self.own.look(frame)
            self.random.look(frame)


def found_in(
    looks: Sequence[Look], method: Literal["cosegment", "tokencut"], config: ZeroshotConfig
) -> Answer:
    """One row's masks of a set whose truth is not known."""
    if method == "tokencut":
        if any(look.cut is None for look in looks):
            raise ConfigError(
                f"TokenCut takes at most {MOST_CUT} patches a frame; choose a larger stride or a smaller side"
            )
        return Answer({"tokencut": tuple(look.enlarged(look.cut) for look in looks)}, 2, 1)
    found = cosegmented(looks, config)
    masks = _whole(found.masks, looks, config.cosegment)
    return Answer({"cosegment": masks}, len(found.votes), len(found.foreground), tuple(found.warnings))


def cosegmented(looks: Sequence[Look], config: ZeroshotConfig) -> Cosegmentation:
    """Clusters and voted masks of a set, on the patch grid."""
    descriptors = [log_binned(look.descriptors) if config.log_binning else look.descriptors for look in looks]
    return cosegment(descriptors, [look.attention for look in looks], config.cosegment)


def scores_of(frames: Sequence[Frame], part: str, answered: Answer) -> list[Score]:
    """Dice and IoU of each frame in each row."""
    scores = []
    for row, masks in answered.masks.items():
        for frame, mask_HW in zip(frames, masks, strict=True):
            dice, iou = overlap(mask_HW, frame.mask)
            scores.append(Score(frame.domain, frame.name, part, row, dice, iou))
    return scores


def summaries_of(scores: Sequence[Score], config: ZeroshotConfig) -> list[Summary]:
    """Mean, spread and interval for each domain, part and row, in the order in which they come."""
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.domain, score.part, score.row), []).append(score)
    return [Summary(*place, len(own), *_spread(own, config)) for place, own in groups.items()]


def share_of(mask_HW: np.ndarray, grid: tuple[int, int], covered: tuple[float, float]) -> np.ndarray:
    """Which part of each patch's place a mask covers: (R, C) float32, 0..1; what no patch covers is left out."""
    inside = mask_HW[: round(covered[0]), : round(covered[1])].astype(np.float32)
    # Rounded area weights can add up to a little more than the whole.
    return cv2.resize(inside, (grid[1], grid[0]), interpolation=cv2.INTER_AREA).clip(0, 1)


def covered_of(
    grid: tuple[int, int],
    picture: tuple[int, int],
    frame: tuple[int, int],
    backbone: Backbone,
    stride: int | None,
) -> tuple[float, float]:
    """Rows and columns of a frame that the patches of its picture cover, in pixels of the frame, from the top left."""
    step = stride or backbone.patch
    spans = [((count - 1) * step + backbone.patch) / side for count, side in zip(grid, picture, strict=True)]
    rows, columns = (min(side, span * side) for span, side in zip(spans, frame, strict=True))
    return rows, columns


def block_of(block: int | None, backbone: Backbone) -> int:
    """A block that people count from 1, counted from 0; None is the last. Raises ConfigError."""
    blocks = len(backbone.vit.blocks)
    if block is None:
        return blocks - 1
    if not 1 <= block <= blocks:
        raise ConfigError(f"block {block}: the backbone has blocks 1 to {blocks}")
    return block - 1


def _whole(
    masks: Sequence[np.ndarray], looks: Sequence[Look], config: CosegmentConfig
) -> tuple[np.ndarray, ...]:
    """Masks of patches at their frames' sizes, refined where that is asked for."""
    return tuple(
        refined(look.enlarged(mask_RC), look.pixels, config)
        for mask_RC, look in zip(masks, looks, strict=True)
    )


def _by_truth(
    found: Cosegmentation, frames: Sequence[Frame], looks: Sequence[Look]
) -> tuple[np.ndarray, ...]:
    covered = [look.covered for look in looks]
    return best_by_truth(found, [frame.mask for frame in frames], covered).masks


def _spread(scores: Sequence[Score], config: ZeroshotConfig) -> list[float]:
    """Mean, standard deviation and interval of Dice, then of IoU."""
    told: list[float] = []
    for value_N in (np.array([one.dice for one in scores]), np.array([one.iou for one in scores])):
        low = high = float("nan")
        if len(value_N) >= FEW:
            mean_of = lambda weight_RN, value_N=value_N: weight_RN @ value_N / weight_RN.sum(axis=1)
            images = [one.image for one in scores]
            low, high = map(float, bootstrap_interval(mean_of, images, config.resamples, config.seed))
        told += [float(value_N.mean()), float(value_N.std()), low, high]
    return told
