"""A service's side of the releases: a worker that reads no partition. It reports like one, and `penstock deploy` waits for it.

Its reports count by its membership of a second consumer group (`transports/kafka/membership`), beside that of the workers. It continues to
answer with what it has while the brokers are away.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from penstock.control.messages import new_id
from penstock.control.topics import Groups
from penstock.control.trust import Trust
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.telemetry.health import Condition
from penstock.transports.kafka.connection import aiokafka_arguments
from penstock.transports.kafka.membership import Membership
from penstock.worker.follower import Follower

__all__ = ["Member"]


class Member(Follower):
    """Follows the releases of one topology for a process that answers requests.

    Inside `following`, `deployment` is what answers (take it once per request), `followed` how current that is, and `conditions` whether
    the process is ready. `recent` is an observer of executed chunks: what it has seen is what releases are proved and guarded on. Assign
    `ready` to report another readiness than `conditions`.
    """

    role: ClassVar[str] = "service"

    def __init__(self, loaded: Loaded, settings: Settings, cluster: str, metrics: Metrics) -> None:
        super().__init__(loaded, settings, cluster, metrics)
        self.ready = lambda: all(one.holds for one in self.conditions())
        self.answering = lambda: not self.problems.about("brokers")

    def conditions(self) -> tuple[Condition, ...]:
        """Returns the conditions of readiness: the control log was read, models are warm, and releases wait for this process.

        Brokers that are away do not make it unready: it answers with the generation that it has, and says how long ago that was confirmed.
        """
        if not hasattr(self, "deployment"):
            return (Condition("models", False, "being made ready"),)
        followed = self.followed
        since = f"confirmed {followed.seconds:.0f} s ago" + (f": {followed.reason}" if followed.reason else "")
        return (
            Condition("running", not self._stopping, "stopping" if self._stopping else "running"),
            Condition("control", not self.folding.lost, since),
            Condition("models", True, f"generation {followed.generation}, active is {followed.active}"),
            Condition("member", self._membership.joined, self.problems.about("member") or self._membership.group),
        )

    def _name(self) -> str:
        """Returns a name per process: static membership is for partitions, and a service beside a worker must not take its name."""
        return f"{socket.gethostname()}.{os.getpid()}.{new_id()[-4:]}"

    async def _begin(self, stack: AsyncExitStack, trust: Trust) -> None:
        settings = self._settings
        await super()._begin(stack, trust)
        self._metrics.control_age_seconds.set_function(lambda: {(): time.monotonic() - self._confirmed})
        self._membership = Membership(
            aiokafka_arguments(settings),
            Groups.of(settings.application, self._loaded.topology).services,
            self.topics.control,
            self.identity.shown,
            session_timeout=settings.session_timeout,
            say=self._say_member,
        )

    def _duties(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield from super()._duties()
        yield self._membership.run()
        yield self._confirm([*self.topics])

    def _say_member(self, what: str) -> None:
        self.problems.say("member", what)
        self.reporter.changed()
