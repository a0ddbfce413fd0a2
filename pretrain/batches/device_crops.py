"""Crops of a batch cut on the device: the loader ships whole views and plans, the device follows them.

All crops of one size are cut together, with no loop over crops and no look at a value, so that the device never
waits. Each crop is a function of its own view and plan, not of the batch that it is cut in: what is summed is
either one pixel's own or whole numbers below 2**24, which float32 holds exactly in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import CropBatch
from .config import CropConfig
from .crops import BLUR, Cuts, WholeStudy, mixed, quantiles

# B studies, V = 2 views, C crops of a view, G and L those of all views, globals first; S side of a crop.
# H and W: of the common frame; R and M: rows and columns of the picture that holds all levels of a view.

FRAME = 64
"""Pixels: a frame's sides are whole multiples of this, so that memory is asked for in few sizes."""

REACH = round(6 * BLUR[1] + 1) // 2
"""Pixels to either side that the widest blur looks at: three standard deviations, as OpenCV rounds them."""

AT_ONCE = 64
"""Studies that are cut at once, which bounds the memory on the way: 12 MB a study with the default crops."""


@dataclass(frozen=True, slots=True, eq=False)
class WholeViews:
    """The views of B studies and what is to be cut from them; the teacher's view comes first."""

    frames_BVHW: Tensor
    """uint8; each view in the upper left corner, its last row and column repeated to the frame's edge."""
    sizes_BV2: Tensor
    """int64: height and width of each view in its frame."""
    level_BVC: Tensor
    """int64: how often the view is halved first."""
    matrix_BVC23: Tensor
    """float32: (x, y) in that level = matrix @ (column, row, 1) of the crop."""
    curve_BVCP: Tensor
    """uint8 (B, V, C, 256): grey in -> grey out."""
    kernel_BVCK: Tensor
    """float32 (B, V, C, 2 * REACH + 1): the blur, in whole 256ths."""
    noise_BVC: Tensor
    """float32: standard deviation in grey values."""
    keys_BVC2: Tensor
    """int64 below 2**32: from which the noise follows."""
    hidden_TBN: Tensor
    """bool: as in CropBatch."""
    levels: int
    """How many levels the deepest cut needs."""
    keys: tuple[str, ...]
    is_pair: tuple[bool, ...]
    """Whether each study gave two different views."""

    def to(self, device: torch.device | str) -> WholeViews:
        """The same views on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> WholeViews:
        """The same views where the device can fetch them by itself; a DataLoader calls this."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> WholeViews:
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{name: change(value) for name, value in held.items() if isinstance(value, Tensor)}
        )

    def __repr__(self) -> str:
        height, width = self.frames_BVHW.shape[-2:]
        return f"WholeViews({len(self.keys)} studies, {sum(self.is_pair)} pairs, frames {height}x{width})"


def ships_whole(config: CropConfig, device: torch.device) -> bool:
    """Whether loaders leave the cutting to this device.

    >>> ships_whole(CropConfig(), torch.device("cpu")), ships_whole(CropConfig(), torch.device("cuda"))
    (False, True)
    """
    return config.cut_on == "device" or (config.cut_on == "auto" and device.type == "cuda")


def views_of(studies: Sequence[WholeStudy], hidden: Sequence[np.ndarray]) -> WholeViews:
    """Put studies side by side; hidden holds one (T, N) bool array a study."""
    cuts = [list(study.cuts) for study in studies]
    levels = 1 + max(int(cut.level.max()) for pair in cuts for cut in pair)
    sizes = np.array([[view.shape for view in study.views] for study in studies])
    step = max(FRAME, 1 << levels)
    height, width = -(-sizes.max(axis=(0, 1)) // step) * step
    frames = np.empty((*sizes.shape[:2], height, width), np.uint8)
    for frame_VHW, study in zip(frames, studies, strict=True):
        for frame_HW, view in zip(frame_VHW, study.views, strict=True):
            frame_HW[...] = np.pad(
                view,
                [(0, whole - own) for whole, own in zip(frame_HW.shape, view.shape, strict=True)],
                "edge",
            )

    def stacked(number: Callable[[Cuts], np.ndarray], dtype: type) -> Tensor:
        return torch.from_numpy(np.array([[number(cut) for cut in pair] for pair in cuts]).astype(dtype))

    return WholeViews(
        frames_BVHW=torch.from_numpy(frames),
        sizes_BV2=torch.from_numpy(sizes.astype(np.int64)),
        level_BVC=stacked(lambda cut: cut.level, np.int64),
        matrix_BVC23=stacked(lambda cut: cut.matrix, np.float32),
        curve_BVCP=stacked(lambda cut: cut.curve, np.uint8),
        kernel_BVCK=stacked(lambda cut: kernels_of(cut.blur), np.float32),
        noise_BVC=stacked(lambda cut: cut.noise, np.float32),
        keys_BVC2=stacked(lambda cut: cut.keys, np.int64),
        hidden_TBN=torch.from_numpy(np.stack(hidden, axis=1)),
        levels=levels,
        keys=tuple(study.key for study in studies),
        is_pair=tuple(study.is_pair for study in studies),
    )


def kernels_of(blur: np.ndarray) -> np.ndarray:
    """Gaussians of standard deviations (C,), in pixels, as whole 256ths that sum to 256: (C, 2 * REACH + 1).

    As OpenCV's, they end after three standard deviations, and what rounding takes from one weight is added to its
    neighbour further in; 0 gives the kernel that changes nothing.
    """
    at = np.arange(-REACH, REACH + 1)
    deviation = np.maximum(blur, 1e-3)[:, None]
    weight = np.exp(-(at**2) / (2 * deviation**2)) * (np.abs(at) <= np.rint(6 * deviation + 1) // 2)
    outer = np.cumsum(weight[:, :REACH], axis=1) / weight.sum(axis=1, keepdims=True)
    half = np.diff(np.rint(256 * outer), axis=1, prepend=0)
    return np.concatenate([half, 256 - 2 * half.sum(axis=1, keepdims=True), half[:, ::-1]], axis=1)


@torch.no_grad()
def cut(whole: WholeViews, config: CropConfig) -> CropBatch:
    """The crops of a batch, on the device where its views lie: what `crops_of` gives, to one or two greys.

    Never waits for the device.
    """
    parts = zip(*[_cut_part(whole, at, config) for at in range(0, len(whole.keys), AT_ONCE)], strict=True)
    globals_GB1SS, locals_LB1SS = (torch.cat(part, dim=1) for part in parts)
    return CropBatch(globals_GB1SS, locals_LB1SS, whole.hidden_TBN, whole.keys, whole.is_pair)


def crops_on(device: torch.device, batch: CropBatch | WholeViews, config: CropConfig) -> CropBatch:
    """What a loader made, as crops on a device: cut there where it came whole."""
    moved = batch.to(device)
    return cut(moved, config) if isinstance(moved, WholeViews) else moved


def _cut_part(whole: WholeViews, start: int, config: CropConfig) -> tuple[Tensor, Tensor]:
    """Globals (G, B, 1, S, S) and locals (L, B, 1, S, S) of AT_ONCE studies from one on."""
    some = slice(start, start + AT_ONCE)
    levels_BVRM = _levels_of(whole.frames_BVHW[some], whole.sizes_BV2[some], whole.levels)
    split = config.globals_per_view
    made = []
    for crops, side in ((slice(0, split), config.global_side), (slice(split, None), config.local_side)):
        of = (some, slice(None), crops)
        seen = _warped(
            levels_BVRM,
            whole.frames_BVHW.shape[2],
            whole.sizes_BV2[some],
            whole.level_BVC[of],
            whole.matrix_BVC23[of],
            side,
        )
        seen = whole.curve_BVCP[of].gather(-1, seen.flatten(-2)).view(seen.shape)
        seen = _blurred(seen, whole.kernel_BVCK[of])
        seen = _noisy(seen, whole.noise_BVC[of], whole.keys_BVC2[of])
        made.append(seen.permute(1, 2, 0, 3, 4).flatten(0, 1)[:, :, None])
    return made[0], made[1]


def _levels_of(frames_BVHW: Tensor, sizes_BV2: Tensor, levels: int) -> Tensor:
    """The view, its half, its quarter…, one below the other, (B, V, R, M) uint8, black around each.

    A level begins at row `_top` and column 1. Its size is half of the level's before, rounded up.
    """
    height, width = frames_BVHW.shape[-2:]
    picture = frames_BVHW.new_zeros((*frames_BVHW.shape[:2], _top(levels, height), width + 2))
    made, at = frames_BVHW, 1
    for level in range(levels):
        size_BV2 = (sizes_BV2 + ((1 << level) - 1)) >> level
        high, wide = made.shape[-2:]
        inside_BVH = torch.arange(high, device=made.device) < size_BV2[..., :1]
        inside_BVW = torch.arange(wide, device=made.device) < size_BV2[..., 1:]
        picture[:, :, at : at + high, 1 : 1 + wide] = made * (
            inside_BVH[..., None] & inside_BVW[..., None, :]
        )
        at += high + 1
        if level + 1 < levels:
            mean = F.avg_pool2d(made.float(), 2)  # quarters: exact
            made = (mean + 0.5).to(torch.uint8)
    return picture


def _top(level: Tensor | int, height: int) -> Tensor | int:
    """The first row of a level: levels of height, height / 2… lie below it, each after a black row."""
    return 2 * (height - (height >> level)) + level + 1


def _warped(
    levels_BVRM: Tensor, height: int, sizes_BV2: Tensor, level_BVC: Tensor, matrix_BVC23: Tensor, side: int
) -> Tensor:
    """Greys of the crops where their matrices point, bilinear, black outside the view: (B, V, C, S, S) int64."""
    studies, views, rows, columns = levels_BVRM.shape
    at = torch.arange(side, device=levels_BVRM.device)
    matrix = matrix_BVC23[..., None, None]
    # Sums one by one: a product of matrices may round otherwise in another batch.
    x = matrix[:, :, :, 0, 0] * at + matrix[:, :, :, 0, 1] * at[:, None] + matrix[:, :, :, 0, 2]
    y = matrix[:, :, :, 1, 0] * at + matrix[:, :, :, 1, 1] * at[:, None] + matrix[:, :, :, 1, 2]
    size_BVC2 = (sizes_BV2[:, :, None] + (1 << level_BVC[..., None]) - 1) >> level_BVC[..., None]
    high, wide = size_BVC2[..., 0, None, None], size_BVC2[..., 1, None, None]
    # One pixel outside is black on every side, and whatever lies further out is as black.
    x, y = x.clamp(min=-1).minimum(wide), y.clamp(min=-1).minimum(high)
    left, upper = x.floor().minimum(wide - 1), y.floor().minimum(high - 1)
    x, y = x - left, y - upper
    view = torch.arange(studies * views, device=at.device).view(studies, views, 1, 1, 1)
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
    at = torch.arange(-REACH, side + REACH, device=crops_BVCSS.device)
    at = (side - 1) - (at.abs() - (side - 1)).abs()
    plane = crops_BVCSS.view(1, -1, side, side)
    kernel = kernel_BVCK.reshape(-1, 1, 1, kernel_BVCK.shape[-1])
    # Grouped by crop the convolution is depthwise, which CUDA computes in whole float32, not in TF32.
    with torch.autocast(plane.device.type, enabled=False):
        plane = F.conv2d(plane[..., at].float(), kernel, groups=len(kernel))
        plane = F.conv2d(plane[..., at, :], kernel.transpose(-1, -2), groups=len(kernel))
    return ((plane + 2**15) / 2**16).to(torch.uint8).view(shape)


def _noisy(crops_BVCSS: Tensor, noise_BVC: Tensor, keys_BVC2: Tensor) -> Tensor:
    """Crops with their Gaussian noise added, the same numbers as `crops_from` adds; uint8 in and out."""
    side = crops_BVCSS.shape[-1]
    counter = torch.arange((side * side + 1) // 2, device=crops_BVCSS.device)
    words = mixed(counter, keys_BVC2[..., :1], keys_BVC2[..., 1:])
    halves = torch.stack([words & 0xFFFF, words >> 16], dim=-1).flatten(-2)[..., : side * side]
    grain = _quantiles_on(crops_BVCSS.device)[halves >> 4] * noise_BVC[..., None]
    return (crops_BVCSS + grain.round().view(crops_BVCSS.shape)).clamp(0, 255).to(torch.uint8)


@lru_cache
def _quantiles_on(device: torch.device) -> Tensor:
    """The normal distribution's steps on a device, brought there once."""
    return torch.from_numpy(quantiles()).to(device)
