"""Trains the model of topologies/newproject.yaml and registers it in models/ as the next version of `dispute-risk`.

    pip install -r requirements.txt
    python train.py                      the alias `candidate` then points at the new version
    python train.py --alias production   for a topology that starts with it

The payments are made up (`payments`): return your own from there. A whole pipeline is converted to ONNX, from the raw fields to the
probability, so what was fitted is what runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

MODEL = "dispute-risk"
NUMBERS = ("amount", "attempts", "account_days")
CATEGORIES = ("country",)
GOLDEN = 16  # records whose answers, computed by scikit-learn, the ONNX file must give too


def payments(count: int, seed: int) -> tuple[Any, Any]:
    """Payments as `[count, fields]`, in the order of NUMBERS and CATEGORIES, and whether each was disputed."""
    random = np.random.default_rng(seed)
    amount = random.exponential(120, count)
    attempts = random.poisson(0.7, count)
    days = random.exponential(400, count) * (random.random(count) > 0.2)  # a guest has no account, which counts as a new one
    country = random.choice(["AA", "BB", "CC", "DD"], count)
    weight = np.select([country == "AA", country == "BB"], [1.2, -0.8], 0.0)
    z = 0.012 * amount + 0.9 * attempts - 0.008 * days + weight - 3
    disputed = random.random(count) < 1 / (1 + np.exp(-z))
    numbers = np.column_stack([amount, attempts, days]).astype(np.float32)  # as the ONNX file sees them
    return np.column_stack([numbers.astype(object), country.astype(object)]), disputed


def train(X: Any, disputed: Any) -> Pipeline:
    """The pipeline, fitted."""
    numbers, categories = range(len(NUMBERS)), range(len(NUMBERS), len(NUMBERS) + len(CATEGORIES))
    columns = [("numbers", StandardScaler(), list(numbers)), ("categories", OneHotEncoder(handle_unknown="ignore"), list(categories))]
    return make_pipeline(ColumnTransformer(columns), LogisticRegression(max_iter=500)).fit(X, disputed)


def convert(pipeline: Pipeline) -> bytes:
    """The ONNX file. `zipmap: False` makes probabilities one array, which a topology can read."""
    inputs = [(name, FloatTensorType([None, 1])) for name in NUMBERS] + [(name, StringTensorType([None, 1])) for name in CATEGORIES]
    made = convert_sklearn(pipeline, MODEL, inputs, options={id(pipeline): {"zipmap": False}}, target_opset={"": 17, "ai.onnx.ml": 3})
    return bytes(made.SerializeToString())


def golden(pipeline: Pipeline, X: Any) -> str:
    """The golden records: inputs, and what scikit-learn itself answers."""
    names = (*NUMBERS, *CATEGORIES)
    inputs = [{name: [value if isinstance(value, str) else float(value)] for name, value in zip(names, row, strict=True)} for row in X]
    outputs = [{"probabilities": row.tolist()} for row in pipeline.predict_proba(X)]
    return json.dumps({"records": [{"inputs": given, "outputs": made} for given, made in zip(inputs, outputs, strict=True)]})


def main() -> int:
    """The exit code of `penstock model push`: 0, or 3 when the model cannot serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alias", default="candidate", help="alias that is pointed at the new version (default: candidate)")
    parser.add_argument("--rows", type=int, default=20_000, help="payments to train on (default: 20000)")
    given = parser.parse_args()
    X, disputed = payments(given.rows, seed=1)
    unseen, truth = payments(5_000, seed=2)
    pipeline = train(X, disputed)
    risk = pipeline.predict_proba(unseen)[:, 1]
    metrics = {"auc": roc_auc_score(truth, risk), "log_loss": log_loss(truth, risk)}
    with tempfile.TemporaryDirectory() as folder:
        model, records = Path(folder, "model.onnx"), Path(folder, "golden.json")
        model.write_bytes(convert(pipeline))
        records.write_text(golden(pipeline, unseen[:GOLDEN]), encoding="utf-8")
        push = [sys.executable, "-m", "penstock", "model", "push", str(model), "--name", MODEL, "--golden", str(records)]
        push += ["--alias", given.alias, "--training-data", f"{given.rows:,} made-up payments", "--framework", "scikit-learn"]
        push += [f"--metrics={name}={value:.4f}" for name, value in metrics.items()]
        return subprocess.run(push, cwd=Path(__file__).parent, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
