"""The models of topologies/flights.yaml by hand: four sessions of onnxruntime with one thread, for one flight or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

MODELS = Path(__file__).parents[2] / "models"
NUMBERS = ("hour", "minute", "sched_arr_time", "dep_delay", "distance")
TEXTS = ("carrier", "origin", "dest")
SCORES = ("score", "logistic", "trees")


def session(name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(MODELS / name / "1" / "model.onnx"), options, providers=["CPUExecutionProvider"])


FEATURES, LOGISTIC, TREES, STACK = map(session, ("flight-features", "flight-logistic", "flight-trees", "flight-stack"))


def run(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of N rows in, SCORES as float32 arrays of N out. Others' columns are left out."""
    feeds = {name: np.asarray(columns[name], np.float32).reshape(-1, 1) for name in NUMBERS}  # None becomes nan
    feeds |= {name: np.asarray(columns[name], object).reshape(-1, 1) for name in TEXTS}
    x = FEATURES.run(["variable"], feeds)[0]
    logistic = LOGISTIC.run(["probabilities"], {"X": x})[0][:, 1]
    trees = TREES.run(["probabilities"], {"X": x})[0][:, 1]
    both = np.stack([logistic, trees], axis=1)
    return {"score": STACK.run(["probabilities"], {"X": both})[0][:, 1], "logistic": logistic, "trees": trees}


def score(flights: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Events in, the predictions of the topology out."""
    scores = run({name: [flight[name] for flight in flights] for name in (*NUMBERS, *TEXTS)})
    rows = zip(flights, *(scores[name].tolist() for name in SCORES), strict=True)
    return [
        {"flight_id": flight["flight_id"], "score": stack, "logistic": logistic, "trees": trees,
         "carrier": flight["carrier"], "dest": flight["dest"]}
        for flight, stack, logistic, trees in rows
    ]  # fmt: skip
