"""A row of `penstock features` has the features that its event has in the stream, to the bit, however either of them is cut."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import runtime
from penstock.cli.main import main
from penstock.pipeline import Pace
from penstock.record import Record
from penstock.runners.features import computing
from penstock.runners.memory import InMemory
from penstock.testing import TopologyDriver

BEGAN: Final = 1_700_000_000_000
SCHEMA: Final = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "card", "type": "string"},
        {"name": "amount", "type": ["null", "double"], "default": None},
        {"name": "online", "type": ["null", "boolean"], "default": None},
        {"name": "at", "type": "long"},
    ],
}
OF_VALUES: Final = ("sum", "mean", "min", "max", "variance", "first", "last", "since")
FEATURES: Final = {
    "n": "count",
    "rate": "rate",
    "of_online": "count where online",
    "of_large": "mean(amount) where large.yes",
    **{one: f"{one}(amount)" for one in OF_VALUES},
    "values": "last_k(amount, 2)",
    "ids": "distinct(id) where large.yes",
    "amounts": "distinct(amount)",
    "flags": "distinct(online)",
    "high": "quantile(amount, 0.9)",
}
# What the window of a card reads stands behind a node that reads it, and a window with a condition beside it.
TOPOLOGY: Final = """\
topology: payments
sources: {payments: {topic: payments, schema: payment.avsc, id: id, time: at}}
nodes:
  after: {kind: rule, outputs: {x: "coalesce(spent.mean_10s, 0.0) + spent.n_1m"}}
  large: {kind: rule, outputs: {yes: "coalesce(amount, 0.0) > 5"}}
  spent: {kind: window, by: card, over: [10s, 1m], hops: 5, lateness: 5s, features: %s%s}
  web: {kind: window, by: [card, large.yes], over: [10s], hops: 5, when: "coalesce(online, false)", features: {n: count, most: max(amount)}}
sinks: {answers: {topic: answers, fields: {id: id, x: after.x, web_n_10s: web.n_10s, web_most_10s: web.most_10s, %s}}}
"""
OUTPUTS: Final = {
    f"spent_{name}_{back}{f'_{at}' if many else ''}": f"spent.{name}_{back}{f'[{at}]' if many else ''}"
    for name, text in FEATURES.items()
    for back in ("10s", "1m")
    for many in [text.startswith("last_k")]
    for at in (range(2) if many else (0,))
}
MODES: Final = ("", ", exact: true", ", include_self: true", ", late: update", ", exact: true, late: update, include_self: true")

EVENT: Final = st.fixed_dictionaries(
    {
        "card": st.sampled_from(["a", "b", "c"]),
        "amount": st.one_of(st.none(), st.floats(-1e9, 1e9), st.sampled_from([0.1, 0.2, 1e-300, 7.0])),
        "online": st.sampled_from([None, True, False]),
        "at": st.integers(0, 90_000).map(lambda ms: BEGAN + ms),
    }
)
BROKEN: Final = st.just({"card": 1})  # refused by the schema, by both


def written(folder: Path, mode: str) -> Path:
    features, outputs = json.dumps(FEATURES), json.dumps(OUTPUTS)[1:-1]
    (folder / "payments.yaml").write_text(TOPOLOGY % (features, mode, outputs))
    (folder / "payment.avsc").write_text(json.dumps(SCHEMA))
    return folder / "payments.yaml"


def pieces(items: Sequence[Any], sizes: Sequence[int]) -> list[Sequence[Any]]:
    """The items in pieces of these sizes, over and over."""
    found: list[Sequence[Any]] = []
    at = 0
    while at < len(items):
        size = sizes[len(found) % len(sizes)]
        found.append(items[at : at + size])
        at += size
    return found


def streamed(file: Path, records: Sequence[Record], sizes: Sequence[int], chunk_rows: int) -> dict[str, dict[str, Any]]:
    """What the stream writes, by the ids of the events."""
    driver = TopologyDriver(file, schemas=file.parent, models=file.parent, partitions=2, chunk_rows=chunk_rows)
    for piece in pieces(records, sizes):
        driver.send_records("payments", piece)
    return {one["id"]: {name: value for name, value in one.items() if name != "x"} for one in driver.events("answers")}


def in_common(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what the sink of the stream does not write."""
    return {name: value for name, value in row.items() if name not in ("card", "amount", "online", "at")}


@pytest.mark.parametrize("mode", MODES)
@given(
    events=st.lists(st.one_of(EVENT, EVENT, EVENT, EVENT, EVENT, BROKEN), min_size=1, max_size=40),
    partitions=st.lists(st.integers(0, 1), min_size=1, max_size=7),
    sizes=st.tuples(*[st.lists(st.integers(1, 9), min_size=1, max_size=4)] * 2),
    chunks=st.tuples(st.integers(1, 7), st.integers(1, 7)),
)
def test_features_are_those_of_the_stream(
    mode: str, events: list[dict[str, Any]], partitions: list[int], sizes: tuple[list[int], list[int]], chunks: tuple[int, int]
) -> None:
    """The partitions of a topic; and files, which are one partition in the order of their names."""
    values = [json.dumps({"id": str(at), **event}).encode() for at, event in enumerate(events)]
    with tempfile.TemporaryDirectory() as place:
        file = written(Path(place), mode)
        spread = [Record("", value, None, (), BEGAN, partitions[at % len(partitions)]) for at, value in enumerate(values)]
        assert ranged(file, spread, sizes[1], chunks[1]) == streamed(file, spread, sizes[0], chunks[0])
        alone = [one._replace(partition=0) for one in spread]
        (Path(place) / "in").mkdir()
        for number, piece in enumerate(pieces(values, sizes[1])):
            (Path(place) / "in" / f"{number:02}.ndjson").write_bytes(b"\n".join(piece))
        given_to = ["features", str(file), "--in", f"{place}/in", "--out", f"{place}/out.ndjson", "--chunk-rows", str(chunks[1])]
        code = main([*given_to, "--schemas", place, "--models", place])
        expected = streamed(file, alone, sizes[0], chunks[0])
        assert code == (0 if expected else 1)
        assert {one["id"]: in_common(one) for one in rows(Path(place) / "out.ndjson")} == expected


def ranged(file: Path, records: Sequence[Record], sizes: Sequence[int], chunk_rows: int) -> dict[str, dict[str, Any]]:
    """What the derived topology writes of the partitions of a topic, in pieces of these sizes."""
    loaded = computing(runtime.load(file, models=file.parent, schemas=file.parent))
    (stage,) = loaded.wiring.stages
    inside = InMemory(runtime.prepare(loaded), {"payments": stage.name}, partitions=2, pace=Pace(chunk_rows=chunk_rows))
    for piece in pieces(records, sizes):
        for one in piece:
            inside.topics.append(one._replace(topic="payments"))
        inside.run()
    found = [json.loads(one.value or b"") for one in inside.topics.records("payments.features")]
    return {one["id"]: in_common(one) for one in found}


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
