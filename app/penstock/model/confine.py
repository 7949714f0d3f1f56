"""Confines this process to its memory and its open files: no other files, no network, no other processes. On Linux, for the quarantine.

Two parts of the kernel do it:

- Landlock: this thread, and the threads that it starts, open no file and no TCP connection, and signal no process outside.
- seccomp: all threads make only the system calls that computing needs. Every other call fails with EPERM, so nothing is opened, connected,
  started or signalled.

Both hold until the process ends, and require `host.without_privileges`. seccomp alone refuses everything that is named above; Landlock
alone leaves UDP. Kernels and containers differ: `available` reports which of the two a process here could use. Numbers and
layouts are those of <linux/landlock.h>, <linux/seccomp.h>, <linux/filter.h> and <asm/unistd.h>.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["available", "deny_calls", "deny_files"]

_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # Landlock's system calls: one number on every processor
_VERSION: Final = 1  # flag: return the version instead of a set of rules
_FILES: Final = ((1, 13), (2, 14), (3, 15), (5, 16))  # from this version on, so many kinds of access to files
_TCP: Final = (4, 0b11)  # bind and connect
_SCOPED: Final = (6, 0b11)  # abstract Unix sockets, and signals, to processes outside

_SET_FILTER, _GET_ACTION = 1, 2  # operations of seccomp(2)
_ALL_THREADS: Final = 1
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF: of 32 bits, compared with a constant
_NUMBER, _AUDIT, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument has 8 bytes
_PROT_EXEC: Final = 4


class _Machine(NamedTuple):
    """One kind of processor: its name in seccomp, its numbers in `_CALLS`, and where the numbers of another calling convention begin."""

    audit: int
    column: int
    foreign: int


_MACHINES: Final = {"x86_64": _Machine(0xC000003E, 0, 0x40000000), "aarch64": _Machine(0xC00000B7, 1, 0xFFFFFFFF)}
_CALLS: Final = {  # what computing needs: numbers on x86_64 and aarch64
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216), "madvise": (28, 233),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "futex": (202, 98), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168), "membarrier": (324, 283),
    "rseq": (334, 293), "set_robust_list": (273, 99),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "restart_syscall": (219, 128), "getrusage": (98, 165), "getpid": (39, 172), "gettid": (186, 178),
    "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_MAPPING: Final = {"mmap": (9, 222), "mprotect": (10, 226)}  # allowed as well, but for memory that can be executed
_TGKILL, _CLONE3, _SECCOMP = (234, 131), (435, 435), (317, 277)


def available() -> tuple[str, ...]:
    """Returns which of "Landlock" and "seccomp" this process could use."""
    return (("Landlock",) if _landlock() else ()) + (("seccomp",) if _seccomp() else ())


def deny_files() -> bool:
    """Denies files, TCP and signals to this thread and to those that it starts. Returns False where there is no Landlock."""
    version = _landlock()
    if not version:
        return False
    kinds = max(count for since, count in _FILES if version >= since)
    handled = [(1 << kinds) - 1] + [bits for since, bits in (_TCP, _SCOPED) if version >= since]
    rules = _call(_CREATE_RULESET, struct.pack(f"={len(handled)}Q", *handled), 8 * len(handled), 0)  # handled, and nothing is allowed
    _call(_RESTRICT_SELF, rules, 0)
    os.close(rules)
    return True


def deny_calls() -> bool:
    """Denies to all threads every system call that computing does not need. Returns False where there is no seccomp, or no table.

    Afterwards no thread or process can be started, nothing opened, and no new memory executed. A crash still ends with its signal.
    """
    machine = _seccomp()
    if machine is None:
        return False
    program = b"".join(_filter(machine))
    code = ctypes.create_string_buffer(program, len(program))
    _call(_SECCOMP[machine.column], _SET_FILTER, _ALL_THREADS, struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    return True


def _landlock() -> int:
    """Returns the version of Landlock, 0 where it is not in the kernel, switched off or forbidden."""
    try:
        return _call(_CREATE_RULESET, None, 0, _VERSION) if sys.platform == "linux" else 0
    except OSError:
        return 0


def _seccomp() -> _Machine | None:
    """Returns this processor, None without a table for it, or where the kernel cannot filter."""
    machine = _MACHINES.get(platform.machine()) if sys.platform == "linux" and sys.maxsize > 2**32 else None
    try:
        if machine is not None:
            _call(_SECCOMP[machine.column], _GET_ACTION, 0, struct.pack("=I", _KILL))
    except OSError:
        return None
    return machine


def _filter(machine: _Machine) -> Iterator[bytes]:
    """Yields the instructions. A comparison passes over so many of those that follow it when it is true, and so many when it is false."""

    def step(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, true, false, value)

    column = machine.column
    yield step(_LOAD, _AUDIT)
    yield step(_EQUAL, machine.audit, 1)
    yield step(_RETURN, _KILL)
    yield step(_LOAD, _NUMBER)
    yield step(_AT_LEAST, machine.foreign, 0, 1)
    yield step(_RETURN, _KILL)
    for numbers in _CALLS.values():
        yield step(_EQUAL, numbers[column], 0, 1)
        yield step(_RETURN, _ALLOW)
    yield step(_EQUAL, _CLONE3[column], 0, 1)
    yield step(_RETURN, _ERRNO | errno.ENOSYS)  # the C library then tries clone, which is refused
    yield step(_EQUAL, _TGKILL[column], 0, 4)  # abort() ends this process with it
    yield step(_LOAD, _ARGUMENTS)
    yield step(_EQUAL, os.getpid(), 0, 1)
    yield step(_RETURN, _ALLOW)
    yield step(_RETURN, _ERRNO | errno.EPERM)
    for numbers in _MAPPING.values():
        yield step(_EQUAL, numbers[column], 0, 4)
        yield step(_LOAD, _ARGUMENTS + 2 * 8)
        yield step(_ANY_BIT, _PROT_EXEC, 1)
        yield step(_RETURN, _ALLOW)
        yield step(_RETURN, _ERRNO | errno.EPERM)
    yield step(_RETURN, _ERRNO | errno.EPERM)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """Makes a system call. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    found = library.syscall(ctypes.c_long(number), *(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(found)
