"""What is known of each place in each slice of a scan: a backbone's tokens, or plain pixels and where they lie.

Both answer alike, (scan, slices) -> features, so that prototypes, test-time training and floors do not mind which of
them they are given. Ayzenberg et al., arXiv 2403.03273, section 3, feeds slices normalised by their scan's own mean
and deviation; so do we, whatever a backbone's card says, once what is far brighter than the body is cut.
"""

# Z slices of a scan, n those asked for, H, W their pixels, S, T sides as a network sees them; C channels, h, w grid.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....platform.core.errors import ConfigError, DataError
from ....platform.models.facets import embedded
from ....platform.models.positions import placed
from ...volumes.volume import Volume
from .config import SliceConfig
from .prototypes import grid_mask

if TYPE_CHECKING:
    from ....platform.models.backbone import Backbone

SliceFeatures: TypeAlias = Callable[[Volume, Sequence[int]], Tensor]
"""(scan, slices) -> (n, C, h, w) float32: what any source of features answers."""

SCALES = (1.0, 2.0, 4.0)
"""Pixel features look at the surroundings this far, sigma in pixels."""

FAR = 3.0
"""Pixel features tell values apart up to this many standard deviations from the mean."""

EDGES = 0.25
"""Weight of a gradient beside a mean of 1 in pixel features: it says where an organ ends, not which it is."""


BRIGHTEST = 5.0
"""Times the median of the body's greys. A full stomach, brighter by far, leaves the organs of one CHAOS-T2 scan no
contrast; in other scans hardly anything is cut, in CT nothing."""


class TokenFeatures:
    """A backbone's normalised patch tokens of slices: `SliceFeatures`.

    blank: whose answer to a blank slice tells the directions that `debias` removes; None is the backbone itself. One
    that is being trained is given its frozen start, so that what is removed does not change under way.
    """

    def __init__(
        self, backbone: Backbone, config: SliceConfig | None = None, blank: Backbone | None = None
    ) -> None:
        self.backbone = backbone
        self.config = config or SliceConfig()
        self.stride = self.config.stride or backbone.patch
        self.side = self.config.side or backbone.patch + (self.config.grid - 1) * self.stride
        self._blank = blank or backbone
        self._places: dict[tuple[int, int], Tensor] = {}
        _check_fit(self.config, backbone)

    def __call__(self, volume: Volume, slices: Sequence[int]) -> Tensor:
        """Features (n, C, h, w) float32 on the CPU; each slice's are the same whatever its company, but for rounding.

        Raises DataError for a scan of one value.
        """
        values_nHW = greys_of(volume).of(volume.image_ZHW[list(slices)])
        images_n1ST = resized(values_nHW, self.side, self.backbone.patch)
        with torch.no_grad():
            # One by one: a batch's products round as its size has it.
            features = torch.cat([self.seen(image_1ST[None]).cpu() for image_1ST in images_n1ST])
        return with_places(features, volume, slices, self.config.coordinates)

    def seen(self, images_n1ST: Tensor) -> Tensor:
        """(n, C, h, w) float32 on the backbone's device, under autograd; of images as `resized` makes them.

        Places are not among them: they are no network's and learn nothing.
        """
        features = torch.cat([self._at(scale, images_n1ST) for scale in self.config.scales], dim=1)
        if self.config.enlarged:
            features = F.interpolate(features, (self.config.enlarged,) * 2, mode="bilinear")
        return features

    def _at(self, scale: float, images_n1ST: Tensor) -> Tensor:
        """(n, C, h, w): tokens of the images at a multiple of their size, on the grid of their own."""
        cells = [(side - self.backbone.patch) // self.stride for side in images_n1ST.shape[2:]]
        if scale != 1:
            # As many whole steps of the grid as fit best.
            steps = [
                round((side * scale - self.backbone.patch) / self.stride) for side in images_n1ST.shape[2:]
            ]
            size = [self.backbone.patch + self.stride * max(0, step) for step in steps]
            images_n1ST = F.interpolate(images_n1ST, size, mode="bilinear", antialias=True)
        features = tokens_of(self.backbone, images_n1ST, self.config.layers, self.stride)
        if self.config.debias:
            places_CR = self._directions(*images_n1ST.shape[2:]).to(features)
            along = torch.einsum("nchw,cr->nrhw", features, places_CR)
            features = features - torch.einsum("nrhw,cr->nchw", along, places_CR)
        if scale == 1:
            return features
        return F.interpolate(features, [cell + 1 for cell in cells], mode="bilinear", antialias=True)

    def _directions(self, height: int, width: int) -> Tensor:
        """(C, debias): right singular vectors of a blank slice's features, the strongest first."""
        if (height, width) not in self._places:
            with torch.no_grad():
                blank_11ST = torch.zeros(1, 1, height, width)
                blank_1Chw = tokens_of(self._blank, blank_11ST, self.config.layers, self.stride)
            blank_NC = blank_1Chw[0].flatten(1).T.cpu()
            if self.config.debias >= min(blank_NC.shape):
                raise ConfigError(
                    f"slices.debias is {self.config.debias}; features have {min(blank_NC.shape)} directions, keep some"
                )
            _, _, directions_RC = torch.linalg.svd(blank_NC, full_matrices=False)
            self._places[height, width] = directions_RC[: self.config.debias].T
        return self._places[height, width]

    def __repr__(self) -> str:
        return f"TokenFeatures({self.backbone.card.label}, side {self.side}, stride {self.stride})"


def tokens_of(backbone: Backbone, images_n1ST: Tensor, layers: Sequence[int], stride: int) -> Tensor:
    """(n, C, h, w) float32: tokens of every layer after the network's last norm, one after the other.

    Under autograd, on the backbone's device, in evaluation mode: nothing is dropped, in training neither. Patches
    lie `stride` pixels apart.
    """
    vit = backbone.eval().vit
    wanted = [layer % len(vit.blocks) for layer in layers]
    patches_nhwC = embedded(backbone, images_n1ST, stride)
    x_nLC = vit.norm_pre(placed(vit, patches_nhwC, backbone.card.positions))
    normed = {}
    for number, block in enumerate(vit.blocks[: max(wanted) + 1]):
        x_nLC = block(x_nLC)
        if number in wanted:
            normed[number] = vit.norm(x_nLC[:, backbone.prefix :])
    features_nNC = torch.cat([normed[number] for number in wanted], dim=2).float()
    return features_nNC.mT.unflatten(2, patches_nhwC.shape[1:3]).contiguous()


def _check_fit(config: SliceConfig, backbone: Backbone) -> None:
    """Raises ConfigError for a layer or stride that the backbone has not."""
    depth, stride = len(backbone.vit.blocks), config.stride
    for layer in config.layers:
        if not -depth <= layer < depth:
            raise ConfigError(
                f"slices.layers: there is no block {layer}; this backbone has {depth}, 0 to {depth - 1} or "
                f"-{depth} to -1"
            )
    if stride and backbone.patch % stride:
        raise ConfigError(
            f"slices.stride {stride} does not divide the patch, {backbone.patch}; choose one that does"
        )


class PixelFeatures:
    """Grey values and gradients at a few scales, and where in the body they lie: `SliceFeatures`, no network.

    The floor of every table. A value v becomes (cos v, sin v), so that the cosine of two cells is the mean of
    cos(difference) over all values: as alike as their values are near, whatever their size.
    """

    def __init__(self, config: SliceConfig | None = None) -> None:
        self.config = config or SliceConfig()

    def __call__(self, volume: Volume, slices: Sequence[int]) -> Tensor:
        """Features (n, C, h, w) float32. Raises DataError for a scan of one value."""
        greys = greys_of(volume)
        return torch.cat([self._one(volume, greys.of(volume.image_ZHW[z]), z) for z in slices])

    def _one(self, volume: Volume, values_HW: np.ndarray, z: int) -> Tensor:
        """(1, C, h, w) of one slice."""
        side = self.config.enlarged or self.config.grid
        values_Khw = grid_mask(torch.from_numpy(_looks(values_HW)), side, side)
        angles = values_Khw.clamp(-FAR, FAR) * (math.pi / 2 / FAR)
        weights_K11 = torch.tensor([1.0] * (1 + len(SCALES)) + [EDGES] * len(SCALES))[:, None, None].sqrt()
        features = torch.cat([angles.cos() * weights_K11, angles.sin() * weights_K11])
        return with_places(features[None], volume, [z], self.config.pixel_coordinates)

    def __repr__(self) -> str:
        return f"PixelFeatures(grid {self.config.enlarged or self.config.grid})"


class Greys(NamedTuple):
    """How a scan's greys become numbers: cut at `top`, then less their mean and in deviations."""

    top: float
    mean: float
    std: float

    def of(self, values: np.ndarray) -> np.ndarray:
        """float32, in the shape of the greys that are given."""
        return ((np.minimum(values, self.top) - self.mean) / self.std).astype(np.float32)


@lru_cache(maxsize=8)
def greys_of(volume: Volume) -> Greys:
    """Of all a scan's greys. Raises DataError for a scan of one value or NaN.

    Body is what is brighter than a tenth of the 90th percentile; `top` is `BRIGHTEST` times its median.
    """
    values_ZHW = volume.image_ZHW
    body_n = values_ZHW[values_ZHW > np.percentile(values_ZHW, 90) / 10]
    top = BRIGHTEST * float(np.median(body_n)) if len(body_n) else math.inf
    cut_ZHW = np.minimum(values_ZHW, top)
    mean, std = float(cut_ZHW.mean(dtype=np.float64)), float(cut_ZHW.std(dtype=np.float64))
    if not std > 0 or not math.isfinite(std):
        raise DataError(
            f"{volume.name}: no contrast or no number (deviation {std:g}); prepare the scan again"
        )
    return Greys(top, mean, std)


def standardised(volume: Volume) -> np.ndarray:
    """(Z, H, W) float32 of mean 0 and deviation 1 over the scan. Raises as `greys_of` does."""
    return greys_of(volume).of(volume.image_ZHW)


def resized(slices_nHW: np.ndarray, side: int, patch: int) -> Tensor:
    """(n, 1, S, T) float32: the shorter side becomes `side`, the longer keeps its proportion up to a patch."""
    height, width = slices_nHW.shape[1:]
    scale = side / min(height, width)
    size = tuple(
        side + patch * round((pixels * scale - side) / patch)
        for pixels in (width, height)  # as OpenCV has them
    )
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return torch.from_numpy(
        np.stack([cv2.resize(slice_HW, size, interpolation=way) for slice_HW in slices_nHW])
    )[:, None]


def body_of(slice_HW: np.ndarray) -> np.ndarray:
    """(H, W) bool: the largest connected part of what is brighter than air, its holes filled.

    All of the slice where nothing stands out.
    """
    from scipy.ndimage import binary_fill_holes, label
    from skimage.filters import threshold_multiotsu, threshold_otsu

    if slice_HW.min() == slice_HW.max():
        return np.ones(slice_HW.shape, bool)
    smooth_HW = cv2.GaussianBlur(np.ascontiguousarray(slice_HW, np.float32), (0, 0), 2)
    root_HW = np.sqrt(smooth_HW - smooth_HW.min())
    try:
        # Into three, of which the darkest is air: into two, a full stomach would be parted from the rest of the body.
        edge = threshold_multiotsu(root_HW, classes=3, nbins=64)[0]
    except ValueError:  # fewer than three greys
        edge = threshold_otsu(root_HW)
    part_HW, count = label(root_HW > edge)
    if not count:
        return np.ones(slice_HW.shape, bool)
    return binary_fill_holes(part_HW == 1 + np.bincount(part_HW.ravel())[1:].argmax())


def places_of(slice_HW: np.ndarray, h: int, w: int) -> np.ndarray:
    """(4, h, w) float32 of length 1: where in the body's box the middle of each cell lies.

    The box leaves out 1 % of the body's pixels at each end: ghosts and noise cling to its edge. y and x run from -1 to
    1 over it; each is told as cosine and sine of a quarter turn per unit, so that the
    cosine of two places falls smoothly from 1 to 0 at the box's whole height and width.
    """
    body_HW = body_of(slice_HW)
    turns = []
    for axis, cells in ((1, h), (0, w)):
        share = body_HW.sum(axis=axis).cumsum() / np.count_nonzero(body_HW)
        low, high = np.searchsorted(share, 0.01), np.searchsorted(share, 0.99) + 1
        middles = (np.arange(cells) + 0.5) * len(body_HW if axis else body_HW[0]) / cells
        turns.append(np.clip(2 * (middles - low) / (high - low) - 1, -1.25, 1.25) * math.pi / 2)
    y_hw, x_hw = np.meshgrid(*turns, indexing="ij")
    return (np.stack([np.cos(y_hw), np.sin(y_hw), np.cos(x_hw), np.sin(x_hw)]) / math.sqrt(2)).astype(
        np.float32
    )


def with_places(features: Tensor, volume: Volume, slices: Sequence[int], weight: float) -> Tensor:
    """Features of mean square length 1 and places of length `weight`; features as they are where it is 0."""
    if not weight:
        return features
    lengths = [one.square().sum(dim=0).mean().sqrt() for one in features]
    features = features / torch.stack(lengths)[:, None, None, None]
    places = np.stack([places_of(volume.image_ZHW[z], *features.shape[2:]) for z in slices])
    return torch.cat([features, weight * torch.from_numpy(places)], dim=1)


def _looks(slice_HW: np.ndarray) -> np.ndarray:
    """(1 + 2 scales, H, W): the slice, its means and the strength of its gradient at every scale."""
    means = [cv2.GaussianBlur(slice_HW, (0, 0), sigma) for sigma in SCALES]
    # A step of one deviation has a gradient of about 1 / (2.5 sigma) a pixel, and so counts alike at every scale.
    edges = [
        2.5
        * sigma
        * cv2.magnitude(cv2.Scharr(mean, cv2.CV_32F, 1, 0) / 32, cv2.Scharr(mean, cv2.CV_32F, 0, 1) / 32)
        for sigma, mean in zip(SCALES, means, strict=True)
    ]
    return np.stack([slice_HW, *means, *edges])
