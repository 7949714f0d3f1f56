"""What is started, and that it is gone afterwards; what others' tools print, read as ours."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.contender import CONTENDERS, Running, running
from benchmarks.peers import converted, in_turns
from benchmarks.profile import LOOP, tally
from penstock.errors import WorkerFailed

# A parent with a child in a session of its own, as a supervised worker is; both would run for ever.
FAMILY = (
    "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
    "print(c.pid, flush=True); time.sleep(600)"
)


def test_command_line_of_a_contender() -> None:
    command = CONTENDERS["penstock-2"].command(
        bootstrap="b:1", input="in", output="out", models=Path("m"), group="g", state=Path("s")
    )  # fmt: skip
    assert command[1:] == [
        "-m", "benchmarks.penstock_job", "--bootstrap", "b:1", "--input", "in", "--output", "out", "--models", "m", "--group", "g",
        "--state", "s", "--workers", "2",
    ]  # fmt: skip


def test_the_whole_tree_is_stopped_when_the_block_raises(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def interrupted() -> None:
        with running([sys.executable, "-c", FAMILY], log) as started:
            while not log.read_text().strip():
                started.check()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    child = int(log.read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_contender_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    started = Running([sys.executable, "-c", "import sys; sys.exit('no such topic')"], tmp_path / "log")
    started.process.wait()
    with pytest.raises(WorkerFailed, match="exit code 1; its output ends:\nno such topic"):
        started.check()
    started.stop()


def test_cpu_and_memory_of_a_tree_are_seen(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ntime.sleep(600)"
    with running([sys.executable, "-c", burn], tmp_path / "log") as started:
        while not (tmp_path / "log").read_text():
            started.check()
        assert started.cpu() >= 0.2
        assert started.rss_peak > 1_000_000


def test_a_line_of_the_reference_harness_becomes_a_result() -> None:
    line = {
        "mode": "throughput", "peer": "flink-batch", "copies": 1, "status": "ok", "n": 900_000, "ev_s": 175_559, "cpu_us_ev": 9.5,
        "rss_peak_mb": 1091, "excess": 0, "committed": None, "check": "ok",
    }  # fmt: skip
    found = converted("flink-batch", dict(line))
    assert (found.mode, found.n, found.check) == ("throughput", 900_000, "ok")
    assert found.figures == {"ev_s": 175_559, "cpu_us_ev": 9.5, "rss_mb": 1091, "duplicates": 0}
    with pytest.raises(WorkerFailed, match="timeout; its log: /tmp/x"):
        converted("flink-batch", {**line, "status": "timeout", "log": "/tmp/x"})


def test_ours_and_theirs_take_turns() -> None:
    assert list(in_turns([("ours", 1), ("ours-2", 2)], ["a", "b", "c"])) == [("ours", 1), ("a", 0), ("ours-2", 2), ("b", 0), ("c", 0)]


def test_samples_are_added_up_by_function_below_the_loop() -> None:
    """A recursive function counts once a sample, a thread beside the loop not at all, line numbers are left out."""
    loop = LOOP.replace(")", ":12)")
    folded = [f"main (a.py:1);{loop};f (b.py:2);f (b.py:9) 3", f"main (a.py:1);{loop};g (b.py:5) 1", "wait (threading.py:3) 9"]
    last, every, total = tally(folded)
    assert total == 4
    assert last == {"f (b.py)": 3, "g (b.py)": 1}
    assert every == {"f (b.py)": 3, "g (b.py)": 1}


def test_an_unknown_run_is_refused() -> None:
    shown = CliRunner().invoke(main, ["--only", "spark"])
    assert shown.exit_code == 2
    assert "penstock-avro" in shown.output


def test_every_contender_is_known_by_its_name() -> None:
    assert all(one.name == name for name, one in CONTENDERS.items())
