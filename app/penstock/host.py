"""What the processes of one host share: a lock on a file, files written whole or not at all, an end on request or with the parent."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from penstock.errors import SettingsError, Stopped

__all__ = ["ends_with", "locked", "on_signals", "private_folder", "read_regular", "without_privileges", "write_whole", "writing_whole"]

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

    The file stays: if it were removed, two processes could lock two files of one name. A folder can be locked, too.
    """
    folder = file.is_dir()
    descriptor = os.open(file, os.O_CLOEXEC | (os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT), 0o600)
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


@contextlib.contextmanager
def writing_whole(file: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Opens a file beside this one, which replaces it at the end: a reader sees the whole new content or the old one."""
    descriptor, written = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with open(descriptor, "wb") as opened:
            yield opened
            os.fchmod(descriptor, mode)
        os.replace(written, file)
    except BaseException:
        os.unlink(written)
        raise


def write_whole(file: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Writes the file so that a reader sees the whole new content or the old one."""
    with writing_whole(file, mode=mode) as opened:
        opened.write(data)


def read_regular(path: Path, limit: int, *, follow: bool = True, whole: bool = True) -> bytes:
    """Returns the bytes of a file; unless `whole`, the first `limit` of them.

    Raises OSError, whose `strerror` says what is wrong, for what is no regular file, for one of more than `limit` bytes, and unless
    `follow` for a link. Never waits, as opening a pipe would.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError(error.errno, "it is a symbolic link, not a file", str(path)) from error
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, "it is a socket or a device, not a file", str(path)) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a named pipe" if stat.S_ISFIFO(mode) else "a device"
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
    with open(descriptor, "rb") as file:
        data = file.read(limit + whole)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return data


def private_folder(path: Path) -> Path:
    """Returns the folder, made if needed.

    Raises SettingsError when it or a folder above belongs to another user (not root), or when others may write to it or may replace it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = path.resolve(strict=True)
        above = [(one, one.stat()) for one in path.parents]
        found = path.stat()
    except OSError as error:
        raise SettingsError(f"{path} cannot be used as a folder: {error.strerror}; set another cache") from error
    for one, state in above:
        # A volume of root is mounted for this process: Kubernetes makes its empty ones writable for all.
        replaceable = state.st_mode & stat.S_IWOTH and not state.st_mode & stat.S_ISVTX and not os.path.ismount(one)
        if replaceable or state.st_uid not in (0, os.geteuid()):
            raise SettingsError(f"other users may replace {path}, by {one}, which is theirs or may be written by all: set another cache")
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise SettingsError(f"other users may write to {path}: chmod 700 it, or set another cache")
    return path
