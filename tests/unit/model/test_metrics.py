"""The metrics of two versions, compared by what their names or thresholds say of the direction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.model.metrics import Judgement, compare

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
METRICS = st.dictionaries(st.sampled_from(["auc", "rmse", "rows", "val_f1_macro"]), NUMBERS)
TURNED = {Judgement.BETTER: Judgement.WORSE, Judgement.WORSE: Judgement.BETTER}


@pytest.mark.parametrize(
    "name",
    [
        "accuracy",
        "AUC",
        "roc-auc",
        "val_accuracy",
        "f1_macro",
        "macro_f1",
        "accuracy_5",
        "r2",
        "test_r2",
        "auc_test",
        "ROC AUC (test)",
        "ndcg@10",
    ],
)
def test_more_of_it_is_better(name: str) -> None:
    assert [one.judgement for one in compare({name: 0.98}, {name: 0.2})] == [Judgement.WORSE]


@pytest.mark.parametrize(
    "name", ["log_loss", "logloss", "rmse", "MAE", "val-loss", "brier", "mean_squared_error", "error_rate", "oof_rmse"]
)
def test_less_of_it_is_better(name: str) -> None:
    assert [one.judgement for one in compare({name: 0.98}, {name: 0.2})] == [Judgement.BETTER]


@pytest.mark.parametrize("name", ["rows", "seconds", "", "score", "auc_gap_in_bp", "größe"])
def test_name_that_is_not_known_is_not_judged(name: str) -> None:
    (found,) = compare({name: 0.98}, {name: 0.2})
    assert (str(found), found.judgement) == (f"{name} 0.98 → 0.2", Judgement.UNKNOWN)


def test_threshold_gives_the_direction() -> None:
    found = compare(
        {"rows": 100, "score": 1, "auc": 0.5}, {"rows": 90, "score": 2, "auc": 0.6}, [("rows", ">="), ("score", "<"), ("auc", "<=")]
    )
    assert {one.judgement for one in found} == {Judgement.WORSE}


def test_words_name_both_values_and_the_judgement_and_what_is_missing() -> None:
    before = {"rmse": 2.0, "accuracy": 0.98, "auc": 0.70000001, "rows": 10, "mae": 1.0, "f1": 0.5}
    after = {"rmse": 1.5, "accuracy": 0.2, "auc": 0.7, "rows": 10, "mape": 3.0, "f1": 0.5}
    assert [str(one) for one in compare(before, after)] == [
        "accuracy 0.98 → 0.2, worse",
        "auc 0.70000001 → 0.7, worse",
        "rmse 2 → 1.5, better",
        "rows 10, unchanged",
        "mae 1 → not stated",
        "f1 0.5, unchanged",
        "mape 3 (not stated before)",
    ]


@given(METRICS, METRICS)
def test_comparison_the_other_way_round_is_the_opposite(before: dict[str, float], after: dict[str, float]) -> None:
    there = {one.name: one for one in compare(before, after)}
    back = {one.name: one for one in compare(after, before)}
    assert there.keys() == back.keys() == before.keys() | after.keys()
    for name, one in there.items():
        assert (one.before, one.after) == (before.get(name), after.get(name)) == (back[name].after, back[name].before)
        assert back[name].judgement is TURNED.get(one.judgement, one.judgement)
        assert str(one)
