"""Shows where a worker spends its time under backlog: py-spy samples it from outside, and the samples are summed by function."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.contender import CONTENDERS, running
from benchmarks.kafka import Cluster
from benchmarks.measure import Bench, Progress
from benchmarks.penstock_job import registry
from benchmarks.report import Sheet
from benchmarks.suite import KINDS
from benchmarks.workload import export_models, flights
from penstock.errors import ConfigError, TransportError
from penstock.testing.broker import open_broker

SHOWN = 25
SAMPLES_A_SECOND = 250
LOOP = "BaseEventLoop._run_once (asyncio/base_events.py)"
LINE = re.compile(r":\d+\)$")


def profile(seconds: int, n: int, bootstrap: str | None, progress: Progress) -> list[Sheet]:
    """Two tables: by the function that was running, and by every function that was on the stack."""
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if spy is None:
        raise ConfigError("py-spy is not installed; next: pip install py-spy, or `python -m benchmarks micro`, which needs no installation")
    progress("reading flights", 0, 1)
    data = flights(n)
    with open_broker(bootstrap, kinds=KINDS) as broker, tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        work = Path(folder)
        models = export_models(work / "models")
        registry(models)
        bench = Bench(Cluster(broker), data, models, work, 60, progress)
        contender = CONTENDERS["penstock"]
        try:
            input, output = bench.cluster.topic("flights"), bench.cluster.topic("profile")
            for sent in bench.cluster.fill(input, data.values(n, "json", work)):
                progress("filling a topic", sent, n)
            with running(bench.command(contender, input, output), work / "log") as started:
                while not bench.cluster.ends(output):
                    started.check()
                    time.sleep(0.1)
                progress(f"sampling for {seconds} s", 0, 1)
                folded = work / "folded"
                command = [spy, "record", "--pid", str(started.process.pid), "--duration", str(seconds), "--rate", str(SAMPLES_A_SECOND)]
                asked = subprocess.run([*command, "--format", "raw", "--output", str(folded)], capture_output=True, text=True, check=False)
                if asked.returncode:
                    raise ConfigError(f"py-spy could not sample the worker: {asked.stderr.strip()[-500:]}")
                if bench.cluster.ends(output) >= n:
                    raise TransportError(f"the backlog ended before the sampling; next: give a larger --n than {n:,}")
        finally:
            bench.cluster.close()
        return _sheets(folded.read_text().splitlines())


def _sheets(folded: Iterable[str]) -> list[Sheet]:
    last, every, total = tally(folded)
    return [
        Sheet(
            f"{title}, of {total:,} samples",
            ("function", "%"),
            tuple((name, f"{count / total:.1%}") for name, count in counts.most_common(SHOWN)),
        )
        for title, counts in (("Running", last), ("On the stack", every))
    ]


def tally(folded: Iterable[str]) -> tuple[Counter[str], Counter[str], int]:
    """py-spy's raw lines (`frame;frame;frame count`) by the last frame and by every frame below LOOP, and their sum.

    Omits other threads (the models' watchdog), which only wait, and the frames above the loop, which are the same in all samples.
    """
    last: Counter[str] = Counter()
    every: Counter[str] = Counter()
    total = 0
    for line in folded:
        stack, _, count = line.rpartition(" ")
        frames = [LINE.sub(")", frame) for frame in stack.split(";")]
        if LOOP not in frames:
            continue
        own = frames[frames.index(LOOP) :]
        last[own[-1]] += int(count)
        every.update(dict.fromkeys(own[1:], int(count)))
        total += int(count)
    return last, every, total
