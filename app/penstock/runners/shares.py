"""The units of one run shared among several processes: the same command once per process, and one conversation with each.

This process plans, gives each worker one share after the other, and keeps the manifest: nothing that a worker has written counts
before. A worker that is killed loses what it had not kept; another one begins there. The conversation is lines of JSON on a socket:

| to the worker | |
|---|---|
| `Share` | units to run, one share at a time |
| the end of the stream | there are no more |

| from the worker | |
|---|---|
| `Kept` | units as far as they have come, and the parts that hold their outputs |
| `Going` | what it has done of its share |
| `Ended` | the share has come to its end, or was stopped |
| `Failed` | the error that ended the worker |
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from penstock.errors import WorkerFailed
from penstock.host import ends_with
from penstock.runners.bounded import Ran
from penstock.transports.checkpoint import Part, Unit

__all__ = ["About", "Keep", "Share", "Talk", "serve", "share_out"]

RESTARTS: Final = 3  # of workers that were killed, in one run: more have a cause that stays
GRACE: Final = 90.0  # seconds for a worker to finish its part
POLL: Final = 0.02  # seconds between two looks at a process that ends
LINE: Final = 1 << 26  # bytes of a message

Keep = Callable[[Sequence[Unit], Sequence[Part]], None]


class About(msgspec.Struct):
    """What all shares of a run have in common: its input and output, the formats of both, and which rows."""

    input: str
    output: str
    format: str
    form: str
    sample: float | None
    part_rows: int


class Share(msgspec.Struct, tag="share"):
    """Units to run, and for each the path and the bytes of its file."""

    units: list[Unit]
    files: list[tuple[str, int]]
    about: About


class Kept(msgspec.Struct, tag="kept"):
    units: list[Unit]
    parts: list[Part]


class Going(msgspec.Struct, tag="going"):
    read: int
    written: int
    failed: int
    done: int


class Ended(msgspec.Struct, tag="ended"):
    read: int
    written: int
    failed: int
    complete: bool


class Failed(msgspec.Struct, tag="failed"):
    message: str
    code: int


Said = Kept | Going | Ended | Failed

_SAID: Final = msgspec.json.Decoder(Said)
_SHARE: Final = msgspec.json.Decoder(Share)


class Talk:
    """A worker's side: what it reports while it runs a share."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def keep(self, units: Sequence[Unit], parts: Sequence[Part]) -> None:
        """See `Checkpoint`."""
        self._say(Kept([*units], [*parts]))

    def going(self, ran: Ran, done: int) -> None:
        self._say(Going(ran.read, ran.written, ran.failed, done))

    def ended(self, ran: Ran) -> None:
        self._say(Ended(*ran))

    def failed(self, message: str, code: int) -> None:
        self._say(Failed(message, code))

    def _say(self, message: Said) -> None:
        self._writer.write(msgspec.json.encode(message) + b"\n")


async def serve(
    descriptor: int, run: Callable[[Share, Talk], Awaitable[Ran]], stopped: asyncio.Event, code: Callable[[Exception], int]
) -> None:
    """Runs the shares that come on a socket, until there are no more or `stopped` is set. `code` returns the exit code of an error."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor), limit=LINE)
    talk = Talk(writer)
    try:
        while not stopped.is_set() and (line := await reader.readline()):
            talk.ended(await run(_SHARE.decode(line), talk))
            await writer.drain()
    except Exception as error:  # noqa: BLE001  the process that started this one shows it
        talk.failed(str(error) or type(error).__name__, code(error))
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        writer.close()
        await writer.wait_closed()


class _Worker:
    """A process, and its end of the conversation."""

    def __init__(self, command: Sequence[str], ours: socket.socket, theirs: socket.socket) -> None:
        self.share: Share | None = None
        self.now = Going(0, 0, 0, 0)
        # With a session of its own, only this process gets Ctrl-C. No threads here, which `preexec_fn` could meet.
        self.process = subprocess.Popen(
            [*command, "--share", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], start_new_session=True, stdin=subprocess.DEVNULL,
            preexec_fn=ends_with(os.getpid(), signal.SIGKILL),  # noqa: PLW1509  see above
        )  # fmt: skip
        theirs.close()
        self._socket = ours

    async def begin(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(sock=self._socket, limit=LINE)

    def give(self, share: Share) -> None:
        self.share, self.now = share, Going(0, 0, 0, 0)
        self.writer.write(msgspec.json.encode(share) + b"\n")


async def share_out(
    command: Sequence[str],
    workers: int,
    shares: Sequence[Sequence[Unit]],
    files: Sequence[tuple[str, int]],
    about: About,
    *,
    keep: Keep,
    progress: Callable[[Ran, int], None],
    stopped: asyncio.Event,
) -> bool:
    """Runs the shares by `workers` processes of this command. `files` are those of the run, by the number of a unit.

    Returns whether all shares have come to their end: False when `stopped` was set first, and then what is done is kept. Raises
    WorkerFailed with the error of the first worker that has failed.
    """
    run = _Run(deque(Share([*units], [files[unit.partition] for unit in units], about) for units in shares), keep, progress)
    begun = [_begin(command) for _ in range(min(workers, len(shares)))]
    tasks = [asyncio.ensure_future(run.lead(command, worker)) for worker in begun]
    stop = asyncio.ensure_future(stopped.wait())
    everything = asyncio.ensure_future(asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))
    try:
        await asyncio.wait((everything, stop), return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            run.stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await asyncio.shield(everything)
        for task in tasks:
            if task.done() and (error := task.exception()) is not None:
                raise error
        return not run.shares and not run.stopping
    finally:
        stop.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        run.kill()


def _begin(command: Sequence[str]) -> _Worker:
    ours, theirs = socket.socketpair()
    return _Worker(command, ours, theirs)


class _Run:
    """What the conversations share."""

    def __init__(self, shares: deque[Share], keep: Keep, progress: Callable[[Ran, int], None]) -> None:
        self.shares, self._keep, self._progress = shares, keep, progress
        self.stopping = False
        self._restarts = RESTARTS
        self._workers: list[_Worker] = []
        self._past = Going(0, 0, 0, 0)  # of the shares that have ended

    def stop(self) -> None:
        self.stopping = True
        for worker in self._workers:
            if worker.process.poll() is None:
                os.kill(worker.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()

    async def lead(self, command: Sequence[str], worker: _Worker) -> None:
        """Gives a worker shares until there are no more; starts another one in place of one that was killed."""
        while True:
            self._workers.append(worker)
            await worker.begin()
            try:
                with contextlib.suppress(ConnectionError):
                    await self._talk(worker)
            finally:
                worker.writer.close()
            while (code := worker.process.poll()) is None:  # noqa: ASYNC110  a process has no event, and a thread may not be there at the next start
                await asyncio.sleep(POLL)
            if worker.share is None or self.stopping:
                return
            if code > 0 or not self._restarts:
                what = f"ended with exit code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
                raise WorkerFailed(f"a worker {what}; go on with --resume", max(code, 1))
            self._restarts -= 1
            self.shares.appendleft(worker.share)  # its units are as far as what was kept of them
            self._workers.remove(worker)
            worker = _begin(command)

    async def _talk(self, worker: _Worker) -> None:
        if not self._next(worker):
            return
        while line := await worker.reader.readline():
            said = _SAID.decode(line)
            if isinstance(said, Kept):
                assert worker.share is not None
                known = {(one.partition, one.start): one for one in said.units}
                worker.share.units = [known.get((one.partition, one.start), one) for one in worker.share.units]
                self._keep(said.units, said.parts)
            elif isinstance(said, Going):
                worker.now = said
                self._tell()
            elif isinstance(said, Failed):
                raise WorkerFailed(said.message, said.code)
            else:
                self._past = _sum(self._past, Going(said.read, said.written, said.failed, worker.now.done))
                worker.share, worker.now = None if said.complete else worker.share, Going(0, 0, 0, 0)
                self._tell()
                if not said.complete or self.stopping or not self._next(worker):
                    return

    def _next(self, worker: _Worker) -> bool:
        """Gives the worker its next share. Returns False when there is none: then it ends."""
        if not self.shares or self.stopping:
            worker.writer.write_eof()
            return False
        worker.give(self.shares.popleft())
        return True

    def _tell(self) -> None:
        now = self._past
        for worker in self._workers:
            now = _sum(now, worker.now)
        self._progress(Ran(now.read, now.written, now.failed, False), now.done)


def _sum(one: Going, other: Going) -> Going:
    return Going(one.read + other.read, one.written + other.written, one.failed + other.failed, one.done + other.done)
