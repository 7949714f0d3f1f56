"""A contender is a command line. When it runs, it is a tree of processes, and its CPU time and memory are read from outside."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.workload import ROOT
from penstock.errors import WorkerFailed

PATIENCE = 40.0  # seconds for an orderly stop
SCAN_EVERY = 1.0  # seconds between two searches for new child processes


@dataclass(frozen=True, slots=True)
class Contender:
    """One system under test. `share`: it is measured over 1/share of the events, because it is that much slower."""

    name: str
    title: str
    module: str
    options: tuple[str, ...] = ()
    format: str = "json"
    share: int = 1

    def command(self, *, bootstrap: str, input: str, output: str, models: Path, group: str, state: Path) -> list[str]:
        """The full command line."""
        given = {"bootstrap": bootstrap, "input": input, "output": output, "models": models, "group": group, "state": state}
        return [
            sys.executable,
            "-m",
            self.module,
            *(word for name, value in given.items() for word in (f"--{name}", str(value))),
            *self.options,
        ]


CONTENDERS = {
    one.name: one
    for one in (
        Contender("penstock", "Penstock, 1 worker", "benchmarks.penstock_job"),
        Contender("penstock-2", "Penstock, 2 workers", "benchmarks.penstock_job", ("--workers", "2")),
        Contender("penstock-avro", "Penstock, 1 worker, Avro in", "benchmarks.penstock_job", ("--format", "avro"), format="avro"),
        Contender("faust", "plain Faust, per event", "benchmarks.faust_job", share=20),
    )
}


class Running:
    """A started command and all its descendants."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        self.began = time.time()
        with log.open("wb") as output:
            # A separate session: Ctrl-C in the terminal reaches only the harness, which then stops this in an orderly way.
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._tree = {self.process.pid: psutil.Process(self.process.pid)}
        self._cpu: dict[int, float] = {}
        self._scanned = 0.0
        self.rss_peak = 0

    def cpu(self) -> float:
        """Returns user and system seconds of the tree so far, including ended processes. Also updates the peak memory."""
        self._scan()
        rss = 0
        for pid, process in self._tree.items():
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    rss += process.memory_info().rss
            except psutil.Error:
                continue  # it has ended: its last values are kept
            self._cpu[pid] = times.user + times.system
        self.rss_peak = max(self.rss_peak, rss)
        return sum(self._cpu.values())

    def check(self) -> None:
        """Raises WorkerFailed with the end of its log when it has exited."""
        if (code := self.process.poll()) is not None:
            tail = self.log.read_text(errors="replace").strip()[-1500:]
            raise WorkerFailed(f"the contender ended with exit code {code}; its output ends:\n{tail}", 1)

    def stop(self) -> None:
        """Sends SIGTERM, and after PATIENCE seconds SIGKILL to the rest of the tree."""
        self._scanned = 0.0
        self._scan()
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            left = [process for process in self._tree.values() if process.is_running()]  # never another process with a reused id
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=10)

    def _scan(self) -> None:
        if time.monotonic() - self._scanned < SCAN_EVERY:
            return
        self._scanned = time.monotonic()
        try:
            self._tree |= {child.pid: child for child in self._tree[self.process.pid].children(recursive=True)}
        except psutil.NoSuchProcess:
            return


@contextmanager
def running(command: list[str], log: Path) -> Iterator[Running]:
    """Runs the command, and stops it at the end in all cases."""
    started = Running(command, log)
    try:
        yield started
    finally:
        started.stop()


def busy() -> float:
    """Returns the CPU seconds of the whole machine so far."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0) - getattr(times, "steal", 0.0))
