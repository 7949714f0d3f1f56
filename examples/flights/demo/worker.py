"""The worker that the demo runs: `penstock run` as a child process, the way a user would start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from penstock.errors import PenstockError
from penstock.settings import Settings, flag_name

__all__ = ["Worker", "running"]

STOP_S = 10.0
_TAIL_LINES = 15
_OURS = (
    "brokers", "application", "models", "schemas", "fetch_wait_ms", "workers", "security_protocol", "insecure_plaintext",
    "releases", "trust", "unsigned_control", "cache",
)  # fmt: skip


class Worker:
    """A running `penstock run`, its log in a file of its own. `advice` is what to do when it has stopped by itself."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, advice: str = "") -> None:
        self._process = process
        self.log = log
        self._advice = advice

    def check(self) -> None:
        """Raises PenstockError with the end of its log when it has stopped."""
        code = self._process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
            advice = [self._advice] if self._advice else []
            raise PenstockError("\n  ".join([f"the worker stopped with exit code {code}; the end of its log:", *lines, *advice]))

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
def running(settings: Settings, topology: Path, folder: Path, options: Sequence[str] = (), advice: str = "") -> Iterator[Worker]:
    """A worker with these settings, stopped at the end; its log is in `folder`. `options` go before the command: `("--config", FILE)`."""
    command = [sys.executable, "-m", "penstock", *options, "run", str(topology), *_flags(settings)]
    log = folder / "worker.log"
    with open(log, "wb") as file:
        # A session of its own: Ctrl-C reaches only us, and we stop it when we have read what it still sends.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    worker = Worker(process, log, advice)
    try:
        yield worker
    finally:
        worker.stop()


def _flags(settings: Settings) -> Iterator[str]:
    """What the demo decides for the worker; what else the user has set reaches it as it reached us."""
    for name in _OURS:
        flag, value = flag_name(name), getattr(settings, name)
        if isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        else:
            yield from (flag, str(value))
