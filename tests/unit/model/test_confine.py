"""A model in quarantine reaches no file, no network and no other process, not even with the code of its own that an exploit would run."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from penstock.model import confine
from penstock.model.quarantine import Findings, quarantine
from penstock.settings import bare_environment

FOUND: Final = confine.available()
ROOT: Final = Path(__file__).parents[3]

# What code in the child could try.
ATTEMPTS: Final = """
import ctypes, json, mmap, os, resource, signal, socket, sys, threading
from penstock.model import trial
from penstock.host import without_privileges

LIBC = ctypes.CDLL(None, use_errno=True)
PARENT, SECRET, FOLDER = os.getppid(), sys.argv[1], sys.argv[2]
LISTENER, TCP, UDP = socket.create_server(("127.0.0.1", 0)), socket.socket(), socket.socket(type=socket.SOCK_DGRAM)

def libc(name, *arguments):
    ctypes.set_errno(0)
    if getattr(LIBC, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)

def fork():
    if not os.fork():
        os._exit(0)

TRIES = {
    "read": lambda: open(SECRET).read(),
    "write": lambda: open(FOLDER + "/new", "w").close(),
    "list": lambda: os.listdir(FOLDER),
    "remove": lambda: os.unlink(SECRET),
    "parent's environment": lambda: open(f"/proc/{PARENT}/environ").read(),
    "parent's memory": lambda: open(f"/proc/{PARENT}/mem", "rb").close(),
    "own memory": lambda: open("/proc/self/mem", "r+b").close(),
    "trace the parent": lambda: libc("ptrace", 16, PARENT, None, None),  # PTRACE_ATTACH
    "kill the parent": lambda: os.kill(PARENT, signal.SIGKILL),
    "connect": lambda: TCP.connect(LISTENER.getsockname()),
    "socket": lambda: socket.socket().close(),
    "datagram": lambda: UDP.sendto(b"x", ("127.0.0.1", 9)),
    "fork": fork,
    "thread": lambda: threading.Thread(target=int).start(),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "code of its own": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close(),
    "memory as a file": lambda: os.close(os.memfd_create("x")),
    "limits": lambda: libc("prlimit", 0, 4, None, None),
}

def outcome(attempt):
    try:
        return str(attempt() or "done")
    except PermissionError:
        return "refused"
    except RuntimeError as error:
        return "refused" if "can't start new thread" in str(error) else str(error)

without_privileges()
for missing in filter(None, sys.argv[3].split(",")):
    setattr(trial, missing, lambda: False)
kept = trial._confine(2.0)
print(json.dumps({name: outcome(attempt) for name, attempt in TRIES.items() if name not in sys.argv[4].split(",")}))
"""
FILES: Final = {"read", "write", "list", "remove", "parent's environment", "parent's memory", "own memory", "trace the parent", "exec"}


DRASTIC: Final = {"kill the parent", "trace the parent", "exec", "remove"}  # what the test, or its process, would not survive


def attempted(folder: Path, *missing: str, without: Iterable[str] = ()) -> dict[str, str]:
    """What each attempt came to, in a process that was confined as the child of the quarantine is, but for the `missing` functions."""
    secret = folder / "secret"
    secret.write_text("hunter2")
    command = [sys.executable, "-c", ATTEMPTS, str(secret), str(folder), ",".join(missing), ",".join(without)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=bare_environment())
    assert done.returncode == 0, done.stderr
    results: dict[str, str] = json.loads(done.stdout)
    return results


def need(*parts: str) -> None:
    if lacking := [part for part in parts if part not in FOUND]:
        pytest.skip(f"this host lacks {' and '.join(lacking)}: {platform.platform()}")


def test_child_reaches_no_file_network_or_process(tmp_path: Path) -> None:
    need("Landlock", "seccomp")
    assert set(attempted(tmp_path).values()) == {"refused"}


def test_seccomp_alone_refuses_as_much(tmp_path: Path) -> None:
    """On a kernel without Landlock."""
    need("seccomp")
    assert set(attempted(tmp_path, "deny_files").values()) == {"refused"}


def test_landlock_alone_refuses_files_and_what_its_version_knows(tmp_path: Path) -> None:
    """In a container that forbids seccomp, or on a processor that has no table."""
    need("Landlock")
    results = attempted(tmp_path, "deny_calls")
    known = FILES | ({"connect"} if confine._landlock() >= 4 else set()) | ({"kill the parent"} if confine._landlock() >= 6 else set())
    assert {name: results[name] for name in known} == dict.fromkeys(known, "refused")


def test_attempts_succeed_where_nothing_refuses_them(tmp_path: Path) -> None:
    """Otherwise the tests above could not fail. The limit on processes holds for others than root."""
    results = attempted(tmp_path, "deny_files", "deny_calls", without=DRASTIC)
    assert {name for name, result in results.items() if result == "refused"} <= {"thread", "fork"}
    assert results["read"] == "hunter2"


@pytest.mark.parametrize("file", sorted(ROOT.glob("models/*/[0-9]*/model.onnx")), ids=lambda file: "@".join(file.parts[-3:-1]))
def test_registered_models_pass_in_it(file: Path) -> None:
    golden = file.with_name("golden.json").read_text(encoding="utf-8")
    assert quarantine(file.read_bytes(), golden=golden) == Findings(())


@pytest.mark.skipif(sys.platform != "linux", reason="the numbers are those of Linux")
def test_numbers_of_system_calls_are_those_of_the_headers() -> None:
    header = Path("/usr/include/asm-generic/unistd.h")
    if not header.exists():
        pytest.skip(f"{header}, which has the numbers of aarch64, is not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", header.read_text())
    numbers = {name: int(number) for name, number in found}
    ours = {**confine._CALLS, **confine._MAPPING, "tgkill": confine._TGKILL, "clone3": confine._CLONE3, "seccomp": confine._SECCOMP}
    assert {name: arm for name, (_, arm) in ours.items()} == {name: numbers[name] for name in ours}
