"""A Java program of a test, as a child process that does not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from penstock.host import ends_with

__all__ = ["Java"]

# The second compiler costs more time than it saves in a process that runs for a minute.
FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Java:
    """A running program: `log` is the file that it writes to."""

    def __init__(self, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.log, self.process = log, process

    @classmethod
    @contextmanager
    def running(
        cls, libs: Path, main: str, *arguments: str, folder: Path, properties: Mapping[str, str] | None = None, heap_mb: int = 512,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Java]:  # fmt: skip
        """Runs the class `main` of the jars in `libs` in the folder, until the end of the block."""
        log = folder / f"{main.rpartition('.')[2]}.log"
        flags = [f"-Xmx{heap_mb}m", *FLAGS, *(f"-D{name}={value}" for name, value in (properties or {}).items())]
        with log.open("ab") as writes:
            process = subprocess.Popen(
                ["java", *flags, "-cp", f"{libs}/*", main, *arguments],
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=writes,
                stderr=writes,
                preexec_fn=ends_with(os.getpid(), signal.SIGKILL),  # noqa: PLW1509  one thread starts it
            )
        try:
            yield cls(log, process)
        finally:
            process.kill()
            process.wait()

    def children(self, word: str) -> Sequence[int]:
        """Returns the process ids of its children whose command has the word."""
        return [one.pid for one in psutil.Process(self.process.pid).children() if any(word in part for part in one.cmdline())]

    def tail(self) -> str:
        """Returns the end of the log, for the message of a failed test."""
        return self.log.read_text(errors="replace")[-3000:]
