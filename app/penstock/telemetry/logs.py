"""Structured log records: standard `logging` with fields in `extra`: `log.info("committed", extra={"partitions": 4})`."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TextIO

from penstock.tame import tame, tame_json

__all__ = ["NOISY", "condensed", "configure"]

NOISY: Final = ("aiokafka", "asyncio", "faust", "kafka", "mode")
# Our own that repeat a warning for as long as brokers are away.
OFTEN: Final = tuple(f"penstock.{name}" for name in ("transports.kafka", "worker.report"))
_TIMES: Final = re.compile(r"\d+ ?m?s\b")
_HANDLER: Final = "penstock"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(level: str, form: str, *, stream: TextIO | None = None) -> None:
    """Writes log records from `level` on to `stream` (stderr unless given) as "text" or "json". May be called again.

    The client libraries log at WARNING or above. Below that, faust and aiokafka build debug records that are then dropped,
    which took 10 % of plain Faust's time.
    """
    handler = logging.StreamHandler(stream)
    handler.set_name(_HANDLER)
    handler.addFilter(Seldom())
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    for installed in [one for one in root.handlers if one.get_name() == _HANDLER]:
        root.removeHandler(installed)
    root.addHandler(handler)
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(number)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


class Seldom(logging.Filter):
    """Lets a client library, and our connections to brokers, repeat a warning once a minute only, with the number of those left out.

    While a broker is away, aiokafka logs hundreds of lines a second. What differs in the arguments alone is the same warning; of ours, what
    differs in numbers alone.
    """

    EVERY = 60.0  # seconds

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.name.startswith(OFTEN) and record.msg != "%s"  # without a fixed text, each is another warning
        if record.levelno < logging.WARNING or not (ours or record.name.partition(".")[0] in NOISY):
            return True
        texts = tuple(_TIMES.sub("", one) for one in record.args if isinstance(one, str)) if ours and isinstance(record.args, tuple) else ()
        cause, now = (record.name, str(record.msg), *texts), self._clock()
        last, left_out = self._seen.get(cause, (-math.inf, 0))
        if now - last < self.EVERY:
            self._seen[cause] = last, left_out + 1
            return False
        self._seen[cause] = now, 0
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like this since)"
        return True


class _OfThreads(Seldom):
    """Filters what some threads log: the rest of a program logs as it has configured it."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread not in self.threads or super().filter(record)


_CONDENSING: Final = _OfThreads()


@contextlib.contextmanager
def condensed() -> Iterator[None]:
    """Inside, the client libraries and our connections repeat a warning of this thread once a minute only, whatever handlers there are."""
    for name in [one for one in logging.root.manager.loggerDict if one.partition(".")[0] in NOISY or one.startswith(OFTEN)]:
        logging.getLogger(name).addFilter(_CONDENSING)  # once: it is the same one
    _CONDENSING.threads.add(threading.get_ident())
    try:
        yield
    finally:
        _CONDENSING.threads.discard(threading.get_ident())


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class _Json(logging.Formatter):
    """One object per line: time (UTC, ms), level, logger, message, the extra fields, and the exception if there is one."""

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
        return tame_json(json.dumps(line, default=str, ensure_ascii=False))


class _Text(logging.Formatter):
    """`12:30:01.250 INFO  penstock.runners.stream: committed  partitions=4`.

    Only a record begins a line: each further line is indented, so a text with line ends, which may be another's, makes no record.
    """

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname:<5} {record.name}: {record.getMessage()}"
        shown = ((name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in _extra(record).items())
        pairs = "".join(f" {name}={value}" for name, value in shown)
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return tame((line + (f" {pairs}" if pairs else "") + trace).replace("\n", "\n    "))
