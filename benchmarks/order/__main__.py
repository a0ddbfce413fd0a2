"""`python -m benchmarks.order`: how orders mix and read shards sorted by label and patient, as a table and JSON."""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vetdino.pretrain.batches.order import MixedOrder, StudyOrder

# N studies of an archive, S shards; M = T x B studies of an epoch: T steps of B studies each.


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """Studies by row: a label that is 0 or 1 (N,), and the number of the patient (N,)."""

    shards: tuple[int, ...]
    """Studies of each shard."""
    label_N: np.ndarray
    patient_N: np.ndarray

    @property
    def studies(self) -> int:
        """All studies."""
        return len(self.label_N)


def sorted_archive(shards: int, studies: int, prevalence: float, seed: int) -> Archive:
    """The worst case: all positive studies first, those of a patient (1 to 7) in a row.

    studies: of a shard on average; each has three to five quarters of that.
    """
    random = np.random.default_rng(seed)
    counts_S = random.integers(studies * 3 // 4, studies * 5 // 4 + 1, shards)
    total = int(counts_S.sum())
    patient_N = np.repeat(np.arange(total), random.integers(1, 8, total))[:total]
    return Archive(tuple(counts_S.tolist()), (np.arange(total) < prevalence * total).astype(float), patient_N)


def hashed_archive(archive: Archive, seed: int) -> Archive:
    """The same studies in the order of a hash, as `vetdino ingest` writes them."""
    rows_N = np.random.default_rng(seed).permutation(archive.studies)
    return replace(archive, label_N=archive.label_N[rows_N], patient_N=archive.patient_N[rows_N])


def epoch_rows(order: StudyOrder | MixedOrder, epoch: int) -> np.ndarray:
    """The rows of an epoch as its steps take them: (T, B)."""
    first = epoch * order.per_epoch
    return np.stack([order.rows(step) for step in range(first, first + order.per_epoch)])


def autocorrelation(value_M: np.ndarray, lags: int) -> np.ndarray:
    """Autocorrelation of a sequence at lags 1 to `lags`; 0 for independent values, up to 1 / sqrt(M)."""
    centered = value_M - value_M.mean()
    spectrum = np.fft.rfft(centered, 2 * len(centered))
    products = np.fft.irfft(spectrum * spectrum.conj())[: lags + 1]
    pairs = len(centered) - np.arange(lags + 1)
    return (products / pairs)[1:] / (products[0] / pairs[0])


def same_patient(patient_M: np.ndarray, lags: int) -> np.ndarray:
    """Share of the pairs at lags 1 to `lags` whose studies are of one patient."""
    return np.array([(patient_M[:-lag] == patient_M[lag:]).mean() for lag in range(1, lags + 1)])


def same_patient_by_chance(patient_N: np.ndarray) -> float:
    """Share of all pairs of studies that are of one patient."""
    _, counts = np.unique(patient_N, return_counts=True)
    return float((counts * (counts - 1)).sum() / (len(patient_N) * (len(patient_N) - 1)))


def mixing(order: StudyOrder, archive: Archive, epochs: int) -> dict[str, float]:
    """How far an order is from independent draws; each figure is a mean over epochs.

    label_lag_1, label_mean, label_lag_batch: autocorrelation of the label along the studies, at lag 1, on average over
    lags 1 to B, and at lag B, the next step. share_variance: variance of the label's share of a batch, over that of
    independent draws. share_lag_1: autocorrelation of that share from step to step. patient: pairs of studies of one
    patient at lags 1 to B, over those of a permutation. patient_pairs: such pairs in a batch.
    """
    return _means([_mixing(epoch_rows(order, epoch), archive) for epoch in range(epochs)])


def _mixing(rows_TB: np.ndarray, archive: Archive) -> dict[str, float]:
    batch = rows_TB.shape[1]
    label_TB, patient_TB = archive.label_N[rows_TB], archive.patient_N[rows_TB]
    by_lag = autocorrelation(label_TB.ravel(), batch)
    share_T, prevalence = label_TB.mean(1), archive.label_N.mean()
    _, of_one_batch = np.unique(
        patient_TB + (np.arange(len(rows_TB)) * (archive.patient_N.max() + 1))[:, None], return_counts=True
    )
    chance = same_patient_by_chance(archive.patient_N)
    return {
        "label_lag_1": float(by_lag[0]),
        "label_mean": float(by_lag.mean()),
        "label_lag_batch": float(by_lag[-1]),
        "share_variance": float(share_T.var() / (prevalence * (1 - prevalence) / batch)),
        "share_lag_1": float(autocorrelation(share_T, 1)[0]),
        "patient": float(same_patient(patient_TB.ravel(), batch).mean() / chance),
        "patient_pairs": float((of_one_batch * (of_one_batch - 1) / 2).sum() / len(rows_TB)),
    }


def reading(order: StudyOrder, workers: int, cache: int, epochs: int) -> dict[str, float]:
    """What the first of all workers reads; each figure is a mean over epochs.

    shards_at_once: most shards that its lanes have begun and not finished. downloads: whole shards that it fetches in
    an epoch into a cache of so many, which drops the one used longest ago, over those that it would fetch if each
    were read by one worker once.
    """
    return _means([_reading(order, epoch_rows(order, epoch), workers, cache) for epoch in range(epochs)])


def _reading(order: StudyOrder, rows_TB: np.ndarray, workers: int, cache: int) -> dict[str, float]:
    shard_N = np.repeat(np.arange(len(order.shards)), order.shards)
    shard_TB = shard_N[rows_TB[:, : order.batch // workers]]
    lanes = np.split(shard_TB, max(1, order.lanes // workers), axis=1)
    return {
        "shards_at_once": float(sum(shards_at_once(lane.ravel()) for lane in lanes)),
        "downloads": downloads(shard_TB.ravel(), cache) / (len(order.shards) / workers),
    }


def shards_at_once(shard_M: np.ndarray) -> int:
    """Most shards between their first and their last read at one time."""
    _, first = np.unique(shard_M, return_index=True)
    _, from_end = np.unique(shard_M[::-1], return_index=True)
    change = np.zeros(len(shard_M) + 1, int)
    np.add.at(change, first, 1)
    np.add.at(change, len(shard_M) - from_end, -1)
    return int(change.cumsum().max())


def downloads(shard_M: np.ndarray, cache: int) -> int:
    """Shards fetched into a cache that drops the one used longest ago."""
    held: OrderedDict[int, None] = OrderedDict()
    fetched = 0
    for shard in shard_M.tolist():
        if shard not in held:
            fetched += 1
            if len(held) == cache:
                held.popitem(last=False)
        held[shard] = None
        held.move_to_end(shard)
    return fetched


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([figure[name] for figure in figures])) for name in figures[0]}


def orders(args: argparse.Namespace, shards: tuple[int, ...]) -> Iterator[StudyOrder]:
    """The permutation first, then each window with each number of lanes."""
    plain = StudyOrder(sum(shards), args.batch, args.seed, shards)
    yield plain
    for lanes in args.lanes:
        for window in args.windows:
            yield replace(plain, window=window, lanes=lanes)


def measure(args: argparse.Namespace) -> list[dict[str, float]]:
    """One row of figures for each archive and order."""
    worst = sorted_archive(args.shards, args.studies, args.prevalence, args.seed)
    rows = []
    for name, archive in (("sorted", worst), ("hashed", hashed_archive(worst, args.seed))):
        for order in orders(args, archive.shards):
            figures = mixing(order, archive, args.epochs)
            figures |= reading(order, args.workers, args.cache, args.epochs)
            rows.append({"archive": name, "window": order.window, "lanes": order.lanes, **figures})
    return rows


# Mixes ----------------------------------------------------------------------------------------------------


def independent_rows(order: MixedOrder, steps: int) -> np.ndarray:
    """What a mix is compared with: each study's archive drawn by weight, then a study of it: (T, B)."""
    random = np.random.default_rng(order.seed)
    counts = np.array([sum(shards) for shards in order.archives])
    share = np.array(order.weights) / sum(order.weights)
    number_TB = random.choice(len(counts), (steps, order.batch), p=share)
    return (np.cumsum(counts) - counts)[number_TB] + random.integers(counts[number_TB])


def mix_figures(rows_TB: np.ndarray, archives: Sequence[Archive], weights: Sequence[int]) -> dict[str, float]:
    """How far a mix is from independent draws by weight.

    folder_lag_1, folder_mean: autocorrelation of "is of the first archive" along the studies, at lag 1 and on average
    over lags 1 to B. folder_variance: variance of the first archive's share of a batch, over that of independent draws.
    label_mean, label_variance: the same of the label. patient: pairs of studies of one patient at lags 1 to B, over
    those of independent draws.
    """
    batch = rows_TB.shape[1]
    first = archives[0].studies
    share_M = np.array(weights) / sum(weights)
    label_TB = np.concatenate([archive.label_N for archive in archives])[rows_TB]
    offsets = np.cumsum([0, *(archive.patient_N.max() + 1 for archive in archives)])
    patient_N = np.concatenate(
        [each.patient_N + start for each, start in zip(archives, offsets[:-1], strict=True)]
    )
    chance = sum(
        share**2 * same_patient_by_chance(each.patient_N)
        for share, each in zip(share_M, archives, strict=True)
    )
    figures = {}
    for name, value_TB in (("folder", (rows_TB < first).astype(float)), ("label", label_TB)):
        by_lag, part_T, mean = autocorrelation(value_TB.ravel(), batch), value_TB.mean(1), value_TB.mean()
        figures |= {
            f"{name}_lag_1": float(by_lag[0]),
            f"{name}_mean": float(by_lag.mean()),
            f"{name}_variance": float(part_T.var() / (mean * (1 - mean) / batch)),
        }
    return figures | {"patient": float(same_patient(patient_N[rows_TB].ravel(), batch).mean() / chance)}


def measure_mixes(args: argparse.Namespace) -> list[dict[str, float]]:
    """One row for independent draws and for each order, of three sorted archives of 5, 3 and 2 parts of the shards."""
    parts = [max(1, args.shards * part // 10) for part in (5, 3, 2)]
    archives = [
        sorted_archive(part, args.studies, args.prevalence, args.seed + number)
        for number, part in enumerate(parts)
    ]
    plain = MixedOrder(tuple(each.shards for each in archives), tuple(args.mix), args.batch, args.seed)
    drawn = independent_rows(plain, args.epochs * plain.per_epoch)
    rows: list[dict[str, float]] = [
        {"archive": "drawn", "window": 0, "lanes": 1, **mix_figures(drawn, archives, plain.weights)}
    ]
    pairs = [(0, 1), *((window, lanes) for lanes in args.lanes for window in args.windows)]
    for window, lanes in pairs:
        order = replace(plain, window=window, lanes=lanes)
        drawn = np.concatenate([epoch_rows(order, epoch) for epoch in range(args.epochs)])
        figures = mix_figures(drawn, archives, plain.weights)
        rows.append({"archive": "mixed", "window": window, "lanes": lanes, **figures})
    return rows


COLUMNS = {
    "label_lag_1": ("lag 1", ".4f"),
    "label_mean": ("mean", ".4f"),
    "label_lag_batch": ("lag B", ".4f"),
    "share_variance": ("variance", ".2f"),
    "share_lag_1": ("steps", ".3f"),
    "patient": ("patient", ".1f"),
    "patient_pairs": ("pairs", ".2f"),
    "shards_at_once": ("at once", ".0f"),
    "downloads": ("downloads", ".2f"),
}
"""Figure -> head of its column and format."""


MIX_COLUMNS = {
    "folder_lag_1": ("folder 1", ".4f"),
    "folder_mean": ("mean", ".4f"),
    "folder_variance": ("variance", ".3f"),
    "label_lag_1": ("label 1", ".4f"),
    "label_mean": ("mean", ".4f"),
    "label_variance": ("variance", ".2f"),
    "patient": ("patient", ".1f"),
}
"""The same for mixes."""


def table(rows: list[dict[str, float]], columns: dict[str, tuple[str, str]] = COLUMNS) -> str:
    """The figures as lines of text."""
    lines = [f"{'archive':8}{'W':>4}{'L':>5}" + "".join(f"{head:>11}" for head, _ in columns.values())]
    for row in rows:
        figures = "".join(f"{row[name]:>11{form}}" for name, (_, form) in columns.items())
        window = row["window"] or "all"
        lines.append(f"{row['archive']:8}{window:>4}{row['lanes']:>5}{figures}")
    return "\n".join(lines)


def main() -> None:
    """Measure as the command line says, print a table and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.order", description=__doc__)
    parser.add_argument("--shards", type=int, default=1020)
    parser.add_argument("--studies", type=int, default=655, help="of a shard, on average")
    parser.add_argument("--prevalence", type=float, default=0.25, help="share of the studies with the label")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--lanes", type=int, nargs="+", default=[8, 32, 64, 256])
    parser.add_argument("--mix", type=int, nargs=3, default=[5, 3, 2], help="weights of three mixed archives")
    parser.add_argument("--cache", type=int, default=64, help="shards that a worker keeps")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("order.json"), help="file for the figures")
    args = parser.parse_args()
    rows = measure(args)
    print(table(rows))
    mixes = measure_mixes(args)
    print(table(mixes, MIX_COLUMNS))
    settings = {name: str(value) for name, value in vars(args).items()}
    args.out.write_text(json.dumps({"settings": settings, "found": rows, "mixes": mixes}, indent=1) + "\n")
    print(args.out)


if __name__ == "__main__":
    main()
