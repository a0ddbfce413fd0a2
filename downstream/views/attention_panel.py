"""A picture of attention: each view with the attention of the best head of each organ, and the organ's outline.

N patches of a view, n patches along a side; h, w sides of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from .tokenized import TokenizedView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

ORGANS = ("heart", "lung", "liver", "gut", "spine", "ribs")
"""Organs in the picture: skeleton, soft tissue and gut, as the paper shows them."""


def attention_panel(
    views: Sequence[TokenizedView], heads: Mapping[str, tuple[int, float]], title: str
) -> bytes:
    """A PNG: a row for each view, a column for each organ. heads: organ -> (its best head, that head's mean AUC).

    Attention is shown in multiples of even attention over the animal.
    """
    from matplotlib.figure import Figure as Canvas

    organs = [organ for organ in ORGANS if organ in heads]
    canvas = Canvas(
        figsize=(1.2 + 2 * (1 + len(organs)), 0.9 + 2.1 * len(views)), dpi=110, layout="constrained"
    )
    axes = canvas.subplots(len(views), 1 + len(organs), squeeze=False)
    shown = [
        relative_attention(view, heads[organ][0])[view.patches.inside] for view in views for organ in organs
    ]
    most = max(2.0, float(np.quantile(np.concatenate(shown), 0.995))) if organs else 2.0
    for row, view in zip(axes, views, strict=True):
        _show_view(row[0], view)
        row[0].set_ylabel(view.projection, fontsize=12)
        for axis, organ in zip(row[1:], organs, strict=True):
            _show_view(axis, view)
            overlay = _show_attention(axis, view, organ, relative_attention(view, heads[organ][0]), most)
    axes[0, 0].set_title("view", fontsize=10)
    for axis, organ in zip(axes[0, 1:], organs, strict=True):
        head, auc = heads[organ]
        axis.set_title(f"{organ}\nhead {head}, AUC {auc:.2f}", fontsize=10)
    canvas.suptitle(
        f"Attention of the CLS token in the last block, best head of each organ\n{title}", fontsize=12
    )
    if organs:
        label = "attention, in multiples of even attention over the animal"
        canvas.colorbar(overlay, ax=axes, shrink=0.6, label=label)
    png = BytesIO()
    canvas.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def relative_attention(view: TokenizedView, head: int) -> np.ndarray:
    """A head's attention to each patch, (N,), in multiples of even attention over the animal."""
    assert view.attention is not None  # of a backbone
    attention_N, animal_N = view.attention[head], view.patches.animal
    return attention_N * animal_N.sum() / (attention_N @ animal_N)


def _show_view(axis: Axes, view: TokenizedView) -> None:
    rows, columns = view.view.pixels.shape
    assert view.view.spacing is not None  # it has a map
    down, across = view.view.spacing
    tall, wide = rows * down / 20, columns * across / 20
    axis.imshow(view.view.pixels, cmap="gray", vmin=0, vmax=255, extent=(-wide, wide, tall, -tall))
    axis.set(xticks=[], yticks=[], xlim=(-wide, wide), ylim=(tall, -tall))


def _show_attention(
    axis: Axes, view: TokenizedView, organ: str, attention_N: np.ndarray, most: float
) -> AxesImage:
    """Attention over the picture, and the outline of the organ where the view shows it."""
    patches, truth = view.patches, view.patches.truth
    extent = (*patches.across[[0, -1]], *patches.down[[-1, 0]])
    attention_nn = attention_N.reshape(len(patches.down) - 1, len(patches.across) - 1)
    alpha_nn = 0.7 * (attention_nn / most).clip(0, 1)  # transparent where there is none
    overlay = axis.imshow(
        attention_nn,
        cmap="inferno",
        vmin=0,
        vmax=most,
        alpha=alpha_nn,
        extent=extent,
        interpolation="bilinear",
    )
    if organ in truth.organs:
        v, u = ((edges[1:] + edges[:-1]) / 2 for edges in truth.map_edges(view.view))
        mask_hw = truth.masks[truth.organs.index(organ)].astype(float)
        axis.contour(u, v, mask_hw, levels=[0.5], colors="cyan", linewidths=0.8)
    return overlay
