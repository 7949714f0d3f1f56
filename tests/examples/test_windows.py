"""The window features that models are trained on are those that they get in the stream, and hold nothing of later flights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import events
import numpy as np
import pytest
import windows

from penstock.batch import Array, Batch, Failure
from penstock.engine.observe import Observers
from penstock.engine.plan import Stage
from penstock.model.session import Session
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import TopologyDriver

HOUR = 3_600_000
HOP = HOUR // 12


class Seen:
    """Keeps the columns of the executed chunks."""

    name = "seen"

    def __init__(self) -> None:
        self.chunks: list[dict[str, Array]] = []

    def saw(self, stage: Stage, batch: Batch, failures: Sequence[Failure], *, generation: int) -> None:
        self.chunks.append(dict(batch.columns))

    def column(self, name: str) -> Array:
        return np.concatenate([chunk[name] for chunk in self.chunks])


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return list(events.replay(None).rows)  # type: ignore[arg-type]  # of the sample: dicts


@pytest.fixture(scope="module")
def trained(rows: list[dict[str, Any]]) -> dict[str, Array]:
    """What the models are trained on, for the flights of the sample."""
    return windows.columns(rows)


@pytest.fixture(scope="module", params=[(1, 256), (700, 64)], ids=lambda sizes: f"sent {sizes[0]}, run {sizes[1]}")
def stream(rows: list[dict[str, Any]], root: Path, request: pytest.FixtureRequest) -> Seen:
    """The whole topology over the sample, cut into deliveries and chunks of other sizes than in training."""
    seen = Seen()
    sent, chunk = request.param
    driver = TopologyDriver(
        windows.TOPOLOGY, models=root / "models", schemas=windows.SCHEMAS, chunk_rows=chunk, observers=Observers([seen])
    )
    given = iter(rows if sent > 1 else rows[:500])
    while several := list(itertools.islice(given, sent)):
        driver.send("departures", *several)
    assert driver.dead_letters("departures") == []
    return seen


def test_window_features_of_training_are_bit_for_bit_those_of_the_stream(stream: Seen, trained: dict[str, Array]) -> None:
    for name, output in windows.features().items():
        column = stream.column(output).astype(np.float64)
        assert bits(column) == bits(trained[name][: len(column)]), name


def test_feature_model_gets_the_same_rows_in_training_and_in_the_stream(
    stream: Seen, rows: list[dict[str, Any]], trained: dict[str, Array], root: Path
) -> None:
    session = Session.load(DirectoryRegistry(root / "models").resolve("flight-window-features", "production"))
    given: dict[str, Array] = {}
    for tensor in session.signature.inputs:
        column = trained.get(tensor.name, np.array([row.get(tensor.name) for row in rows], object))
        given[tensor.name] = column.astype(np.float32 if tensor.dtype == "float32" else object)[:, None]
    variable = stream.column("features.variable")
    expected = session.run(["variable"], given)[0][: len(variable)]
    assert variable.dtype == expected.dtype
    assert variable.tobytes() == expected.tobytes()  # nothing is missing behind the imputer


def test_no_feature_holds_anything_of_a_later_flight(rows: list[dict[str, Any]], trained: dict[str, Array]) -> None:
    """Without the flights after it, an event has the same features."""
    for name, column in windows.columns(rows[:2000]).items():
        assert bits(column) == bits(trained[name][:2000]), name


def bits(column: Array) -> bytes:
    """Returns the bytes of a column of float64. NaN has many patterns of bits, which all mean that there is no value: here it has one."""
    return np.where(np.isnan(column), np.nan, column).tobytes()


def test_delays_of_an_airport_are_those_of_its_flights_of_the_last_hour(rows: list[dict[str, Any]], trained: dict[str, Array]) -> None:
    for place, row in enumerate(rows[:1000]):
        begin = (row["departed_at"] // HOP - 12) * HOP  # on a hop
        before = [one for one in rows[:place] if one["origin"] == row["origin"] and one["departed_at"] >= begin]
        assert trained["airport_departures_1h"][place] == len(before)
        mean = np.mean([one["dep_delay"] for one in before]) if before else np.nan
        assert trained["airport_delay_1h"][place] == pytest.approx(mean, nan_ok=True)


def test_departures_that_are_no_events_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of the departures are no events of flights-windows"):
        windows.columns([{"flight_id": "a"}])


def test_windows_of_other_topologies_serve_too(rows: list[dict[str, Any]], root: Path) -> None:
    """Those that were tried: an aircraft that has not left before, or is not known, has no delay."""
    first, second = ({**rows[0], "tailnum": "N1", "dep_delay": delay, "departed_at": hour * HOUR} for delay, hour in ((7.0, 1), (9.0, 3)))
    made = windows.columns([first, {**second, "tailnum": None}, second], root / "examples/flights/tried.yaml")
    assert bits(made["aircraft_delay_24h"]) == bits(np.array([np.nan, np.nan, 7.0]))
    assert bits(made["aircraft_seconds_24h"]) == bits(np.array([np.nan, np.nan, 7200.0]))
