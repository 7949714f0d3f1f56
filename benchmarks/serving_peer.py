"""The peer of `benchmarks.serving`: the models of topologies/flights.yaml behind FastAPI, as its documentation shows it.

A pydantic model in and out, one run of the models per request on the event loop, onnxruntime with one thread. It imports nothing of ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

MODELS = Path(__file__).parents[1] / "models"
NUMBERS = ("hour", "minute", "sched_arr_time", "dep_delay", "distance")
TEXTS = ("carrier", "origin", "dest")


class Flight(BaseModel):
    flight_id: str
    year: int
    month: int
    day: int
    hour: int
    minute: int
    sched_dep_time: int
    sched_arr_time: int
    dep_delay: float | None = None
    carrier: str
    flight: int
    tailnum: str | None = None
    origin: str
    dest: str
    distance: int
    departed_at: int


class Score(BaseModel):
    flight_id: str
    score: float
    logistic: float
    trees: float
    carrier: str
    dest: str


def session(name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(MODELS / name / "1" / "model.onnx"), options, providers=["CPUExecutionProvider"])


FEATURES, LOGISTIC, TREES, STACK = map(session, ("flight-features", "flight-logistic", "flight-trees", "flight-stack"))
app = FastAPI()


@app.post("/score")  # type: ignore[untyped-decorator]  # fastapi is not installed here
async def score(flight: Flight) -> Score:
    given = flight.__dict__
    if given["dep_delay"] is None:
        given["dep_delay"] = np.nan
    feeds = {}
    for tensor in FEATURES.get_inputs():
        kind = object if tensor.type == "tensor(string)" else {"tensor(float)": np.float32, "tensor(int64)": np.int64}[tensor.type]
        feeds[tensor.name] = np.array([[given[tensor.name]]], kind).reshape([1] * len(tensor.shape))
    x = FEATURES.run(["variable"], feeds)[0]
    logistic = LOGISTIC.run(["probabilities"], {"X": x})[0][0, 1]
    trees = TREES.run(["probabilities"], {"X": x})[0][0, 1]
    stack = STACK.run(["probabilities"], {"X": np.array([[logistic, trees]], np.float32)})[0][0, 1]
    made = {"score": float(stack), "logistic": float(logistic), "trees": float(trees)}
    return Score(flight_id=flight.flight_id, carrier=flight.carrier, dest=flight.dest, **made)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
