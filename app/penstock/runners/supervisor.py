"""Several workers on one host: the same command once a core, started, watched and stopped together.

Each worker is a process of its own in the same consumer group, so the partitions are shared by Kafka, not here. A
worker that dies of a signal is started again (its partitions go to the others meanwhile); one that gives up with an
error has a reason that a restart does not cure, so the others are stopped and its exit code is passed on.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from types import FrameType

from penstock.errors import WorkerFailed
from penstock.host import ends_with

__all__ = ["supervise"]

logger = logging.getLogger(__name__)

RESTARTS = 5  # of one worker, within
WINDOW = 60.0  # seconds; more than that is no accident
POLL = 0.2  # seconds between two looks at the workers
GRACE = 10.0  # seconds beyond the workers' own bound: they end themselves first, and say where they hung


class _Worker:
    """One process, and when it was started lately."""

    def __init__(self, number: int, group_instance_id: str) -> None:
        self.number = number
        # Two members of one static identity would put each other out of the group.
        self._own = ["--group-instance-id", f"{group_instance_id}-{number}"] if group_instance_id else []
        self.starts: deque[float] = deque(maxlen=RESTARTS + 1)
        self.start()

    def start(self) -> None:
        self.starts.append(time.monotonic())
        # The last --workers wins: the same command line, for one worker. A process group of its own keeps Ctrl-C in one hand.
        command = [sys.executable, "-m", "penstock", *sys.argv[1:], "--workers", "1", *self._own]
        self.process = subprocess.Popen(command, start_new_session=True, preexec_fn=ends_with(os.getpid(), signal.SIGTERM))  # noqa: PLW1509  no threads here
        logger.info("worker %d is process %d", self.number, self.process.pid)

    def crash_loops(self) -> bool:
        return len(self.starts) > RESTARTS and time.monotonic() - self.starts[0] < WINDOW


def supervise(count: int, patience: float, group_instance_id: str = "") -> None:
    """Runs `count` workers until SIGTERM or Ctrl-C; `patience` is how many seconds they have to finish.

    With a `group_instance_id`, each worker's is that and its number. On Linux the workers end, as on SIGTERM, when
    this process is killed.

    Raises WorkerFailed with the exit code of the first worker that gave up.
    """
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    workers: list[_Worker] = []
    try:
        workers.extend(_Worker(number, group_instance_id) for number in range(1, count + 1))
        while not stopping:
            for worker in workers:
                code = worker.process.poll()
                if code is None:
                    continue
                if code >= 0:
                    raise WorkerFailed(f"worker {worker.number} ended with exit code {code}; the others are being stopped", code or 1)
                if worker.crash_loops():
                    raise WorkerFailed(f"worker {worker.number} was killed {RESTARTS} times within {WINDOW:g} s", 1)
                logger.warning("worker %d was ended by %s and is started again", worker.number, signal.Signals(-code).name)
                worker.start()
            time.sleep(POLL)
    finally:
        _stop(workers, patience + GRACE)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(workers: list[_Worker], patience: float) -> None:
    running = [worker for worker in workers if worker.process.poll() is None]
    for worker in running:
        os.kill(worker.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    for worker in running:
        try:
            worker.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            logger.error(
                "worker %d did not finish within %g s and is killed; what it had not committed will be scored again",
                worker.number,
                patience,
            )
            worker.process.kill()
            worker.process.wait()
