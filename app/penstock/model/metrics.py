"""Compares the metrics of two versions of a model, as their manifests state them: which of them differ, and which way is better.

The direction of a metric is that of its well-known name, or the one that a threshold demands (`auc >= 0.8`). A metric whose
direction is not known is shown without a judgement.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["Judgement", "MetricChange", "compare"]


class Judgement(StrEnum):
    """What the change of a metric means."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    UNKNOWN = "unknown"


_MORE_IS_BETTER: Final = """
    accuracy acc balanced_accuracy auc roc_auc auroc pr_auc auprc average_precision ap map f1 f1_score fbeta precision recall
    sensitivity specificity tpr tnr mcc matthews_corrcoef kappa cohen_kappa r2 r2_score explained_variance ndcg mrr gini ks lift iou
    jaccard dice hit_rate
"""
_LESS_IS_BETTER: Final = """
    log_loss logloss loss cross_entropy nll deviance brier brier_score ece rmse mse mae mape smape wape rmsle msle medae max_error
    mean_squared_error root_mean_squared_error mean_absolute_error mean_absolute_percentage_error pinball_loss hinge_loss
    hamming_loss error error_rate fpr fnr perplexity wer cer crps
"""
_DIRECTIONS: Final = {**dict.fromkeys(_MORE_IS_BETTER.split(), 1), **dict.fromkeys(_LESS_IS_BETTER.split(), -1)}
_SPLIT: Final = r"(train|training|val|valid|validation|test|holdout|eval|cv|oof)"  # the part of the data that a name may begin or end with
_KIND: Final = r"(macro|micro|weighted|mean|avg|\d+)"  # as in f1_macro, accuracy_5


class MetricChange(NamedTuple):
    """A metric before and after; None: the version does not state it."""

    name: str
    before: float | None
    after: float | None
    judgement: Judgement

    def __str__(self) -> str:
        if self.before is None and self.after is not None:
            return f"{self.name} {_short(self.after)} (not stated before)"
        if self.after is None and self.before is not None:
            return f"{self.name} {_short(self.before)} → not stated"
        assert self.before is not None
        assert self.after is not None
        digits = next((digits for digits in (4, 6, 9) if f"{self.before:.{digits}g}" != f"{self.after:.{digits}g}"), 17)
        if self.before == self.after:
            return f"{self.name} {_short(self.after)}, unchanged"
        judged = "" if self.judgement is Judgement.UNKNOWN else f", {self.judgement}"
        return f"{self.name} {self.before:.{digits}g} → {self.after:.{digits}g}{judged}"


def _short(value: float) -> str:
    return f"{value:.4g}"


def compare(
    before: Mapping[str, float], after: Mapping[str, float], thresholds: Iterable[tuple[str, str]] = ()
) -> tuple[MetricChange, ...]:
    """Returns every metric that either version states: first those that are worse, then in the order of `before` and `after`.

    `thresholds` are pairs of a metric and the comparison (`>=`, `>`, `<=`, `<`) that it has to meet.
    """
    wanted = dict(thresholds)
    changes = [
        MetricChange(name, was := before.get(name), will := after.get(name), _judge(was, will, _direction(name, wanted.get(name, ""))))
        for name in dict.fromkeys([*before, *after])
    ]
    return tuple(sorted(changes, key=lambda one: one.judgement is not Judgement.WORSE))


def _judge(before: float | None, after: float | None, direction: int) -> Judgement:
    if before is None or after is None:
        return Judgement.UNKNOWN
    if before == after:
        return Judgement.SAME
    if not direction:
        return Judgement.UNKNOWN
    return Judgement.BETTER if (after > before) == (direction > 0) else Judgement.WORSE


def _direction(name: str, comparison: str) -> int:
    """Returns 1 when more is better, -1 when less is, 0 when that is not known."""
    if comparison:
        return 1 if comparison.startswith(">") else -1
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    plain = re.sub(rf"^{_SPLIT}_|_{_SPLIT}$", "", plain)
    return _DIRECTIONS.get(plain, 0) or _DIRECTIONS.get(re.sub(rf"_{_KIND}$|^{_KIND}_", "", plain), 0)
