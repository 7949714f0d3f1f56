"""Several workers on one host: the same command once per core, started, watched and stopped together.

Each worker is a separate process in the same consumer group, so Kafka, not this process, distributes the partitions. A
worker that is killed, or stopped by a SIGTERM that did not come from here, is started again (until then, the others have its
partitions). A restart does not help a worker that ends with an error, so the others are stopped and its exit code is returned. The
error is shown once, here: workers with one cause would show it several times.

With `--http`, or a live view, each worker serves its pages on a Unix socket in a private folder, and this process serves them as one.
It queries every worker at the request, so a killed worker appears as `penstock_up{worker="2"} 0` and the page still works. With a
live view the workers' logs come through this process, line by line: a view cannot be drawn below what others write to its terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from penstock.errors import WorkerFailed
from penstock.host import ends_with, on_signals
from penstock.telemetry.health import Pages, Verdict

__all__ = ["Elsewhere", "supervise"]

logger = logging.getLogger(__name__)

RESTARTS = 5  # of one worker, within
WINDOW = 60.0  # seconds; more restarts than that have a permanent cause
POLL = 0.2  # seconds between two checks of the workers
GRACE = 10.0  # seconds beyond the workers' own bound: they exit first and report where they were blocked
ANSWER = 3.0  # seconds for a worker to answer; Prometheus gives a scrape ten
PAGE_BYTES = 32 * 1024 * 1024
PIPE_BYTES = 1 << 16

Serve = Callable[[Pages], AbstractAsyncContextManager[None]]
Own = Callable[[str, str], list[str]]  # a worker's name and the address of its pages, "" for none, to its arguments


class _Log:
    """A pipe from a worker's stderr: its whole lines go to this process's stderr as they come, until the worker has closed it."""

    def __init__(self) -> None:
        self._fd, self._end = os.pipe()
        self._rest = b""
        os.set_blocking(self._fd, False)
        asyncio.get_running_loop().add_reader(self._fd, self.pass_on)

    @contextlib.contextmanager
    def given(self) -> Iterator[int]:
        """Yields the worker's end, which this process closes: the pipe ends with the worker."""
        try:
            yield self._end
        finally:
            os.close(self._end)

    def pass_on(self) -> bool:
        """Writes the lines that have come. Returns whether there may be more."""
        try:
            data = os.read(self._fd, PIPE_BYTES)
        except OSError:  # nothing has come, or the end was seen before
            return False
        lines, end, self._rest = (self._rest + data).rpartition(b"\n")
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            lines, end, self._rest = self._rest, b"\n" if self._rest else b"", b""
        sys.stderr.write((lines + end).decode(errors="replace"))
        return bool(data)


class _Worker:
    """One process, and the times of its recent starts. Its error, and with `pages` the socket of its pages, are files at `place`.

    `own` gives the arguments that only it has. With `relay`, this process writes its log.
    """

    def __init__(self, name: str, own: Own, place: Path, pages: bool, relay: bool) -> None:
        self.name = name
        self._relay = relay
        self.page = place.with_suffix(".sock") if pages else None
        self._error = place.with_suffix(".error")
        self._own = [*own(name, "" if self.page is None else f"unix:{self.page}"), "--last-words", str(self._error)]
        self.starts: deque[float] = deque(maxlen=RESTARTS + 1)
        self.restarts = -1
        self.start()

    def start(self) -> None:
        self.starts.append(time.monotonic())
        self.restarts += 1
        # The last --workers wins: the same command line, for one worker. With a separate process group, only this process gets Ctrl-C.
        command = [sys.executable, "-m", "penstock", *sys.argv[1:], "--workers", "1", *self._own]
        self.log = _Log() if self._relay else None
        with contextlib.nullcontext() if self.log is None else self.log.given() as end:
            # No threads here, which `preexec_fn` could meet.
            ends = ends_with(os.getpid(), signal.SIGTERM)
            self.process = subprocess.Popen(command, start_new_session=True, stderr=end, preexec_fn=ends)  # noqa: PLW1509  see above
        logger.info("worker %s is process %d", self.name, self.process.pid)

    @property
    def error(self) -> str:
        """The error with which it ended; empty when it has shown that itself."""
        return self._error.read_text(encoding="utf-8", errors="replace") if self._error.exists() else ""

    @property
    def age(self) -> float:
        """Seconds since its last start."""
        return time.monotonic() - self.starts[-1]

    def crash_loops(self) -> bool:
        return len(self.starts) > RESTARTS and time.monotonic() - self.starts[0] < WINDOW


def supervise(
    names: Sequence[str],
    patience: float,
    own: Own,
    *,
    serve: Serve | None = None,
    start_timeout: float = 60.0,
    relay: bool = False,
) -> None:
    """Runs a worker for each of these names until SIGTERM or Ctrl-C; they have `patience` seconds to finish.

    `own` gives the arguments that only one worker has, behind those of this command. `serve` serves their monitoring pages as one; after a
    start, a worker has `start_timeout` seconds until its pages must answer. With `relay` this process writes the workers' logs. On
    Linux the workers end, as on SIGTERM, when this process is killed.

    Raises WorkerFailed with the exit code of the first worker that failed.
    """
    asyncio.run(_supervise(names, patience, own, serve, start_timeout, relay))


async def _supervise(names: Sequence[str], patience: float, own: Own, serve: Serve | None, start_timeout: float, relay: bool) -> None:
    # No executor and no thread: a worker receives its signal when the thread that started it ends.
    stopping = asyncio.Event()
    workers: list[_Worker] = []
    async with AsyncExitStack() as stack:
        stack.enter_context(on_signals(stopping.set))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-")))  # mode 0700
        if serve is not None:
            await stack.enter_async_context(serve(_Fleet(workers, start_timeout)))
        try:
            workers.extend(_Worker(name, own, folder / f"{at}", serve is not None, relay) for at, name in enumerate(names))
            while not stopping.is_set():
                for worker in workers:
                    _look_at(worker)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await stopping.wait()
        finally:
            await _stop(workers, patience + GRACE)
            for worker in workers:
                while worker.log is not None and worker.log.pass_on():
                    pass


def _look_at(worker: _Worker) -> None:
    """Restarts a worker that was killed or stopped. Raises WorkerFailed for one that ended with an error."""
    code = worker.process.poll()
    if code is None:
        return
    if code > 0:
        logger.error("worker %s has ended with exit code %d: the others are being stopped", worker.name, code)
        raise WorkerFailed(f"worker {worker.name}: {worker.error or f'it has ended with exit code {code}'}", code)
    what = f"was killed by {signal.Signals(-code).name}" if code else "was stopped by a SIGTERM from elsewhere"
    if worker.crash_loops():
        raise WorkerFailed(f"worker {worker.name} {what}, and ended {RESTARTS} times before within {WINDOW:g} s", 1)
    logger.warning("worker %s %s and is started again", worker.name, what)
    worker.start()


async def _stop(workers: Sequence[_Worker], patience: float) -> None:
    running = [worker for worker in workers if worker.process.poll() is None]
    for worker in running:
        os.kill(worker.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and any(worker.process.poll() is None for worker in running):  # noqa: ASYNC110  a process has no event
        await asyncio.sleep(POLL / 4)
    for worker in running:
        if worker.process.poll() is None:
            logger.error(
                "worker %s did not finish within %g s and is killed; uncommitted records will be scored again",
                worker.name,
                patience,
            )
            worker.process.kill()
            worker.process.wait()


class _Fleet:
    """The pages of all workers as one. Implements `telemetry.health.Pages`."""

    def __init__(self, workers: Sequence[_Worker], start_timeout: float) -> None:
        self._workers, self._start_timeout = workers, start_timeout

    async def alive(self) -> Verdict:
        """A starting worker counts as alive for as long as a start may take, because this process restarts it when it is killed."""
        verdicts = await self._ask("/healthz", "alive")
        for name in self._starting(verdicts):
            verdicts[name] = Verdict(True, {**verdicts[name].body, "alive": True, "starting": True})
        return _together("alive", "stalled", verdicts)

    async def ready(self) -> Verdict:
        verdicts = await self._ask("/readyz", "ready")
        for name in self._starting(verdicts):
            verdicts[name] = Verdict(False, {**verdicts[name].body, "missing": ["starting"], "starting": True})
        return _together("ready", "missing", verdicts)

    def _starting(self, verdicts: Mapping[str, Verdict]) -> list[str]:
        """Returns the workers that do not answer, and were started a short time ago."""
        young = [worker.name for worker in self._workers if worker.age < self._start_timeout]
        return [name for name in young if not verdicts[name].good and "error" in verdicts[name].body]

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        from penstock.telemetry import export

        pages = await asyncio.gather(*(_get(worker.page, "/metrics") for worker in self._workers))
        names = [worker.name for worker in self._workers]
        texts = {name: page.body.decode() if page.status == 200 else None for name, page in zip(names, pages, strict=True)}
        restarts = {name: worker.restarts for name, worker in zip(names, self._workers, strict=True)}
        return export.encode(export.Merged(texts, restarts), accept)

    async def _ask(self, path: str, word: str) -> dict[str, Verdict]:
        answers = await asyncio.gather(*(_get(worker.page, path) for worker in self._workers))
        return {worker.name: _verdict(word, answer) for worker, answer in zip(self._workers, answers, strict=True)}


class Elsewhere:
    """The pages that another process of this host serves on a Unix socket. Implements `telemetry.health.Pages`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def alive(self) -> Verdict:
        return _verdict("alive", await _get(self._socket, "/healthz"))

    async def ready(self) -> Verdict:
        return _verdict("ready", await _get(self._socket, "/readyz"))

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        found = await _get(self._socket, "/metrics", accept)
        return (found.body, found.kind) if found.status == 200 else (b"", "text/plain")


class _Page(NamedTuple):
    """An answer: without one, status 0 and the reason as its body."""

    status: int
    body: bytes
    kind: str = ""


def _verdict(word: str, page: _Page) -> Verdict:
    """Returns a worker's answer; an unreadable answer has the reason as `error`."""
    status, body, _ = page
    try:
        found = json.loads(body) if status in (200, 503) else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return Verdict(False, {word: False, "error": body.decode(errors="replace") if not status else f"the worker answered {status}"})
    return Verdict(status == 200, found)


def _together(word: str, reasons: str, verdicts: dict[str, Verdict]) -> Verdict:
    """Returns a verdict that is good when all workers are; the reasons name the worker."""
    good = bool(verdicts) and all(one.good for one in verdicts.values())
    bad = {name: one.body.get(reasons) or [one.body.get("error")] for name, one in verdicts.items() if not one.good}
    named = [f"worker {name}: {reason}" for name, found in bad.items() for reason in found]
    return Verdict(good, {word: good, reasons: named, "workers": {name: one.body for name, one in verdicts.items()}})


async def _get(page: Path | None, path: str, accept: str = "") -> _Page:
    """Returns a page of another process."""
    head = f"GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n" + (
        f"Accept: {accept}\r\n" if accept.isprintable() and accept else ""
    )
    try:
        async with asyncio.timeout(ANSWER):
            reader, writer = await asyncio.open_unix_connection(page)
            try:
                writer.write(f"{head}\r\n".encode())
                answer = await _whole(reader)
            finally:
                writer.close()
    except TimeoutError:
        return _Page(0, f"no answer within {ANSWER:g} s".encode())
    except OSError as error:
        return _Page(0, f"no answer: {error.strerror or error}".encode())
    top, _, body = answer.partition(b"\r\n\r\n")
    words = top.split(b" ", 2)
    headers = dict(line.lower().split(b": ", 1) for line in top.split(b"\r\n")[1:] if b": " in line)
    if len(words) < 3 or not words[1].isdigit() or headers.get(b"content-length", b"") != b"%d" % len(body):
        return _Page(0, b"incomplete answer")
    return _Page(int(words[1]), body, headers.get(b"content-type", b"").decode("latin-1"))


async def _whole(reader: asyncio.StreamReader) -> bytes:
    """Reads to the end of the stream. Raises OSError when that is too much."""
    parts: list[bytes] = []
    size = 0
    while part := await reader.read(1 << 16):
        size += len(part)
        if size > PAGE_BYTES:
            raise OSError(f"a page of more than {PAGE_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)
