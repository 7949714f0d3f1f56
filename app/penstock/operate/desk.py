"""Both topics of a topology's releases, open: the desk folds what it reads, and writes messages.

Whose reports count is decided when the desk is opened: those of the members of the consumer groups of workers, one per stage of a
topology that is cut, and of services. Where the brokers may not or cannot describe that of the workers, all reports count, and
`unchecked` is the reason. Where only that of the services may not be described, no service counts, and `unchecked` is that. Where the
coordinator does not answer, the desk does not open: reports of others would count unseen. Once the members are known, the desk never goes
back: `refresh` needs an answer, and `look` continues with the last one.

Nothing happens between two calls: only a call reads entries, so the state never changes at another time. A message counts once it was
read back; before that, it is not known which other messages precede it on the topic.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

from penstock.control.fleet import Fleet, silence_after
from penstock.control.log import Log
from penstock.control.messages import Message, timestamp
from penstock.control.rights import check_share, listed, needed
from penstock.control.topics import Groups, Topics
from penstock.control.trust import NEXT, Judge, Trust
from penstock.control.trust.member import Group
from penstock.errors import AccessRefused, ControlError, TransportUnavailable
from penstock.operate.voice import Voice
from penstock.settings import Settings
from penstock.tame import UNPRINTABLE
from penstock.topology.spec import Topology
from penstock.transports.kafka.connection import Admin, aiokafka_arguments, patience_of
from penstock.transports.kafka.group import Described
from penstock.transports.kafka.journal import Entry, Reader, Writer

__all__ = ["Desk", "introduced"]

_NAME: Final = 200  # characters; the limit of a message
_REASON: Final = 1000  # characters; the limit of a message is a little higher
_ECHO_S: Final = 0.5
_LEAST_S: Final = 0.1  # for an answer, when the patience is over


def introduced(settings: Settings, topology: Topology) -> str:
    """Returns the id of the cluster. Blocks.

    Raises ConfigError for a trust file that cannot be used, before a broker is asked, and TopicMissing when the topics of the
    topology's releases do not exist there.
    """
    Trust.load(settings.trust)
    admin = Admin(settings)
    admin.describe(Topics.declared(settings.application, topology))
    return admin.cluster_id()


ATTEST_S: Final = 0.5  # between two questions who is in the group
SETTLES_S: Final = 5.0  # a command waits so long for a group whose members are changing
WAIT_MS = 50  # a request for the end of a topic waits behind an open fetch; an operator's command is short


class Desk:
    """Use as an async context manager; entering it reads both topics to their ends.

    Raises TransportUnavailable or AccessRefused for brokers that do not answer, also about the group, TopicMissing, ConfigError for a
    trust file that cannot be used. `cluster` is the result of `introduced`, for callers that already have it;
    `requested_by` is whom messages are written for, when that is not their author.
    """

    log: Log

    def __init__(self, settings: Settings, topology: Topology, cluster: str = "", requested_by: str = "") -> None:
        self._settings, self._topology, self._cluster, self._requested_by = settings, topology, cluster, requested_by
        self.topics = Topics.declared(settings.application, topology)
        self._groups = Groups.of(settings.application, topology)
        self.fleet = Fleet(silence_after(settings.status_interval))
        self._arguments = aiokafka_arguments(settings)
        self._patience = patience_of(settings)
        self._voice: Voice | None = None
        self._writer: Writer | None = None
        self._attested = 0.0  # when the last question about the group had ended
        self._refused = self._unseen = ""  # why the members of the groups are not known, of workers and of services

    async def __aenter__(self) -> Self:
        self._cluster = self._cluster or await asyncio.to_thread(introduced, self._settings, self._topology)
        self._trust = Trust.load(self._settings.trust)
        self.log = Log(Judge(self._topology.name, self._cluster, self.topics.control, self._trust, self._settings.unsigned_control))
        async with AsyncExitStack() as stack:
            self._status = await stack.enter_async_context(self._reader(self.topics.status))
            self._control = await stack.enter_async_context(self._reader(self.topics.control, whole=True))
            self._workers, self._services = {"": self._status.group(self._groups.workers[""])}, self._status.group(self._groups.services)
            await self.refresh()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    def _reader(self, topic: str, *, whole: bool = False) -> Reader:
        return Reader(self._arguments, topic, patience=self._patience, wait_ms=min(self._settings.fetch_wait_ms, WAIT_MS), whole=whole)

    async def refresh(self) -> None:
        """Reads both topics to their ends. The status topic is first, so no worker in it has read more releases than this desk then has.

        Raises TransportUnavailable when the brokers do not answer, and AccessRefused when the workers' group may no longer be described.
        """
        await self._attest()
        async for entries in self._status.until(await self._status.end()):
            for entry in entries:
                self.fleet.apply(entry)
        if self._meet_stages():
            await self._attest()
        async for entries in self._control.until(await self._control.end()):
            for entry in entries:
                self.log.apply(entry)

    def _meet_stages(self) -> bool:
        """Notes the groups of the stages that reports name, if the topology can have them. Returns whether there are new ones."""
        new = self.fleet.claimed() & self._groups.workers.keys() - self._workers.keys()
        self._workers |= {stage: self._status.group(self._groups.workers[stage]) for stage in sorted(new)}
        return bool(new)

    async def _attest(self) -> None:
        """Asks who is in the groups until the brokers answer. At first it waits for members that have only just joined."""
        begun, answered = time.monotonic(), False
        settled, until = begun + (0.0 if self.fleet.attested else SETTLES_S), begun + self._patience
        while True:
            try:
                unknown = await self._ask(max(until - time.monotonic(), _LEAST_S))
            except TransportUnavailable as error:
                if answered:
                    return
                if time.monotonic() + _ECHO_S > until:
                    advice = "so it is not known whose reports count; try again when its coordinator answers"
                    raise TransportUnavailable(f"{error}, {advice}") from error
                await asyncio.sleep(_ECHO_S)
            else:
                answered = True
                if not unknown or time.monotonic() > min(settled, until):
                    return
                await asyncio.sleep(_ECHO_S / 5)

    async def _ask(self, patience: float) -> int:
        """Asks once who is in the groups. Returns how many members are not described yet. Raises as `refresh`."""
        try:
            *found, services = await asyncio.gather(
                *(one.describe(patience) for one in self._workers.values()), self._members_of_services(patience)
            )
        except AccessRefused as error:
            if self.fleet.attested:
                raise
            self._refused = f"{error}: workers' reports are not checked; grant Describe on the group"
            return 0
        finally:
            self._attested = time.monotonic()
        self._refused = ""
        self.fleet.attest(Group.of([shown for one in found for shown in one.shown], services.shown))
        return sum(one.unknown for one in (*found, services))

    async def _members_of_services(self, patience: float) -> Described:
        """Returns the members of the group of services, or no member where it may not be described: users of an installation without
        services need no right to that group. Raises TransportUnavailable.
        """
        try:
            found = await self._services.describe(patience)
        except AccessRefused as error:
            self._unseen = f"{error}: services (`penstock serve`) are not waited for; grant Describe on the group"
            return Described([])
        self._unseen = ""
        return found

    @property
    def unchecked(self) -> str:
        """Why reports cannot be checked, of workers or of services that report; "" when they can."""
        return self._refused or (self._unseen if any(one.status.role for one in self.fleet.workers()) else "")

    async def look(self, wait: float) -> None:
        """Takes the entries that arrive first on either topic, within `wait` seconds."""
        if self._meet_stages() or time.monotonic() - self._attested > ATTEST_S:
            with contextlib.suppress(TransportUnavailable, AccessRefused):
                await self._ask(self._patience)
        takes = {asyncio.create_task(reader.take(wait)): reader for reader in (self._control, self._status)}
        try:
            await asyncio.wait(takes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in takes:
                task.cancel()  # nothing is lost: entries that were not returned stay in the client
            await asyncio.wait(takes)
        for task, reader in takes.items():
            if not task.cancelled():
                self._take(task.result(), self.log.apply if reader is self._control else self.fleet.apply)

    def _take(self, entries: list[Entry], apply: Callable[[Entry], object]) -> None:
        for entry in entries:
            apply(entry)
            if entry.stamped:
                self.fleet.clock.heard(entry.timestamp)

    async def say(self, message: Message) -> None:
        """Writes the message, and returns when it was read back. Raises ControlError when readers refuse it, and TransportError."""
        sealed = self._checked(message)
        if self._writer is None:
            self._writer = await self._stack.enter_async_context(Writer(self._arguments, patience=self._patience))
        offset = await self._writer.write(self.topics.control, message.id.encode(), sealed)
        try:
            async with asyncio.timeout(self._patience):
                while self.log.position <= offset:
                    await self.look(_ECHO_S)
        except TimeoutError as error:
            raise TransportUnavailable(f"{self.topics.control}: a written message was not read back within {self._patience:g} s") from error
        if refused := next((one for one in self.log.last_refused if one.offset == offset), None):
            raise ControlError(f"readers refuse the message: {refused.why}", code=refused.code)

    def _checked(self, message: Message) -> bytes:
        """Returns the sealed message. Raises ControlError when this desk, as a reader, would refuse it at this time."""
        sealed = self.voice().seal(message)
        now = int(self.fleet.clock.now_ms())
        try:
            self.log.judge(Entry(self.log.position, now, True, message.id.encode(), sealed))
        except ControlError as error:
            able = self._able(needed(self.log, message)) if error.code in {"not-allowed", "revoked", "expired"} else ""
            advice = able or (f"; {NEXT[error.code]}" if error.code in NEXT else "")
            raise ControlError(f"nothing was written, since readers would refuse it: {error}{advice}", code=error.code) from error
        return sealed

    def demand(self, rights: frozenset[str], share: float = 0.0) -> None:
        """Raises ControlError when the key of the settings has none of these rights now, with the names of those that have; or when it may
        not let a release answer this share of the units.

        ConfigError when the settings name no key, or one that is not trusted here.
        """
        voice = self.voice()
        own = None if voice.key is None else self._trust.keys[voice.key.kid]
        if own is not None and (fault := own.fault(self.fleet.clock.now_ms())):
            raise ControlError(f"{fault.why}. Nothing was written{self._able(rights)}", code=fault.code)
        if rights.isdisjoint(voice.may):
            what = f"{voice.author} may {listed(voice.may)}, and this needs the right to {listed(rights, 'or')}"
            raise ControlError(f"{what}. Nothing was written{self._able(rights)}", code="not-allowed")
        check_share(voice.author, share, 1.0 if own is None else own.max_share)

    def _able(self, rights: frozenset[str]) -> str:
        able = self._trust.able(self._topology.name, rights, self.fleet.clock.now_ms())
        return f"; by {self._settings.trust}, {', '.join(able)} may" if able else f"; no key of {self._settings.trust} may"

    def opening(self, id: str, reason: str = "") -> dict[str, Any]:
        """Returns the fields that every message has. Raises ConfigError when the settings name no author that is accepted."""
        return {
            "id": id,
            "topology": self._topology.name,
            "cluster": self._cluster,
            "control_topic": self.topics.control,
            "time": timestamp(),
            "author": self.voice().author,
            "requested_by": UNPRINTABLE.sub(" ", self._requested_by)[:_NAME],
            "reason": UNPRINTABLE.sub(" ", reason)[:_REASON],
        }

    def voice(self) -> Voice:
        """Returns the author of messages and their key. Raises ConfigError when the settings name no author that is accepted."""
        if self._voice is None:
            self._voice = Voice.of(self._settings, self._trust, self._topology.name)
        return self._voice

    def refusals(self) -> str:
        """Returns a text about the entries that were refused here, to add to another error; "" without refusals."""
        if not self.log.refused:
            return ""
        counted = ", ".join(f"{count} {code}" for code, count in self.log.refused.items())
        return f"refused here: {counted}; the last: {self.log.last_refused[-1].why}"
