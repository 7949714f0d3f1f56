"""One plan, every door: the same events have the same numbers to 1e-6 and fail in the same rows, through whatever door they come."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import penstock
from penstock.scorer import Scorer
from penstock.serving.messages import SERVICE, message
from penstock.testing.driver import TopologyDriver
from tests.serving.conftest import ROOT, Service

NUMBERS = ("score", "logistic", "trees")
BAD: dict[int, dict[str, Any]] = {7: {"origin": "BOS"}, 50: {"distance": None}, 299: {"hour": 1 << 40}}
READ = {
    "flight_id": ("BYTES", object), "hour": ("INT32", np.int32), "minute": ("INT32", np.int32), "sched_arr_time": ("INT32", np.int32),
    "dep_delay": ("FP32", np.float32), "carrier": ("BYTES", object), "origin": ("BYTES", object), "dest": ("BYTES", object),
    "distance": ("INT32", np.int32),
}  # fmt: skip
Door = Callable[["Doors"], dict[int, Any]]


class Doors:
    """The events, and what opens each door."""

    def __init__(self, events: list[dict[str, Any]], plan: Scorer, service: Service, folder: Path) -> None:
        self.events = events
        self.plan = plan
        self.service = service
        self.folder = folder

    @property
    def table(self) -> pa.Table:
        return pa.Table.from_pylist(self.events)

    @property
    def lines(self) -> bytes:
        return b"".join(json.dumps(event).encode() + b"\n" for event in self.events)

    def batch(self, path: Path, form: str) -> Path:
        """The file of the outputs of `penstock batch`."""
        out = path.with_name(f"{form}-scores.{form}")
        self.command("--in", str(path), "--out", str(out))
        return out

    def command(self, *flags: str, lines: bytes = b"") -> bytes:
        command = [sys.executable, "-m", "penstock", "batch", "topologies/flights.yaml", *flags]
        return subprocess.run(command, cwd=ROOT, input=lines, capture_output=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def doors(flights: list[dict[str, Any]], service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    events = [{**flight, **BAD.get(row, {})} for row, flight in enumerate(flights)]
    where: dict[str, Any] = {"models": ROOT / "models", "schemas": ROOT / "schemas"}
    with penstock.open(ROOT / "topologies/flights.yaml", **where) as plan:
        yield Doors(events, plan, service, tmp_path_factory.mktemp("doors"))


@pytest.fixture(scope="module")
def streamed(doors: Doors) -> dict[int, Any]:
    """What the stream's own loop writes, by the event's row."""
    driver = TopologyDriver(ROOT / "topologies/flights.yaml", models=ROOT / "models", schemas=ROOT / "schemas")
    driver.send("departures", *doors.events)
    found = by_row(doors, driver.events("predictions"))
    assert len(found) == len(doors.events) - len(BAD)
    return found


def by_row(doors: Doors, answers: list[dict[str, Any]]) -> dict[int, Any]:
    rows = {event["flight_id"]: row for row, event in enumerate(doors.events)}
    return {rows[answer["flight_id"]]: answer for answer in answers}


def of_events(doors: Doors) -> dict[int, Any]:
    return {row: one for row, one in enumerate(doors.plan.score(doors.events)) if isinstance(one, dict)}


def of_columns(doors: Doors) -> dict[int, Any]:
    scored = doors.plan.score_columns({name: [event[name] for event in doors.events] for name in doors.events[0]})
    return of_arrays(scored.columns, scored.rows.tolist())


def of_arrays(columns: dict[str, Any], rows: list[int]) -> dict[int, Any]:
    return {row: {name: column[at] for name, column in columns.items()} for at, row in enumerate(rows)}


def of_tables(doors: Doors) -> dict[int, Any]:
    return {row: one for row, one in enumerate(doors.plan.score_table(doors.table).to_pylist()) if one["failure"] is None}


def of_http(doors: Doors) -> dict[int, Any]:
    answers = doors.service.post("/v1/topologies/flights:score", json.dumps(doors.events)).json()
    return {row: one for row, one in enumerate(answers) if "failure" not in one}


def of_tensors(doors: Doors) -> dict[int, Any]:
    """A request that holds a row that fails is refused: only good ones come."""
    good = [row for row in range(len(doors.events)) if row not in BAD]
    events = [doors.events[row] for row in good]
    tensors = [
        {"name": name, "datatype": kind, "shape": [len(events)], "data": [_known(one[name], kind) for one in events]}
        for name, (kind, _) in READ.items()
    ]
    known = [row for row, one in zip(good, events, strict=True) if one["dep_delay"] is not None]
    answer = doors.service.post("/v2/models/flights/infer", json.dumps({"inputs": tensors})).json()
    columns = {one["name"]: one["data"] for one in answer["outputs"]}
    return {row: one for row, one in of_arrays(columns, good).items() if row in known}


def _known(value: Any, kind: str) -> Any:
    return 0.0 if value is None and kind == "FP32" else value


def of_grpc(doors: Doors) -> dict[int, Any]:
    good = [row for row, one in enumerate(doors.events) if row not in BAD and one["dep_delay"] is not None]
    request = message("ModelInferRequest")(model_name="flights")
    for name, (kind, dtype) in READ.items():
        values = [doors.events[row][name] for row in good]
        request.inputs.add(name=name, datatype=kind, shape=[len(good)])
        if kind == "BYTES":
            raw = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in values)
        else:
            raw = np.array(values, dtype).tobytes()
        request.raw_input_contents.append(raw)
    with grpc.insecure_channel(doors.service.grpc) as channel:
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", request_serializer=type(request).SerializeToString,
            response_deserializer=message("ModelInferResponse").FromString,
        )  # fmt: skip
        answer = infer(request, timeout=30)
    numbers = {
        one.name: np.frombuffer(raw, np.float32)
        for one, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        if one.name in NUMBERS
    }
    return of_arrays(numbers, good)


def of_parquet(doors: Doors) -> dict[int, Any]:
    path = doors.folder / "flights.parquet"
    pa.parquet.write_table(doors.table, path)
    return by_row(doors, pa.parquet.read_table(doors.batch(path, "parquet")).to_pylist())


def of_csv(doors: Doors) -> dict[int, Any]:
    path = doors.folder / "flights.csv"
    pa.csv.write_csv(doors.table, path)
    return by_row(doors, pa.csv.read_csv(doors.batch(path, "csv")).to_pylist())


def of_ndjson(doors: Doors) -> dict[int, Any]:
    path = doors.folder / "flights.ndjson"
    path.write_bytes(doors.lines)
    return by_row(doors, [json.loads(line) for line in doors.batch(path, "ndjson").read_text().splitlines()])


def of_standard_streams(doors: Doors) -> dict[int, Any]:
    return by_row(doors, [json.loads(line) for line in doors.command("-", lines=doors.lines).splitlines()])


WHOLE: tuple[Door, ...] = (of_events, of_columns, of_tables, of_http, of_parquet, of_csv, of_ndjson, of_standard_streams)
TENSORS: tuple[Door, ...] = (of_tensors, of_grpc)


@pytest.mark.parametrize("door", WHOLE)
def test_doors_of_events_answer_and_refuse_as_the_stream(doors: Doors, streamed: dict[int, Any], door: Door) -> None:
    found = door(doors)
    assert found.keys() == streamed.keys()
    compare(found, streamed)


@pytest.mark.parametrize("door", TENSORS)
def test_doors_of_tensors_answer_as_the_stream(doors: Doors, streamed: dict[int, Any], door: Door) -> None:
    """A tensor holds no null, so flights without a known delay are not compared."""
    found = door(doors)
    assert len(found) > len(doors.events) * 0.9
    compare(found, {row: streamed[row] for row in found})


def compare(found: dict[int, Any], asked: dict[int, Any]) -> None:
    for name in NUMBERS:
        ours = np.array([found[row][name] for row in found], np.float64)
        np.testing.assert_allclose(ours, [asked[row][name] for row in found], rtol=0, atol=1e-6)
