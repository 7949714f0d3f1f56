"""What a worker says about itself: structured log records, and every metric, declared in one place.

Log records are standard `logging` with their fields in `extra`: `log.info("committed", extra={"partitions": 4})`.
Metrics are plain numbers on an object. The hot loop adds to them once a batch, never once an event, which costs
nothing that a profile shows; whoever exports them reads a `snapshot`.
"""

from __future__ import annotations

import bisect
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TextIO

__all__ = ["Histogram", "Metrics", "configure"]

NOISY: Final = ("aiokafka", "asyncio", "faust", "kafka", "mode")
_HANDLER: Final = "penstock"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(level: str, form: str, *, stream: TextIO | None = None) -> None:
    """Writes log records from `level` on to `stream` (stderr unless given) as "text" or "json". May be called again.

    The client libraries are held at WARNING or above: faust and aiokafka build debug records that are then dropped,
    which was 10 % of plain Faust's time.
    """
    handler = logging.StreamHandler(stream)
    handler.set_name(_HANDLER)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    for installed in [one for one in root.handlers if one.get_name() == _HANDLER]:
        root.removeHandler(installed)
    root.addHandler(handler)
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(number)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class _Json(logging.Formatter):
    """One object a line: time (UTC, ms), level, logger, message, the extra fields, and the exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in _extra(record).items() if name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _Text(logging.Formatter):
    """`12:30:01.250 INFO  penstock.runners.stream: committed  partitions=4`."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname:<5} {record.name}: {record.getMessage()}"
        shown = ((name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in _extra(record).items())
        pairs = "".join(f" {name}={value}" for name, value in shown)
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return line + (f" {pairs}" if pairs else "") + trace


class Histogram:
    """Counts of values at or below each bound, the last count being of those above all bounds."""

    __slots__ = ("bounds", "count", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.sum += value

    def snapshot(self) -> dict[str, Any]:
        """`count`, `sum`, and `buckets`: pairs of a bound (None: above all) and how many fell there."""
        return {"count": self.count, "sum": self.sum, "buckets": list(zip((*self.bounds, None), self.counts, strict=True))}


def _metric(kind: Literal["counter", "gauge"], help: str, *, unit: str = "", default: float = 0) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help, "unit": unit})


def _histogram(help: str, bounds: Sequence[float], *, unit: str) -> Any:
    return field(default_factory=lambda: Histogram(bounds), metadata={"kind": "histogram", "help": help, "unit": unit})


@dataclass(slots=True)
class Metrics:
    """Every metric of a worker. Counters only grow; gauges are set; histograms observe one value a batch."""

    records_in: int = _metric("counter", "Records taken from the sources.", unit="records")
    records_out: int = _metric("counter", "Predictions acknowledged by the brokers.", unit="records")
    dead_letters: int = _metric("counter", "Records acknowledged in a dead-letter topic.", unit="records")
    batches: int = _metric("counter", "Batches finished: every output acknowledged.", unit="batches")
    offloaded: int = _metric("counter", "Batches that ran beside the event loop because they take long.", unit="batches")
    splits: int = _metric("counter", "Times that a batch was divided to find the row on which a model fails.", unit="splits")

    decode_seconds: float = _metric("counter", "Time spent turning bytes into columns.", unit="s", default=0.0)
    execute_seconds: float = _metric("counter", "Time spent in the plan, models included.", unit="s", default=0.0)
    encode_seconds: float = _metric("counter", "Time spent turning columns into bytes.", unit="s", default=0.0)

    commits: int = _metric("counter", "Commits of offsets that the brokers accepted.", unit="commits")
    commit_failures: int = _metric("counter", "Commits of offsets that the brokers refused.", unit="commits")
    rebalances: int = _metric("counter", "Times that partitions were assigned anew.", unit="rebalances")
    refetches: int = _metric("counter", "Batches that did not begin at the expected offset and were fetched again.", unit="batches")

    swaps: int = _metric("counter", "Times that another generation was put in force.", unit="swaps")
    releases_failed: int = _metric("counter", "Times that a release could not be made ready.", unit="releases")
    control_refused: int = _metric("counter", "Control messages that meant nothing here.", unit="messages")
    validity_failures: int = _metric("counter", "Times that a live model did not give what its golden records say.", unit="failures")

    generation: int = _metric("gauge", "The generation that this worker scores with.")
    partitions: int = _metric("gauge", "Partitions assigned now.", unit="partitions")
    in_flight_batches: int = _metric("gauge", "Batches whose outputs are not acknowledged yet.", unit="batches")
    in_flight_bytes: int = _metric("gauge", "Bytes of the batches in flight.", unit="bytes")

    batch_rows: Histogram = _histogram("Rows of a batch.", [2**n for n in range(0, 16, 2)], unit="rows")
    batch_seconds: Histogram = _histogram(
        "From taking a batch to its last acknowledgement.",
        [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10],
        unit="s",
    )

    def snapshot(self) -> dict[str, Any]:
        """Every metric by name: a number, or a histogram's own snapshot. A copy, safe to keep."""
        values = {declared.name: getattr(self, declared.name) for declared in fields(self)}
        return {name: value.snapshot() if isinstance(value, Histogram) else value for name, value in values.items()}
