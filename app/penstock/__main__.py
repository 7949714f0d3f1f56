"""The process of the command line: the script `penstock`, and `python -m penstock`.

A worker may have to stop at any moment. So that SIGTERM ends it with 0 from the first line to the last, the signal is handled before
the imports, which take the longest, and the process ends without Python's own end, which would remove that and wait for threads.
"""

import contextlib
import os
import signal
import sys
from typing import NoReturn

__all__ = ["start"]


def start() -> NoReturn:
    """Runs the command line and ends the process with its exit code."""
    if not _runs(sys.argv[1:]):
        from penstock.cli.main import main

        sys.exit(main())
    # Until a runner handles it: nothing was read yet, so nothing has to be finished. An exception would become another one in the middle
    # of a library's import.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from penstock.cli.main import main

    code = main()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _runs(words: list[str]) -> bool:
    """Returns whether the command is `run`; known before the library that reads commands is imported."""
    for before, word in zip(["", *words], words, strict=False):
        if not word.startswith("-") and before not in ("--config", "--log-level", "--log-format"):
            return word == "run"
    return False


if __name__ == "__main__":
    start()
