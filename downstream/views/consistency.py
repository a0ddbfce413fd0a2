"""Does a backbone see the patient through every projection? Four measures, with floors and ceilings beside them.

Retrieval: one view looks for another view of its study among those of all other patients. Leak: how well a linear
decoder tells the projection, and how a file was made, beside how well it tells findings, from the same vectors: is
the embedding about the projection or about the patient? On generated studies, whose truth is known, also patches
(do the tokens of one view find the same place of the animal in another?) and attention (does a head look at an
organ, and the same head at the same organ from the side?).

V views, P patients, Q queries, M bank views, D dimensions, K organs, H heads, R resamples, C classes, X columns.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.errors import ConfigError, DataError, FeaturesError
from ...platform.core.progress import track
from ...platform.data.shards import StudyIndex
from ...platform.data.study import PROJECTIONS, Study, View
from ...platform.measure.features import Descriptor, Features, Pool
from ...platform.measure.metrics import Answers, Figure, Measured, auroc, bootstrap_interval, estimate
from ...platform.measure.neighbors import BLOCK, GRAIN
from ...platform.phantom.dog.xray import BACKGROUND
from ..findings.linear import LinearConfig, linear
from .truth import Look, Matches, Truth, Truths, looks_of, matches_of, overlap_of, panel

if TYPE_CHECKING:
    from ..common.sources import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsistencyConfig:
    """How many studies are asked, and where the truth of generated ones lies."""

    studies: int = 2000
    """Most test studies whose views look for one another, and whose projection is decoded."""
    train_studies: int = 1000
    """Most train studies that the linear decoders learn from."""
    strengths: tuple[float, ...] = (0.001, 0.03, 1.0)
    """Inverse L2 strengths of the decoders (scikit-learn's C); the validation split chooses."""
    truth: Path | None = None
    """Folder that `vetdino phantom` left, where the shards are made from it; none leaves out patches and attention."""
    secret: Path | None = None
    """Key file that those shards were ingested with; none: SHARDS.secret, where `vetdino ingest` makes it."""
    truth_studies: int = 150
    """Most test studies whose patches and attention are compared with the truth."""
    patches: int = 32
    """Most patches of a view that are asked in each other view of its study."""
    radius_cm: float = 2.0
    """An answer this near to the point that was asked for is a hit, in cm of the animal."""
    pixel_side: int = 192
    """Side of the square whose pixels answer where there is no network, in pixels."""
    pixel_patch: int = 16
    """Side of its patches, in pixels."""

    def __post_init__(self) -> None:
        for name in ("studies", "train_studies", "truth_studies", "patches", "pixel_side", "pixel_patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"consistency.{name} is {getattr(self, name)}; ask for at least 1")
        if not self.radius_cm > 0:
            raise ConfigError(f"consistency.radius_cm is {self.radius_cm}; a distance is above 0")
        if not self.strengths or min(self.strengths) <= 0:
            raise ConfigError(f"consistency.strengths is {self.strengths}; give numbers above 0")
        if self.pixel_side % self.pixel_patch:
            raise ConfigError(
                f"consistency.pixel_side {self.pixel_side} is no multiple of pixel_patch {self.pixel_patch}"
            )


def consistency(
    source: Source,
    shards: str | Path,
    config: ConsistencyConfig | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Measured:
    """All four measures of a source on the test split; what a source cannot be asked is named in `left_out`.

    Rows are pairs of projections (`VD-LLAT`, both directions together; `all`: those of two different projections),
    organs, or what is decoded. Of every figure `present` counts patients and `known` what was asked: queries,
    patches, views. Chance, floors and ceilings are columns of their own, such as `recall_at_10_chance`. Studies are
    chosen by a hash of their keys. Raises FeaturesError for an empty test split or a patient in two splits,
    ConfigError and DataError for truth that is missing or of other studies.
    """
    config = config or ConsistencyConfig()
    features = source.features(level="view")
    most = {"train": config.train_studies, "val": config.train_studies, "test": config.studies}
    views = {split: _views(features, shards, split, count, seed) for split, count in most.items()}
    if not len(views["test"].features):
        raise FeaturesError(f"{shards}: no studies in the test split; ingest more patients")
    spread = Spread(source.name, resamples, seed)
    return _together(
        [
            retrieval(views["test"], spread),
            leak(views, config, spread),
            with_truth(source, shards, config, spread),
        ]
    )


def _together(parts: Sequence[Measured]) -> Measured:
    return Measured(
        figures=tuple(figure for part in parts for figure in part.figures),
        left_out={name: reason for part in parts for name, reason in part.left_out.items()},
        facts={name: value for part in parts for name, value in part.facts.items()},
        pictures={name: png for part in parts for name, png in part.pictures.items()},
    )


def choice(key: str, seed: int) -> int:
    """A number that depends on a study's key and the seed alone, never on order: by it studies are chosen."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8])


# Figures with intervals --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """Makes figures of items: means and medians, with 95 % intervals over their patients."""

    source: str
    resamples: int
    seed: int

    def means(self, row: str, columns: Mapping[str, np.ndarray], patients: Sequence[str]) -> Iterator[Figure]:
        """Of items, (N,) each; NaN is not known."""
        known = {name: ~np.isnan(column) for name, column in columns.items()}
        sums = {name: np.where(known[name], column, 0.0) for name, column in columns.items()}
        return self.ratios(row, {name: (sums[name], known[name].astype(float)) for name in columns}, patients)

    def ratios(
        self, row: str, columns: Mapping[str, tuple[np.ndarray, np.ndarray]], patients: Sequence[str]
    ) -> Iterator[Figure]:
        """Sum of the first over the sum of the second, (N,) each; nothing where the second is 0."""
        names, patient_N = np.unique(np.asarray(patients), return_inverse=True)
        parts_2PX = np.zeros((2, len(names), len(columns)))
        for x, pair in enumerate(columns.values()):
            for part, column_N in enumerate(pair):
                np.add.at(parts_2PX[part, :, x], patient_N, column_N)
        over_PX, under_PX = parts_2PX
        low, high = self.interval(lambda weight_RP: ratio(weight_RP @ over_PX, weight_RP @ under_PX), names)
        values = ratio(over_PX.sum(axis=0), under_PX.sum(axis=0))
        for x, name in enumerate(columns):
            if under_PX[:, x].any():
                count = int((under_PX[:, x] > 0).sum()), int(under_PX[:, x].sum())
                yield self.figure(name, row, values[x], (low[x], high[x]), *count)

    def medians(
        self, row: str, columns: Mapping[str, np.ndarray], patients: Sequence[str]
    ) -> Iterator[Figure]:
        """Of items, (N,) each, all known; of an even number the lower middle one."""
        for name, column_N in columns.items():
            order = np.argsort(column_N, kind="stable")

            def middle(weight_RN: np.ndarray, order=order, sorted_N=column_N[order]) -> np.ndarray:
                below_RN = np.cumsum(weight_RN[:, order], axis=1)
                return sorted_N[(2 * below_RN >= below_RN[:, -1:]).argmax(axis=1)]

            (value,) = middle(np.ones((1, len(column_N))))
            yield self.figure(
                name, row, value, self.interval(middle, patients), len(set(patients)), len(column_N)
            )

    def interval(self, fn, patients: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """`bootstrap_interval` of these figures; NaN where there is one patient, who tells of no other."""
        low, high = bootstrap_interval(fn, patients, self.resamples, self.seed)
        return (
            (low, high) if len(set(patients)) > 1 else (np.full_like(low, np.nan), np.full_like(high, np.nan))
        )

    def figure(self, metric: str, row: str, value: float, bounds: Sequence[float], *counts: int) -> Figure:
        """One figure of this source; counts: patients, and what was asked."""
        return Figure(metric, row, self.source, float(value), *map(float, bounds), *counts)


def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """over / under, NaN where under is 0.

    >>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0]))
    array([0.5, nan])
    """
    return np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under != 0)


# Views of a split --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """The vectors of some views, row by row, with what their files say: (V,) projections and facts."""

    features: Features
    projections: tuple[str, ...]
    facts: tuple[Mapping[str, str], ...]

    def __repr__(self) -> str:
        return f"Views({len(self.projections)} of {len(set(self.features.keys))} studies)"


def chosen(keys: Iterable[str], most: int, seed: int) -> list[str]:
    """At most so many of the keys, by hash: the same whatever their order, and mostly the same in another archive."""
    return sorted(set(keys), key=lambda key: choice(key, seed))[:most]


def _views(features: Features, shards: str | Path, split: str, most: int, seed: int) -> Views:
    """The views of the chosen studies of a split. Raises FeaturesError where shards lack one of them."""
    part = features.of(split)
    index = StudyIndex(shards, split)
    places = {key: place for place, key in enumerate(index.keys())}
    keys = chosen(part.keys, most, seed)
    if not places.keys() >= set(keys):
        raise FeaturesError(f"the features are of other shards than {shards}; extract them again")
    stored = {key: index.load(places[key]).views for key in keys}
    part = part.rows([row for row, key in enumerate(part.keys) if key in stored])
    views = [
        stored[key][int(name.removeprefix("view"))] for key, name in zip(part.keys, part.views, strict=True)
    ]
    return Views(part, tuple(view.projection for view in views), tuple(dict(view.facts) for view in views))


# Retrieval ---------------------------------------------------------------------------------------

TOPS = (1, 5, 10)
"""Ranks at which recall is told."""


def pair_name(one: str, other: str) -> str:
    """The row of two projections, whichever comes first.

    >>> pair_name("LLAT", "VD")
    'VD-LLAT'
    """
    return "-".join(sorted((one, other), key=PROJECTIONS.index))


def retrieval(views: Views, spread: Spread) -> Measured:
    """recall@1, @5, @10 and MRR of finding a study's other view, by pair of projections, beside chance.

    Every ordered pair of views of a study is a query: its second view stands among all views of the same projection
    of other patients, and nobody else of the own study. What ties with it counts as nearer. Chance is exact: 1 of n
    for recall@1, the mean of 1/rank over n equally likely ranks for MRR. Intervals draw the patients that ask; the
    bank stays.
    """
    vectors, patients = views.features.vectors, np.asarray(views.features.patients)
    asked: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    by_study = _rows_by_study(views)
    for rows in by_study.values():
        for one, other in permutations(rows, 2):
            asked[views.projections[one], views.projections[other]].append((one, other))
    found: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = defaultdict(list)
    for (here, there), pairs in asked.items():
        query, own = np.array(pairs).T
        bank = np.array([row for row, name in enumerate(views.projections) if name == there])
        ranks = ranks_of(vectors[query], vectors[own], vectors[bank], patients[query], patients[bank])
        found[pair_name(here, there)].append((*ranks, patients[query]))
        if here != there:
            found["all"].append((*ranks, patients[query]))
    figures, left_out = [], {}
    for row in _pair_order(found):
        rank_Q, others_Q, patient_Q = map(np.concatenate, zip(*found[row], strict=True))
        if others_Q.any():
            figures += spread.means(row, _recalls(rank_Q, others_Q), patient_Q.tolist())
        else:
            left_out[f"retrieval {row}"] = "no other patient has such a view"
    if not found:
        left_out["retrieval"] = "no test study has two views of known projection"
    unknown = sum(name == "UNKNOWN" for name in views.projections)
    facts = {"retrieval_studies": len(by_study), "views_without_projection": unknown}
    return Measured(tuple(figures), left_out, facts)


def ranks_of(
    query_QD: np.ndarray,
    own_QD: np.ndarray,
    bank_MD: np.ndarray,
    query_patients: np.ndarray,
    bank_patients: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(rank, others), (Q,) each: the place of a query's own view among the bank's views of other patients, 1 the
    best, and how many those are. Vectors have length 1; a view that ties counts as nearer."""
    names, codes = np.unique(np.concatenate([query_patients, bank_patients]), return_inverse=True)
    query_codes, bank_codes = codes[: len(query_patients)], codes[len(query_patients) :]
    own_Q = np.einsum("qd,qd->q", query_QD, own_QD)
    nearer_Q = np.empty(len(query_QD), np.int64)
    rows = max(1, BLOCK // len(bank_MD))
    for start in range(0, len(query_QD), rows):
        part = slice(start, start + rows)
        # The two products sum in different orders, so one and the same cosine may differ in its last bits.
        near_QM = query_QD[part] @ bank_MD.T >= own_Q[part, None] - GRAIN
        nearer_Q[part] = (near_QM & (query_codes[part, None] != bank_codes)).sum(axis=1)
    others_Q = len(bank_MD) - np.bincount(bank_codes, minlength=len(names))[query_codes]
    return 1 + nearer_Q, others_Q


def _recalls(rank_Q: np.ndarray, others_Q: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of figures: recall at each of TOPS, MRR, and what chance gives; NaN where nobody else is in the bank."""
    alone_Q = others_Q == 0
    harmonic = np.cumsum(1 / np.arange(1, others_Q.max() + 2))
    columns = {f"recall_at_{top}": (rank_Q <= top).astype(float) for top in TOPS}
    columns |= {"mrr": 1 / rank_Q}
    columns |= {f"recall_at_{top}_chance": np.minimum(1.0, top / (others_Q + 1)) for top in TOPS}
    columns |= {"mrr_chance": harmonic[others_Q] / (others_Q + 1)}
    return {name: np.where(alone_Q, np.nan, column) for name, column in columns.items()}


def _rows_by_study(views: Views) -> dict[str, list[int]]:
    """The views of known projection of each study."""
    by_study: dict[str, list[int]] = defaultdict(list)
    for row, (key, projection) in enumerate(zip(views.features.keys, views.projections, strict=True)):
        if projection != "UNKNOWN":
            by_study[key].append(row)
    return by_study


def _pair_order(rows: Iterable[str]) -> list[str]:
    """`all` first, then pairs in the order of PROJECTIONS."""
    return sorted(rows, key=lambda row: [PROJECTIONS.index(name) for name in row.split("-") if name != "all"])


# Leak --------------------------------------------------------------------------------------------

LEAST = 5
"""Views of a class, in train and in test, below which it is none."""


def leak(views: Mapping[str, Views], config: ConsistencyConfig, spread: Spread) -> Measured:
    """How well view vectors give away projection and facts of the file, and findings, to the same linear decoder.

    `downstream.linear` learns from views of train patients and is asked about those of test patients, its strength
    chosen on the validation split. `leak_balanced_accuracy`: the mean over classes of the share that is told right,
    chance 1 / C. `leak_auroc` of `findings`: macro AUROC over findings. views: by split. Raises FeaturesError where
    a patient is in two splits.
    """
    if not len(views["train"].features):
        return Measured((), {"leak": "no studies in the train split"})
    decoder = LinearConfig(pools=("cls",), blocks=(1,), cs=config.strengths, class_weight="balanced")
    figures, left_out, facts = [], {}, {}
    for name in (
        "projection",
        *sorted({name for part in views.values() for seen in part.facts for name in seen}),
    ):
        classes = _classes(*(_words(views[split], name) for split in ("train", "test")))
        if len(classes) < 2:
            left_out[f"leak {name}"] = f"fewer than two classes with {LEAST} views in train and in test"
            continue
        answers = linear(_Table(_classified(views, name, classes)), replace(decoder, exclusive=True))
        figures += _balanced(name, answers, spread)
        facts |= {f"leak_{name}": ", ".join(classes), f"leak_{name}_C": answers.facts["C"]}
    answers = linear(_Table(_joined([part.features for part in views.values()])), decoder)
    left_out |= {f"leak {finding}": reason for finding, reason in answers.left_out.items()}
    if answers.findings:
        facts |= {"leak_findings": len(answers.findings), "leak_findings_C": answers.facts["C"]}
        figures += _macro_auroc(answers, spread)
    return Measured(tuple(figures), left_out, facts | {"leak_train_views": len(views["train"].projections)})


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Features of views that `downstream.linear` may ask as it asks a source."""

    table: Features
    name: str = "views"

    def given(self, descriptors: Iterable[Descriptor]) -> list[Descriptor]:
        return [next(iter(descriptors))]

    def features(self, pool: Pool = "cls", blocks: int = 1) -> Features:
        return self.table


def _words(views: Views, name: str) -> list[str]:
    """What each view is, by its projection or by a fact of its file; empty where that is not known."""
    if name == "projection":
        return ["" if word == "UNKNOWN" else word for word in views.projections]
    return [seen.get(name, "") for seen in views.facts]


def _classes(train: Sequence[str], test: Sequence[str]) -> list[str]:
    """Words that are often enough in both, in order."""
    counts = Counter(train), Counter(test)
    return sorted(word for word in counts[0] if word and min(count[word] for count in counts) >= LEAST)


def _classified(views: Mapping[str, Views], name: str, classes: list[str]) -> Features:
    """The vectors of the views of these classes, which stand in place of the findings."""
    parts = []
    for part in views.values():
        words = _words(part, name)
        rows = [row for row, word in enumerate(words) if word in classes]
        labels_VC = np.array([[word == words[row] for word in classes] for row in rows], np.float32)
        parts.append(
            replace(
                part.features.rows(rows), findings=tuple(classes), labels=labels_VC.reshape(-1, len(classes))
            )
        )
    return _joined(parts)


def _joined(parts: Sequence[Features]) -> Features:
    """The rows of several tables of one source as one table."""
    columns = {
        name: tuple(word for part in parts for word in getattr(part, name))
        for name in ("keys", "patients", "splits", "views")
    }
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("vectors", "labels")}
    return replace(parts[0], **columns, **arrays)


def _balanced(name: str, answers: Answers, spread: Spread) -> Iterator[Figure]:
    """Balanced accuracy of the surest class, and chance."""
    people, patient_V = np.unique(np.asarray(answers.patients), return_inverse=True)
    right_V = answers.scores.argmax(axis=1) == answers.truth.argmax(axis=1)
    parts_2PC = np.zeros((2, len(people), len(answers.findings)))
    np.add.at(parts_2PC[0], patient_V, answers.truth * right_V[:, None])
    np.add.at(parts_2PC[1], patient_V, answers.truth)
    right_PC, all_PC = parts_2PC

    def told(weight_RP: np.ndarray) -> np.ndarray:
        return ratio(weight_RP @ right_PC, weight_RP @ all_PC).mean(axis=1)

    (value,) = told(np.ones((1, len(people))))
    chance, counts = 1 / len(answers.findings), (len(people), len(right_V))
    yield spread.figure("leak_balanced_accuracy", name, value, spread.interval(told, people), *counts)
    yield spread.figure("leak_balanced_accuracy_chance", name, chance, (chance, chance), *counts)


def _macro_auroc(answers: Answers, spread: Spread) -> Iterator[Figure]:
    found = estimate(
        auroc, answers.truth, answers.scores, answers.patients, spread.resamples, spread.seed
    ).macro()
    counts = len(set(answers.patients)), len(answers.patients)
    yield spread.figure("leak_auroc", "findings", found.values[0], np.ravel(found.interval()), *counts)
    yield spread.figure("leak_auroc_chance", "findings", 0.5, (0.5, 0.5), *counts)


# With the truth of generated studies ---------------------------------------------------------------

UPRIGHT = ("VD", "DV")
"""Projections in which the animal is seen from above or below; the other generated ones are from the side."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """How the heads' looks at one view agree with its organs: auc, lift (K, H), as `truth.overlap_of` tells them."""

    key: str
    patient: str
    projection: str
    organs: tuple[str, ...]
    auc: np.ndarray
    lift: np.ndarray

    def __repr__(self) -> str:
        return (
            f"Overlap({self.projection} of {self.key}, {len(self.organs)} organs, {self.auc.shape[1]} heads)"
        )


def with_truth(source: Source, shards: str | Path, config: ConsistencyConfig, spread: Spread) -> Measured:
    """Patches and attention, where the truth is given and the source has patches."""
    if config.truth is None:
        reason = "no truth given (consistency.truth); it comes with generated studies"
    elif source.backbone is None and not source.digest.startswith("pixels"):
        reason = f"{source.label} have no patches"
    else:
        return _asked(source, shards, config, spread)
    return Measured((), {"patches": reason, "attention": reason})


def _asked(source: Source, shards: str | Path, config: ConsistencyConfig, spread: Spread) -> Measured:
    """One walk over the chosen studies; `patch_cm`, the median side of a patch on the animal, explains the ceiling."""
    matches: dict[str, list[tuple[str, Matches]]] = defaultdict(list)
    overlaps: list[Overlap] = []
    shown: list[Look] = []
    counts: Counter[str] = Counter()
    sizes: list[float] = []
    for study, truths in _studies_with_truth(source, shards, config, spread.seed):
        looks = looks_of(source.backbone, truths, config.pixel_side, config.pixel_patch)
        counts.update(truth_studies=1, truth_views=len(looks), views_without_truth=len(truths) - len(looks))
        sizes += [float(np.diff(look.patches.across).mean()) for look in looks]
        random = np.random.default_rng(choice(study.key, spread.seed))
        for here, there in permutations(looks, 2):
            found = matches_of(here, there, radius=config.radius_cm, most=config.patches, random=random)
            matches[pair_name(here.projection, there.projection)].append((study.patient, found))
        if source.backbone is not None:
            for look in looks:
                organs = look.patches.truth.organs
                overlap = Overlap(study.key, study.patient, look.projection, organs, *overlap_of(look))
                overlaps.append(overlap)
            shown += _from_above_and_beside(looks) if len(shown) < SHOWN else []
    patches = patch_figures(matches, spread)
    attention = (
        attention_figures(overlaps, spread) if overlaps else Measured((), {"attention": "it has no heads"})
    )
    pictures = {}
    if shown:
        pictures[f"attention_{source.name}.png"] = panel(shown, _heads(attention), source.label)
    facts = dict(counts) | ({"patch_cm": round(float(np.median(sizes)), 2)} if sizes else {})
    return _together([patches, attention, Measured((), {}, facts, pictures)])


SHOWN = 4
"""Views in the picture of attention: of two studies, one from above and one from the side each."""


def _studies_with_truth(
    source: Source, shards: str | Path, config: ConsistencyConfig, seed: int
) -> Iterator[tuple[Study, list[tuple[View, Truth | None]]]]:
    """The chosen test studies, each view with its map. Raises DataError where the truth is of none of them."""
    truths = Truths(config.truth, config.secret or Path(f"{shards}.secret"))
    index = StudyIndex(shards, "test")
    places = {key: place for place, key in enumerate(index.keys()) if key in truths}
    if not places:
        raise DataError(
            f"{config.truth}: holds the truth of none of the {len(index)} test studies under this secret; give the "
            "archive and the key file that the shards were made from"
        )
    for key in track(
        chosen(places, config.truth_studies, seed), label=f"truth, {source.name}", unit="studies"
    ):
        study = index.load(places[key])
        yield study, truths.of(study)


def _from_above_and_beside(looks: Sequence[Look]) -> list[Look]:
    above = [look for look in looks if look.projection in UPRIGHT]
    beside = [look for look in looks if look.projection not in UPRIGHT]
    return [above[0], beside[0]] if above and beside else []


def patch_figures(matches: Mapping[str, Sequence[tuple[str, Matches]]], spread: Spread) -> Measured:
    """Hits (means) and errors (medians, cm) of patches, by pair of projections; `patch_answerable` is the part of the
    animal's patches that could be asked."""
    figures, left_out = [], {}
    rows = {row: list(found) for row, found in matches.items()}
    rows["all"] = [one for row, found in rows.items() if len(set(row.split("-"))) > 1 for one in found]
    for row in _pair_order(rows):
        asked = [(patient, found) for patient, found in rows[row] if found.columns]
        if not asked:
            left_out[f"patches {row}"] = "no patch of one view is confirmed by another's truth"
            continue
        columns = {
            name: np.concatenate([found.columns[name] for _, found in asked]) for name in asked[0][1].columns
        }
        patients = [patient for patient, found in asked for _ in found.columns["patch_error_cm"]]
        hits, errors = (
            {name: column for name, column in columns.items() if name.startswith(f"patch_{what}")}
            for what in ("hit", "error")
        )
        figures += spread.means(row, hits, patients)
        figures += spread.medians(row, errors, patients)
        counts = np.array([(found.answerable, found.foreground) for _, found in rows[row]], float).T
        figures += spread.ratios(
            row, {"patch_answerable": tuple(counts)}, [patient for patient, _ in rows[row]]
        )
    return Measured(tuple(figures), left_out)


def attention_figures(overlaps: Sequence[Overlap], spread: Spread) -> Measured:
    """Attention and organs: the best head of each, and whether it is the same from above and from the side.

    `attention_auc`, `attention_lift`: of the head that is best (mean AUC) on the other half of the patients, so that
    choosing does not flatter; `attention_auc_heads`: the mean over heads. `attention_best_head`: on all, from 0.
    `attention_same_head`: share of studies whose best head is the same in their views from above and from the side;
    `attention_head_correlation`: Spearman's, over heads, between their mean AUC from above and from the side. `all`
    is the mean over organs.
    """
    organs = sorted({organ for one in overlaps for organ in one.organs} - set(BACKGROUND))
    auc_VKH, lift_VKH = _by_organ(overlaps, organs)
    patients = [one.patient for one in overlaps]
    half_V = np.array([choice(patient, spread.seed) % 2 for patient in patients])
    other_2K = np.stack([best_heads(auc_VKH[half_V != half]) for half in (0, 1)])
    columns = {
        "attention_auc": _of_heads(auc_VKH, other_2K[half_V]),
        "attention_auc_heads": auc_VKH.mean(axis=2),
        "attention_lift": _of_heads(lift_VKH, other_2K[half_V]),
    }
    figures = []
    for row, pick in _rows_of(organs):
        figures += spread.means(row, {name: pick(column_VK) for name, column_VK in columns.items()}, patients)
    for organ, head, column_V in zip(organs, best_heads(auc_VKH), auc_VKH[:, :, 0].T, strict=True):
        seen = [patient for patient, value in zip(patients, column_V, strict=True) if not np.isnan(value)]
        if seen:
            no_bounds, counts = (np.nan, np.nan), (len(set(seen)), len(seen))
            figures.append(spread.figure("attention_best_head", organ, head, no_bounds, *counts))
    missing = set(organs) - {figure.finding for figure in figures if figure.metric == "attention_auc"}
    left_out = {
        f"attention {organ}": "shown to one half of the patients or to none" for organ in sorted(missing)
    }
    told = Measured(tuple(figures), left_out, {"heads": auc_VKH.shape[2]})
    return _together([told, stability(overlaps, organs, auc_VKH, spread)])


def _by_organ(overlaps: Sequence[Overlap], organs: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """AUC and lift of all views, (V, K, H) each; NaN where a view does not show the organ."""
    table_2VKH = np.full((2, len(overlaps), len(organs), overlaps[0].auc.shape[1]), np.nan)
    for v, one in enumerate(overlaps):
        for organ, *values_2H in zip(one.organs, one.auc, one.lift, strict=True):
            if organ in organs:
                table_2VKH[:, v, organs.index(organ)] = values_2H
    return table_2VKH[0], table_2VKH[1]


def best_heads(auc_VKH: np.ndarray) -> np.ndarray:
    """The head of largest mean AUC for each organ, (K,); -1 where no view shows it."""
    mean_KH = _mean_known(auc_VKH)
    return np.where(np.isnan(mean_KH).all(axis=1), -1, np.nan_to_num(mean_KH, nan=-1.0).argmax(axis=1))


def _mean_known(values: np.ndarray, axis: int = 0) -> np.ndarray:
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis))


def _of_heads(values_VKH: np.ndarray, heads_VK: np.ndarray) -> np.ndarray:
    """The values of one head for each view and organ, (V, K); NaN where the head is -1."""
    picked_VK = np.take_along_axis(values_VKH, heads_VK.clip(0)[..., None], axis=2)[..., 0]
    return np.where(heads_VK < 0, np.nan, picked_VK)


def _rows_of(organs: Sequence[str]) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Row name -> its column out of (…, K): the mean over organs first, then each organ."""
    yield "all", lambda values: _mean_known(values, axis=-1)
    for k, organ in enumerate(organs):
        yield organ, lambda values, k=k: values[..., k]


def stability(
    overlaps: Sequence[Overlap], organs: Sequence[str], auc_VKH: np.ndarray, spread: Spread
) -> Measured:
    """`attention_same_head` (1 / H is chance) and `attention_head_correlation`, as `attention_figures` says."""
    heads = auc_VKH.shape[2]
    if heads == 1:
        return Measured((), {"attention_same_head": "it has one head"})
    above = {one.key: [] for one in overlaps}, {one.key: [] for one in overlaps}
    for v, one in enumerate(overlaps):
        above[one.projection in UPRIGHT][one.key].append(v)
    both = [key for key in above[0] if above[0][key] and above[1][key]]
    if not both:
        return Measured((), {"attention_same_head": "no study has views from above and from the side"})
    side_SKH, top_SKH = (np.stack([_mean_known(auc_VKH[rows[key]]) for key in both]) for rows in above)
    known_SK = ~np.isnan(side_SKH + top_SKH).any(axis=2)
    same_SK = np.where(known_SK, _first(side_SKH) == _first(top_SKH), np.nan)
    patient_of = {one.key: one.patient for one in overlaps}
    patients = [patient_of[key] for key in both]
    figures, left_out = [], {}
    for row, pick in _rows_of(organs):
        figures += spread.means(row, {"attention_same_head": pick(same_SK)}, patients)
    if heads < 3:
        left_out["attention_head_correlation"] = "two heads have two orders only"
    else:
        figures += _correlations(side_SKH, top_SKH, known_SK, organs, patients, spread)
    return Measured(tuple(figures), left_out)


def _first(auc_SKH: np.ndarray) -> np.ndarray:
    return np.nan_to_num(auc_SKH, nan=-1.0).argmax(axis=2)


def _correlations(
    side_SKH: np.ndarray,
    top_SKH: np.ndarray,
    known_SK: np.ndarray,
    organs: Sequence[str],
    patients: Sequence[str],
    spread: Spread,
) -> Iterator[Figure]:
    """Spearman's correlation over heads between the mean AUC of two kinds of view, organ by organ."""

    def told(weight_RS: np.ndarray) -> np.ndarray:
        count_RK1 = (weight_RS @ known_SK)[..., None]
        means = [
            ratio(np.einsum("rs,skh->rkh", weight_RS, np.where(known_SK[..., None], one, 0.0)), count_RK1)
            for one in (side_SKH, top_SKH)
        ]
        return rank_correlation(*means)

    value_K = told(np.ones((1, len(patients))))[0]
    for row, pick in _rows_of(organs):
        if not np.isnan(pick(value_K)):
            bounds = spread.interval(lambda weight_RS, pick=pick: pick(told(weight_RS)), patients)
            counts = len(set(patients)), len(patients)
            yield spread.figure("attention_head_correlation", row, pick(value_K), bounds, *counts)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis; NaN where something is unknown or all is alike."""
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=-1) for values in (one, other)]
    first, second = (values - values.mean(axis=-1, keepdims=True) for values in ranks)
    return ratio((first * second).sum(axis=-1), np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1)))


def _heads(attention: Measured) -> dict[str, tuple[int, float]]:
    """organ -> (best head, its AUC), of the organs that have both figures."""
    told = {(figure.metric, figure.finding): figure.value for figure in attention.figures}
    return {
        organ: (int(head), told["attention_auc", organ])
        for (metric, organ), head in told.items()
        if metric == "attention_best_head" and ("attention_auc", organ) in told
    }
