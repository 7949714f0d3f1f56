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
    "releases", "trust", "from_file", "unsigned_control", "cache",
)  # fmt: skip


class Worker:
    """A running `penstock run`, its log in a separate file. `advice` is shown when it has stopped by itself."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, advice: str = "") -> None:
        self._process = process
        self.log = log
        self._advice = advice

    def check(self) -> None:
        """Raises PenstockError with the end of its log when it has exited."""
        code = self._process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
            advice = [self._advice] if self._advice else []
            raise PenstockError("\n  ".join([f"the worker stopped with exit code {code}; the end of its log:", *lines, *advice]))

    def stop(self) -> bool:
        """Sends SIGTERM, so that it finishes and commits its work in flight. Returns True when it exited with code 0 by itself."""
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
    """Runs a worker with these settings, then stops it; its log is in `folder`. `options` precede the command: `("--config", FILE)`."""
    command = [sys.executable, "-m", "penstock", *options, "run", str(topology), *_flags(settings)]
    log = folder / "worker.log"
    with open(log, "wb") as file:
        # A separate session: Ctrl-C reaches only this process, which stops the worker after reading its last outputs.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    worker = Worker(process, log, advice)
    try:
        yield worker
    finally:
        worker.stop()


def _flags(settings: Settings) -> Iterator[str]:
    """The settings that the demo chooses for the worker; it inherits the user's other settings."""
    for name in _OURS:
        flag, value = flag_name(name), getattr(settings, name)
        if isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        else:
            yield from (flag, str(value))
