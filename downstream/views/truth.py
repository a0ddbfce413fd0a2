"""What lies behind each patch of a generated view, and whether patches and attention agree with it.

`vetdino phantom` leaves a map beside every view: which organs each pixel shows, and where in the animal the
densest of them lies. Shards know a study by a keyed hash alone; with the same key the names of the maps give
the same hashes, and so a view finds its map without any identifier being kept, told or written.

K organs, N patches of a view, M those of another, H heads, D width of a token; h, w sides of a map.
Lengths are cm. On the detector u runs to the right and v down from the middle of the picture; in the animal
x runs to its left, y dorsal, z cranial.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.errors import ConfigError, DataError
from ...platform.data.study import Study, View
from ...platform.measure.metrics import auroc

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

    from ...platform.models.backbone import Backbone


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The map of one generated view: what the rays of its pixels meet.

    organs: (K,); masks: (K, h, w) bool. points: (h, w, 3) float32 cm in the animal frame, of the densest organ
    along the ray, NaN outside the animal. step: pixels of the exposed picture for one of the map's. frame, centre,
    pixel: the rays, as `platform.xray.Rays` has them.
    """

    organs: tuple[str, ...]
    masks: np.ndarray
    points: np.ndarray
    step: int
    frame: np.ndarray
    centre: np.ndarray
    pixel: float

    @property
    def projection(self) -> str:
        """What its rays make it: the hanging that the frame, which is a little tilted, is nearest to."""
        from ...platform.phantom.dog.archive import FRAMES

        return max(FRAMES, key=lambda name: float((self.frame * np.array(FRAMES[name])).sum()))

    def seen(self, points_N3: np.ndarray) -> np.ndarray:
        """Where points of the animal lie on the detector, (N, 2) cm: u, v."""
        return ((points_N3 - self.centre) @ self.frame.T)[:, :2]

    def exposed(self, view: View) -> tuple[float, float]:
        """Rows and columns of the picture as it was exposed, told by the view's size and spacing."""
        down, across = view.spacing
        rows, columns = view.pixels.shape
        return rows * down / (10 * self.pixel), columns * across / (10 * self.pixel)

    def fits(self, view: View) -> bool:
        """Whether the view can be this one: its projection, and a spacing that gives the map's own size.

        An archive writes a pixel's side with five decimals and a study's views differ in it, so that a map of
        another view would call for a picture of another size, or of no whole number of pixels.
        """
        if view.spacing is None or view.projection not in (self.projection, "UNKNOWN", "LATERAL"):
            return False
        if view.projection == "LATERAL" and self.projection not in ("LLAT", "RLAT"):
            return False
        for size, found in zip(self.exposed(view), self.masks.shape[1:], strict=True):
            whole, rounding = round(size), 6e-6 / (10 * self.pixel)
            if (
                abs(size - whole) > 0.02 + size * rounding
                or -(-(whole - self.step // 2) // self.step) != found
            ):
                return False
        return True

    def __repr__(self) -> str:
        return f"Truth({self.projection}, {len(self.organs)} organs, {self.masks.shape[1]}x{self.masks.shape[2]})"


class Truths:
    """The maps of an archive of generated studies, by the keys that its shards have."""

    def __init__(self, archive: Path, secret: Path) -> None:
        """archive: what `vetdino phantom` left; secret: the key file that its shards were ingested with.

        Raises ConfigError where either is missing.
        """
        from ...platform.ingest.ingest import pseudonym

        self.folder = Path(archive) / "truth"
        if not self.folder.is_dir():
            raise ConfigError(f"{archive}: no truth in it; give the folder that `vetdino phantom` left")
        try:
            key = Path(secret).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{secret}: the key of the pseudonyms cannot be read ({error.strerror}); give the secret that the "
                "shards were ingested with"
            ) from None
        by_study: dict[str, list[tuple[int, Path]]] = {}
        for path in self.folder.glob("*.npz"):
            study, _, number = path.stem.rpartition("_")
            by_study.setdefault(study, []).append((int(number), path))
        # As `platform.ingest` hashes a StudyInstanceUID; the clear names end here.
        self._maps = {pseudonym(key, f"study:{study}"): sorted(maps) for study, maps in by_study.items()}

    def __contains__(self, key: object) -> bool:
        return key in self._maps

    def __len__(self) -> int:
        return len(self._maps)

    def __repr__(self) -> str:
        return f"Truths({len(self)} studies)"

    def of(self, study: Study) -> list[tuple[View, Truth | None]]:
        """Each view, decoded, with the one map that fits it; None where none does or several do.

        Raises DataError for a damaged map.
        """
        maps = [self._read(study.key, path) for _, path in self._maps[study.key]]
        pairs = []
        for view in (stored.decode() for stored in study.views):
            fitting = [truth for truth in maps if truth.fits(view)]
            pairs.append((view, fitting[0] if len(fitting) == 1 else None))
        return pairs

    def _read(self, key: str, path: Path) -> Truth:
        try:
            with np.load(path, allow_pickle=False) as data:
                organs, shape = data["organs"].tolist(), data["shape"].tolist()
                bits = np.unpackbits(data["masks"], count=len(organs) * shape[0] * shape[1])
                return Truth(
                    organs=tuple(organs),
                    masks=bits.reshape(len(organs), *shape).astype(bool),
                    points=data["points"].astype(np.float32),
                    step=int(data["step"]),
                    frame=data["frame"],
                    centre=data["centre"],
                    pixel=float(data["pixel"]),
                )
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
            raise DataError(  # the file's name is an identifier
                f"{self.folder}: a map of study {key} is damaged; run `vetdino phantom` into a new folder"
            ) from None


# Patches on the map ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """A view's patches laid over its map, row by row from the top left.

    down, across: (n + 1,) cm, edges of the rows and columns of patches on the detector. points: (N, 3) cm in the
    animal, of what stands out at the middle of the patch, NaN outside the animal or the picture. animal: (N,)
    share of the patch that shows the animal; organs: (K, N) that shows each organ.
    """

    truth: Truth
    down: np.ndarray
    across: np.ndarray
    points: np.ndarray
    animal: np.ndarray
    organs: np.ndarray
    box: np.ndarray
    """(2, 2) cm: least and greatest (u, v) of the animal on the detector."""
    tree: cKDTree = field(repr=False)
    """Of all the map's points, to ask what stands out in this view near a point of the animal."""

    @property
    def places(self) -> np.ndarray:
        """Middles of the patches on the detector, (N, 2) cm: u, v."""
        v, u = ((edges[1:] + edges[:-1]) / 2 for edges in (self.down, self.across))
        return np.stack(np.broadcast_arrays(u[None, :], v[:, None]), axis=-1).reshape(-1, 2)

    @property
    def inside(self) -> np.ndarray:
        """Numbers of the patches whose middle shows the animal."""
        return np.flatnonzero(np.isfinite(self.points[:, 0]))

    def __repr__(self) -> str:
        return f"Patches({self.truth.projection}, {len(self.inside)} of {len(self.points)} show the animal)"

    def relative(self) -> np.ndarray:
        """Where in the animal's outline each patch lies, (N, 3) 0..1 along x, y, z; NaN along the ray.

        It needs no more than the outline and how such views are hung: what a floor may know.
        """
        relative_N3 = np.full((len(self.points), 3), np.nan)
        share_N2 = (self.places - self.box[0]) / (self.box[1] - self.box[0])
        for axis, sign, share_N in zip(*_hung(self.truth), share_N2.T, strict=True):
            relative_N3[:, axis] = share_N if sign > 0 else 1 - share_N
        return relative_N3

    def placed(self, relative_Q3: np.ndarray) -> np.ndarray:
        """Where such places of the outline lie on this detector, (Q, 2) cm; along an unknown axis, in the middle."""
        axes, signs = _hung(self.truth)
        share_Q2 = np.nan_to_num(relative_Q3[:, axes], nan=0.5)
        share_Q2 = np.where(signs > 0, share_Q2, 1 - share_Q2)
        return self.box[0] + share_Q2 * (self.box[1] - self.box[0])


def patches_of(view: View, truth: Truth, side: int, patch: int) -> Patches:
    """The patches of a network's letterboxed square of side x side pixels, as the truth sees them.

    A map's pixel stands for a square of the exposed picture, so that shares are exact sums of overlaps, whatever
    the sizes of picture, stored view, square and map.
    """
    from scipy.spatial import cKDTree

    from ...platform.models.backbone import letterbox_of

    rows, columns = view.pixels.shape
    top, left, tall, wide = letterbox_of(rows, columns, side)
    edges = np.arange(side // patch + 1) * patch
    down = ((edges - top) / tall - 0.5) * rows * view.spacing[0] / 10
    across = ((edges - left) / wide - 0.5) * columns * view.spacing[1] / 10
    map_down, map_across = _map_edges(view, truth)
    animal_hw = np.isfinite(truth.points[..., 0])
    over_v, over_u = _overlap(down, map_down), _overlap(across, map_across)
    layers = np.concatenate([animal_hw[None], truth.masks & animal_hw]).astype(np.float32)
    shares = (over_v @ layers @ over_u.T).reshape(len(layers), -1)
    seen_v, seen_u = np.nonzero(animal_hw)
    low = map_across[seen_u.min()], map_down[seen_v.min()]
    high = map_across[seen_u.max() + 1], map_down[seen_v.max() + 1]
    return Patches(
        truth=truth,
        down=down,
        across=across,
        points=_at_middles(truth.points, down, across, map_down, map_across),
        animal=shares[0],
        organs=shares[1:],
        box=np.array([low, high]),
        tree=cKDTree(truth.points[animal_hw]),
    )


def _map_edges(view: View, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the map's rows and columns on the detector, (h + 1,) and (w + 1,) cm."""
    return tuple(
        (np.arange(count + 1) * truth.step - round(size) / 2) * truth.pixel
        for count, size in zip(truth.masks.shape[1:], truth.exposed(view), strict=True)
    )


def _overlap(edges: np.ndarray, finer: np.ndarray) -> np.ndarray:
    """Which share of each interval of the first edges the intervals of the second cover, (n, h) float32."""
    upper = np.minimum(edges[1:, None], finer[None, 1:])
    lower = np.maximum(edges[:-1, None], finer[None, :-1])
    return ((upper - lower).clip(0) / np.diff(edges)[:, None]).astype(np.float32)


def _at_middles(points, down, across, map_down, map_across) -> np.ndarray:
    """The map's points at the middles of the patches, (N, 3); NaN beyond the map."""
    middles = [(edges[1:] + edges[:-1]) / 2 for edges in (down, across)]
    row, column = (
        np.searchsorted(edges, middle, side="right") - 1
        for edges, middle in zip((map_down, map_across), middles, strict=True)
    )
    height, width, _ = points.shape
    beyond = ((row < 0) | (row >= height))[:, None] | ((column < 0) | (column >= width))[None, :]
    found = points[row.clip(0, height - 1)][:, column.clip(0, width - 1)].astype(np.float64)
    found[beyond] = np.nan
    return found.reshape(-1, 3)


def _hung(truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """(axes, signs) of the animal that u and v run along, (2,) each."""
    axes = np.abs(truth.frame[:2]).argmax(axis=1)
    return axes, np.sign(truth.frame[:2][[0, 1], axes])


# Views that were looked at -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a source makes of one view: tokens (N, D) of its patches, attention (H, N) where it has heads."""

    view: View
    patches: Patches
    tokens: np.ndarray
    attention: np.ndarray | None = None

    @property
    def projection(self) -> str:
        """The true one, whatever the file says."""
        return self.patches.truth.projection

    def __repr__(self) -> str:
        return f"Look({self.projection}, {len(self.tokens)} patches)"


def looks_of(
    backbone: Backbone | None, views: Sequence[tuple[View, Truth | None]], side: int, patch: int
) -> list[Look]:
    """The views of a study that have a map, looked at by a backbone on its own grid; by none, their pixels speak,
    on squares of `side` pixels cut into patches of `patch`."""
    known = [(view, truth) for view, truth in views if truth is not None]
    if backbone is None:
        return [
            Look(view, patches_of(view, truth, side, patch), pixel_tokens(view, side, patch))
            for view, truth in known
        ]
    if not known:
        return []
    images = backbone.prepare_many([view.pixels for view, _ in known])
    tokens_VND = backbone.tokens(images).patches.float().cpu().numpy()
    attention_VHN = backbone.attention(images).float().cpu().numpy()
    return [
        Look(view, patches_of(view, truth, backbone.side, backbone.patch), tokens_ND, attention_HN)
        for (view, truth), tokens_ND, attention_HN in zip(known, tokens_VND, attention_VHN, strict=True)
    ]


def pixel_tokens(view: View, side: int, patch: int) -> np.ndarray:
    """The floor's tokens: each patch's own pixels less their mean, (N, patch * patch) float32.

    Their cosine is the normalised cross-correlation of the two patches, blind to brightness and contrast.
    """
    from ...platform.models.backbone import letterboxed

    count = side // patch
    cells = letterboxed(view.pixels, side)[: count * patch, : count * patch].astype(np.float32)
    cells = cells.reshape(count, patch, count, patch).swapaxes(1, 2).reshape(count * count, -1)
    return cells - cells.mean(axis=1, keepdims=True)


# Patches that answer one another -----------------------------------------------------------------

TOP = 5
"""Answers that are looked at, as in the paper's patch similarity (arXiv 2505.15248)."""

COLUMNS = (
    "patch_hit_at_1", "patch_hit_at_1_chance", "patch_hit_at_1_position",
    "patch_hit_at_5", "patch_hit_at_5_chance", "patch_hit_at_5_position", "patch_hit_oracle",
    "patch_error_cm", "patch_error_cm_chance", "patch_error_cm_position", "patch_error_cm_oracle",
)  # fmt: skip
"""What is told of a patch: who answers is told by the suffix, the tokens by none."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """How patches of one view were answered in another.

    columns: COLUMNS -> (Q,) of the patches asked, hits 0..1 and errors in cm; empty where none was. foreground: patches
    that show the animal; answerable: those that could be asked.
    """

    columns: Mapping[str, np.ndarray]
    foreground: int
    answerable: int

    def __repr__(self) -> str:
        return f"Matches({self.answerable} of {self.foreground} patches answerable)"


def matches_of(
    asking: Look, asked: Look, *, radius: float, most: int, random: np.random.Generator
) -> Matches:
    """Ask patches of one view for the most similar patches (cosine) of another view of the same animal.

    What stands out at the middle of a patch is a point P of the animal. The other view's rays pass through P at one
    place of its detector, known from its frame: the error of an answer is how far, in cm, its middle lies from there,
    that is along the two axes which the other view sees. (The third cannot be asked for: a left and a right rib lie
    on one ray of a lateral.) A hit is an answer within `radius`; at 5, the best of five.

    Animals breathe and move their limbs between two exposures, so a patch is asked only where the other view's own map
    confirms P: something stands out there, too, within `radius` of it in all three axes. At most `most` of these
    answerable patches are drawn.

    Beside the tokens: chance is the expectation over different random patches of the animal (its error: that of the
    middle one). Position takes the patches nearest to the same place in the animal's outline, half-way along the axis
    that the asking view does not see. The oracle knows P, and takes the patch nearest to it: the ceiling, which the
    grid's own coarseness keeps from being perfect.
    """
    here, there = asking.patches, asked.patches
    inside_there = there.inside
    answerable = _confirmed(here, there, radius) if len(inside_there) else inside_there
    foreground = len(here.inside)
    if not len(answerable):
        return Matches({}, foreground, 0)
    drawn_Q = np.sort(random.choice(answerable, min(most, len(answerable)), replace=False))
    places_M2 = there.places[inside_there]
    error_QM = _distances(there.truth.seen(here.points[drawn_Q]), places_M2)
    ranks = {
        "": -unit_or_zero(asking.tokens[drawn_Q]) @ unit_or_zero(asked.tokens[inside_there]).T,
        "_position": _distances(there.placed(here.relative()[drawn_Q]), places_M2),
    }
    columns = _expected(error_QM, radius)
    for kind, rank_QM in ranks.items():
        order_QT = np.argsort(rank_QM, axis=1, kind="stable")[:, :TOP]
        columns |= _scored(np.take_along_axis(error_QM, order_QT, axis=1), radius, kind)
    nearest_Q = error_QM.min(axis=1)
    columns |= {"patch_hit_oracle": (nearest_Q <= radius).astype(float), "patch_error_cm_oracle": nearest_Q}
    return Matches({name: columns[name] for name in COLUMNS}, foreground, len(answerable))


def _confirmed(here: Patches, there: Patches, radius: float) -> np.ndarray:
    """Numbers of the patches here near whose point something stands out in the other view, too."""
    inside = here.inside
    far_N, _ = there.tree.query(here.points[inside], distance_upper_bound=radius)
    return inside[np.isfinite(far_N)]


def _distances(one_Q2: np.ndarray, other_M2: np.ndarray) -> np.ndarray:
    return np.linalg.norm(one_Q2[:, None] - other_M2, axis=2)


def _scored(error_QT: np.ndarray, radius: float, kind: str) -> dict[str, np.ndarray]:
    """The columns of answers in their order, from the errors of the first few."""
    hit_QT = error_QT <= radius
    return {
        f"patch_hit_at_1{kind}": hit_QT[:, 0].astype(float),
        f"patch_hit_at_5{kind}": hit_QT.any(axis=1).astype(float),
        f"patch_error_cm{kind}": error_QT[:, 0],
    }


def _expected(error_QM: np.ndarray, radius: float) -> dict[str, np.ndarray]:
    """The columns of chance: all misses among `TOP` different patches is one draw without return after another."""
    count = error_QM.shape[1]
    missing_Q = (error_QM > radius).sum(axis=1)
    drawn_T = np.arange(min(TOP, count))
    missed_QT = ((missing_Q[:, None] - drawn_T) / (count - drawn_T)).clip(0)
    return {
        "patch_hit_at_1_chance": 1 - missed_QT[:, 0],
        "patch_hit_at_5_chance": 1 - missed_QT.prod(axis=1),
        "patch_error_cm_chance": np.median(error_QM, axis=1),
    }


def unit_or_zero(tokens_ND: np.ndarray) -> np.ndarray:
    """Tokens of length 1; one of length 0, which a flat patch of pixels gives, stays and is like nothing."""
    tokens_ND = np.asarray(tokens_ND, np.float32)
    return tokens_ND / np.maximum(np.linalg.norm(tokens_ND, axis=1, keepdims=True), 1e-12)


# Heads that look at organs -----------------------------------------------------------------------


def overlap_of(look: Look) -> tuple[np.ndarray, np.ndarray]:
    """How each head's look agrees with each organ: (auc, lift), (K, H) each.

    Attention counts where the animal is, spread evenly over a patch. lift: the share of it inside the organ over the
    organ's share of the animal's area; 1 is chance. auc: how often a point of the organ gets more of it than a point
    of the animal outside, ties counting half; 0.5 is chance. NaN for organs that the view does not show, or that
    fill it.
    """
    patches = look.patches
    seen_N = patches.animal > 0
    look_HN, animal_N = look.attention[:, seen_N].astype(float), patches.animal[seen_N].astype(float)
    organ_KN = np.minimum(patches.organs[:, seen_N].astype(float), animal_N)
    area_K1 = organ_KN.sum(axis=1, keepdims=True) / animal_N.sum()
    share_KH = (organ_KN @ look_HN.T) / (look_HN @ animal_N)
    lift_KH = np.divide(share_KH, area_K1, out=np.full_like(share_KH, np.nan), where=area_K1 > 0)
    # Each patch stands twice, as the part that is organ and the part that is not, weighted by their areas.
    weight_KN = np.concatenate([organ_KN, animal_N - organ_KN], axis=1)
    truth_N = np.repeat([1.0, 0.0], len(animal_N))
    scores_NH = np.tile(look_HN.T, (2, 1))
    auc_KH = auroc(np.repeat(truth_N[:, None], len(look_HN), axis=1), scores_NH, weight_KN)
    return auc_KH, np.where(np.isnan(auc_KH), np.nan, lift_KH)


PANEL = ("heart", "lung", "liver", "gut", "spine", "ribs")
"""Organs in the picture of attention: skeleton, soft tissue and gut, as the paper shows them."""


def panel(looks: Sequence[Look], heads: Mapping[str, tuple[int, float]], title: str) -> bytes:
    """A PNG: a row for each view, a column for each organ with the attention of its best head and its outline.

    heads: organ -> (head, its mean AUC). Attention is told in multiples of an even look at the animal.
    """
    from io import BytesIO

    from matplotlib.figure import Figure as Sheet

    organs = [organ for organ in PANEL if organ in heads]
    sheet = Sheet(
        figsize=(1.2 + 2 * (1 + len(organs)), 0.9 + 2.1 * len(looks)), dpi=110, layout="constrained"
    )
    axes = sheet.subplots(len(looks), 1 + len(organs), squeeze=False)
    shown = [_times_even(look, heads[organ][0])[look.patches.inside] for look in looks for organ in organs]
    most = max(2.0, float(np.quantile(np.concatenate(shown), 0.995))) if organs else 2.0
    for row, look in zip(axes, looks, strict=True):
        _picture(row[0], look)
        row[0].set_ylabel(look.projection, fontsize=12)
        for axis, organ in zip(row[1:], organs, strict=True):
            _picture(axis, look)
            glow = _glow(axis, look, organ, _times_even(look, heads[organ][0]), most)
    axes[0, 0].set_title("view", fontsize=10)
    for axis, organ in zip(axes[0, 1:], organs, strict=True):
        head, auc = heads[organ]
        axis.set_title(f"{organ}\nhead {head}, AUC {auc:.2f}", fontsize=10)
    sheet.suptitle(
        f"Attention of the CLS token in the last block, best head of each organ\n{title}", fontsize=12
    )
    if organs:
        sheet.colorbar(
            glow, ax=axes, shrink=0.6, label="attention, in multiples of an even look at the animal"
        )
    png = BytesIO()
    sheet.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _picture(axis, look: Look) -> None:
    rows, columns = look.view.pixels.shape
    tall, wide = rows * look.view.spacing[0] / 20, columns * look.view.spacing[1] / 20
    axis.imshow(look.view.pixels, cmap="gray", vmin=0, vmax=255, extent=(-wide, wide, tall, -tall))
    axis.set(xticks=[], yticks=[], xlim=(-wide, wide), ylim=(tall, -tall))


def _times_even(look: Look, head: int) -> np.ndarray:
    """A head's attention to each patch, (N,), in multiples of an even look at the animal."""
    attention_N, animal_N = look.attention[head], look.patches.animal
    return attention_N * animal_N.sum() / (attention_N @ animal_N)


def _glow(axis, look: Look, organ: str, look_N: np.ndarray, most: float):
    """Attention over the picture, and the outline of the organ where the view shows it."""
    patches, truth = look.patches, look.patches.truth
    extent = (*patches.across[[0, -1]], *patches.down[[-1, 0]])
    look_nn = look_N.reshape(len(patches.down) - 1, len(patches.across) - 1)
    alpha_nn = 0.7 * (look_nn / most).clip(0, 1)  # what is not looked at stays as it is
    glow = axis.imshow(
        look_nn, cmap="inferno", vmin=0, vmax=most, alpha=alpha_nn, extent=extent, interpolation="bilinear"
    )
    if organ in truth.organs:
        v, u = ((edges[1:] + edges[:-1]) / 2 for edges in _map_edges(look.view, truth))
        mask_hw = truth.masks[truth.organs.index(organ)].astype(float)
        axis.contour(u, v, mask_hw, levels=[0.5], colors="cyan", linewidths=0.8)
    return glow
