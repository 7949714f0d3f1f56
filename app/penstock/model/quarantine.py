"""An unknown model runs first in a child process, so that one that crashes, hangs or eats memory takes no worker along.

The child is `python -m penstock.model.trial FILE`: it gives way to others, keeps within its limits, and says what it found as one JSON
object on stdout; whatever kills it, the parent reports. It ends with the parent, however that ends.
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

from penstock.errors import ModelCorrupt, ModelMismatch, Stopped
from penstock.host import locked, private_folder, write_whole
from penstock.model.sealed import Sealed

__all__ = ["SAID", "Findings", "Limits", "quarantine", "quarantine_once"]

SAID: Final = 256 * 1024  # bytes that a child may write, all of them on stdout and stderr
_NAMES: Final = {"ModelCorrupt": ModelCorrupt, "ModelMismatch": ModelMismatch}
_POLL: Final = 0.05  # seconds between two looks at the child


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child may use: bytes of address space, seconds of CPU, seconds in all, and seconds of CPU for one run."""

    memory: int = 4 * 1024**3
    cpu: int = 60
    wall: float = 60.0
    run: float = 2.0


@dataclass(frozen=True, slots=True)
class Findings:
    """A file that passed. `remarks` are what a person should know: the made-up rows were refused, for example."""

    remarks: tuple[str, ...]


def _never() -> bool:
    return False


def quarantine(
    model: bytes | Sealed, *, golden: str | None = None, limits: Limits | None = None, stopped: Callable[[], bool] = _never
) -> Findings:
    """Tries the model in a child process; `golden` is the text of a golden file, whose inputs are run too.

    Raises ModelCorrupt or ModelMismatch with the reason when it does not pass, and Stopped when `stopped()` becomes true
    before the end: the child is killed then.
    """
    if isinstance(model, bytes):
        with Sealed(io.BytesIO(model), limit=len(model)) as sealed:
            return quarantine(sealed, golden=golden, limits=limits, stopped=stopped)
    limits = limits or Limits()
    command = [sys.executable, "-B", "-m", "penstock.model.trial", str(model.path), f"--parent={os.getpid()}"]
    command += [f"--{name}={value}" for name, value in asdict(limits).items()]
    if golden is None:
        return _watch(command, (model.descriptor,), limits, stopped)
    text = golden.encode()
    with Sealed(io.BytesIO(text), limit=len(text)) as records:
        return _watch([*command, f"--golden={records.path}"], (model.descriptor, records.descriptor), limits, stopped)


def quarantine_once(model: Sealed, *, golden: str, cache: Path, limits: Limits | None = None, stopped: Callable[[], bool]) -> Findings:
    """As `quarantine`, but what has passed on this host, with these golden records, limits and versions, is remembered below `cache`.

    Of several workers with one model, one runs the child and the others wait for it. A refusal is not remembered: it may have
    been the host's fault.
    """
    folder = private_folder(cache / "quarantine")
    name = f"{model.digest.removeprefix('sha256:')}-{_circumstances(golden, limits or Limits())}"
    file = folder / f"{name}.json"
    with locked(folder / f"{name}.lock", stopped):
        if (findings := _remembered(file)) is None:
            findings = quarantine(model, golden=golden, limits=limits, stopped=stopped)
            write_whole(file, json.dumps({"model": model.digest, **asdict(findings)}).encode())
    return findings


def _circumstances(golden: str, limits: Limits) -> str:
    """All that could make the same file behave otherwise, as a few digits."""
    said = [hashlib.sha256(golden.encode()).hexdigest(), asdict(limits), *_versions()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


@functools.cache
def _versions() -> tuple[str, ...]:
    packages = ("penstock", "onnxruntime", "onnx", "numpy")
    return (platform.machine(), platform.python_version(), *(importlib.metadata.version(name) for name in packages))


def _remembered(file: Path) -> Findings | None:
    try:
        return Findings(tuple(json.loads(file.read_bytes())["remarks"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # not tried yet, or damaged: then it is tried again
        return None


def _watch(command: list[str], descriptors: tuple[int, ...], limits: Limits, stopped: Callable[[], bool]) -> Findings:
    """Runs the child to its end, or kills it with whatever it started."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # no pipes: the child's limit on files holds for them
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=descriptors, start_new_session=True)
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
    return file.read(SAID)


def _read(code: int, out: bytes, err: bytes, limits: Limits) -> Findings:
    """What the child said, or how it died."""
    if code < 0:
        died = signal.Signals(-code)
        why = f"used more than {limits.cpu} s of CPU" if died == signal.SIGXCPU else f"killed its process ({died.name})"
        raise ModelCorrupt(f"the model {why} in quarantine")
    try:
        said = json.loads(out)
    except ValueError as error:
        last = err.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        raise ModelCorrupt(f"the model ended its process in quarantine (exit code {code}): {last}") from error
    if "error" in said:
        raise _NAMES[said["error"]](said["message"])
    return Findings(tuple(said["remarks"]))
