"""Session: a model ready to run. This is the only file that imports onnxruntime.

A model is loaded from bytes that were checked to be self-contained (`contents`), never from a file that may change, so it cannot
read another file. `run` is on the hot path. Measured at a batch of 1 (`docs/models.md` has the table): `InferenceSession.run` checks
names that the plan has checked already and builds new RunOptions each time, 1 to 4 µs per call. So `run` calls its inner session, with
RunOptions made once; once per `rows` rows for a model that takes only so many at a time. A run has a deadline: a watchdog thread checks
a few times per deadline for a run that is too old and sets the terminate flag of its options, so a run only stores the time. The runtime
looks at the flag between two operators.

The tensors of all runs of a process come from one pool with a limit (`limit_memory`), and a run that needs more fails, before the
memory is taken. Weights are not in it, nor is what an operator allocates by itself, such as the characters of text. Sessions that score
come before their twins: one that finds no room stops the twin that runs, and runs again when the twin's current operator has ended. A
twin that finds no room, or was stopped, runs again a few times; its model has refused the rows only if nothing else ran during the try.

`providers` compute the model. A provider that does not start is an error: the runtime itself would compute everything on the processor, and
say so only in a log. What a provider takes on its own device is not in the pool, and some look at the terminate flag only before and after
what they compute as one piece.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from penstock.batch import Array
from penstock.errors import ConfigError, InferenceError, ModelCorrupt, ModelError, ModelMismatch, NoRoom
from penstock.model import extensions
from penstock.model.artifact import Artifact
from penstock.model.contents import MAX_BYTES, check_contents
from penstock.provider import CPU, Provider
from penstock.signature import Signature, Tensor

__all__ = ["DEADLINE", "MEMORY", "RUNTIME", "Session", "advising", "keep_extensions", "lacking", "limit_memory", "smallest"]

RUNTIME: Final = str(ort.__version__)
DEADLINE: Final = 2.0
MEMORY: Final = 1024**3
_PROBES: Final = (3, 5)  # rows of the runs that show an output's true shape
_RESTS: Final = (0.0, 0.01, 0.1)  # seconds before the second and each later try of a twin
_QUIET: Final = 4  # fatal only: errors come back as exceptions, and a second copy on stderr is not useful

_NO_ROOM: Final = re.compile(
    r"Available memory of \d+ is smaller than requested bytes of (\d+)|Failed to allocate memory.* of size (\d+)|bad_alloc"
)
_LOCALE: Final = re.compile(r"Failed to construct locale with name:(.+?):")
_IR: Final = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_OPSET: Final = re.compile(r"Opset (\d+) is under development .* for domain (\S+) is till opset (\d+)")
_CPP: Final = re.compile(r"/onnxruntime(?:_src)?/\S+:\d+ .*?\)(?: const)? (?=\S)")
_DTYPES: Final = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(bool)": "bool", "tensor(string)": "string",
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_PACKAGES: Final = {  # the builds of onnxruntime on PyPI, by what they add
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "MIGraphXExecutionProvider": "onnxruntime-migraphx",
    "CANNExecutionProvider": "onnxruntime-cann",
}


_Call = Callable[[Sequence[str], Mapping[str, Array], ort.RunOptions], list[Array]]


class Session:
    """A loaded model. One run at a time: `run` must not be called from two threads at once; a `twin` is for the other thread."""

    __slots__ = ("__weakref__", "_began", "_call", "_gave_way", "_late", "_options", "deadline", "label", "rows", "signature")

    def __init__(self, inference: ort.InferenceSession, *, label: str, deadline: float | None, rows: int | None = None) -> None:
        self.label = label
        self.rows = rows
        self.deadline = deadline
        try:
            self.signature = _signature_of(inference, label, rows)
        except UnicodeDecodeError as error:
            raise ModelCorrupt(f"{label} is damaged: a tensor or axis has a name that is not text ({error})") from error
        self._call: _Call = inference._sess.run if rows is None else functools.partial(_in_pieces, inference._sess.run, rows)
        self._options = _run_options()
        self._began = 0.0  # the monotonic time at which the current run began; below 0: the last run, which has ended
        self._late = 0.0
        self._gave_way = False

    @classmethod
    def load(
        cls,
        model: Artifact | bytes,
        *,
        threads: int = 1,
        deadline: float | None = DEADLINE,
        max_bytes: int = MAX_BYTES,
        rows: int | None = None,
        providers: tuple[Provider, ...] = CPU,
    ) -> Session:
        """Loads a registered version (checking its digest) or the bytes of an ONNX file.

        `deadline` is the longest permitted time of one run, in seconds, to the end of the operator that runs then; None sets no
        limit. `rows` is how many rows the model takes at a time, always (None: any number); a version's manifest states it.
        `threads` compute one run on the processor, and `providers` compute what they can, in this order, the processor the rest.
        Raises ModelCorrupt when the file
        differs from its manifest or does not load, ModelMismatch when its tensors are not rows of values, and ConfigError when a
        provider does not take the model.
        """
        if isinstance(model, bytes):
            check_contents(model, max_bytes=max_bytes)
            return cls._open(model, "the model", threads, deadline, rows, providers)
        try:
            data = model.read(max_bytes=max_bytes)
            check_contents(data, label=str(model), max_bytes=max_bytes)
            return cls._open(data, str(model), threads, deadline, model.manifest.rows, providers)
        except ModelError as error:
            error.name, error.version = model.name, model.version
            raise

    @classmethod
    def load_file(
        cls,
        path: Path,
        *,
        label: str,
        threads: int = 1,
        deadline: float | None = DEADLINE,
        rows: int | None = None,
        providers: tuple[Provider, ...] = CPU,
    ) -> Session:
        """Loads a file that cannot change (`Sealed.path`) and that has passed `check_contents`, in quarantine for example.

        Unlike `load`, it parses and copies the model without the interpreter's lock. Raises ModelCorrupt, ModelMismatch and ConfigError.
        """
        return cls._open(str(path), label, threads, deadline, rows, providers)

    @classmethod
    def _open(
        cls, source: bytes | str, label: str, threads: int, deadline: float | None, rows: int | None, providers: tuple[Provider, ...]
    ) -> Session:
        _pool.make()
        if absent := lacking(providers):
            raise ConfigError("; ".join(f"{label}: {message} ({fix})" for message, fix in absent.values()))
        asked = [(one.name, dict(one.options)) for one in providers]
        try:
            # enable_fallback=0: otherwise a failing onnxruntime prints to stdout and tries the same provider again.
            inference = ort.InferenceSession(source, _options_for(source, threads), providers=asked, enable_fallback=0)
        except Exception as error:
            if providers != CPU:
                advice = "correct its options, or name other providers for this node"
                raise ConfigError(f"{label} does not load on {_listed(providers)}: {_reason(error)} ({advice})") from error
            raise ModelCorrupt(f"{label} {_advice(str(error)) or f'does not load: {_reason(error)}'}") from error
        if failed := [one for one in providers if one.name not in inference.get_providers()]:
            raise ConfigError(
                f"{label}: onnxruntime has {_listed(failed)}, but could not start it, for the reason that it has written to stderr; "
                f"left are {', '.join(inference.get_providers())} (check its options, its drivers and libraries, or name another one)"
            )
        session = cls(inference, label=label, deadline=deadline, rows=rows)
        _pool.serve(session)
        if deadline is not None:
            _watchdog.watch(session)
        return session

    def twin(self) -> Session:
        """Returns another session over the same loaded model, which may run while this one runs. It has its own deadline."""
        made = copy.copy(self)
        made.__class__ = _Twin
        made._options, made._began, made._late, made._gave_way = _run_options(), 0.0, 0.0, False
        if made.deadline is not None:
            _watchdog.watch(made)
        return made

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], *, again: bool = True) -> list[Array]:
        """Returns the named outputs for the rows in `feeds`, in order; each array's first axis is the rows.

        Every input must be there, with its tensor's dtype and shape `[N, *shape]`, C-contiguous, strings as an object array. A run for
        which there was no memory is run `again`, while no twin runs: they share one pool.
        Raises InferenceError when the model refuses the batch or runs past the deadline. A twin raises NoRoom when it had no memory, or
        was stopped, and another session may have needed it.
        """
        options = self._options
        self._began = began = time.monotonic()
        full, size = None, 0
        try:
            return self._call(outputs, feeds, options)
        except Exception as error:
            age = time.monotonic() - began
            if options.terminate:
                self._options = _run_options()
            elif found := _NO_ROOM.search(str(error)):
                size, what = _pool.described(found)
                full = NoRoom(f"{self.label} needs too much memory: {what}")
                full.__cause__ = error
            else:
                raise InferenceError(f"{self.label} refused the batch: {_reason(error)}") from error
        finally:
            self._began = -began
        if full is not None:
            _pool.release()
            if size > _pool.limit:
                raise InferenceError(str(full)) from full.__cause__
            if not again:
                raise full
            with _pool.first():
                try:
                    return self.run(outputs, feeds, again=False)
                except NoRoom as error:
                    raise InferenceError(str(error)) from error.__cause__
        if self._gave_way:
            raise NoRoom(f"{self.label} was stopped: a run that scores needs its memory")
        if self.deadline is not None and age >= self.deadline:
            _pool.release()
            raise InferenceError(f"{self.label} was stopped: a run took longer than {self.deadline:g} s")
        # The flag was set for the previous run, which ended at that moment.
        return Session.run(self, outputs, feeds, again=again)

    def warm_up(self, sizes: Sequence[int] = (1, 256)) -> None:
        """Runs rows of zeros (strings: empty) at the given batch sizes, so that memory and code are warm for the first event.

        A model may refuse such rows (an unknown category). That is not an error, and the refusal is ignored.
        """
        outputs = [tensor.name for tensor in self.signature.outputs]
        for size in sizes:
            try:
                self.run(outputs, {tensor.name: _zeros(tensor, size) for tensor in self.signature.inputs})
            except (InferenceError, NoRoom):
                continue

    def within_deadline(self, now: float) -> bool:
        """Whether a run is in progress at the monotonic time `now` and is not overdue. The watchdog stops it before twice its deadline."""
        began = self._began
        return began > 0 and (self.deadline is None or now - began < 2 * self.deadline)

    def stop_if_late(self, now: float) -> None:
        """Called by the watchdog: stops a run that began more than `deadline` seconds before `now`, if it was also late at the last check.

        A run that is late once may be healthy: if the whole process was paused, the run ends soon after the process resumes.
        """
        began = self._began
        if began > 0 and self.deadline is not None and now - began >= self.deadline:
            if self._late == began:
                self._options.terminate = True
            self._late = began


class _Twin(Session):
    """A session that runs beside those that score, and must not cost them a row."""

    __slots__ = ()

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], *, again: bool = True) -> list[Array]:
        tries = 0
        while True:
            with _pool.beside(self):
                before = _pool.runs()
                if tries:
                    _pool.release()
                try:
                    return super().run(outputs, feeds, again=False)
                except NoRoom as error:
                    full = error
                alone = not self._gave_way and before == _pool.runs() and max(before, default=0.0) <= 0
            if tries and alone:  # what earlier runs left in the pool may have been in the way of the first try
                raise InferenceError(str(full)) from full.__cause__
            if not again or tries == len(_RESTS):
                raise NoRoom(f"{full}; other runs may hold it") from full.__cause__
            time.sleep(_RESTS[tries])
            tries += 1

    def give_way(self) -> None:
        """Stops the run in progress, at the end of its current operator."""
        self._gave_way = True
        self._options.terminate = True


class _Watchdog:
    """One daemon thread for all sessions of the process; it ends when the last session is gone."""

    def __init__(self) -> None:
        self._sessions: WeakSet[Session] = WeakSet()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, session: Session) -> None:
        with self._lock:
            self._sessions.add(session)
            if self._thread is None or not self._thread.is_alive():  # not alive: this process was forked from a process that had the thread
                self._thread = threading.Thread(target=self._watch, name="penstock-model-deadline", daemon=True)
                self._thread.start()
        self._wake.set()  # the new deadline may be shorter than the current pause

    def _watch(self) -> None:
        while pause := self._look():
            self._wake.wait(pause)
            self._wake.clear()

    def _look(self) -> float:
        """Checks every session once. Returns the seconds until the next check, 0 when no session is left."""
        with self._lock:
            sessions = list(self._sessions)
            if not sessions:
                self._thread = None
                return 0.0
        now = time.monotonic()
        for session in sessions:
            session.stop_if_late(now)
        return min(session.deadline or DEADLINE for session in sessions) / 8


_watchdog = _Watchdog()


class _Pool:
    """The memory that the runs of this process share. It grows as they need it, up to the limit, and keeps what it has for the next run."""

    def __init__(self) -> None:
        self.limit = MEMORY
        self._made = 0  # the limit of the pool that sessions get from now on
        self._ours: ort.InferenceSession | None = None
        self._turn = threading.Condition()  # guards what follows
        self._sessions: WeakSet[Session] = WeakSet()  # all but twins
        self._twin: _Twin | None = None  # the one that runs
        self._first = 0  # runs that found no room, and run again

    def make(self) -> None:
        """Makes the pool, unless there is one with this limit. Sessions keep the pool that they were loaded with."""
        if self._made == self.limit:
            return
        place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        ort.create_and_register_allocator(place, ort.OrtArenaCfg({"max_mem": self.limit}))
        self._made = self.limit
        self._ours = ort.InferenceSession(smallest(), _session_options(1), providers=["CPUExecutionProvider"], enable_fallback=0)

    def serve(self, session: Session) -> None:
        """Notes a session that is no twin."""
        with self._turn:
            self._sessions.add(session)

    def runs(self) -> set[float]:
        """Returns when the current or last run of each session began (`_began`). It changes when one begins or ends."""
        with self._turn:
            return {session._began for session in self._sessions}

    @contextlib.contextmanager
    def beside(self, twin: _Twin) -> Iterator[None]:
        """For a run of a twin: one at a time, and none during a run that comes first."""
        with self._turn:
            self._turn.wait_for(lambda: self._twin is None and not self._first)
            self._twin, twin._gave_way = twin, False
        try:
            yield
        finally:
            with self._turn:
                self._twin = None
                self._turn.notify_all()

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """For the second try of a run that found no room: stops the twin that runs, and waits for the end of its current operator."""
        with self._turn:
            self._first += 1
            if self._twin is not None:
                self._twin.give_way()
            self._turn.wait_for(lambda: self._twin is None)
        try:
            self.release()  # what the twin held
            yield
        finally:
            with self._turn:
                self._first -= 1
                self._turn.notify_all()

    def release(self) -> None:
        """Returns to the system what no run is using, at the end of a run of our own: if there is no room for that, nothing is free."""
        options = _run_options()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        with contextlib.suppress(Exception):
            if self._ours is not None:
                self._ours.run(None, {"x": np.zeros(1, np.float32)}, options)

    def described(self, found: re.Match[str]) -> tuple[int, str]:
        """Returns the bytes that were asked for at once, 0 where that is not known, and a text that says what did not fit."""
        size = next((int(size) for size in found.groups() if size), 0)
        what = f"{size:,} bytes at once" if size else "more"
        return size, f"{what}, and all tensors of a worker's runs may hold {self.limit:,} (setting model_memory)"


_pool = _Pool()


def limit_memory(limit: int) -> None:
    """Sets the limit of the memory, in bytes, that the runs of sessions loaded from now on may hold together; MEMORY unless it was set."""
    _pool.limit = limit


def lacking(providers: Sequence[Provider]) -> dict[Provider, tuple[str, str]]:
    """Returns the providers that the installed onnxruntime does not have, each with what is wrong and what to do."""
    here, known = ort.get_available_providers(), ort.get_all_providers()
    found = {}
    for one in providers:
        if one.name in here:
            continue
        if package := _PACKAGES.get(one.name):
            fix = f"pip uninstall --yes onnxruntime; pip install {package}"
        else:
            close = difflib.get_close_matches(one.name, known, n=1)
            fix = f"did you mean {close[0]!r}?" if close and one.name not in known else "install a build of onnxruntime that has it"
        found[one] = f"the installed onnxruntime {ort.__version__} has no {one.name}; it has {', '.join(here)}", fix
    return found


def smallest() -> bytes:
    """Returns the smallest model, y = x: for what the runtime does in its first run of a process, or at the end of any run."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "smallest", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _listed(providers: Sequence[Provider]) -> str:
    return ", ".join(map(str, providers))


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # The memory pattern keeps an entry per batch size: memory grew by about 1 MB per 200 sizes, without being faster.
    options.enable_mem_pattern = False
    options.log_severity_level = _QUIET
    options.add_session_config_entry("session.use_env_allocators", "1")  # the pool
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")  # weights: their size is known, and stays
    return options


def _options_for(source: bytes | str, threads: int) -> ort.SessionOptions:
    options = _session_options(threads)
    if extensions.path() and extensions.needed(source):
        keep_extensions()
        options.register_custom_ops_library(extensions.path())  # 4 ms per session, so for those alone that need it
    return options


@functools.cache
def keep_extensions() -> object:
    """Opens the library of onnxruntime-extensions and keeps it open for the process: a confined process cannot open it."""
    options = ort.SessionOptions()
    options.register_custom_ops_library(extensions.path())
    return options


def _run_options() -> ort.RunOptions:
    options = ort.RunOptions()
    options.log_severity_level = _QUIET
    return options


def _in_pieces(call: _Call, rows: int, outputs: Sequence[str], feeds: Mapping[str, Array], options: ort.RunOptions) -> list[Array]:
    """Calls the model once per `rows` rows. The last row is repeated to fill the last piece, and its extra answers are dropped.

    An empty batch is one piece of zeros without answers. Raises ValueError when an answer does not have that many rows.
    """
    size = len(next(iter(feeds.values())))
    parts: list[list[Array]] = [[] for _ in outputs]
    for begin in range(0, max(size, 1), rows):
        piece = {name: _filled(array[begin : begin + rows], rows) for name, array in feeds.items()}
        left = min(rows, size - begin)
        for name, part, array in zip(outputs, parts, call(outputs, piece, options), strict=True):
            if np.shape(array)[:1] != (rows,):
                raise ValueError(f"output {name!r} has the shape {list(np.shape(array))}; its first axis must be the {rows} rows of a run")
            part.append(array[:left])
    return [np.concatenate(part) for part in parts]


def _filled(array: Array, rows: int) -> Array:
    if not (missing := rows - len(array)):
        return array
    last = array[-1:] if len(array) else np.full((1, *array.shape[1:]), "" if array.dtype == object else 0, array.dtype)
    return np.concatenate([array, *[last] * missing])


def _signature_of(inference: ort.InferenceSession, label: str, rows: int | None) -> Signature:
    for kind, found in (("inputs", inference.get_inputs()), ("outputs", inference.get_outputs())):
        names = [one.name for one in found]
        if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
            raise ModelMismatch(f"{label} has two {kind} with the name {twice!r}, so neither can be chosen; export it with different names")
    inputs = tuple(_input(argument, label, rows) for argument in inference.get_inputs())
    outputs = []
    for argument in inference.get_outputs():
        with advising([one.name for one in inference.get_outputs()], argument.name):
            outputs.append(_output(argument, inference, inputs, label, rows))
    return Signature(inputs, tuple(outputs))


@contextlib.contextmanager
def advising(outputs: Sequence[str], output: str) -> Iterator[None]:
    """Adds to an error of one of a model's outputs how the model may serve without it."""
    try:
        yield
    except (ModelCorrupt, ModelMismatch) as error:
        others = [name for name in outputs if name != output]
        raise type(error)(f"{error}" + (f"; if nothing reads it, push with --outputs {','.join(others)}" if others else "")) from error


def _input(argument: Any, label: str, rows: int | None) -> Tensor:
    where, dtype = f"{label}: input {argument.name!r}", _dtype("input", argument, label)
    if not argument.shape:
        raise ModelMismatch(f"{where} has no axes, or none are declared; its first axis must be the rows, of open size")
    fixed = argument.shape[0]
    if isinstance(fixed, int) and fixed != rows:
        raise ModelMismatch(
            f"{where} has a first axis of fixed size {fixed}{'' if rows is None else f', and would be given {rows} at a time'}; export "
            f"it with an open (dynamic) batch axis, or push it with --rows {fixed}: then it is run {fixed} row{'s'[: fixed != 1]} at a time"
        )
    return Tensor(argument.name, dtype, _open_axes(argument.shape[1:]))


def _output(argument: Any, inference: ort.InferenceSession, inputs: Sequence[Tensor], label: str, rows: int | None) -> Tensor:
    """Returns the output as declared; what declares no rows is run: converters for LightGBM declare `[1]` and return N."""
    dtype = _dtype("output", argument, label)
    if argument.shape and (not isinstance(argument.shape[0], int) or argument.shape[0] == rows):
        return Tensor(argument.name, dtype, _open_axes(argument.shape[1:]))
    where = f"{label}: output {argument.name!r}"
    shapes = []
    for size in _PROBES if rows is None else (rows,):
        try:
            (array,) = inference._sess.run([argument.name], {one.name: _zeros(one, size) for one in inputs}, _run_options())
        except Exception as error:
            declared = f"a first axis of fixed size {argument.shape[0]}" if argument.shape else "no axes"
            raise ModelMismatch(
                f"{where} declares {declared}, and it cannot be run on rows of zeros, which would show the true shape: {_reason(error)}; "
                "export it with an open (dynamic) batch axis"
            ) from error
        if np.ndim(array) == 0 or len(array) != size:
            raise ModelMismatch(f"{where} has the shape {list(np.shape(array))} for {size} rows; its first axis must be the rows")
        shapes.append(array.shape[1:])
    return Tensor(argument.name, dtype, tuple(axis if axis == other else None for axis, other in zip(shapes[0], shapes[-1], strict=True)))


def _dtype(kind: str, argument: Any, label: str) -> str:
    where = f"{label}: {kind} {argument.name!r}"
    if not argument.type.startswith("tensor("):
        raise ModelMismatch(f"{where} is a {argument.type}, not a tensor{_ZIPMAP if 'map' in argument.type else ''}")
    if argument.type not in _DTYPES:
        fix = _HALF if "float16" in argument.type else ""
        raise ModelMismatch(f"{where} is a {argument.type}; use one of {', '.join(sorted(set(_DTYPES.values())))}{fix}")
    return _DTYPES[argument.type]


def _open_axes(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(axis if isinstance(axis, int) else None for axis in shape)


_HALF: Final = "; `penstock model push` casts it (in Python: penstock.model.intake.take_in)"
_ZIPMAP: Final = (
    "; convert without ZipMap, so that probabilities come as one array: "
    "skl2onnx.to_onnx(model, X, options={'zipmap': False}) (onnxmltools: zipmap=False)"
)


def _advice(text: str) -> str:
    """Returns what keeps the model from loading, and what to do, where the runtime's text says only the first; "" for other texts."""
    runtime = f"onnxruntime {ort.__version__} reads"
    if found := _IR.search(text):
        given, most = found.groups()
        return f"has the IR version {given}, and {runtime} up to {most}: install a newer onnxruntime, or set it: model.ir_version = {most}"
    if found := _OPSET.search(text):
        given, domain, most = found.groups()
        fix = f"skl2onnx: target_opset, torch.onnx.export: opset_version={most}" if domain == "ai.onnx" else "target_opset of the converter"
        return f"uses opset {given} of {domain}, and {runtime} up to {most}: install a newer onnxruntime, or export it for that ({fix})"
    if found := _LOCALE.search(text):
        return (
            f"changes the case of text by the locale {found[1]}, which this host does not have: install it, or push a model whose "
            "StringNormalizer names none, which then uses C.UTF-8"
        )
    if "NOT_IMPLEMENTED" in text:
        return (
            f"does not load: {text.rsplit(' : ', 1)[-1]}: onnxruntime {ort.__version__} does not compute it for the model's types "
            "and opset; export it in float32, or convert it: onnx.version_converter.convert_version(model, 17)"
        )
    return ""


def _zeros(tensor: Tensor, size: int) -> Array:
    shape = (size, *(1 if axis is None else axis for axis in tensor.shape))
    return np.full(shape, "", dtype=object) if tensor.dtype == "string" else np.zeros(shape, dtype=tensor.dtype)


def _reason(error: Exception) -> str:
    """Returns the first line of onnxruntime's message without the error-code prefix and the name of the C++ function."""
    text = str(error).strip().split("\n", 1)[0]
    text = text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
    return _CPP.sub("", text) or type(error).__name__
