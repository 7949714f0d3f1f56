"""Operators and workers of a job, as commands: what is typed, what comes of it, and events that flow meanwhile."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import psutil

from penstock.cli.main import main
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models as onnx_models
from penstock.testing import unique, wait_for
from tests.kafka.forging import forge
from tests.kafka.running import Job, Running
from tests.unit.cli.done import Done

CONFIG = "penstock.toml"  # a worker of the job finds it in its folder


def configure(job: Job, **settings: str | float | bool) -> None:
    """Writes what workers and operators of the job have set in common, one word a status every half second."""
    given = {
        "brokers": job.broker.bootstrap,
        "application": job.application,
        "topologies": str(job.folder),
        "models": str(job.folder / "models"),
        "schemas": str(job.folder / "schemas"),
        "cache": str(job.folder / "cache"),
        "status_interval": 0.5,
        **settings,
    }
    (job.folder / CONFIG).write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items()))


def must_be_signed(job: Job) -> None:
    """Releases of the job must be signed, and alice signs them."""
    configure(job, trust=str(job.folder / "trust.toml"), signing_key=str(job.folder / "alice.pem"))
    trusted(job, "alice")


def penstock(job: Job, *arguments: str) -> Done:
    """What a command, run in this process, has come to."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(["--config", str(job.folder / CONFIG), *arguments])
    return Done(code, out.getvalue(), err.getvalue())


class Command:
    """A command in a process of its own, to be killed or interrupted. Ends on leaving the `with` block, however it is left."""

    def __init__(self, job: Job, *arguments: str) -> None:
        self._file = job.folder / f"{unique('command')}.log"
        line = [sys.executable, "-m", "penstock", "--config", str(job.folder / CONFIG), *arguments]
        with self._file.open("wb") as log:
            self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=job.folder)

    @property
    def said(self) -> str:
        """On stdout and stderr so far."""
        return self._file.read_text(errors="replace")

    def wait_until_said(self, text: str, timeout: float = 60.0) -> None:
        wait_for(lambda: text in self.said or self.process.poll() is not None, f"{text!r} from a command", timeout)
        assert text in self.said, self.said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


# -- what is told ------------------------------------------------------------------------------------------------------


def status(job: Job) -> Mapping[str, Any]:
    """`penstock status --format json`."""
    done = penstock(job, "status", job.topology, "--format", "json")
    assert done.out, done.err
    found: Mapping[str, Any] = done.json
    return found


def told_by(job: Job, worker: Running) -> Mapping[str, Any]:
    """What the status says of this worker; nothing while it has not said a word."""
    return next((one for one in status(job)["workers"] if one["pid"] == worker.process.pid), {})


def wait_until(
    job: Job, worker: Running, what: str, holds: Callable[[Mapping[str, Any]], bool], timeout: float = 60.0
) -> Mapping[str, Any]:
    """Asks for the status until it holds of this worker; what was told then."""
    last: Mapping[str, Any] = {}

    def asked() -> bool:
        nonlocal last
        assert worker.process.poll() is None, worker.log
        last = told_by(job, worker)
        return bool(last) and holds(last)

    try:
        wait_for(asked, what, timeout, 0.25)
    except AssertionError as error:
        raise AssertionError(f"{error}\nlast told: {json.dumps(last, indent=1)}\n{worker.log}") from error
    return last


def wait_until_ready(job: Job, *workers: Running) -> None:
    for worker in workers:
        wait_until(job, worker, "a worker that is ready", lambda told: told["ready"])


def state_of(told: Mapping[str, Any], release: str) -> tuple[str, str]:
    """Where the release stands on a worker, and the reason."""
    return next(((one["state"], one.get("detail", "")) for one in told.get("releases", []) if one["id"] == release), ("", ""))


def wait_until_stands(job: Job, worker: Running, release: str, state: str) -> str:
    """Until the release stands there on this worker; the reason that it gives."""
    return state_of(wait_until(job, worker, f"{release} {state}", lambda told: state_of(told, release)[0] == state), release)[1]


def announced(job: Job, model: str, *flags: str) -> str:
    """Announces a release that binds `double`, and leaves it pending; its id."""
    done = penstock(job, "deploy", job.topology, f"double={model}", "--no-wait", "--format", "json", *flags)
    assert done.code == 0, done.err
    return str(done.json["release"]["id"])


def trusted(job: Job, name: str, *topologies: str, flags: Sequence[str] = ()) -> str:
    """Makes a key and trusts it, by default for the job's topology; the file of its private part."""
    key = new_key(job, name)
    public = penstock(job, "keys", "public", key).out.strip()
    served = [flag for topology in topologies or (job.topology,) for flag in ("--topology", topology)]
    done = penstock(job, "keys", "trust", name, "--public", public, *served, *flags)
    assert done.code == 0, done.err
    return key


def new_key(job: Job, name: str) -> str:
    """Makes a key that nobody trusts; the file of its private part."""
    key = str(job.folder / f"{name}.pem")
    done = penstock(job, "keys", "new", name, "--out", key)
    assert done.code == 0, done.err
    return key


def in_force(job: Job, model: str, *flags: str) -> None:
    """Deploys `model` for the node `double`, and sees it in force."""
    done = penstock(job, "deploy", job.topology, f"double={model}", *flags)
    assert done.code == 0, done.err


# -- workers -----------------------------------------------------------------------------------------------------------


def children(worker: Running) -> list[psutil.Process]:
    return psutil.Process(worker.process.pid).children(recursive=True)


# -- models ------------------------------------------------------------------------------------------------------------


def push(job: Job, model: float | bytes) -> str:
    """Registers the next version of `double`, one that multiplies by this number unless it is given as bytes. NAME@VERSION."""
    data = model if isinstance(model, bytes) else onnx_models.linear([model])
    return str(DirectoryRegistry(job.folder / "models").publish("double", data))


def push_bad(job: Job, model: bytes) -> str:
    """As `push`, past the checks of a push: the manifest is that of a sound model, but for the digest of this one."""
    sound = DirectoryRegistry(job.folder / "models").publish("double", onnx_models.linear([2.0]))
    return str(forge(sound, model=model))


# -- events ------------------------------------------------------------------------------------------------------------


class Flow:
    """Readings that are sent in the background. Leaving the `with` block waits until each has an answer.

    They are numbered from 1, so that an answer tells by how much its model multiplied.
    """

    EVERY_S, BURST = 0.2, 20

    def __init__(self, job: Job) -> None:
        self.job = job
        self.count = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, name="readings")
        self._failure: BaseException | None = None

    def _send(self) -> None:
        try:
            while not self._over.wait(self.EVERY_S):
                self.job.send(range(self.count + 1, self.count + 1 + self.BURST))
                self.count += self.BURST
        except BaseException as error:  # noqa: BLE001  told to whoever leaves the block
            self._failure = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            if self._failure is not None:
                raise self._failure
            self.job.wait_for_answers(self.count, 60.0)

    def wait_for_more(self) -> None:
        """Until the answer to a reading that is sent from now on is there: the stream goes on."""
        last = self.count + 1
        wait_for(lambda: any(int(one.key or b"") >= last for one in self.job.answers()), "an answer to a new reading", 60.0, 0.2)

    def scored(self, *, twice: bool = False) -> set[tuple[int, float]]:
        """By which generations and with which factors the readings were scored: each exactly once, or, if `twice`, at least once."""
        answers = self.job.answers()
        keys = {int(one.key or b"") for one in answers}
        assert keys == set(range(1, self.count + 1))
        assert twice or len(answers) == self.count
        return {(generation_of(one), factor_of(one)) for one in answers}


def generation_of(answer: Record) -> int:
    return int(dict(answer.headers)["penstock-generation"] or b"")


def factor_of(answer: Record) -> float:
    event = json.loads(answer.value or b"")
    return float(event["y"]) / (int(event["id"]) / 2)


@contextlib.contextmanager
def no_child_left(worker: Running) -> Iterator[None]:
    """Inside, the worker ends; whatever it had started by then ends with it."""
    before = children(worker)
    yield
    _, alive = psutil.wait_procs(before, timeout=10)
    assert not alive, alive
