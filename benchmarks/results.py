"""Measurements as lines of JSON: the machine first, then one line per run; and the targets that figures are compared with."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.workload import ROOT
from penstock.errors import ConfigError

Figures = dict[str, float]

PACKAGES = ("faust-streaming", "aiokafka", "onnxruntime", "numpy", "msgspec", "fastavro")


@dataclass(frozen=True, slots=True)
class Result:
    """One run. `mode` is throughput, paced or compute; `figures` are by the names of `measure`; `check` is "ok" or the problem."""

    mode: str
    contender: str
    n: int
    figures: Mapping[str, float]
    check: str


@dataclass(frozen=True, slots=True)
class Sitting:
    """A results file: the machine's facts and the runs on it."""

    machine: Mapping[str, Any]
    results: tuple[Result, ...]

    def figures(self, mode: str, contender: str, figure: str) -> list[float]:
        """Returns this figure of every run that has it."""
        asked = [one for one in self.results if (one.mode, one.contender) == (mode, contender)]
        return [one.figures[figure] for one in asked if figure in one.figures]

    def median(self, mode: str, contender: str, figure: str) -> float | None:
        found = self.figures(mode, contender, figure)
        return statistics.median(found) if found else None


Point = tuple[str, str, str]  # mode, contender, figure


@dataclass(frozen=True, slots=True)
class Target:
    """`of`, divided by `over` if there is one, is to be at least (or at most) `bound`."""

    what: str
    of: Point
    bound: float
    at_least: bool = False
    over: Point | None = None

    def value(self, sitting: Sitting) -> float | None:
        """Returns None when the session has not measured it."""
        of, over = sitting.median(*self.of), sitting.median(*self.over) if self.over else 1.0
        return of / over if of is not None and over else None

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def _of(contender: str, figure: str, mode: str = "throughput") -> Point:
    return mode, contender, figure


SPEED, CPU, ONE, TWO, FLINK, SWAPPING = "ev_s", "cpu_us_ev", "penstock", "penstock-2", "flink-batch", "penstock-swapping"
ONNX = _of("onnx", CPU, "compute")

TARGETS = (
    Target("events/s, 1 worker over plain Faust", _of(ONE, SPEED), 40, True, _of("faust", SPEED)),
    Target("events/s, 1 worker over Flink micro-batched", _of(ONE, SPEED), 1.15, True, _of(FLINK, SPEED)),
    Target("events/s, 2 workers over Flink micro-batched", _of(TWO, SPEED), 1.8, True, _of(FLINK, SPEED)),
    Target("CPU per event, 1 worker over Flink micro-batched", _of(ONE, CPU), 0.45, over=_of(FLINK, CPU)),
    Target("CPU per event, JSON, over the models alone", _of(ONE, CPU), 2.8, over=ONNX),
    Target("CPU per event, Avro over JSON", _of("penstock-avro", CPU), 1.0, over=_of(ONE, CPU)),
    Target("paced: p50, ms", _of(ONE, "p50_ms", "paced"), 3),
    Target("paced: p99, ms", _of(ONE, "p99_ms", "paced"), 10),
    Target("paced: CPU µs per event", _of(ONE, CPU, "paced"), 200),
    Target("peak RSS of a worker under backlog, MB", _of(ONE, "rss_mb"), 350),
    Target("first output after start, s", _of(ONE, "start_s"), 3),
    Target("events/s with releases back to back, over without", _of(SWAPPING, SPEED), 0.95, True, _of(f"{SWAPPING}-not", SPEED)),
    Target(
        "events/s with a release a second, over without", _of("penstock-swap-1s", SPEED), 0.95, True, _of("penstock-swap-1s-not", SPEED)
    ),
    Target("paced p99 while models are swapped, over without", _of(SWAPPING, "p99_ms", "paced"), 2, over=_of(ONE, "p99_ms", "paced")),
    Target(
        "paced p99 while 100 MB are made ready every few seconds, over without",
        _of("penstock-large", "p99_ms", "paced"),
        2,
        over=_of(ONE, "p99_ms", "paced"),
    ),
    Target("activate to the last of 3 workers, ms", _of("penstock-3", "switch_ms", "switch"), 200),
    Target("the same for a rollback, ms", _of("penstock-3", "rollback_ms", "switch"), 200),
)


def machine(**more: Any) -> dict[str, Any]:
    """Returns what a figure depends on: processor, cores, memory, kernel, versions, commit, and the time."""
    cpu = next((line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = next((int(line.split()[1]) / 2**20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0.0)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("penstock", *PACKAGES)},
        "commit": _commit(),
        **more,
    }


def append(path: Path, line: Mapping[str, Any] | Result) -> None:
    """Appends a line to a results file; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(line, Result):
        figures = {name: round(value, 3) for name, value in line.figures.items()}
        line = {"mode": line.mode, "contender": line.contender, "n": line.n, **figures, "check": line.check}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def load(path: Path) -> Sitting:
    """Reads a results file. Raises ConfigError that names file and line for any other file."""
    facts: Mapping[str, Any] = {}
    results: list[Result] = []
    for at, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            if "mode" in line:
                results.append(_result(line))
            else:
                facts = line
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}:{at} is not a line of a results file ({error!r}); next: measure again with `python -m benchmarks`"
            ) from None
    if not facts:
        raise ConfigError(f"{path} does not begin with the measured machine; next: measure again with `python -m benchmarks`")
    return Sitting(facts, tuple(results))


def _result(line: dict[str, Any]) -> Result:
    mode, contender, n, check = (line.pop(name) for name in ("mode", "contender", "n", "check"))
    return Result(mode, contender, int(n), {name: float(value) for name, value in line.items()}, check)


def _lines(path: str) -> Iterable[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else ()


def _commit() -> str:
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
