"""Structured log records: standard `logging` with fields in `extra`: `log.info("committed", extra={"partitions": 4})`."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Final, TextIO

from penstock.tame import tame, tame_json

__all__ = ["NOISY", "configure"]

NOISY: Final = ("aiokafka", "asyncio", "faust", "kafka", "mode")
_HANDLER: Final = "penstock"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(level: str, form: str, *, stream: TextIO | None = None) -> None:
    """Writes log records from `level` on to `stream` (stderr unless given) as "text" or "json". May be called again.

    The client libraries log at WARNING or above. Below that, faust and aiokafka build debug records that are then dropped,
    which took 10 % of plain Faust's time.
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
    """`12:30:01.250 INFO  penstock.runners.stream: committed  partitions=4`."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname:<5} {record.name}: {record.getMessage()}"
        shown = ((name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in _extra(record).items())
        pairs = "".join(f" {name}={value}" for name, value in shown)
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return tame(line + (f" {pairs}" if pairs else "") + trace)
