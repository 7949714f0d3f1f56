"""A program's side of the releases: it follows them in a thread, reads only, and starts also while the brokers are away.

1. With nothing kept on disk (`kept`), the log has to be read from the brokers first: the versions of the topology file may be old ones.
2. With something kept, brokers that do not answer within `START` seconds are waited for in the background. Until then, what was active
   when the log was last read scores, and `followed` has the time since then.
3. Nothing waits for such a program, and it writes nothing: no release fails because of it, and `penstock status` does not list it.
4. Whatever goes wrong after the start is in `followed`, in the log and in a call of `on_change`, and the live plan goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final

from penstock import runtime
from penstock.control.messages import Release, new_id, timestamp
from penstock.control.rights import Admitted
from penstock.control.trust import Trust
from penstock.errors import ControlError, PenstockError, TransportError, TransportUnavailable
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.telemetry.logs import condensed
from penstock.transports.kafka.connection import Admin, check, patience_of
from penstock.transports.kafka.journal import Entry
from penstock.worker.folding import Folding, Judges
from penstock.worker.following import PAUSE, Followed, Following, Served, served
from penstock.worker.kept import Keeper, Kept

__all__ = ["Reading"]

logger = logging.getLogger(__name__)

START: Final = 5.0  # seconds that a start waits for brokers, when something is kept
PATIENCE: Final = 10.0  # seconds for an answer, in the background
CLOSE: Final = 5.0  # seconds for the thread to end


class Reading(Following):
    """Follows the releases of one topology for a program. `start` runs it in a thread until `close`.

    `on_change` is called in that thread with `followed` when generation, reason or problems are others; what it raises is logged.
    """

    from_file = "from_file=True"

    def __init__(self, loaded: Loaded, settings: Settings, on_change: Callable[[Followed], object] | None = None) -> None:
        """Raises SettingsError for brokers and folders that cannot be used. Connects to nothing."""
        check(settings)
        super().__init__(loaded, settings, "", Metrics())
        self.switched: Callable[[], object] = lambda: None  # called in the thread when `deployment` is another one
        self._on_change = on_change
        self._told: tuple[object, ...] = ()
        self._keeper = Keeper(settings.cache, settings.brokers, self.topics.control)
        self._kept = self._load()
        self._entries: list[Entry] = []
        self._file = {} if self._kept is None else self._kept.file
        self._id = ""  # of the control topic
        self._saved: tuple[int, int] = (-1, 0)  # the position and the count of entries that were saved last
        self._over: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._up = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"penstock-follow-{loaded.topology.name}", daemon=True)

    # -- the thread --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns once the active generation is live, and follows later ones from then on. Blocks.

        Raises TransportError when the log cannot be read and nothing of it is kept, TopicMissing without the control topic, ModelError or
        ControlError when the active generation cannot be served here, ConfigError for a trust file that cannot be used.
        """
        patience = self._settings.broker_timeout
        admin = Admin(replace(self._settings, broker_timeout=patience if self._kept is None else min(patience, START)))
        try:
            admin.describe([self.topics.control])
            self._cluster = admin.cluster_id()
        except TransportError as error:
            if self._kept is None:
                raise
            self._wait_for_brokers(error)
        self._thread.start()
        try:
            self._up.wait()
        except BaseException:  # an interrupt
            self.close()
            raise
        if self._error is not None:
            self._thread.join(CLOSE)
            raise self._error

    def close(self) -> None:
        """Ends the thread. What is live stays so."""
        if self._over is not None:
            loop, over = self._over
            with contextlib.suppress(RuntimeError):  # the loop is closed: the thread has ended
                loop.call_soon_threadsafe(over.set)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(CLOSE)

    @property
    def followed(self) -> Followed:
        """How current the live plan is, now."""
        found = super().followed
        if self._thread.is_alive():
            return found
        return replace(found, reason=found.reason or "the thread that follows has ended: the topology was closed, or the process forked")

    def _run(self) -> None:
        try:
            with condensed():
                asyncio.run(self._live())
        except BaseException as error:
            # Where the program ends, no executor takes anything, so this thread ends, too, which is no error.
            if self._up.is_set() and threading.main_thread().is_alive():
                logger.exception("releases of %s are not followed any more", self._loaded.topology.name)
                self.problems.say("control", f"releases are not followed any more: {error!r}")
            self._error = error
        finally:
            self._up.set()

    async def _live(self) -> None:
        over = asyncio.Event()
        self._over = asyncio.get_running_loop(), over

        def fail(error: BaseException) -> None:
            self._error = error
            over.set()

        async with self.following(fail):
            self._told = _told(self.followed)
            self._up.set()
            await over.wait()
        if self._error is not None:
            raise self._error

    # -- hooks -------------------------------------------------------------------------------------------------------

    async def _begin(self, stack: AsyncExitStack, trust: Trust) -> None:
        if self._cluster:
            try:
                async with AsyncExitStack() as inner:
                    await super()._begin(inner, trust)
                    self._id = await self._topic_id()
                    stack.push_async_callback(inner.pop_all().aclose)
                return
            except TransportError as error:
                if self._kept is None:
                    raise
                self._wait_for_brokers(error)
        assert self._kept is not None
        kept = self._kept
        self._cluster, self._id = kept.cluster, kept.id
        self.folding = Folding(None, self._judge, trust)
        self.folding.apply(kept.entries, kept.position)
        self._confirmed = time.monotonic() - self._keeper.age()

    async def _from_the_file(self) -> Served:
        """Returns generation 0; while the registry is away, from the cache, if the file names what it named when that was kept."""
        named = {node.name: str(node.model) for node in self._loaded.topology.model_nodes}
        if not self._loaded.absent:
            self._jobs.put_nowait(self._keep_file)
        elif {node: was for node, (was, _) in self._file.items()} == named:
            bindings = {node: binding for node, (_, binding) in self._file.items()}
            release = Release(
                id=new_id(), topology=self._loaded.topology.name, cluster=self._cluster, control_topic=self.topics.control,
                time=timestamp(), author="topology file", base=0, bindings=bindings,
            )  # fmt: skip
            return replace(served(0, release, await self._beside.prepare(release)), release="")
        return await super()._from_the_file()

    async def _keep_file(self) -> None:
        """Puts generation 0 into the cache, and keeps its digests."""
        bindings = runtime.bindings(self._loaded)
        try:
            await self._beside.store(bindings.values())
        except (PenstockError, OSError) as error:
            self.problems.say("cache", f"generation 0 is not in the cache, so no start without its registry would find it: {error}")
            return
        self._file = {node.name: (str(node.model), bindings[node.name]) for node in self._loaded.topology.model_nodes}
        self._saved = (-1, 0)
        self._changed()

    def _duties(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield from super()._duties()
        yield self._confirm([self.topics.control])

    async def _follow(self) -> None:
        async with AsyncExitStack() as stack:
            while not self.folding.connected:
                try:
                    await self._connect(stack)
                except TransportUnavailable as error:
                    self._wait_for_brokers(error)
                    self._changed()
                    await asyncio.sleep(PAUSE)
                except TransportError as error:
                    self.topic_lost(self.topics.control, str(error))
                    return
            await super()._follow()

    async def _connect(self, stack: AsyncExitStack) -> None:
        """Goes on with the log of the brokers, from its beginning. Raises TransportError when it is another log than the kept one."""
        async with AsyncExitStack() as inner:
            reader = await inner.enter_async_context(self._reader(min(PATIENCE, patience_of(self._settings))))
            found = (await reader.cluster(), (await reader.describe([self.topics.control]))[self.topics.control].id)
            if found[0] != self._cluster or (self._id and found[1] != self._id):
                raise TransportError(f"{self.topics.control} is another topic now than when it was read last")
            await self.folding.connect(reader)
            self._id = found[1]
            stack.push_async_callback(inner.pop_all().aclose)

    async def _topic_id(self) -> str:
        found = await self.folding.reader.describe([self.topics.control])
        return found[self.topics.control].id if self.topics.control in found else ""

    def _judge(self, trust: Trust) -> Judges:
        """Keeps the entries that are admitted. The others change nothing, by fewer keys either, and anyone may send many of them."""
        judge, self._saved = super()._judge(trust), (-1, 0)
        self._entries = admitted = list[Entry]()

        def noting(entry: Entry) -> Admitted:
            found = judge(entry)
            admitted.append(entry)
            return found

        return noting

    def _changed(self) -> None:
        if self.folding.whole:
            self._save()
        if self._up.is_set() and (told := _told(followed := self.followed)) != self._told:
            self._told = told
            self._call(followed)

    def _switched(self, replaced: bool) -> None:
        self.switched()

    def _confirms(self) -> None:
        if self._saved == (self.folding.position, len(self._entries)):
            self._keeper.confirm()

    def _save(self) -> None:
        now = (self.folding.position, len(self._entries))
        if now == self._saved:
            return
        kept = Kept(
            cluster=self._cluster, topic=self.topics.control, id=self._id, position=now[0], entries=tuple(self._entries), file=self._file
        )
        try:
            self._keeper.save(kept)
        except OSError as error:
            self.problems.say("kept", f"{self._keeper.file} cannot be written, so a start without brokers would be an older one: {error}")
        else:
            self._saved = now
            self.problems.say("kept")

    def _load(self) -> Kept | None:
        try:
            return self._keeper.load()
        except ControlError as error:
            self.problems.say("kept", str(error))
            return None

    def _wait_for_brokers(self, error: TransportError) -> None:
        self.problems.say("brokers", f"the control log is not confirmed: {error}")

    def _call(self, followed: Followed) -> None:
        if self._on_change is not None:
            try:
                self._on_change(followed)
            except Exception:
                logger.exception("on_change failed")


def _told(followed: Followed) -> tuple[object, ...]:
    """Returns what `on_change` is called for."""
    return followed.generation, followed.reason, followed.problems
