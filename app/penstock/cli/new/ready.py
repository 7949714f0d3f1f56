"""The model that a new project starts with: a logistic regression whose weights were written by hand.

It has the input and output tensors that scikit-learn's converted pipeline has (`project/train.py`), so a trained version can replace it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from onnx import TensorProto, helper

from penstock.model.golden import GoldenRecord, rows_of
from penstock.registry.directory import DirectoryRegistry

__all__ = ["NAME", "build", "register"]

NAME: Final = "dispute-risk"
_ALIAS: Final = "production"
_WEIGHTS: Final = {"amount": 0.01, "attempts": 0.8, "account_days": -0.01}
_COUNTRIES: Final = {"AA": 1.0, "BB": -1.0}
_BIAS: Final = -3.0


def build() -> bytes:
    """Returns the ONNX file: three numbers and a country to `label` and `probabilities` (`[rows, 2]`; the second is the risk)."""
    weights = [*_WEIGHTS.values(), 1.0]
    nodes = [
        helper.make_node(
            "LabelEncoder",
            ["country"],
            ["country_weight"],
            domain="ai.onnx.ml",
            keys_strings=list(_COUNTRIES),
            values_floats=list(_COUNTRIES.values()),
            default_float=0.0,
        ),
        helper.make_node("Concat", [*_WEIGHTS, "country_weight"], ["X"], axis=1),
        helper.make_node(
            "LinearClassifier",
            ["X"],
            ["label", "probabilities"],
            domain="ai.onnx.ml",
            classlabels_ints=[0, 1],
            coefficients=[*(-weight for weight in weights), *weights],
            intercepts=[-_BIAS, _BIAS],
            post_transform="LOGISTIC",
        ),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in _WEIGHTS]
    inputs.append(helper.make_tensor_value_info("country", TensorProto.STRING, ["N", 1]))
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2]),
    ]
    graph = helper.make_graph(nodes, NAME, inputs, outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString(deterministic=True))


def register(models: Path) -> None:
    """Publishes the model as version 1 in the registry `models`, and points the alias `production` at it."""
    registry = DirectoryRegistry(models)
    model = build()
    artifact = registry.publish(
        NAME,
        model,
        golden=_golden(),
        description="Will a card payment be disputed? Weights written by hand; train.py makes the next version.",
    )
    registry.alias(NAME, _ALIAS, artifact.version)


def _golden() -> list[GoldenRecord]:
    """Payments from harmless to suspicious, with the outputs that numpy computes from the weights."""
    amount, attempts, days = ([20, 80, 400, 900], [0, 1, 3, 6], [2000, 300, 20, 0])
    country = ["BB", "CC", "CC", "AA"]
    numbers = np.array([amount, attempts, days], np.float64)
    z = np.array([*_WEIGHTS.values()]) @ numbers + np.array([_COUNTRIES.get(one, 0.0) for one in country]) + _BIAS
    risk = 1 / (1 + np.exp(-z))
    inputs = {name: column.astype(np.float32)[:, None] for name, column in zip(_WEIGHTS, numbers, strict=True)}
    feeds = inputs | {"country": np.array(country, object)[:, None]}
    outputs = {"label": (risk > 0.5).astype(np.int64), "probabilities": np.column_stack([1 - risk, risk]).astype(np.float32)}
    return [GoldenRecord(given, expected) for given, expected in zip(rows_of(feeds), rows_of(outputs), strict=True)]
