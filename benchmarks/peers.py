"""Measures other systems on the same job, with the reference harness beside the checkout. The harness runs Penstock by a command line.

The harness is a folder with `setup.sh`, `broker/broker.sh`, `load.py` and `measure.py`. It may be read-only, so a copy of it is
used, and all its output goes to the work folder. Its runs and ours alternate: ours, a peer, ours, a peer.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.measure import Progress
from benchmarks.penstock_job import registry
from benchmarks.results import Result
from benchmarks.workload import ROOT
from penstock.cli.output import err
from penstock.errors import ConfigError, WorkerFailed

MODES = {"throughput": "throughput", "paced": "latency"}  # our name -> its name
EVENTS = 1_000_000  # events in its topic
SLOW = {"faust": 200_000, "faust-take": 300_000}  # outputs of the slow ones
BUILT_AS = {"flink-batch": "flink", "faust-take": "faust"}
OWN_BROKER = "127.0.0.1:19092"
# `env` is replaced by Python, so the measured process is ours.
COMMAND = (
    "env PYTHONPATH={root} {python} -m benchmarks.penstock_job --bootstrap {{bootstrap}} --input {{input}} --output {{output}} "
    "--models {{models}} --group {{group}} --state {{state}}"
)
FIGURES = {"rss_peak_mb": "rss_mb", "excess": "duplicates"}  # its name -> our name


@dataclass(frozen=True, slots=True)
class Harness:
    """The copy that is used, its work folder, and the broker with the filled topic."""

    folder: Path
    work: Path
    bootstrap: str

    @classmethod
    @contextmanager
    def prepared(
        cls, folder: Path | None, work: Path, peers: Sequence[str], bootstrap: str | None, *, setup: bool, progress: Progress
    ) -> Iterator[Harness]:
        """Copies and builds the harness for these peers, and starts its broker with a filled topic. Stops a started broker at the end."""
        folder = folder or ROOT.parent / "shared" / "peers"
        if not (folder / "measure.py").exists():
            raise ConfigError(f"{folder} has no measure.py; next: give the folder of the reference harness with --peers")
        work = work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        made = cls(_copy(folder, work / "harness"), work, bootstrap or OWN_BROKER)
        if setup:
            progress("building the peers (minutes, once)", 0, 1)
            made.call("sh", "setup.sh", *dict.fromkeys(("tools", *(BUILT_AS.get(peer, peer) for peer in peers))))
        registry(work / "models")  # before the measurement, as in a deployment
        if bootstrap:
            yield made
            return
        try:
            progress("starting its broker", 0, 1)
            made.call("sh", "broker/broker.sh", "start")
            progress("filling its topic", 0, 1)
            made.fill()
            yield made
        finally:
            made.call("sh", "broker/broker.sh", "stop")

    @property
    def python(self) -> str:
        return str(self.work / "venv-tools" / "bin" / "python")

    def fill(self) -> None:
        """Fills its input topic, unless an earlier session has filled it: the broker keeps its data."""
        from confluent_kafka.admin import AdminClient

        if "flights" not in AdminClient({"bootstrap.servers": self.bootstrap}).list_topics(timeout=30).topics:
            self.call(self.python, "load.py", "--work", str(self.work), "--bootstrap", self.bootstrap, "--n", str(EVENTS))

    def measure(self, mode: str, name: str, *, n: int, workers: int = 1, command: str | None = None) -> Result:
        """Runs its measure.py once. Raises WorkerFailed with its output when the run did not succeed."""
        who = ["--name", name, "--cmd", command, "--copies", str(workers)] if command else ["--peer", name]
        at = ["--work", str(self.work), "--bootstrap", self.bootstrap, "--n", str(n)]
        return converted(name, json.loads(self.call(self.python, "measure.py", mode, *who, *at).splitlines()[-1]))

    def call(self, *command: str) -> str:
        """Runs one of its programs to the end and returns its standard output. On an interrupt, the program stops its processes."""
        process = subprocess.Popen(
            command, cwd=self.folder, env={**os.environ, "PEERS_WORK": str(self.work)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            output, errors = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGINT)  # measure.py then stops its peer
            process.communicate()
            raise
        if process.returncode:
            raise WorkerFailed(
                f"{' '.join(command[:3])} failed with exit code {process.returncode}:\n{(output + errors).strip()[-1500:]}", 1
            )
        return output


class Behind(WorkerFailed):
    """A contender that cannot be measured at the steady rate, because it falls behind."""


def converted(name: str, line: dict[str, Any]) -> Result:
    """Converts a line of measure.py to a result. Raises WorkerFailed when the run did not succeed, Behind when it could not keep up."""
    if line["status"] == "never caught up":
        raise Behind(f"{name} fell behind the rate, or exited; its log: {line['log']}", 1)
    if line["status"] != "ok":
        raise WorkerFailed(f"{name}: {line['status']}; its log: {line.get('log', 'none')}", 1)
    mode = next(ours for ours, its in MODES.items() if its == line["mode"])
    figures = {
        FIGURES.get(name, name): float(value) for name, value in line.items() if type(value) in (int, float) and name not in ("n", "copies")
    }
    return Result(mode, name, int(line.get("n") or line["events"]), figures, str(line["check"]))


def compare(
    harness: Harness, peers: Sequence[str], *, copies: int, n: int, repeat: int, modes: Sequence[str], path: Path, progress: Progress
) -> None:
    """Measures ours and the peers in turns, and appends each run to the results file `path`.

    A peer that cannot keep up with the steady rate has no row; a message reports that.
    """
    results.append(path, results.machine(broker="Kafka of the reference harness", flights="the reference harness's events"))
    command = COMMAND.format(root=ROOT, python=sys.executable)
    ours = [("penstock", 1)] + ([(f"penstock-{copies}", copies)] if copies > 1 else [])
    for mode in modes:
        turns = list(in_turns(ours if mode == "throughput" else ours[:1], peers)) * repeat
        for at, (name, workers) in enumerate(turns):
            progress(f"{mode}: {name}", at, len(turns))
            try:
                run = harness.measure(MODES[mode], name, n=min(n, SLOW.get(name, n)), workers=workers, command=command if workers else None)
            except Behind as error:
                if workers:
                    raise
                err.print(f"no row for it: {error}", markup=False)
                continue
            results.append(path, run)


def in_turns(ours: Sequence[tuple[str, int]], peers: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Returns ours (name, workers) and the peers (name, 0) alternately, ours first."""
    for own, peer in itertools.zip_longest(ours, peers):
        if own is not None:
            yield own
        if peer is not None:
            yield peer, 0


def _copy(folder: Path, to: Path) -> Path:
    """Returns a writable copy of the harness. An existing copy has its programs built and is reused."""
    if not to.exists():
        shutil.copytree(folder, to, symlinks=True, ignore=shutil.ignore_patterns("work", "*-data"))
        for path in (to, *to.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
    return to
