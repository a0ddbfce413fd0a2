"""Cut the crops of a batch on the device (GPU): the loader sends whole views and transforms.

All crops of one size are cut together, without a loop over crops and without reading a value back, so that the
host never waits for the device. Each crop is a function of its own view and plan, not of the batch that it is cut
in: sums are over one pixel's own values or over integers below 2**24, which float32 holds exactly in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import CropBatch
from .config import CropConfig
from .crop_plan import BLUR, CropTransforms, PlannedStudy
from .noise import hash_bits, normal_quantiles

Level = TypeVar("Level", int, Tensor)

# B studies, V = 2 views, C crops of a view, G and L those of all views, globals first; S side of a crop.
# H and W: of the common frame; R and M: rows and columns of the image that holds all pyramid levels of a view.

FRAME = 64
"""Pixels: a frame's sides are multiples of this, so that memory is allocated in few sizes."""

REACH = round(6 * BLUR[1] + 1) // 2
"""Pixels to either side under the widest blur: three standard deviations, as OpenCV rounds them."""

STUDIES_AT_ONCE = 64
"""Studies that are cut together; this bounds the temporary memory: 12 MB a study with the default crops."""


@dataclass(frozen=True, slots=True, eq=False)
class PlannedBatch:
    """The views of B studies and the transforms of their crops; the teacher's view comes first."""

    frames_BVHW: Tensor
    """uint8; each view in the upper left corner, its last row and column repeated to the frame's edge."""
    sizes_BV2: Tensor
    """int64: height and width of each view in its frame."""
    level_BVC: Tensor
    """int64: how often the view is halved first."""
    matrix_BVC23: Tensor
    """float32: (x, y) in that level = matrix @ (column, row, 1) of the crop."""
    curve_BVCP: Tensor
    """uint8 (B, V, C, 256): gray value in -> gray value out."""
    kernel_BVCK: Tensor
    """float32 (B, V, C, 2 * REACH + 1): the blur's weights times 256, integers."""
    noise_BVC: Tensor
    """float32: standard deviation in gray values."""
    keys_BVC2: Tensor
    """int64 below 2**32: keys of the noise (see `noise.hash_bits`)."""
    hidden_TBN: Tensor
    """bool: as in CropBatch."""
    levels: int
    """Pyramid levels that the batch needs."""
    keys: tuple[str, ...]
    is_pair: tuple[bool, ...]
    """For each study: whether its crops come from two different views."""

    def to(self, device: torch.device | str) -> PlannedBatch:
        """The same batch on a device; the copy does not block."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> PlannedBatch:
        """The same batch in page-locked memory; a DataLoader calls this."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> PlannedBatch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            name: change(value) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)

    def __repr__(self) -> str:
        height, width = self.frames_BVHW.shape[-2:]
        return f"PlannedBatch({len(self.keys)} studies, {sum(self.is_pair)} pairs, frames {height}x{width})"


def cuts_on_device(config: CropConfig, device: torch.device) -> bool:
    """Whether crops are cut on this device and not by the loaders.

    >>> cuts_on_device(CropConfig(), torch.device("cpu")), cuts_on_device(CropConfig(), torch.device("cuda"))
    (False, True)
    """
    return config.cut_on == "device" or (config.cut_on == "auto" and device.type == "cuda")


def collate_plans(studies: Sequence[PlannedStudy], hidden: Sequence[np.ndarray]) -> PlannedBatch:
    """Stack planned studies into a batch; hidden: one (T, N) bool array a study."""
    levels = 1 + max(int(one.level.max()) for study in studies for one in study.transforms)
    sizes = np.array([[view.shape for view in study.views] for study in studies])
    step = max(FRAME, 1 << levels)
    height, width = -(-sizes.max(axis=(0, 1)) // step) * step
    frames = np.empty((*sizes.shape[:2], height, width), np.uint8)
    for frame_VHW, study in zip(frames, studies, strict=True):
        for frame_HW, view in zip(frame_VHW, study.views, strict=True):
            frame_HW[...] = np.pad(view, [(0, height - view.shape[0]), (0, width - view.shape[1])], "edge")

    def stacked(values: Callable[[CropTransforms], np.ndarray], dtype: type) -> Tensor:
        rows = [[values(one) for one in study.transforms] for study in studies]
        return torch.from_numpy(np.array(rows).astype(dtype))

    return PlannedBatch(
        frames_BVHW=torch.from_numpy(frames),
        sizes_BV2=torch.from_numpy(sizes.astype(np.int64)),
        level_BVC=stacked(lambda one: one.level, np.int64),
        matrix_BVC23=stacked(lambda one: one.matrix, np.float32),
        curve_BVCP=stacked(lambda one: one.curve, np.uint8),
        kernel_BVCK=stacked(lambda one: blur_kernels(one.blur), np.float32),
        noise_BVC=stacked(lambda one: one.noise, np.float32),
        keys_BVC2=stacked(lambda one: one.keys, np.int64),
        hidden_TBN=torch.from_numpy(np.stack(hidden, axis=1)),
        levels=levels,
        keys=tuple(study.key for study in studies),
        is_pair=tuple(study.is_pair for study in studies),
    )


def blur_kernels(deviations: np.ndarray) -> np.ndarray:
    """Gaussians of standard deviations (C,) in pixels, as integers that sum to 256: (C, 2 * REACH + 1).

    As OpenCV's, they end after three standard deviations, and what rounding takes from one weight is added to its
    neighbor further in. Deviation 0 gives the kernel that changes nothing.
    """
    offset = np.arange(-REACH, REACH + 1)
    deviation = np.maximum(deviations, 1e-3)[:, None]
    weight = np.exp(-(offset**2) / (2 * deviation**2)) * (np.abs(offset) <= np.rint(6 * deviation + 1) // 2)
    outer = np.cumsum(weight[:, :REACH], axis=1) / weight.sum(axis=1, keepdims=True)
    half = np.diff(np.rint(256 * outer), axis=1, prepend=0)
    return np.concatenate([half, 256 - 2 * half.sum(axis=1, keepdims=True), half[:, ::-1]], axis=1)


def crops_on_device(device: torch.device, batch: CropBatch | PlannedBatch, config: CropConfig) -> CropBatch:
    """A loader's batch as crops on a device; they are cut there if they are only planned."""
    moved = batch.to(device)
    return cut_batch(moved, config) if isinstance(moved, PlannedBatch) else moved


@torch.no_grad()
def cut_batch(batch: PlannedBatch, config: CropConfig) -> CropBatch:
    """Cut all crops on the device where the views are; gray values differ from `crops.cut_crops` by at most 2.

    The host never waits for the device.
    """
    starts = range(0, len(batch.keys), STUDIES_AT_ONCE)
    parts = zip(*[_cut_studies(batch, start, config) for start in starts], strict=True)
    globals_GB1SS, locals_LB1SS = (torch.cat(part, dim=1) for part in parts)
    return CropBatch(globals_GB1SS, locals_LB1SS, batch.hidden_TBN, batch.keys, batch.is_pair)


def _cut_studies(batch: PlannedBatch, start: int, config: CropConfig) -> tuple[Tensor, Tensor]:
    """Globals (G, B, 1, S, S) and locals (L, B, 1, S, S) of up to STUDIES_AT_ONCE studies from `start` on."""
    some = slice(start, start + STUDIES_AT_ONCE)
    sizes_BV2 = batch.sizes_BV2[some]
    levels_BVRM = _pyramids(batch.frames_BVHW[some], sizes_BV2, batch.levels)
    split = config.globals_per_view
    cut = []
    for crops, side in ((slice(0, split), config.global_side), (slice(split, None), config.local_side)):
        chosen = (some, slice(None), crops)
        height = batch.frames_BVHW.shape[2]
        matrix_BVC23 = batch.matrix_BVC23[chosen]
        gray = _warped(levels_BVRM, height, sizes_BV2, batch.level_BVC[chosen], matrix_BVC23, side)
        gray = batch.curve_BVCP[chosen].gather(-1, gray.flatten(-2)).view(gray.shape)
        gray = _blurred(gray, batch.kernel_BVCK[chosen])
        gray = _noisy(gray, batch.noise_BVC[chosen], batch.keys_BVC2[chosen])
        cut.append(gray.permute(1, 2, 0, 3, 4).flatten(0, 1)[:, :, None])
    return cut[0], cut[1]


def _pyramids(frames_BVHW: Tensor, sizes_BV2: Tensor, levels: int) -> Tensor:
    """The view, its half, its quarter…, one below the other, (B, V, R, M) uint8, black around each.

    A level begins at row `_top` and column 1. Its size is half of the previous level's, rounded up.
    """
    height, width = frames_BVHW.shape[-2:]
    canvas = frames_BVHW.new_zeros((*frames_BVHW.shape[:2], _top(levels, height), width + 2))
    current, row = frames_BVHW, 1
    for level in range(levels):
        size_BV2 = (sizes_BV2 + ((1 << level) - 1)) >> level
        high, wide = current.shape[-2:]
        inside_BVH = torch.arange(high, device=current.device) < size_BV2[..., :1]
        inside_BVW = torch.arange(wide, device=current.device) < size_BV2[..., 1:]
        inside_BVHW = inside_BVH[..., None] & inside_BVW[..., None, :]
        canvas[:, :, row : row + high, 1 : 1 + wide] = current * inside_BVHW
        row += high + 1
        if level + 1 < levels:
            mean = F.avg_pool2d(current.float(), 2)  # quarters: exact
            current = (mean + 0.5).to(torch.uint8)
    return canvas


def _top(level: Level, height: int) -> Level:
    """The first row of a level: levels of height, height / 2… come before it, each after a black row."""
    return 2 * (height - (height >> level)) + level + 1


def _warped(
    levels_BVRM: Tensor, height: int, sizes_BV2: Tensor, level_BVC: Tensor, matrix_BVC23: Tensor, side: int
) -> Tensor:
    """Gray values where the crops' matrices point, bilinear, black outside the view: (B, V, C, S, S) int64."""
    studies, views, rows, columns = levels_BVRM.shape
    pixel = torch.arange(side, device=levels_BVRM.device)
    matrix = matrix_BVC23[..., None, None]
    # Sums term by term: a matrix product may round differently in another batch.
    x = matrix[:, :, :, 0, 0] * pixel + matrix[:, :, :, 0, 1] * pixel[:, None] + matrix[:, :, :, 0, 2]
    y = matrix[:, :, :, 1, 0] * pixel + matrix[:, :, :, 1, 1] * pixel[:, None] + matrix[:, :, :, 1, 2]
    size_BVC2 = (sizes_BV2[:, :, None] + (1 << level_BVC[..., None]) - 1) >> level_BVC[..., None]
    high, wide = size_BVC2[..., 0, None, None], size_BVC2[..., 1, None, None]
    # One pixel outside the view is black on every side; whatever lies further out is clamped to it.
    x, y = x.clamp(min=-1).minimum(wide), y.clamp(min=-1).minimum(high)
    left, upper = x.floor().minimum(wide - 1), y.floor().minimum(high - 1)
    x, y = x - left, y - upper
    view = torch.arange(studies * views, device=pixel.device).view(studies, views, 1, 1, 1)
    row = view * rows + _top(level_BVC, height)[..., None, None] + upper.long()
    place = row * columns + 1 + left.long()
    pixels = levels_BVRM.flatten()
    above = torch.lerp(pixels[place].float(), pixels[place + 1].float(), x)
    place += columns
    below = torch.lerp(pixels[place].float(), pixels[place + 1].float(), x)
    return (torch.lerp(above, below, y) + 0.5).long()


def _blurred(crops_BVCSS: Tensor, kernel_BVCK: Tensor) -> Tensor:
    """Each crop under its own Gaussian, along the rows and then along the columns; uint8 in and out."""
    shape, side = crops_BVCSS.shape, crops_BVCSS.shape[-1]
    if not crops_BVCSS.numel():
        return crops_BVCSS
    # Reflected without repeating the edge, as OpenCV does by default.
    index = torch.arange(-REACH, side + REACH, device=crops_BVCSS.device)
    index = (side - 1) - (index.abs() - (side - 1)).abs()
    plane = crops_BVCSS.view(1, -1, side, side)
    kernel = kernel_BVCK.reshape(-1, 1, 1, kernel_BVCK.shape[-1])
    # Grouped by crop the convolution is depthwise, which CUDA computes in full float32, not in TF32.
    with torch.autocast(plane.device.type, enabled=False):
        plane = F.conv2d(plane[..., index].float(), kernel, groups=len(kernel))
        plane = F.conv2d(plane[..., index, :], kernel.transpose(-1, -2), groups=len(kernel))
    return ((plane + 2**15) / 2**16).to(torch.uint8).view(shape)


def _noisy(crops_BVCSS: Tensor, noise_BVC: Tensor, keys_BVC2: Tensor) -> Tensor:
    """Add each crop's Gaussian noise, the same numbers as `crops.cut_crops` adds; uint8 in and out."""
    side = crops_BVCSS.shape[-1]
    counter = torch.arange((side * side + 1) // 2, device=crops_BVCSS.device)
    words = hash_bits(counter, keys_BVC2[..., :1], keys_BVC2[..., 1:])
    halves = torch.stack([words & 0xFFFF, words >> 16], dim=-1).flatten(-2)[..., : side * side]
    grain = _quantiles_on(crops_BVCSS.device)[halves >> 4] * noise_BVC[..., None]
    return (crops_BVCSS + grain.round().view(crops_BVCSS.shape)).clamp(0, 255).to(torch.uint8)


@lru_cache
def _quantiles_on(device: torch.device) -> Tensor:
    """`normal_quantiles` on a device, copied there once."""
    return torch.from_numpy(normal_quantiles()).to(device)
