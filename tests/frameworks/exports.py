"""Trains the models of docs/frameworks.py and exports them, each with rows and the framework's own answers for them.

python -m tests.frameworks.exports              writes tests/cases/frameworks anew, in the environment of `make frameworks`
python -m tests.frameworks.exports NAME ...     writes these, also those that are made in an environment apart

Seeds are fixed. What trains is imported when it is asked for, so that the names of the exports are known without it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from docs.frameworks import CASES, EXPORTS, PACKAGES, Case
from penstock.batch import Array
from penstock.model.golden import rows_of

Rows = tuple[Mapping[str, Any], Mapping[str, Any]]  # inputs and the framework's outputs by name, each an array whose first axis is the rows
MAKERS: Final[dict[str, Callable[[Path], Rows]]] = {}
ROWS: Final = 8  # that are kept of each


def maker(name: str) -> Callable[[Callable[[Path], Rows]], Callable[[Path], Rows]]:
    """Notes the function as the one that writes the export to the path that it gets, and returns its rows."""

    def note(function: Callable[[Path], Rows]) -> Callable[[Path], Rows]:
        MAKERS[name] = function
        return function

    return note


def write(case: Case, folder: Path) -> None:
    """Trains and exports the model of the case, and writes what the framework says of its rows beside it."""
    path = folder / f"{case.name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the frameworks warn of what their next version changes
        inputs, outputs = MAKERS[case.name](path)
    packages = {package: importlib.metadata.version(package) for package in (*PACKAGES[case.framework], *["protobuf"] * case.apart)}
    kept = [rows_of({name: _array(column)[:ROWS] for name, column in columns.items()}) for columns in (inputs, outputs)]
    records = [{"inputs": one, "outputs": other} for one, other in zip(*kept, strict=True)]
    lines = ",\n".join(f"  {json.dumps(record)}" for record in records)
    path.with_suffix(".json").write_text(f'{{"versions": {json.dumps(packages)}, "records": [\n{lines}\n]}}\n', encoding="utf-8")


def _array(column: Any) -> Array:
    return np.asarray(column.detach().float() if hasattr(column, "detach") and column.dtype.is_floating_point else column)


def flowers() -> tuple[Array, Array]:
    """Returns Fisher's irises: measurements float32 [150, 4], and the class 0 to 2 of each, in an order of chance."""
    from sklearn.datasets import load_iris

    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(y))
    return X[order].astype(np.float32), y[order]


NAMES: Final = np.array(["setosa", "versicolor", "virginica"])


# --- scikit-learn -----------------------------------------------------------------------------------------------------------------------


def _sklearn(model: Any, path: Path, inputs: Mapping[str, Any], **options: Any) -> None:
    """Writes a fitted model. `inputs` have its columns: floats as [N, k], text as [N, 1]."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    types = {"f": FloatTensorType, "U": StringTensorType, "O": StringTensorType}
    typed = [(name, types[column.dtype.kind]([None, column.shape[1]])) for name, column in inputs.items()]
    path.write_bytes(to_onnx(model, initial_types=typed, **options).SerializeToString())


@maker("sklearn-pipeline")
def sklearn_pipeline(path: Path) -> Rows:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = flowers()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    _sklearn(model, path, {"X": X}, options={"zipmap": False})
    return {"X": X}, {"label": model.predict(X), "probabilities": model.predict_proba(X)}


@maker("sklearn-zipmap")
def sklearn_zipmap(path: Path) -> Rows:
    from sklearn.ensemble import RandomForestClassifier

    X, y = flowers()
    model = RandomForestClassifier(5, max_depth=3, random_state=1).fit(X, NAMES[y])
    _sklearn(model, path, {"X": X})
    return {"X": X}, {"output_label": model.predict(X), "output_probability": model.predict_proba(X)}


@maker("sklearn-columns")
def sklearn_columns(path: Path) -> Rows:
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    X, y = flowers()
    columns = {"width": X[:, :1].copy(), "length": X[:, 1:2].copy(), "kind": NAMES[y][:, None]}
    columns["width"][2] = np.nan
    frame = pd.DataFrame({name: column[:, 0] for name, column in columns.items()})
    by_kind = [("numbers", SimpleImputer(), ["width", "length"]), ("text", OneHotEncoder(handle_unknown="ignore"), ["kind"])]
    model = make_pipeline(ColumnTransformer(by_kind), Ridge()).fit(frame, X[:, 3])
    _sklearn(model, path, columns)
    return columns, {"variable": model.predict(frame)[:, None]}


@maker("sklearn-histogram")
def sklearn_histogram(path: Path) -> Rows:
    from sklearn.ensemble import HistGradientBoostingRegressor

    X, _ = flowers()
    model = HistGradientBoostingRegressor(max_iter=10, max_leaf_nodes=6).fit(X[:, :3], X[:, 3])
    _sklearn(model, path, {"X": X[:, :3]})
    return {"X": X[:, :3]}, {"variable": model.predict(X[:, :3])[:, None]}


@maker("sklearn-neighbours")
def sklearn_neighbours(path: Path) -> Rows:
    from sklearn.neighbors import KNeighborsClassifier

    X, y = flowers()
    model = KNeighborsClassifier(3).fit(X, y)
    _sklearn(model, path, {"X": X}, options={"zipmap": False, "optim": "cdist"})
    return {"X": X}, {"label": model.predict(X), "probabilities": model.predict_proba(X)}


@maker("sklearn-outliers")
def sklearn_outliers(path: Path) -> Rows:
    from sklearn.ensemble import IsolationForest

    X, _ = flowers()
    model = IsolationForest(n_estimators=5, max_samples=32, random_state=1).fit(X)
    _sklearn(model, path, {"X": X}, target_opset={"": 21, "ai.onnx.ml": 3})
    return {"X": X}, {"label": model.predict(X)[:, None], "scores": model.decision_function(X)[:, None]}


@maker("sklearn-clusters")
def sklearn_clusters(path: Path) -> Rows:
    from sklearn.cluster import KMeans

    X, _ = flowers()
    model = KMeans(3, random_state=1, n_init=1).fit(X)
    _sklearn(model, path, {"X": X})
    return {"X": X}, {"label": model.predict(X), "scores": model.transform(X)}


@maker("sklearn-vectors")
def sklearn_vectors(path: Path) -> Rows:
    from sklearn.svm import SVC

    X, y = flowers()
    model = SVC(probability=True, random_state=1).fit(X, y)
    _sklearn(model, path, {"X": X}, options={"zipmap": False})
    return {"X": X}, {"label": model.predict(X), "probabilities": model.predict_proba(X)}


@maker("sklearn-network")
def sklearn_network(path: Path) -> Rows:
    from sklearn.neural_network import MLPClassifier

    X, y = flowers()
    model = MLPClassifier(hidden_layer_sizes=[8], random_state=1, max_iter=500).fit(X, y)
    _sklearn(model, path, {"X": X}, options={"zipmap": False})
    return {"X": X}, {"label": model.predict(X), "probabilities": model.predict_proba(X)}


@maker("sklearn-text")
def sklearn_text(path: Path) -> Rows:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = ["A fine film", "dull and far too long", "Fine acting, a fine story", "LONG, dull, and badly acted", "Well told", "badly told"]
    model = make_pipeline(TfidfVectorizer(token_pattern="[a-zA-Z0-9_]+", ngram_range=(1, 2)), LogisticRegression()).fit(
        texts, [1, 0, 1, 0, 1, 0]
    )
    asked = [*texts, "a film, well acted", ""]
    _sklearn(model, path, {"text": np.array(asked, dtype=object)[:, None]}, options={"zipmap": False})
    return {"text": np.array(asked)[:, None]}, {"label": model.predict(asked), "probabilities": model.predict_proba(asked)}


# --- trees ------------------------------------------------------------------------------------------------------------------------------


def _onnxmltools(convert: str, model: Any, X: Array, path: Path, **options: Any) -> None:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    onnx_model = getattr(onnxmltools, convert)(model, initial_types=[("X", FloatTensorType([None, X.shape[1]]))], **options)
    path.write_bytes(onnx_model.SerializeToString())


def _xgboost(path: Path, X: Array, y: Array) -> Rows:
    from xgboost import XGBClassifier

    model = XGBClassifier(n_estimators=6, max_depth=3, n_jobs=1).fit(X, y)
    _onnxmltools("convert_xgboost", model, X, path)
    return {"X": X}, {"label": model.predict(X), "probabilities": model.predict_proba(X)}


@maker("xgboost-binary")
def xgboost_binary(path: Path) -> Rows:
    X, y = flowers()
    return _xgboost(path, X, y == 1)


@maker("xgboost-classes")
def xgboost_classes(path: Path) -> Rows:
    return _xgboost(path, *flowers())


@maker("xgboost-regressor")
def xgboost_regressor(path: Path) -> Rows:
    X, _ = flowers()
    return _xgboost_regressor(path, X[:, :3], X[:, 3])


@maker("xgboost-missing")
def xgboost_missing(path: Path) -> Rows:
    X, _ = flowers()
    gaps = X[:, :3].copy()
    gaps[np.random.default_rng(2).random(gaps.shape) < 0.3] = np.nan
    return _xgboost_regressor(path, gaps, X[:, 3])


def _xgboost_regressor(path: Path, X: Array, y: Array) -> Rows:
    from xgboost import XGBRegressor

    model = XGBRegressor(n_estimators=10, max_depth=3, n_jobs=1).fit(X, y)
    _onnxmltools("convert_xgboost", model, X, path)
    return {"X": X}, {"variable": model.predict(X)[:, None]}


def _lightgbm(path: Path, X: Array, y: Array, **options: Any) -> Rows:
    from lightgbm import LGBMClassifier

    model = LGBMClassifier(n_estimators=6, num_leaves=6, verbose=-1, n_jobs=1, deterministic=True).fit(X, y)
    _onnxmltools("convert_lightgbm", model, X, path, **options)
    return {"X": X}, {"label": model.predict(X), "probabilities": model.predict_proba(X)}


@maker("lightgbm-binary")
def lightgbm_binary(path: Path) -> Rows:
    X, y = flowers()
    return _lightgbm(path, X, (y == 1).astype(int))


@maker("lightgbm-classes")
def lightgbm_classes(path: Path) -> Rows:
    return _lightgbm(path, *flowers(), zipmap=False)


@maker("lightgbm-regressor")
def lightgbm_regressor(path: Path) -> Rows:
    from lightgbm import LGBMRegressor

    X, _ = flowers()
    model = LGBMRegressor(n_estimators=10, num_leaves=6, verbose=-1, n_jobs=1, deterministic=True).fit(X[:, :3], X[:, 3])
    _onnxmltools("convert_lightgbm", model, X[:, :3], path)
    return {"X": X[:, :3]}, {"variable": model.predict(X[:, :3])[:, None]}


def _catboost(path: Path, kind: str, X: Array, y: Array) -> Any:
    import catboost

    settings = {"iterations": 8, "depth": 3, "random_seed": 1, "thread_count": 1, "allow_writing_files": False, "verbose": False}
    model = getattr(catboost, kind)(**settings).fit(X, y)
    model.save_model(str(path), format="onnx")
    return model


@maker("catboost-binary")
def catboost_binary(path: Path) -> Rows:
    X, y = flowers()
    model = _catboost(path, "CatBoostClassifier", X, (y == 1).astype(int))
    return {"features": X}, {"label": model.predict(X), "probabilities": model.predict_proba(X)}


@maker("catboost-classes")
def catboost_classes(path: Path) -> Rows:
    X, y = flowers()
    model = _catboost(path, "CatBoostClassifier", X, NAMES[y])
    return {"features": X}, {"label": model.predict(X)[:, 0].astype(str), "probabilities": model.predict_proba(X)}


@maker("catboost-regressor")
def catboost_regressor(path: Path) -> Rows:
    X, _ = flowers()
    model = _catboost(path, "CatBoostRegressor", X[:, :3], X[:, 3])
    return {"features": X[:, :3]}, {"predictions": model.predict(X[:, :3])[:, None]}


# --- networks ---------------------------------------------------------------------------------------------------------------------------


def _torch(path: Path, model: Any, rows: Any, *, outputs: Sequence[str] = ("y",), batch: int | None = None, open_axes: Any = None) -> Rows:
    """Exports a model as torch's own page describes it, with the weights beside it, and runs it on the rows.

    `batch` is the number of rows that it is exported for, None for any number.
    """
    import torch

    model.eval()
    given = rows[: batch or 2]
    shapes = None if batch else ({0: torch.export.Dim("N"), **(open_axes or {})},)
    torch.onnx.export(
        model, (given,), path, input_names=["x"], output_names=list(outputs), dynamic_shapes=shapes, external_data=True, verbose=False
    )
    _without_traces(path)
    with torch.no_grad():
        pieces = [model(rows[at : at + (batch or len(rows))]) for at in range(0, len(rows), batch or len(rows))]
    answers = [piece if isinstance(piece, tuple) else (piece,) for piece in pieces]
    return {"x": rows}, {name: torch.cat(parts) for name, parts in zip(outputs, zip(*answers, strict=True), strict=True)}


def _without_traces(path: Path) -> None:
    """Leaves out where in the code of this machine each operator was written: most of a small file, and nothing that a runtime reads."""
    model = onnx.load(path, load_external_data=False)
    graphs = [model.graph, *model.functions]
    for part in [*graphs, *(node for graph in graphs for node in graph.node)]:
        kept = [entry for entry in part.metadata_props if "trace" not in entry.key and not entry.key.startswith("pkg.torch.onnx")]
        del part.metadata_props[:]
        part.metadata_props.extend(kept)
    for each in model.graph.value_info:
        del each.metadata_props[:]
    onnx.save(model, path)


def _numbers(*shape: int) -> Any:
    import torch

    torch.manual_seed(7)
    return torch.rand(16, *shape) * 2 - 1


@maker("torch-classifier")
def torch_classifier(path: Path) -> Rows:
    import torch

    X, y = (torch.tensor(array) for array in flowers())

    class Flowers(torch.nn.Module):  # type: ignore[misc,unused-ignore]  # torch is not there
        def __init__(self) -> None:
            super().__init__()
            hidden = (torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(0.5))
            self.layers = torch.nn.Sequential(*hidden, torch.nn.Linear(16, 3))

        def forward(self, x: Any) -> Any:
            probabilities = torch.softmax(self.layers(x), dim=1)
            return probabilities.argmax(dim=1), probabilities

    torch.manual_seed(7)
    model = Flowers()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(50):
        loss = torch.nn.functional.cross_entropy(model.layers(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _torch(path, model, X[:16], outputs=("label", "probabilities"))


@maker("torch-image")
def torch_image(path: Path) -> Rows:
    from torch import nn

    rows = _numbers(1, 8, 8)
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(), nn.Flatten(), nn.Linear(64, 3))
    return _torch(path, nn.Sequential(*layers), rows)


@maker("torch-lstm")
def torch_lstm(path: Path) -> Rows:
    from torch import nn

    rows = _numbers(5, 3)

    class Last(nn.Module):  # type: ignore[misc,unused-ignore]  # torch is not there
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            return self.out(self.lstm(x)[0][:, -1])

    return _torch(path, Last(), rows)


@maker("torch-attention")
def torch_attention(path: Path) -> Rows:
    from torch import nn

    rows = _numbers(6, 8)
    return _torch(path, nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True), rows)


@maker("torch-tokens")
def torch_tokens(path: Path) -> Rows:
    import torch
    from torch import nn

    class Mean(nn.Module):  # type: ignore[misc,unused-ignore]  # torch is not there
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(50, 8), nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            return self.out(self.words(x).mean(dim=1))

    torch.manual_seed(7)
    return _torch(path, Mean(), torch.randint(0, 50, (16, 6)), open_axes={1: torch.export.Dim("tokens")})


@maker("torch-number")
def torch_number(path: Path) -> Rows:
    from torch import nn

    rows = _numbers(4)
    return _torch(path, nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)), rows)


@maker("torch-half")
def torch_half(path: Path) -> Rows:
    from torch import nn

    rows = _numbers(4)
    return _torch(path, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).half(), rows.half())


@maker("torch-bfloat")
def torch_bfloat(path: Path) -> Rows:
    from torch import nn

    rows = _numbers(4)
    return _torch(path, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).bfloat16(), rows.bfloat16())


@maker("torch-one")
def torch_one(path: Path) -> Rows:
    from torch import nn

    rows = _numbers(4)
    return _torch(path, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Softmax(1)), rows, batch=1)


@maker("torch-sixteen")
def torch_sixteen(path: Path) -> Rows:
    from torch import nn

    rows = _numbers(4)
    return _torch(path, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Softmax(1)), rows, batch=16)


def _keras(path: Path, shape: Sequence[int], layers: Callable[[Any], Sequence[Any]], *, backend: str = "torch") -> Rows:
    os.environ["KERAS_BACKEND"] = backend
    import keras

    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input(shape, name="x"), *layers(keras.layers)])
    rows = np.random.default_rng(7).random((16, *shape)).astype(np.float32)
    answers = model.predict(rows, verbose=0)
    model.export(path, format="onnx", verbose=False)
    _without_traces(path)
    graph = onnx.load(path).graph
    return {graph.input[0].name: rows}, {graph.output[0].name: answers}


@maker("keras-classifier")
def keras_classifier(path: Path) -> Rows:
    return _keras(path, (4,), lambda layers: [layers.Dense(8, activation="relu"), layers.Dense(3, activation="softmax")])


@maker("keras-image")
def keras_image(path: Path) -> Rows:
    return _keras(
        path,
        (8, 8, 1),
        lambda layers: [
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ],
    )


@maker("keras-tensorflow")
def keras_tensorflow(path: Path) -> Rows:
    """Needs tensorflow-cpu and tf2onnx."""
    return _keras(
        path, (4,), lambda layers: [layers.Dense(8, activation="relu"), layers.Dense(3, activation="softmax")], backend="tensorflow"
    )


@maker("tensorflow-saved")
def tensorflow_saved(path: Path) -> Rows:
    """Needs tensorflow-cpu and tf2onnx. The archive is exported as a SavedModel, and that is converted by the command."""
    import keras

    keras.utils.set_random_seed(7)
    layers = [keras.layers.Conv1D(4, 2, activation="relu"), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((6, 2), name="x"), *layers])
    rows = np.random.default_rng(7).random((16, 6, 2)).astype(np.float32)
    with tempfile.TemporaryDirectory() as saved:
        model.export(saved, verbose=False)
        command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", saved, "--output", str(path)]
        subprocess.run(command, check=True, capture_output=True)
    graph = onnx.load(path).graph
    return {graph.input[0].name: rows}, {graph.output[0].name: model.predict(rows, verbose=0)}


if __name__ == "__main__":
    asked = sys.argv[1:]
    EXPORTS.mkdir(exist_ok=True)
    for case in CASES:
        if case.name in asked or (not asked and not case.apart):
            write(case, EXPORTS)
            print(case.name)
