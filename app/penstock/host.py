"""What the processes of one host share: a lock on a file, files written whole or not at all, an end on request or with the parent."""

from __future__ import annotations

import asyncio
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

__all__ = ["ends_with", "locked", "on_signals", "private_folder", "without_privileges", "write_whole"]

_POLL: Final = 0.05  # seconds between two tries at a lock: a blocking flock could not be stopped
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # <linux/prctl.h>


def ends_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """Returns a function for a child to call first: it then receives the signal when the thread of `parent` that started it ends.

    None where the system cannot do it.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def begin() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)

    return begin


@contextlib.contextmanager
def on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Inside, SIGTERM and SIGINT call `stop` in the running event loop, as often as they arrive. For the main thread.

    asyncio's own handlers are removed when a loop is closed, and until the process ends a second signal would kill it.
    """
    loop = asyncio.get_running_loop()

    def heard(*_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing left to stop
            loop.call_soon_threadsafe(stop)

    before = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def without_privileges() -> None:
    """This process and its children gain no privileges from now on, from a set-user-id file for example. Does nothing but on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


@contextlib.contextmanager
def locked(file: Path, stopped: Callable[[], bool]) -> Iterator[None]:
    """Holds the lock of that name, after waiting for other processes and threads. Raises Stopped when `stopped()` is true during the wait.

    The file stays: if it were removed, two processes could lock two files of one name.
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
        os.close(descriptor)  # releases the lock


def write_whole(file: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Writes the file so that a reader sees the whole new content or the old one."""
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
    """Returns the folder, made if needed. Raises SettingsError when it belongs to another user or others may write to it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise SettingsError(f"other users may write to {path}: chmod 700 it, or set another cache")
    return path
