"""The child of the quarantine: tries one file within limits, and prints the result as one JSON object on stdout.

    python -m penstock.model.trial FILE [--golden FILE]

It loads the file, runs it on generated and on golden inputs at batch sizes 1, 2 and 256, and checks that every output has one row per
input row and is finite, and that a row's output does not depend on the other rows or on their order.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.random  # no import works once the process is confined, and numpy delays this one
import onnx
import onnx.checker
from onnx import numpy_helper

from penstock.batch import Array
from penstock.errors import ConfigError, InferenceError, ModelCorrupt, ModelError, ModelMisdeclared, ModelMismatch
from penstock.host import ends_with, without_privileges
from penstock.model import extensions
from penstock.model.artifact import GOLDEN_FILE
from penstock.model.confine import deny_calls, deny_files
from penstock.model.contents import messages
from penstock.model.golden import GoldenRecord, feeds_of, parse
from penstock.model.intake import LOCALES
from penstock.model.quarantine import MAX_REPORT, Limits
from penstock.model.session import Session, advising, keep_extensions, limit_memory, smallest
from penstock.model.synthetic import synthetic_feeds
from penstock.model.verify import CORRECTED
from penstock.signature import Signature

__all__ = ["SIZES"]

SIZES: Final = (1, 2, 256)
# The CPU may use other instructions for a single row than for a batch. A larger difference counts as a different output.
_ATOL: Final = 1e-4
_RTOL: Final = 1e-3
_LONGEST: Final = 200  # characters of a row that are shown
_NICE: Final = 10
_FILES: Final = 128  # open files: the model, the golden records, and what Python opens to import
_RANDOM: Final = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_ALONE: Final = "; if it is right for one row at a time, push it with --rows 1"
_ALL_CATEGORIES: Final = 0x1FBF  # LC_ALL_MASK of the GNU C library
_PATIENCE: Final = 5  # wall time per CPU time of a run: on a busy host, a low-priority child gets a fifth of a core


def main() -> None:
    """Tries a file within the limits and prints the result as JSON."""
    usual = Limits()
    parser = argparse.ArgumentParser(prog="python -m penstock.model.trial", description=main.__doc__)
    parser.add_argument("file", type=Path, help="an ONNX file")
    parser.add_argument("--golden", type=Path, help="golden records; their inputs are run too")
    parser.add_argument("--memory", type=int, default=usual.memory, help="bytes of address space beside --tensors (default %(default)s)")
    parser.add_argument("--tensors", type=int, default=usual.tensors, help="bytes of the tensors of runs (default %(default)s)")
    parser.add_argument("--cpu", type=int, default=usual.cpu, help="seconds of CPU (default %(default)s)")
    parser.add_argument("--wall", type=float, default=usual.wall, help="seconds in total (default %(default)s)")
    parser.add_argument("--run", type=float, default=usual.run, help="seconds of CPU per run (default %(default)s)")
    parser.add_argument("--rows", type=int, help="rows that the model takes at a time (default: any number)")
    parser.add_argument("--parent", type=int, help="end when this process ends")
    asked = parser.parse_args()
    if asked.parent and (begin := ends_with(asked.parent, signal.SIGKILL)):
        begin()
    os.nice(_NICE)
    without_privileges()
    _limit(asked.memory + asked.tensors, asked.cpu)
    limit_memory(asked.tensors)
    try:
        report: dict[str, Any] = {"remarks": _try(asked.file, asked.golden, min(asked.run * _PATIENCE, asked.wall), asked.rows)}
    except ModelMisdeclared as error:
        report = {"shapes": error.shapes, "message": str(error)}
    except ModelError as error:
        report = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        needs = f"needs more than {asked.memory + asked.tensors:,} bytes of memory (settings quarantine_memory and model_memory)"
        report = {"error": ModelCorrupt.__name__, "message": f"the model {needs}"}
    sys.stdout.write(json.dumps(report) + "\n")


def _limit(memory: int, cpu: int) -> None:
    if sys.platform != "darwin":  # macOS refuses a limit below the shared libraries that every process maps
        _lower(resource.RLIMIT_AS, memory, memory)
    _lower(resource.RLIMIT_CPU, cpu, cpu + 1)  # SIGXCPU first, SIGKILL a second later
    _lower(resource.RLIMIT_CORE, 0, 0)
    _lower(resource.RLIMIT_NOFILE, _FILES, _FILES)
    _lower(resource.RLIMIT_FSIZE, MAX_REPORT, MAX_REPORT)  # its two outputs are the only files that it writes


def _lower(kind: int, soft: int, hard: int) -> None:
    """Sets the limits, but never above the current limits of this process."""
    _, given = resource.getrlimit(kind)
    if given != resource.RLIM_INFINITY:
        soft, hard = min(soft, given), min(hard, given)
    resource.setrlimit(kind, (soft, hard))


def _try(file: Path, golden_file: Path | None, deadline: float, rows: int | None) -> list[str]:
    data, golden = file.read_bytes(), golden_file.read_text(encoding="utf-8") if golden_file else None
    if extensions.path() and extensions.needed(data):
        keep_extensions()
    _ours = _confine(deadline)
    session = Session.load(data, deadline=deadline, rows=rows)
    try:
        onnx.checker.check_model(_with_shapes(data))
    except onnx.checker.ValidationError as error:
        raise ModelCorrupt(f"the model breaks the ONNX specification: {str(error).strip().splitlines()[0]}") from error
    if rows is not None:
        _check_chance(data)
    del data  # the runs may use the memory
    made_up = synthetic_feeds(session.signature, max(SIZES))
    if golden is None:
        _run(session, made_up, "generated rows", "; if real rows pass, give some as golden records")
        return []
    try:
        records = parse(golden, session.signature, file=GOLDEN_FILE)
    except ConfigError as error:
        _check_declared(session.signature, session.run([one.name for one in session.signature.outputs], made_up))
        raise ModelMismatch(f"the golden records do not fit the model: {error}") from error
    for feeds in _golden_feeds(session, records):
        _run(session, feeds, "golden rows", "")
    try:
        _run(session, made_up, "generated rows", "")
    except ModelCorrupt as error:
        return [f"not a problem, because the golden rows pass: {error}"]
    return []


def _confine(deadline: float) -> Session:
    """Leaves this process its memory and its open files. What it cannot start or read afterwards comes first, with a model of our own.

    The thread that watches deadlines lives as long as the session that is returned.
    """
    Session.load(smallest(), deadline=None)  # the runtime looks once at the files that describe the processor
    _keep_locales()
    deny_files()
    session = Session.load(smallest(), deadline=deadline)
    _lower(resource.RLIMIT_NPROC, 0, 0)  # the user's processes and threads are too many already, so this one starts none
    deny_calls()
    return session


def _keep_locales() -> None:
    """Loads the locales by which models change the case of text, where the host has them: they are files, and stay while in use."""
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "newlocale"):
        library.newlocale.restype = ctypes.c_void_p
        for name in LOCALES:
            library.newlocale(ctypes.c_int(_ALL_CATEGORIES), name.encode(), None)


def _with_shapes(data: bytes) -> bytes:
    """Returns the file with a shape for each output that declares none: the specification wants one, and the session has run the model."""
    model = onnx.ModelProto.FromString(data)
    missing = [one for one in model.graph.output if one.type.HasField("tensor_type") and not one.type.tensor_type.HasField("shape")]
    for one in missing:
        one.type.tensor_type.shape.SetInParent()
    return model.SerializeToString() if missing else data


def _golden_feeds(session: Session, records: Sequence[GoldenRecord]) -> Iterator[Mapping[str, Array]]:
    """Returns the golden inputs, repeated to the greatest batch size."""
    for feeds in feeds_of(records, session.signature):
        repeats = -(-max(SIZES) // len(next(iter(feeds.values()))))
        yield {name: np.concatenate([array] * repeats)[: max(SIZES)] for name, array in feeds.items()}


def _run(session: Session, feeds: Mapping[str, Array], what: str, hint: str) -> None:
    """Runs the whole batch, then some of its rows, alone, in pairs and in other orders: a row's outputs must always be the same."""
    names = [tensor.name for tensor in session.signature.outputs]
    most = max(SIZES)
    together: list[Array] = []
    for rows in (np.arange(most), *_choices(most)):
        where, began = f"{len(rows)} {what}", time.thread_time()
        try:
            outputs = session.run(names, {name: np.ascontiguousarray(array[rows]) for name, array in feeds.items()})
        except InferenceError as error:
            raise ModelCorrupt(f"on {where}: {error}{hint}") from error
        if session.deadline and (used := time.thread_time() - began) > session.deadline / _PATIENCE:
            raise ModelCorrupt(f"on {where}: a run took {used:.2g} s of CPU, the limit is {session.deadline / _PATIENCE:g} s")
        for name, output in zip(names, outputs, strict=True):
            with advising(names, name):
                _check_shape(name, output, len(rows), where)
                _check_finite(name, output, where, hint)
        if not together:
            _check_declared(session.signature, outputs)
        together = together or outputs
        for name, output, whole in zip(names, outputs, together, strict=True):
            with advising(names, name):
                _check_independent(name, output, whole[rows], rows, where, "" if session.rows == 1 else _ALONE)


def _check_chance(data: bytes) -> None:
    """Refuses operators that draw random numbers. Over few rows at a time a draw may look like a constant: seeds that follow each other."""
    model = onnx.ModelProto.FromString(data)
    tensors = {one.name: one for one in model.graph.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant" and node.attribute}
    for node in messages(model):
        if not isinstance(node, onnx.NodeProto) or node.domain not in ("", "ai.onnx"):
            continue
        training = node.input[2] if node.op_type == "Dropout" and len(node.input) > 2 else ""
        off = training in tensors and not numpy_helper.to_array(tensors[training]).any()
        if node.op_type in _RANDOM or (training and not off):
            raise ModelCorrupt(f"the model draws random numbers: {node.op_type} (node {node.name!r}); export it for inference")


def _choices(most: int) -> Iterator[Array]:
    """Yields rows of a batch: from its beginning, middle and end, alone and in pairs; then all of them in other orders."""
    for size in sorted(SIZES)[:-1]:
        for begin in (0, most // 2, most - size):
            yield np.arange(begin, begin + size)
    yield np.arange(most)[::-1]
    yield np.random.default_rng(0).permutation(most)


def _check_shape(name: str, output: Array, size: int, where: str) -> None:
    if output.ndim == 0 or len(output) != size:
        raise ModelCorrupt(f"on {where}: output {name!r} has the shape {list(output.shape)}; its first axis must be the {size} rows")


def _check_declared(signature: Signature, outputs: Sequence[Array]) -> None:
    """Refuses outputs with other axes than the file declares: the runtime computes them all the same, and a topology relies on them."""
    given = any(None in tensor.shape for tensor in signature.inputs)  # then an axis may be as long as an input's
    shapes = ((tensor, output.shape) for tensor, output in zip(signature.outputs, outputs, strict=True))
    wrong = [(tensor, shape[1:]) for tensor, shape in shapes if not tensor.admits(shape)]
    if wrong:
        true = [replace(tensor, shape=tuple(None if given else axis for axis in axes)) for tensor, axes in wrong]
        listed = ", ".join(f"{tensor} is {one}" for (tensor, _), one in zip(wrong, true, strict=True))
        raise ModelMisdeclared(
            f"outputs have other axes than the file declares: {listed}; {CORRECTED}",
            shapes={one.name: one.shape for one in true},
        )


def _check_finite(name: str, output: Array, where: str, hint: str) -> None:
    if output.dtype.kind == "f" and not np.isfinite(output).all():
        raise ModelCorrupt(f"on {where}: output {name!r} is not finite{hint}")


def _check_independent(name: str, output: Array, whole: Array, rows: Array, where: str, alone: str) -> None:
    if output.shape != whole.shape:
        raise ModelCorrupt(
            f"on {where}: output {name!r} has the shape {list(output.shape)}; in a batch of {max(SIZES)} it has {list(whole.shape)}"
        )
    same = np.isclose(output, whole, atol=_ATOL, rtol=_RTOL) if output.dtype.kind == "f" else output == whole
    differs = np.flatnonzero(~np.asarray(same).reshape(len(rows), -1).all(axis=1))
    if len(differs):
        at = int(differs[0])
        raise ModelCorrupt(
            f"on {where}: output {name!r} of row {rows[at]} is {_shown(output[at])}, and {_shown(whole[at])} for the same row in a batch "
            f"of {max(SIZES)}; a row's output must not depend on other rows, on their order or on chance{alone}"
        )


def _shown(row: Array) -> str:
    text = repr(row.tolist())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


if __name__ == "__main__":
    main()
