"""`penstock run` on a terminal: a live view below the log, and an end without loss."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from penstock.testing import Broker, wait_for
from tests.kafka.running import make_job

pytestmark = [pytest.mark.broker, pytest.mark.measured]

TEXT = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_on_a_terminal_shows_itself_and_ends_without_loss(broker: Broker, tmp_path: Path, workers: int) -> None:
    """Several workers have one view of them all. It is drawn again and again with growing counts; lines of the log stay whole; Ctrl-C
    finishes what is in flight.
    """
    job = make_job(broker, tmp_path, partitions=2)
    ours, theirs = pty.openpty()
    environment = {
        "PENSTOCK_BROKERS": broker.bootstrap, "PENSTOCK_APPLICATION": job.application, "PENSTOCK_COMMIT_INTERVAL": "0.3", "TERM": "xterm",
        "COLUMNS": "120", "LINES": "40",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", "run", str(job.file), "--no-releases", "--workers", str(workers)],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=os.environ | environment,
    )  # fmt: skip
    os.close(theirs)
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the process has closed the terminal
                return
            seen.append(piece)

    reader = threading.Thread(target=read)
    reader.start()

    def screen() -> str:
        return TEXT.sub("", b"".join(seen).decode(errors="replace"))

    def showing(text: str) -> bool:
        return text in screen()

    try:
        wait_for(lambda: "state         ready" in screen(), screen, 60)
        for count in (50, 100):
            job.send(range(count - 50, count))
            wanted = f"{count} taken and acknowledged, {count} outputs"
            wait_for(partial(showing, wanted), screen, 30)
        job.send(range(100, 3000))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        reader.join(10)
        os.close(ours)
    lines, started = screen().splitlines(), r"\d\d:\d\d:\d\d\.\d{3} INFO  penstock\.runners\.stream: running doubles as group \S+ .*"
    assert len([line for line in lines if re.fullmatch(started, line)]) == workers
    assert len(re.findall(r"stopped  records_in=\d+", "\n".join(lines))) == workers
    assert ("workers       2" in screen()) == (workers == 2)
    with job.run("--no-releases"):
        job.wait_for_answers(3000, 60)
    assert set(job.ids()) == {str(number) for number in range(3000)}
    assert set(job.ids().values()) == {1}, "nothing was in flight without being finished and committed"
