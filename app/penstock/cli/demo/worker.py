"""The worker that the demo runs: `penstock run` as a child process, the way a user would start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from penstock.cli.demo.clone import Clone
from penstock.errors import PenstockError
from penstock.settings import Settings

__all__ = ["Worker", "running"]

STOP_S = 10.0
_TAIL_LINES = 15


class Worker:
    """A running `penstock run`, its log in a file of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self.log = log

    def check(self) -> None:
        """Raises PenstockError with the end of its log when it has stopped."""
        code = self._process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
            raise PenstockError("\n  ".join([f"the worker stopped with exit code {code}; the end of its log:", *lines]))

    def stop(self) -> bool:
        """SIGTERM, so that it finishes and commits what is in flight; True when it ended with exit code 0 by itself."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S) == 0
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its own workers too
            self._process.wait()
            return False


@contextmanager
def running(clone: Clone, settings: Settings, options: Sequence[str] = ()) -> Iterator[Worker]:
    """A worker on the brokers of `settings`, stopped at the end. `options` go before the command: `("--config", FILE)`."""
    command = [sys.executable, "-m", "penstock", *options, "run", str(clone.topology), "--brokers", settings.brokers]
    command += ["--models", str(clone.models), "--schemas", str(clone.schemas), "--application", settings.application]
    command += [
        "--fetch-wait-ms",
        str(settings.fetch_wait_ms),
        "--workers",
        str(settings.workers),
        "--security-protocol",
        settings.security_protocol,
    ]
    command += ["--insecure-plaintext" if settings.insecure_plaintext else "--no-insecure-plaintext"]
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        log = Path(folder) / "worker.log"
        with open(log, "wb") as file:
            # A session of its own: Ctrl-C reaches only us, and we stop it when we have read what it still sends.
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        worker = Worker(process, log)
        try:
            yield worker
        finally:
            worker.stop()
