"""Releases from a Python program: the functions behind `penstock deploy`, `rollback`, `status` and `history`, over the same operator.

    releases = penstock.connect("localhost:9092", signing_key="ci.pem", trust="trust.toml")
    releases.deploy("flights", trees="flight-trees@2", reason="retrained on autumn")

Each call connects, does its work and disconnects. Calls block, and may come from several threads, or where an event loop runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from penstock import settings as configuration
from penstock.control.messages import Release
from penstock.control.proposal import Change
from penstock.control.strategy import SINGLE, Strategy
from penstock.operate.comparing import Compared
from penstock.operate.operator import Deployed, Operator, Watcher, operate
from penstock.operate.state import Past, Status, history, past, status
from penstock.settings import Settings
from penstock.topology.find import find
from penstock.topology.parse import parse
from penstock.topology.spec import Topology

__all__ = ["Releases", "connect"]

T = TypeVar("T")
Changes = Mapping[str, str | Change]


def connect(brokers: str | None = None, *, config: str | Path | None = None, **settings: Any) -> Releases:
    """Returns the releases on these brokers, `localhost:9092`. Connects at each call, not here.

    What is left out is as on the command line: from the environment, then from `config` or `penstock.toml`, else the default. `settings`
    are any by name: `signing_key` signs what is written, and has to be a key of the file `trust`; `topologies`, `models` and `schemas` are
    the folders; `application` is that of the workers. Raises SettingsError.
    """
    return Releases(configuration.load({"brokers": brokers, **settings}, file=None if config is None else Path(config), spelled=str))


class Releases:
    """The releases of the topologies of an application. `connect` makes it.

    A topology is given as its file, or as its name in the folder `topologies`. Every method raises TopologyError or ConfigError for one
    that is not there, SettingsError without brokers, ConfigError for a trust file that cannot be used, TransportUnavailable for brokers
    that do not answer, TopicMissing where the topics of its releases do not exist, AccessRefused where these may not be read or written.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def deploy(
        self, topology: str | Path, changes: Changes | None = None, /, *, strategy: Strategy = SINGLE, reason: str = "",
        min_ready: int | None = None, timeout: float | None = None, wait: bool = True, on_progress: Watcher | None = None,
        **nodes: str | Change,
    ) -> Deployed:  # fmt: skip
        """Releases other models: `deploy("flights", trees="flight-trees@2")`. Returns when they are active and every live worker scores
        with them, or is in `late` of the result.

        `changes` and `nodes` are by node: `NAME@VERSION` or `NAME@ALIAS`, or a Change, which also holds parameters. A node called like an
        option is given in `changes`. All live workers and services have to be ready, or `min_ready` of them; 0 deploys for later ones.
        `timeout` is the time to become ready, in seconds (default: the setting prepare_timeout, and 10 s). Without `wait` the release is
        only announced. `on_progress` is called at each change. An interrupt before the activation aborts the release.

        With a `strategy` of `penstock.control.strategy` (`Canary((0.01, 0.05, 0.25))`, `Split(0.5)`) it is on trial when it is
        active: what is live stays live, until `promote` or `abort`.

        Raises ControlError when the release was not activated, with the reason of each worker, and `code`; ConfigError without a signing
        key or with one that is not trusted, and for unknown nodes; ModelError for a version that the registry lacks or that is damaged;
        TopologyError for one that does not fit; TypeError and ValueError for an argument that is nothing of that kind.
        """
        wanted = _wanted({**(changes or {}), **nodes})
        options: dict[str, Any] = {"strategy": strategy, "reason": reason, **_patience(min_ready, timeout), "wait": wait}
        return self._ask(topology, lambda it: it.deploy(wanted, **options, **_watching(on_progress)))

    def rollback(
        self, topology: str | Path, to: int | str | None = None, *, reason: str = "", min_ready: int | None = None,
        timeout: float | None = None, wait: bool = True, on_progress: Watcher | None = None,
    ) -> Deployed:  # fmt: skip
        """Releases what an earlier generation bound: the one before, or that with the number or the release id `to`. See `deploy`.

        While a release is on trial, its trial is ended instead, and `outcome` of the result is `aborted`; with `to` that is refused.

        Raises ControlError, also when there is no such generation; ConfigError as `deploy`.
        """
        options: dict[str, Any] = {"reason": reason, **_patience(min_ready, timeout), "wait": wait}
        return self._ask(topology, lambda it: it.rollback(to, **options, **_watching(on_progress)))

    def resume(
        self, topology: str | Path, id: str, *, min_ready: int | None = None, timeout: float | None = None,
        on_progress: Watcher | None = None,
    ) -> Deployed:  # fmt: skip
        """Continues with a release that was announced: `id`, or its beginning. See `deploy`. Raises ControlError, ConfigError."""
        return self._ask(topology, lambda it: it.resume(id, **_patience(min_ready, timeout), **_watching(on_progress)))

    def promote(
        self, topology: str | Path, id: str | None = None, *, full: bool = False, resume: bool = False, reason: str = "",
        on_progress: Watcher | None = None,
    ) -> Deployed:  # fmt: skip
        """Leads the release on trial to its next step, or makes it live after the last one; with `full`, at once. See `deploy`.

        `id`, or its beginning, names the one that is meant. Raises ControlError when that is not on trial, is paused (unless this says
        that it may `resume`), or was moved by another message first; ConfigError as `deploy`.
        """
        options: dict[str, Any] = {"full": full, "resume": resume, "reason": reason}
        return self._ask(topology, lambda it: it.promote(id, **options, **_watching(on_progress)))

    def pause(self, topology: str | Path, id: str | None = None, *, reason: str = "") -> Release:
        """Keeps the release on trial (`id`, or its beginning) at its step. Raises ControlError when it is not on trial, or is paused."""
        return self._ask(topology, lambda it: it.pause(id, reason))

    def abort(self, topology: str | Path, id: str | None = None, *, reason: str = "") -> Release:
        """Ends a release that is pending (`id`, or its beginning), or the trial of one: without an id, that of the one on trial.

        Raises ControlError when it is neither; ConfigError as `deploy`.
        """
        return self._ask(topology, lambda it: it.abort(id, reason))

    def compare(
        self, topology: str | Path, changes: Changes | None = None, /, *, strategy: Strategy = SINGLE, **nodes: str | Change
    ) -> tuple[Compared, ...]:
        """Returns what `deploy` would change, with the metrics before and after, once all checks of a dry run have passed.

        Writes nothing, and needs no key. Raises ControlError when nothing would change; ConfigError, ModelError, TopologyError as `deploy`.
        """

        wanted = _wanted({**(changes or {}), **nodes})

        async def look(operator: Operator) -> tuple[Compared, ...]:
            proposal = await operator.propose(wanted, strategy)
            return await operator.compare(proposal.differences)

        return self._ask(topology, look)

    def status(self, topology: str | Path) -> Status:
        """Returns the active generation, pending releases, every worker and service, and the problems that need a person."""

        async def look(operator: Operator) -> Status:
            await operator.refresh()
            return status(operator)

        return self._ask(topology, look)

    def history(self, topology: str | Path, *, limit: int = 20, everything: bool = False) -> tuple[Past, ...]:
        """Returns the last `limit` releases that are or were active, the newest first; with `everything`, also all others."""

        async def look(operator: Operator) -> tuple[Past, ...]:
            log = await operator.state()
            return tuple(past(log, one) for one in history(log, limit=limit, everything=everything))

        return self._ask(topology, look)

    def _ask(self, topology: str | Path, act: Callable[[Operator], Awaitable[T]]) -> T:
        return operate(self.settings, self._find(topology), act)

    def _find(self, topology: str | Path) -> Topology:
        return parse(find(topology, self.settings.topologies))


def _wanted(changes: Changes) -> Changes:
    for node, change in changes.items():
        if not isinstance(change, str | Change):
            raise TypeError(f"{node}: a model is named as text, NAME@VERSION or NAME@ALIAS, or in a Change, not by {change!r}")
    return changes


def _patience(min_ready: int | None, timeout: float | None) -> dict[str, Any]:
    for name, value in (("min_ready", min_ready), ("timeout", timeout)):
        if value is not None and not value >= 0:  # NaN is not, too
            raise ValueError(f"{name}: {value} is not 0 or more")
    return {"min_ready": min_ready, "timeout": timeout}


def _watching(on_progress: Watcher | None) -> dict[str, Any]:
    return {} if on_progress is None else {"on_progress": on_progress}
