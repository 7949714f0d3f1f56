"""`penstock features` from the outside: what it reads and writes, and what it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from penstock.cli.main import main
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import TopologyDriver, models
from tests.unit.cli.done import Done, Run

BEGAN = 1_700_000_000_000
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "card", "type": "string"},
        {"name": "amount", "type": ["null", "float"], "default": None},
        {"name": "country", "type": "string"},
        {"name": "level", "type": "long", "default": 0},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
TOPOLOGY = """\
topology: payments
sources: {payments: {topic: payments, schema: payment.avsc, id: id, time: at}}
nodes:
  spent:
    kind: window
    by: card
    over: [1m]
    features: {n: count, mean: mean(amount), last: "last_k(amount, 2)"}
  score: {kind: model, model: score@1, inputs: {x: {field: spent.mean_1m, missing: nan}}}
sinks: {scores: {topic: scores, fields: {id: id, score: score, n: spent.n_1m}}}
"""


def event(at: int, card: str = "a", amount: float | None = 1.0, **others: Any) -> dict[str, Any]:
    return {"id": str(at), "card": card, "amount": amount, "country": "nl", "at": BEGAN + at * 1000, **others}


def write(events: Sequence[dict[str, Any]], path: str = "in.ndjson") -> None:
    Path(path).write_text("".join(json.dumps(one) + "\n" for one in events))


def rows(path: str = "out.ndjson") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("schemas").mkdir()
    Path("schemas/payment.avsc").write_text(json.dumps(SCHEMA))
    Path("payments.yaml").write_text(TOPOLOGY)
    return tmp_path


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> Done:
        code = main(["features", "payments.yaml", *arguments])
        return Done(code, *capfd.readouterr())

    return run


def test_row_has_what_the_topology_reads_and_what_the_windows_had_before_the_event(run: Run) -> None:
    """The model is not registered: what trains it is made here."""
    write([event(0, amount=2.0), event(1, amount=None), event(2, amount=4.0), event(3, "b")])
    done = run("--in", "in.ndjson", "--out", "out.ndjson", "--format", "json")
    assert (done.code, done.err) == (0, "")
    counts = {"late": 0, "replayed": 0, "disordered": 0}
    assert done.json == {"read": 4, "written": 4, "dead_letters": 0, "complete": True, "windows": {"spent": counts}, "models": {}}
    assert rows()[2] == {
        "id": "2", "at": BEGAN + 2000, "card": "a", "amount": 4.0,
        "spent_n_1m": 2, "spent_mean_1m": 2.0, "spent_last_1m_0": 2.0, "spent_last_1m_1": None,
    }  # fmt: skip
    assert [one["spent_n_1m"] for one in rows()] == [0, 1, 2, 0]
    assert [one["spent_mean_1m"] for one in rows()] == [None, 2.0, 2.0, None]


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.arrow", "out.avro", "out/"])
def test_formats_hold_the_same(run: Run, name: str) -> None:
    write([event(at, "ab"[at % 2], None if at % 3 else at / 8) for at in range(40)])
    assert run("--in", "in.ndjson", "--out", "out.ndjson").code == 0
    assert run("--in", "in.ndjson", "--out", name, *(["--as", "parquet"] if name == "out/" else [])).code == 0
    assert read(name) == rows()


def read(name: str) -> list[dict[str, Any]]:
    if name.endswith(".csv"):
        text = {"id": pa.string(), "amount": pa.float32()}
        found: list[dict[str, Any]] = csv.read_csv(name, convert_options=csv.ConvertOptions(column_types=text)).to_pylist()
        return found
    if name.endswith(".avro"):
        with Path(name).open("rb") as file:
            return [dict(one) for one in fastavro.reader(file)]  # type: ignore[arg-type]  # records are mappings
    if name.endswith(".arrow"):
        with pa.ipc.open_file(name) as reader:
            return list(reader.read_all().to_pylist())
    return list(pq.read_table("out/payments.features" if name == "out/" else name).to_pylist())


def test_columns_that_are_read_give_the_same_as_lines(run: Run) -> None:
    events = [event(at, "abc"[at % 3], at / 3) for at in range(100)]
    write(events)
    pq.write_table(pa.Table.from_pylist(events), "in.parquet")
    assert run("--in", "in.ndjson", "--out", "out.ndjson").code == 0
    assert run("--in", "in.parquet", "--out", "columns.ndjson", "--chunk-rows", "7").code == 0
    assert rows("columns.ndjson") == rows()


def test_events_before_since_only_fill_the_windows(run: Run) -> None:
    write([event(at) for at in range(10)])
    assert run("--in", "in.ndjson", "--out", "whole.ndjson").code == 0
    done = run("--in", "in.ndjson", "--out", "out.ndjson", "--since", "2023-11-14T22:13:27Z")
    assert done.out == "10 events read, 3 outputs, 0 dead letters\n"
    assert rows() == rows("whole.ndjson")[7:]
    assert rows()[0]["spent_n_1m"] == 7


def test_range_begins_with_empty_windows(run: Run) -> None:
    write([event(at) for at in range(10)])
    assert run("--in", "in.ndjson", "--out", "out.ndjson", "--from", "4", "--to", "8").code == 0
    assert [(one["id"], one["spent_n_1m"]) for one in rows()] == [("4", 0), ("5", 1), ("6", 2), ("7", 3)]


def test_event_that_the_stream_refuses_is_a_dead_letter_and_counts_in_no_window(run: Run) -> None:
    """The amount is no number; a model asks for a country that is there, so the stream refuses the other."""
    Path("payments.yaml").write_text(TOPOLOGY.replace("id: id, score", "id: id, country: country, score"))
    write([event(0), event(1, amount="much"), {**event(2), "country": None}, event(3)])  # type: ignore[arg-type]  # on purpose
    done = run("--in", "in.ndjson", "--out", "out.ndjson")
    assert done.out == "4 events read, 2 outputs, 2 dead letters\n"
    assert [one["spent_n_1m"] for one in rows()] == [0, 1]
    assert Path("out.ndjson.dead-letters.ndjson").read_text().count("\n") == 2


def test_event_that_a_model_beside_the_window_refuses_is_counted_by_both(run: Run, folder: Path) -> None:
    """The model stands before the window in the file, and the window runs before it."""
    nodes = "nodes:\n  graded: {kind: model, model: level@1, inputs: {x: level}}"
    text = TOPOLOGY.replace("nodes:", nodes).replace("id: id, score: score", "id: id, grade: graded")
    Path("payments.yaml").write_text("\n".join(line for line in text.splitlines() if "score@1" not in line))
    DirectoryRegistry(folder / "models").publish("level", models.gather([1.0, 2.0]))
    events = [event(0), event(1, level=7), event(2, level=1)]
    write(events)
    driver = TopologyDriver("payments.yaml")
    driver.send("payments", *events)
    assert [(one["id"], one["n"]) for one in driver.events("scores")] == [("0", 0), ("2", 2)]
    assert run("--in", "in.ndjson", "--out", "out.ndjson").code == 0
    assert [(one["id"], one["level"], one["spent_n_1m"]) for one in rows()] == [("0", 0, 0), ("1", 7, 1), ("2", 1, 2)]


def test_model_that_a_window_reads_has_to_be_there(run: Run, folder: Path) -> None:
    nodes = "nodes:\n  double: {kind: model, model: double@1}"
    Path("payments.yaml").write_text(TOPOLOGY.replace("mean: mean(amount)", "mean: mean(double)").replace("nodes:", nodes))
    x = {"name": "x", "type": "float"}
    Path("schemas/payment.avsc").write_text(json.dumps({**SCHEMA, "fields": [*SCHEMA["fields"], x]}))
    write([event(0, x=1.5), event(1, x=2)])
    done = run("--in", "in.ndjson", "--out", "out.ndjson")
    assert done.code == 2
    assert "payments.yaml:4" in done.err
    assert "score" not in done.err
    DirectoryRegistry(folder / "models").publish("double", models.linear([2.0]))
    assert run("--in", "in.ndjson", "--out", "out.ndjson").code == 0
    assert rows()[1]["spent_mean_1m"] == np.float32(3.0)


def test_materialised_window_is_computed_with_what_stands_before_it(run: Run) -> None:
    rule = 'nodes:\n  large: {kind: rule, materialize: true, outputs: {yes: "coalesce(amount, 0.0) > 5"}}'
    text = TOPOLOGY.replace("nodes:", rule).replace("kind: window", "kind: window\n    materialize: true")
    Path("payments.yaml").write_text(text.replace("n: count", "n: count where large.yes"))
    write([event(0, amount=9.0), event(1), event(2)])
    assert run("--in", "in.ndjson", "--out", "out.ndjson").code == 0
    assert [one["spent_n_1m"] for one in rows()] == [0, 1, 1]


def test_events_out_of_order_are_counted_and_said(run: Run) -> None:
    write([event(0), event(500), event(100)])
    done = run("--in", "in.ndjson", "--out", "out.ndjson", "--format", "json")
    assert done.json["windows"]["spent"]["late"] == 1
    assert "nodes.spent: 1 event came later than its lateness allows" in done.err


def test_lines_of_a_pipe(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write([event(0), event(1)])
    with Path("in.ndjson").open("rb") as lines:
        before = os.dup(0)
        os.dup2(lines.fileno(), 0)
        try:
            code = main(["features", "payments.yaml", "-"])
        finally:
            os.dup2(before, 0)
            os.close(before)
    done = Done(code, *capfd.readouterr())
    assert code == 0, done.err
    assert [json.loads(line)["spent_n_1m"] for line in done.out.splitlines()] == [0, 1]


WEB = "  web: {kind: window, by: country, over: [1m], features: {n: count}}\nsinks: {"


def test_some_of_the_windows(run: Run) -> None:
    Path("payments.yaml").write_text(TOPOLOGY.replace("sinks: {", WEB).replace("n: spent.n_1m", "n: spent.n_1m, web: web.n_1m"))
    write([event(0), event(1)])
    assert run("--in", "in.ndjson", "--out", "out.ndjson", "--nodes", "web").code == 0
    assert [*rows()[0]] == ["id", "at", "card", "amount", "country", "web_n_1m"]
    assert "did you mean 'spent'?" in run("--in", "in.ndjson", "--out", "other.ndjson", "--nodes", "spend").err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers", "2"], "--workers: windows remember the events before, in one process"),
        (["--resume"], "--resume: what the windows remembered is gone when a run ends"),
        (["--sample", "0.5"], "--sample: a window counts every event"),
        (["--since", "12"], "--since 12: give a time"),
        (["--since", "2026-01-01T00:00:00"], "has no time zone"),
        (["--share", "3"], "No such option"),
        (["--from", "2026-01-01T00:00:00Z"], "a file has no times"),
    ],
)
def test_what_a_run_that_remembers_refuses(run: Run, flags: list[str], words: str) -> None:
    write([event(0)])
    done = run("--in", "in.ndjson", "--out", "out.ndjson", *flags)
    assert done.code == 2
    assert words in " ".join(done.err.split())
    assert not Path("out.ndjson").exists()


def test_output_that_is_there_is_not_overwritten_and_no_one_is_sent_to_resume(run: Run) -> None:
    write([event(0)])
    assert run("--in", "in.ndjson", "--out", "out.ndjson").code == 0
    done = run("--in", "in.ndjson", "--out", "out.ndjson")
    assert (done.code, "remove it, or give another --out" in done.err, "--resume" in done.err) == (2, True, False)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (TOPOLOGY[TOPOLOGY.index("  spent") : TOPOLOGY.index("sinks")], "  r: {kind: rule, outputs: {y: level}}\n", "has no window"),
        (", time: at", "", "payments.yaml:4:3: nodes.spent: its time is that of the records, and rows of files have none"),
        ("by: card", "by: spent_n_1m", "would both be the column spent_n_1m"),
    ],
)
def test_topology_that_gives_no_features(run: Run, old: str, new: str, words: str) -> None:
    Path("schemas/payment.avsc").write_text(json.dumps(SCHEMA).replace('"country"', '"spent_n_1m"'))
    text = TOPOLOGY.replace(old, new)
    Path("payments.yaml").write_text(text if "window" in text else text.replace("score: score, n: spent.n_1m", "y: r.y"))
    write([event(0)])
    done = run("--in", "in.ndjson", "--out", "out.ndjson")
    assert done.code == 2
    assert words in " ".join(done.err.split())


TWO = """\
topology: payments
sources:
  payments: {topic: payments, schema: payment.avsc, id: id, time: at}
  refunds: {topic: refunds, schema: payment.avsc, id: id, time: at}
nodes:
  spent: {kind: window, by: payments.card, over: [1m], features: {n: count}}
  back: {kind: window, by: refunds.card, over: [1m], features: {n: count}}
sinks:
  scores: {topic: scores, fields: {id: payments.id, n: spent.n_1m}}
  refunded: {topic: refunded, fields: {id: refunds.id, n: back.n_1m}}
"""


def test_windows_of_several_sources_are_chosen(run: Run) -> None:
    Path("payments.yaml").write_text(TWO)
    write([event(0), event(1)])
    done = run("--in", "in.ndjson", "--out", "out.ndjson")
    assert "spent of payments, back of refunds (choose the nodes of one source: --nodes NAME,NAME)" in " ".join(done.err.split())
    assert run("--in", "in.ndjson", "--out", "out.ndjson", "--nodes", "back").code == 0
    assert [one["back_n_1m"] for one in rows()] == [0, 1]
