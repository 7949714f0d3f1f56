"""Writes docs/frameworks.md: which frameworks' models work, each found by pushing an export and scoring events with it.

python docs/frameworks.py         writes the page from the exports in tests/cases/frameworks

An export is NAME.onnx, with NAME.onnx.data where the framework writes one, and NAME.json: the versions that made it, rows of inputs, and
the framework's own answers for them. tests/frameworks/exports.py makes them; `make frameworks` makes them anew and holds them to this page.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

import penstock
from penstock.cli.main import main
from penstock.model.golden import RTOL
from penstock.registry.directory import DirectoryRegistry

PAGE: Final = Path(__file__).parent / "frameworks.md"
EXPORTS: Final = Path(__file__).parents[1] / "tests/cases/frameworks"
AVRO: Final = {"float32": "float", "float64": "double", "int64": "long", "string": "string", "bool": "boolean"}
SKLEARN, XGBOOST, LIGHTGBM, CATBOOST = "scikit-learn", "XGBoost", "LightGBM", "CatBoost"
TORCH, KERAS, TENSORFLOW = "PyTorch", "Keras", "TensorFlow"
PACKAGES: Final = {  # of each framework, and of what exports its models
    SKLEARN: ("scikit-learn", "skl2onnx"),
    XGBOOST: ("xgboost-cpu", "onnxmltools"),
    LIGHTGBM: ("lightgbm", "onnxmltools"),
    CATBOOST: ("catboost",),
    TORCH: ("torch", "onnxscript"),
    KERAS: ("keras", "torch", "onnxscript"),
    TENSORFLOW: ("keras", "tensorflow-cpu", "tf2onnx"),
}
BY: Final = {
    SKLEARN: "`skl2onnx.to_onnx`",
    XGBOOST: "`onnxmltools.convert_xgboost`",
    LIGHTGBM: "`onnxmltools.convert_lightgbm`",
    CATBOOST: '`save_model(..., format="onnx")`',
    TORCH: "`torch.onnx.export`",
    KERAS: '`export(..., format="onnx")`',
    TENSORFLOW: "tf2onnx",
}


@dataclass(frozen=True)
class Case:
    """An export, the options with which it is pushed, and what is changed in it or has to be known."""

    name: str
    framework: str
    title: str
    push: Sequence[str] = ()
    note: str = ""
    apart: bool = False  # made in an environment apart: that of `make frameworks` has not what it needs


MERGED: Final = "weights in `.onnx.data` merged"
ZIP: Final = "dictionaries become an array"
LABEL: Final = "`label` declares one row; its axes are those of a run"
RUN: Final = "declares other axes than it has; those of a run are taken"
WORDS: Final = '`token_pattern="[a-zA-Z0-9_]+"`: skl2onnx does not leave out single letters, as the default does'
OLDER: Final = "skl2onnx 1.20 cannot convert it beside protobuf 7: convert beside `protobuf<7`"
NUMBERED: Final = 'outputs are numbered: `n."23"`'
HALF: Final = "float32 at the edge; half precision rounds otherwise in each runtime"
CASES: Final = (
    Case("sklearn-pipeline", SKLEARN, "`StandardScaler`, `LogisticRegression`, `zipmap: False`"),
    Case("sklearn-zipmap", SKLEARN, "`RandomForestClassifier`, text labels, by default", note=ZIP),
    Case("sklearn-columns", SKLEARN, "`ColumnTransformer`: numbers, and text as categories; an input per column"),
    Case("sklearn-histogram", SKLEARN, "`HistGradientBoostingRegressor`", note=OLDER, apart=True),
    Case("sklearn-neighbours", SKLEARN, "`KNeighborsClassifier`", note="operator `CDist`"),
    Case("sklearn-outliers", SKLEARN, "`IsolationForest`"),
    Case("sklearn-clusters", SKLEARN, "`KMeans`"),
    Case("sklearn-vectors", SKLEARN, "`SVC`, with probabilities"),
    Case("sklearn-network", SKLEARN, "`MLPClassifier`"),
    Case("sklearn-text", SKLEARN, "`TfidfVectorizer` with pairs of words, `LogisticRegression`", note=WORDS),
    Case("xgboost-binary", XGBOOST, "`XGBClassifier`, 2 classes"),
    Case("xgboost-classes", XGBOOST, "`XGBClassifier`, 3 classes"),
    Case("xgboost-regressor", XGBOOST, "`XGBRegressor`"),
    Case("xgboost-missing", XGBOOST, "`XGBRegressor`, missing values", note="`missing: nan` at the input makes null NaN"),
    Case("lightgbm-binary", LIGHTGBM, "`LGBMClassifier`, 2 classes, by default", note=ZIP),
    Case("lightgbm-classes", LIGHTGBM, "`LGBMClassifier`, 3 classes, `zipmap=False`", note=LABEL),
    Case("lightgbm-regressor", LIGHTGBM, "`LGBMRegressor`"),
    Case("catboost-binary", CATBOOST, "`CatBoostClassifier`, 2 classes", note=ZIP),
    Case("catboost-classes", CATBOOST, "`CatBoostClassifier`, 3 classes, text labels", note=ZIP),
    Case("catboost-regressor", CATBOOST, "`CatBoostRegressor`", note=RUN),
    Case("torch-classifier", TORCH, "layers with dropout and batch norm, in `eval()`", note=MERGED),
    Case("torch-image", TORCH, "convolutions over images"),
    Case("torch-lstm", TORCH, "`LSTM`, batch first"),
    Case("torch-attention", TORCH, "`TransformerEncoderLayer`, `eval()`"),
    Case("torch-tokens", TORCH, "`Embedding` of int64 tokens, any number of them"),
    Case("torch-number", TORCH, "one number per row, `[N]`"),
    Case("torch-half", TORCH, "float16", ("--atol", "0.001"), HALF),
    Case("torch-bfloat", TORCH, "bfloat16", ("--atol", "0.01"), "float32 throughout, where PyTorch rounds each step to bfloat16"),
    Case("torch-one", TORCH, "exported for a batch of 1", ("--rows", "1")),
    Case("torch-sixteen", TORCH, "exported for a batch of 16", ("--rows", "16")),
    Case("keras-classifier", KERAS, "dense layers; backend PyTorch", note=NUMBERED),
    Case("keras-image", KERAS, "`Conv2D`, `BatchNormalization`, `Dropout`; backend PyTorch", note=NUMBERED),
    Case("keras-tensorflow", TENSORFLOW, 'Keras, `export(..., format="onnx")`', note='output `n."Identity:0"`', apart=True),
    Case("tensorflow-saved", TENSORFLOW, "a SavedModel, `python -m tf2onnx.convert --saved-model`", apart=True),
)


def score(case: Case, exports: Path, folder: Path) -> str:
    """Pushes the case's export with the framework's answers as golden records, and scores its rows as events of a topology, in `folder`.

    Returns "" when every row was answered as the framework did, else what went wrong.
    """
    rows = described(case, exports)["records"]
    (folder / "golden.json").write_text(json.dumps({"records": rows}))
    places = {"--golden": folder / "golden.json", "--models": folder / "models"}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as printed:
        options = [*case.push, *(str(one) for pair in places.items() for one in pair)]
        if main(["model", "push", str(exports / f"{case.name}.onnx"), "--name", "m", *options]):
            return printed.getvalue()
    pushed = DirectoryRegistry(folder / "models").resolve("m", "1")
    signature, golden = pushed.signature, pushed.manifest.golden
    outputs = [one for one in signature.outputs if one.name in rows[0]["outputs"]]
    fields: list[Any] = []
    inputs: dict[str, Any] = {}
    events: list[dict[str, Any]] = [{} for _ in rows]
    for tensor in signature.inputs:
        values = [row["inputs"][tensor.name] for row in rows]
        apart = len(tensor.shape) == 1 and tensor.shape[0] is not None  # a field for each number, rather than an array
        named = {f"f{len(fields) + at}": [row[at] for row in values] for at in range(tensor.shape[0] or 0)} if apart else {}
        named = named or {f"f{len(fields)}": values}
        missing = {"missing": "nan"} if any(None in column for column in named.values()) else {}
        inputs[tensor.name] = ({"stack": [*named]} if len(named) > 1 else {"field": next(iter(named))}) | missing
        for name, column in named.items():
            kind = _type(AVRO[tensor.dtype], () if apart else tensor.shape)
            fields.append({"name": name, "type": ["null", kind] if missing else kind})
            for event, value in zip(events, column, strict=True):
                event[name] = value
    topology = {
        "topology": "frameworks",
        "sources": {"events": {"topic": "events", "schema": "event.avsc"}},
        "nodes": {"n": {"kind": "model", "model": "m@1", "inputs": inputs}},
        "sinks": {"answers": {"topic": "answers", "fields": {f"y{at}": f'n."{one.name}"' for at, one in enumerate(outputs)}}},
    }
    (folder / "event.avsc").write_text(json.dumps({"type": "record", "name": "Event", "fields": fields}))
    (folder / "t.yaml").write_text(json.dumps(topology))  # YAML includes JSON
    with penstock.open(folder / "t.yaml", models=folder / "models", schemas=folder) as plan:
        answers = plan.score(events)
    for row, answer in zip(rows, answers, strict=True):
        got = [answer[f"y{at}"] if isinstance(answer, dict) else answer for at in range(len(outputs))]
        if not all(_same(one, row["outputs"][tensor.name], golden.atol) for one, tensor in zip(got, outputs, strict=True)):
            return f"expected {row['outputs']}, got {answer}"
    return ""


def described(case: Case, exports: Path) -> dict[str, Any]:
    """Returns what was written beside an export: `versions` by package, and `records`, the rows with the framework's answers."""
    read: dict[str, Any] = json.loads((exports / f"{case.name}.json").read_text(encoding="utf-8"))
    return read


def _type(item: str, shape: Sequence[int | None]) -> Any:
    kind: Any = item
    for size in reversed(shape):
        kind = {"type": "array", "items": kind} | ({} if size is None else {"size": size})
    return kind


def _same(got: Any, expected: Any, atol: float) -> bool:
    """Whether an answer is the framework's, as near as golden records have to be. An array of one number is written as the number."""
    a, b = np.atleast_1d(np.asarray(got)), np.atleast_1d(np.asarray(expected))
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=RTOL, atol=atol) if b.dtype.kind == "f" else np.array_equal(a, b))


def render() -> str:
    """Returns the page."""
    versions: dict[str, str] = {}
    rows = ["| framework | model | exported by | works | to know |", "| --- | --- | --- | --- | --- |"]
    for case in CASES:
        made = described(case, EXPORTS)["versions"]
        versions |= {package: made[package] for package in PACKAGES[case.framework]}
        with tempfile.TemporaryDirectory() as folder:
            wrong = score(case, EXPORTS, Path(folder))
        works = "no" if wrong else f"with `{' '.join(case.push)}`" if case.push else "yes"
        rows.append(f"| {case.framework} | {case.title} | {BY[case.framework]} | {works} | {case.note} |")
    table = "\n".join(rows)
    listed = textwrap.fill(", ".join(f"{package} {version}" for package, version in sorted(versions.items())), 120)
    return f"""# Which frameworks work

Each line is an export that was pushed with the framework's own answers as golden records, and scored as events of a
topology (`python docs/frameworks.py`): yes, when every answer was the framework's, within the tolerance of
[golden records](models.md#golden-records). [Your own model](your-own-model.md) has the lines from training to a
prediction.

{table}

Made with:

{listed}

`make test` pushes and scores the exports that are kept in `tests/cases/frameworks`. `make frameworks` trains and
exports every model anew, by the frameworks themselves in a separate environment (600 MB to fetch, 2.5 GB of disk),
scores it, compares it with what is kept, and runs the sections of [Your own model](your-own-model.md); CI does too.
What needs an environment apart (TensorFlow, and what the table says) was made there and is kept. To take over a new
version of a framework, change `frameworks.txt`, then:

```sh
make frameworks
.venv-frameworks/bin/python -m tests.frameworks.exports
.venv/bin/python docs/frameworks.py
```

Not exported by their frameworks: CatBoost's models with categorical features (encode them as numbers before). Wrong
after the export, and refused for it: skl2onnx's `MLPRegressor` with several targets, which returns a row per target.
"""


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
