"""Runs an unknown model first in a child process, so that a model that crashes, hangs or uses up memory does not end a worker.

The child is `python -m penstock.model.trial FILE`. It runs at low priority and within limits, and prints its findings as one JSON
object on stdout. When it is killed, the parent reports the cause. It ends when the parent ends, for any reason.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from penstock.errors import ModelCorrupt, ModelMisdeclared, ModelMismatch, Stopped
from penstock.host import locked, private_folder, write_whole
from penstock.model import extensions
from penstock.model.sealed import Sealed
from penstock.model.session import MEMORY, RUNTIME
from penstock.settings import bare_environment

__all__ = ["MAX_REPORT", "Findings", "Limits", "quarantine", "quarantine_once"]

MAX_REPORT: Final = 256 * 1024  # bytes that a child may write to each of stdout and stderr
_NAMES: Final = {"ModelCorrupt": ModelCorrupt, "ModelMismatch": ModelMismatch}
_POLL: Final = 0.05  # seconds between two checks of the child


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the child: bytes of its runs' tensors, of address space beside them, seconds of CPU, in total, and of CPU per run."""

    tensors: int = MEMORY
    memory: int = 3 * 1024**3
    cpu: int = 60
    wall: float = 60.0
    run: float = 2.0


@dataclass(frozen=True, slots=True)
class Findings:
    """A file that passed. `remarks` are for people, for example that the model refused the generated rows."""

    remarks: tuple[str, ...]


def _never() -> bool:
    return False


def quarantine(
    model: bytes | Sealed,
    *,
    golden: str | None = None,
    rows: int | None = None,
    limits: Limits | None = None,
    stopped: Callable[[], bool] = _never,
) -> Findings:
    """Tries the model in a child process; `golden` is the text of a golden file; its inputs are run too.

    `rows` is how many rows the model takes at a time (None: any number): the checks call it as `Session` does.

    Raises ModelCorrupt or ModelMismatch with the reason when it does not pass; ModelMisdeclared, with the axes that outputs have, when they
    are others than the file declares, and nothing else was tried then. Raises Stopped, and kills the child, when
    `stopped()` becomes true before the end.
    """
    if isinstance(model, bytes):
        with Sealed(io.BytesIO(model), limit=len(model)) as sealed:
            return quarantine(sealed, golden=golden, rows=rows, limits=limits, stopped=stopped)
    limits = limits or Limits()
    command = [sys.executable, "-B", "-m", "penstock.model.trial", str(model.path), f"--parent={os.getpid()}"]
    command += [f"--{name}={value}" for name, value in asdict(limits).items()]
    command += [] if rows is None else [f"--rows={rows}"]
    if golden is None:
        return _watch(command, (model.descriptor,), limits, stopped)
    text = golden.encode()
    with Sealed(io.BytesIO(text), limit=len(text)) as records:
        return _watch([*command, f"--golden={records.path}"], (model.descriptor, records.descriptor), limits, stopped)


def quarantine_once(
    model: Sealed, *, golden: str, cache: Path, rows: int | None = None, limits: Limits | None = None, stopped: Callable[[], bool]
) -> Findings:
    """Like `quarantine`, but stores in `cache` which models passed on this host with these golden records, limits and versions.

    Of several workers with one model, one runs the child and the others wait for it. A rejection is not stored, because the
    host may have caused it.
    """
    folder = private_folder(cache / "quarantine")
    name = f"{model.digest.removeprefix('sha256:')}-{_circumstances(golden, rows, limits or Limits())}"
    file = folder / f"{name}.json"
    with locked(folder / f"{name}.lock", stopped):
        if (findings := _remembered(file)) is None:
            findings = quarantine(model, golden=golden, rows=rows, limits=limits, stopped=stopped)
            write_whole(file, json.dumps({"model": model.digest, **asdict(findings)}).encode())
    return findings


def _circumstances(golden: str, rows: int | None, limits: Limits) -> str:
    """Returns a short hash of everything that could make the same file behave differently."""
    facts = [hashlib.sha256(golden.encode()).hexdigest(), rows, asdict(limits), *_versions()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@functools.cache
def _versions() -> tuple[str, ...]:
    packages = ["penstock", "onnx", "numpy", *(["onnxruntime-extensions"] if extensions.path() else [])]
    return (platform.machine(), platform.python_version(), RUNTIME, *(importlib.metadata.version(name) for name in packages))


def _remembered(file: Path) -> Findings | None:
    try:
        return Findings(tuple(json.loads(file.read_bytes())["remarks"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # not tried yet, or the entry is damaged: try it again
        return None


def _watch(command: list[str], descriptors: tuple[int, ...], limits: Limits, stopped: Callable[[], bool]) -> Findings:
    """Runs the child to its end, or kills it together with the processes that it started."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # no pipes: the child's limit on file size applies
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=descriptors,
            start_new_session=True,
            # Not the worker's, which holds its password. Threads of numpy would exist before the child is confined.
            env=bare_environment() | {"OPENBLAS_NUM_THREADS": "1"},
            cwd="/",
        )
        try:
            _wait(child, limits, stopped)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        return _read(child.returncode, _content(out), _content(err), limits)


def _wait(child: subprocess.Popen[bytes], limits: Limits, stopped: Callable[[], bool]) -> None:
    deadline = time.monotonic() + limits.wall
    while True:
        if stopped():
            raise Stopped("stopped while the model was in quarantine")
        left = deadline - time.monotonic()
        if left <= 0:
            raise ModelCorrupt(f"the model did not finish within {limits.wall:g} s in quarantine")
        try:
            child.wait(min(left, _POLL))
        except subprocess.TimeoutExpired:
            continue
        return


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(MAX_REPORT)


def _read(code: int, out: bytes, err: bytes, limits: Limits) -> Findings:
    """Returns the child's report. Raises ModelCorrupt or ModelMismatch with its error, or with the way it died."""
    if code < 0:
        died = signal.Signals(-code)
        if died == signal.SIGXCPU:
            raise ModelCorrupt(f"the model used more than {limits.cpu} s of CPU in quarantine (setting quarantine_seconds)")
        raise ModelCorrupt(f"the model killed its process ({died.name}) in quarantine")
    try:
        report = json.loads(out)
    except ValueError as error:
        last = err.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        raise ModelCorrupt(f"the model ended its process in quarantine (exit code {code}): {last}") from error
    if shapes := report.get("shapes"):
        raise ModelMisdeclared(report["message"], shapes={name: tuple(shape) for name, shape in shapes.items()})
    if "error" in report:
        raise _NAMES[report["error"]](report["message"])
    return Findings(tuple(report["remarks"]))
