"""Settings of the zero-shot experiments on b-mode frames."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ...platform.core.device import DeviceConfig
from ...platform.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class CosegmentConfig:
    """How patches are clustered, and which clusters are foreground."""

    clusters: int | None = None
    """Clusters for the patches of all images together; None: several numbers for vote consensus, else the elbow
    rule chooses."""
    elbow: float = 0.975
    """Clusters are added until one more leaves over this share of the sum of squared distances."""
    most: int = 15
    """Most clusters that the elbow rule may choose."""
    every: int = 1
    """k-means is fitted on every n-th patch of each image; all patches are then assigned."""
    tries: int = 5
    """Random starts of each k-means. For vote consensus all of them vote, else the one of the smallest sum of squared
    distances is kept."""
    saliency: Literal["minmax", "rank", "raw", "sum1", "bone", "auto"] | None = None
    """Scale of an image's CLS attention: stretched to 0..1, its rank among the image's patches from 0 to 1,
    unchanged, divided by its sum over the patches, or for vote consensus its rank minus that of the brightness, less
    towards the edge (bone: it and its shadow are attended to although dark), or of bone and rank the one whose votes
    agree more in the set (auto). None: auto for vote consensus, minmax for the others."""
    away: bool = False
    """Reverse the saliency: a backbone pretrained on b-mode attends to everything but bone and its shadow."""
    heads: tuple[int, ...] = ()
    """Heads whose attention is averaged, counted from 0; empty: all. Amir et al. take 0 2 4 5 of DINO's ViT-S/8."""
    tau: float = 0.2
    """An image votes for a cluster whose mean saliency in it is at least this (not for vote consensus). Amir et al.:
    0.065."""
    share: float = 0.65
    """Share of the images, rounded up, whose votes make a cluster foreground, or that must have it for vote
    consensus. Amir et al.: 0.75."""
    vote: Literal["consensus", "mean", "literal"] = "consensus"
    """consensus: many clusterings, in each the most salient cluster that enough images have; foreground is what they
    agree on, without tau. mean: the seed paper's method, one clustering (elbow) and tau. literal: its formula as
    printed, which sums over the images before it compares with tau."""
    refine: Literal["none", "grabcut"] = "none"
    """Last step: move the border of each mask to the edges of the image."""
    band: int = 3
    """Pixels on either side of a mask's border that GrabCut may reassign."""
    seed: int = 0
    """Seed for k-means and GrabCut."""

    def __post_init__(self) -> None:
        minimum = {"clusters": 1, "most": 1, "every": 1, "tries": 1, "band": 1, "seed": 0}
        for name, bound in minimum.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ConfigError(f"cosegment.{name} is {value}; it must be at least {bound}")
        for name in ("elbow", "share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"cosegment.{name} is {getattr(self, name)}; a share is above 0 and at most 1"
                )
        if not 0 < self.tau < math.inf:
            raise ConfigError(f"cosegment.tau is {self.tau}; it must be a finite number above 0")
        if self.saliency in ("bone", "auto") and self.vote != "consensus":
            raise ConfigError(f"cosegment.saliency is {self.saliency}, which needs cosegment.vote consensus")
        if any(head < 0 for head in self.heads) or len(set(self.heads)) < len(self.heads):
            raise ConfigError(f"cosegment.heads is {self.heads}; count heads from 0, each once")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokencutConfig:
    """How TokenCut cuts one frame."""

    tau: float = 0.2
    """Two patches are similar whose keys have a larger cosine. 0.2 is the paper's, for DINO's keys; where a frame's
    cosines all lie above it, as DINOv2's do in its last block, nothing is cut and a warning says which value would."""

    def __post_init__(self) -> None:
        if not -1 <= self.tau <= 1:
            raise ConfigError(f"tokencut.tau is {self.tau}; a cosine lies from -1 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroshotConfig(DeviceConfig):
    """How frames are encoded, and how masks are made from the descriptors of their patches."""

    facet: Literal["query", "key", "value", "token"] = "key"
    """Which vectors of a block describe its patches."""
    block: int | None = None
    """Block that the descriptors are taken from, counted from 1; None: the last, or for vote consensus each of the
    last quarter of all blocks."""
    attention_block: int | None = None
    """Block whose CLS attention votes, counted from 1; None: the last, or for vote consensus each of the last quarter
    of all blocks."""
    stride: int | None = None
    """Pixels from patch to patch, a divisor of the patch's side; None: the side itself, no overlap."""
    position: Literal["dino", "timm"] | None = None
    """Rule by which position embeddings are resampled to another grid; None: the checkpoint's own."""
    short: int | None = None
    """Shorter side of the network's input, in pixels; None: the side said behind the backbone, `BACKBONE#side=PX`,
    else 224."""
    log_binning: bool = False
    """Describe a patch by its surroundings as well (17 bins)."""
    cosegment: CosegmentConfig = field(default_factory=CosegmentConfig)
    """How descriptors become masks."""
    tokencut: TokencutConfig = field(default_factory=TokencutConfig)
    """How TokenCut, the method beside it, cuts a frame."""
    resamples: int = 1000
    """Bootstrap resamples of images behind each interval."""
    seed: int = 0
    """Seed for the choice of images, the noise, the random weights and the bootstrap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SameDomainConfig(ZeroshotConfig):
    """Co-segmentation of images of one domain, in sets of growing size."""

    sizes: tuple[int, ...] = (2, 3, 5, 10)
    """Images of a set; each set is a part of the larger ones."""
    seeds: int = 1
    """Draws of the sets, of seed, seed + 1 and so on (k-means' seed counts with them); with more than one, a table
    gives mean, standard deviation and worst over them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossDomainConfig(ZeroshotConfig):
    """Co-segmentation of images of two domains together, compared with each domain alone."""

    images: int = 5
    """Images of each domain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig(ZeroshotConfig):
    """Co-segmentation of images of one domain under growing noise."""

    images: int = 5
    """Images of each domain, or all where it has fewer."""
    levels: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    """Standard deviations of the noise."""
    space: Literal["normalised", "unit", "8bit"] = "normalised"
    """Unit of a level: of the normalized input, of pixels from 0 to 1, or one of 255 gray levels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AssessConfig(ZeroshotConfig):
    """Principal components of every facet of every block, and the CLS attention; one image per domain."""

    buddies: int = 0
    """Best buddies (patches that are each other's nearest, both salient) drawn between one image of each domain and
    one of the next (the domain's second image where there is only one domain); 0 draws none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatterConfig(ZeroshotConfig):
    """Three principal components of the patches of all domains, as a cloud in three dimensions."""

    images: int = 2
    """Images of each domain, or all where it has fewer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroshotSegmentConfig(ZeroshotConfig):
    """How frames without truth are segmented."""

    method: Literal["cosegment", "tokencut"] = "cosegment"
    """cosegment: what all frames have in common; tokencut: what stands out in each frame by itself."""
