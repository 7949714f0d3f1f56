"""What the processes of one host owe each other: a lock on a file, a file that is there whole or not at all, and an end with the parent."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from penstock.errors import SettingsError, Stopped

__all__ = ["ends_with", "locked", "private_folder", "write_whole"]

_POLL: Final = 0.05  # seconds between two tries at a lock: flock can wait, but then it cannot be told to stop
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>


def ends_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """What a child calls first, so that it gets the signal when the thread of `parent` that started it ends, however that happens.

    None where the system cannot.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def begin() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return begin


@contextlib.contextmanager
def locked(file: Path, stopped: Callable[[], bool]) -> Iterator[None]:
    """Holds the lock of that name, waiting for other processes and threads. Raises Stopped when `stopped()` says so meanwhile.

    The file stays: were it removed, two could hold locks on two files of one name.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stopped():
                    raise Stopped(f"stopped while another process held {file}") from None
                time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def write_whole(file: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Writes the file so that a reader sees all of it or what was there before."""
    descriptor, written = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with open(descriptor, "wb") as opened:
            opened.write(data)
            os.fchmod(descriptor, mode)
        os.replace(written, file)
    except BaseException:
        os.unlink(written)
        raise


def private_folder(path: Path) -> Path:
    """The folder, made if need be, in which nobody else may write. Raises SettingsError when it is another's, or open to others."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise SettingsError(f"{path} may be written by others: chmod 700 it, or set another cache")
    return path
