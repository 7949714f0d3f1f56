"""Runs the targets, each in a process that has the native part with AddressSanitizer and UndefinedBehaviorSanitizer.

    make fuzz                                               every target, 60 seconds together
    make fuzz ARGS='--seconds 3600 --keep'                  longer, by hand; the corpus grows
    make fuzz ARGS='--target records --target json'         these targets
    make fuzz ARGS=tests/fuzz/corpus/records/0123456789     this input

A finding is written to corpus/TARGET/, and the command that repeats it is printed. Exit 1 when there is one, 2 where the sanitizers
are missing: they are never left out in silence.

One process imports everything, and makes a process per target: importing takes seconds under the sanitizers. Python's objects come from
malloc there (PYTHONMALLOC), because the sanitizers do not see inside Python's own arenas. Leaks are not searched for: the interpreter
keeps memory at its end.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.fuzz.engine import CORPUS, CPU_SECONDS, Target, explore, limited, name_of, shrunk

__all__ = ["Outcome", "build", "main", "missing", "search"]

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "app" / "penstock" / "_native.c"
COMPILER: Final = "gcc"
KEPT: Final = 1024  # bytes of an input that --keep adds to the corpus, at most
FILES: Final = 60  # of a target that --keep leaves in the corpus: the tests run them all
_ENVIRONMENT: Final = {
    # A larger allocation is a finding, and so is a larger process.
    "ASAN_OPTIONS": "detect_leaks=0:max_allocation_size_mb=1024:hard_rss_limit_mb=3072:quarantine_size_mb=16:allocator_may_return_null=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "PYTHONMALLOC": "malloc",
    "PYTHONHASHSEED": "0",  # the same seed, the same inputs
    "OMP_NUM_THREADS": "1",  # a process with threads cannot be divided
    "OPENBLAS_NUM_THREADS": "1",
}


class Outcome(NamedTuple):
    """What the search of a target did. `failing` is the input of a finding, `report` what happened; `fresh`: new outcomes."""

    target: str
    inputs: int
    outcomes: int
    fresh: Sequence[bytes]
    failing: bytes | None
    report: str


def missing() -> str:
    """Returns why the native part cannot be built with sanitizers here; "" when it can."""
    if not sys.platform.startswith("linux"):
        return f"make fuzz needs Linux: the sanitizers are preloaded there; this is {sys.platform}"
    try:
        lacking = [name for name in ("libasan.so", "libubsan.so") if not Path(_library(name)).is_absolute()]
    except (OSError, subprocess.CalledProcessError) as error:
        return f"make fuzz needs {COMPILER}: {error}"
    return f"make fuzz needs {' and '.join(lacking)} of {COMPILER} (Debian: with gcc; Fedora: libasan, libubsan)" if lacking else ""


def _library(name: str) -> str:
    """Returns the path of a library of the compiler; the bare name when it has none."""
    return subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()


def build(folder: Path, source: Path = SOURCE) -> Path:
    """Compiles the native part with both sanitizers, where no other process looks for it. Raises CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "_native.abi3.so"
    flags = ["-shared", "-fPIC", "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([COMPILER, *flags, f"-I{sysconfig.get_paths()['include']}", str(source), "-o", str(made)], check=True)
    return made


def search(
    native: Path, names: Sequence[str], *, seconds: float, seed: str, files: Sequence[Path] = (), jobs: int = 1, folder: Path = CORPUS
) -> list[Outcome]:
    """Searches the targets, `seconds` of wall-clock time together, or runs only `files`, one per name. `folder` has the corpus.

    Raises RuntimeError when the processes could not be started.
    """
    with tempfile.TemporaryDirectory() as place:
        task = {"native": str(native), "names": [*names], "seconds": seconds * jobs / max(len(names), 1), "seed": seed, "jobs": jobs}
        task |= {"files": [*map(str, files)], "folder": str(folder), "place": place}
        environment = {**os.environ, **_ENVIRONMENT, "LD_PRELOAD": f"{_library('libasan.so')} {_library('libstdc++.so')}"}
        command = [sys.executable, "-m", "tests.fuzz.driver", "--task", json.dumps(task)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise RuntimeError(f"exit {done.returncode}\n{done.stdout}{done.stderr}")
        return [_outcome(Path(place) / str(number), name) for number, name in enumerate(names)]


def _outcome(place: Path, name: str) -> Outcome:
    """Reads what the process of a target left in its folder. One that was ended left the input that it ran."""
    report = (place / "output").read_text(errors="replace").strip()
    code = int((place / "code").read_text())
    result = place / "result"
    found: dict[str, Any] = (
        json.loads(result.read_text()) if result.exists() else {"inputs": 0, "outcomes": 0, "fresh": [], "failing": None}
    )
    failing = bytes.fromhex(found["failing"]) if found["failing"] is not None else (place / "input").read_bytes() if code else None
    if code < 0:
        reason = f"more than {CPU_SECONDS:g} s of processor time" if code == -signal.SIGPROF else f"ended by {signal.Signals(-code).name}"
        report = f"{reason}\n{report}"
    return Outcome(name, found["inputs"], found["outcomes"], [*map(bytes.fromhex, found["fresh"])], failing, report)


# -- in the processes with the sanitizers -------------------------------------------------------------------------------------


def _serve(task: dict[str, object]) -> None:
    """Imports the targets, and runs each in a process that is divided from this one; writes the exit code of each."""
    native = _install(Path(str(task["native"])))
    from penstock.native import native as used
    from tests.fuzz.targets import TARGETS

    assert used is native, "another native part is in use"
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    targets = {target.name: target for target in TARGETS}
    names, files = task["names"], task["files"]
    assert isinstance(names, list)
    assert isinstance(files, list)
    running: dict[int, Path] = {}
    for number, name in enumerate(names):
        place = Path(str(task["place"])) / str(number)
        place.mkdir()
        if (process := os.fork()) == 0:
            _divided(targets[name], Path(files[number]) if files else None, place, task)
        running[process] = place
        while len(running) == task["jobs"] or (running and number == len(names) - 1):
            process, ended = os.wait()
            (running.pop(process) / "code").write_text(str(os.waitstatus_to_exitcode(ended)))


def _divided(target: Target, file: Path | None, place: Path, task: dict[str, object]) -> None:
    """Runs one target and ends the process."""
    output = os.open(place / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        code = _run(target, file, place, task)
    except BaseException:  # noqa: BLE001  the process must end here, whatever happens
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(target: Target, file: Path | None, place: Path, task: dict[str, object]) -> int:
    current = open(place / "input", "wb", buffering=0)  # noqa: SIM115  open as long as the process

    def note(data: bytes) -> None:
        current.seek(0)
        current.write(data)
        current.truncate()

    if file is not None:
        note(data := file.read_bytes())
        print(limited(target, data))
        return 0
    ran = explore(target, seconds=float(str(task["seconds"])), seed=str(task["seed"]), note=note, folder=Path(str(task["folder"])))
    fresh = [data.hex() for data in ran.fresh if len(data) <= KEPT]
    found = {"inputs": ran.inputs, "outcomes": ran.outcomes, "fresh": fresh, "failing": None}
    if ran.failing is not None and ran.problem is not None:
        traceback.print_exception(ran.problem)
        found["failing"] = shrunk(target, ran.failing, ran.problem).hex()
    (place / "result").write_text(json.dumps(found))
    return 0 if ran.problem is None else 1


def _install(path: Path) -> object:
    """Puts the native part with sanitizers where `penstock.native` looks for it."""
    assert hasattr(ctypes.CDLL(None), "__asan_init"), "the sanitizer is not loaded"
    spec = importlib.util.spec_from_file_location("penstock._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["penstock._native"] = module
    return module


# -- the command --------------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Searches for inputs that break what reads them.")
    parser.add_argument("files", nargs="*", type=Path, help="inputs to repeat, instead of a search: tests/fuzz/corpus/TARGET/NAME")
    parser.add_argument("--seconds", type=float, default=60, help="wall-clock time of all targets together (default: 60)")
    parser.add_argument("--seed", default=_commit(), help="the same seed gives the same inputs (default: the commit, %(default)s)")
    parser.add_argument("--target", action="append", help="search this target only; may be repeated")
    parser.add_argument(
        "--keep",
        action="store_true",
        help=f"add inputs with a new outcome, of at most {KEPT} bytes, to the corpus, up to {FILES} per target",
    )
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.task:
        _serve(json.loads(options.task))
        return 0
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    from tests.fuzz.targets import TARGETS

    known = [target.name for target in TARGETS]
    files = [file.resolve() for file in options.files]
    names = [file.parent.name for file in files] or options.target or known
    if unknown := set(names) - {*known}:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    native, jobs, began = build(ROOT / "build" / "fuzz"), min(os.cpu_count() or 1, len(names)), time.monotonic()
    if not files:
        print(f"seed {options.seed}: {len(names)} targets, {options.seconds:g} s, {jobs} at once", flush=True)
    outcomes = search(native, names, seconds=options.seconds, seed=options.seed, files=files, jobs=jobs)
    for file, outcome in zip(files, outcomes, strict=False):
        print(f"{os.path.relpath(file, ROOT)}: {outcome.report}")
    for outcome in () if files else outcomes:
        _print(outcome)
        room = FILES - len([*(CORPUS / outcome.target).glob("*")])
        for data in outcome.fresh[: max(room, 0)] if options.keep else ():
            _keep(outcome.target, data)
    findings = [outcome for outcome in outcomes if outcome.failing is not None]
    total = sum(outcome.inputs for outcome in outcomes) or len(files)
    print(f"{total:,} inputs in {time.monotonic() - began:.0f} s, findings: {len(findings)}")
    return 1 if findings else 0


def _commit() -> str:
    """Every run of one commit has the same inputs, and the next commit has others."""
    done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "penstock"


def _print(outcome: Outcome) -> None:
    counts = f"{outcome.inputs:>9,} inputs {outcome.outcomes:>6,} outcomes" if outcome.inputs else f"{'?':>9} inputs"
    print(f"{outcome.target:10} {counts}" + ("" if outcome.failing is None else "  FAILED"))
    if outcome.failing is not None:
        path = _keep(outcome.target, outcome.failing)
        print(f"\n{outcome.report}\n\nrepeat it:  make fuzz ARGS={os.path.relpath(path, ROOT)}\n")


def _keep(name: str, data: bytes) -> Path:
    path = CORPUS / name / name_of(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    raise SystemExit(main())
