"""`penstock validate --live`: whether a worker could run here and now, in one report.

The checks are those that a worker makes at its start, and what it would only meet later. Nothing is written, and no group is joined. A
check that fails hides none of the others, unless they need what failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from penstock import runtime
from penstock.cli.topics import LETTER_HEADERS
from penstock.control.rollout import outdated
from penstock.control.topics import CONTROL_CONFIG, STATUS_CONFIG, Topics, group_of
from penstock.control.trust.file import Trust
from penstock.errors import AccessRefused, PenstockError
from penstock.operate.desk import Desk
from penstock.runners import topics
from penstock.settings import Settings
from penstock.transports.kafka.connection import Admin

if TYPE_CHECKING:
    from penstock.runtime import Loaded

__all__ = ["Finding", "inspect"]

State = Literal["ok", "warning", "failed", "unknown"]
SKEW_S: Final = 5.0  # seconds between two clocks that deserve a word
# Without these the control log or the status topic loses what it must keep; of the others, a difference only costs.
_NEEDED: Final = frozenset({"cleanup.policy", "retention.ms", "retention.bytes", "message.timestamp.type"})


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. `error` is what made it fail, where that was an exception."""

    check: str
    state: State
    text: str
    error: PenstockError | None = None


def inspect(loaded: Loaded, settings: Settings) -> Iterator[Finding]:
    """Yields the findings in the order in which a person would fix them. Blocks."""
    yield _guarded("models", lambda: _models(loaded, settings))
    if settings.releases:
        yield _guarded("trust", lambda: _trust(loaded, settings))
    admin, name = None, loaded.topology.name
    try:
        admin = Admin(settings)
        yield Finding("brokers", "ok", f"{settings.brokers} answers: cluster {admin.cluster_id()}")
    except PenstockError as error:
        yield Finding("brokers", "failed", str(error), error)
        return
    try:
        shares = runtime.shares(loaded, f"{settings.application}.{name}")
        admin.require({topic for share in shares.values() for topic in topics.named(share, settings)})  # all that are missing, at once
        found = {topic: one for share in shares.values() for topic, one in topics.described(admin, share, settings).items()}
    except PenstockError as error:
        yield Finding("topics", "failed", str(error), error)
        return
    yield Finding("topics", "ok", ", ".join(f"{topic} ({one.partitions})" for topic, one in found.items()))
    yield from _configuration(admin, loaded, settings)
    for process, share in shares.items():
        yield from _access(admin, share, settings, group_of(settings.application, name, process))
    if settings.releases:
        try:
            yield from asyncio.run(_workers(loaded, settings))
        except PenstockError as error:
            state: State = "unknown" if isinstance(error, AccessRefused) else "failed"
            yield Finding("workers", state, f"the releases of {name} cannot be read: {error}", error)


def _guarded(check: str, make: Callable[[], Finding]) -> Finding:
    try:
        return make()
    except PenstockError as error:
        return Finding(check, "failed", str(error), error)


def _models(loaded: Loaded, settings: Settings) -> Finding:
    """Loads every model as a worker does: signature, digest, golden records."""
    runtime.prepare(loaded, settings, warm_rows=1)
    versions = ", ".join(dict.fromkeys(map(str, loaded.artifacts.values())))
    return Finding("models", "ok", f"verified and loaded: {versions or 'the topology has none'}")


def _trust(loaded: Loaded, settings: Settings) -> Finding:
    if settings.unsigned_control:
        return Finding("trust", "warning", "unsigned control messages are accepted: for development only")
    name, now = loaded.topology.name, time.time() * 1000
    keys = [one for one in Trust.load(settings.trust).keys.values() if one.serves(name)]
    good = [one.name for one in keys if one.fault(now) is None]
    if good:
        return Finding("trust", "ok", f"{settings.trust}: releases of {name} are accepted from {', '.join(good)}")
    faults = "; ".join(fault.why for one in keys if (fault := one.fault(now)) is not None)
    why = faults or f"{settings.trust} has no key for it"
    return Finding("trust", "warning", f"no release of {name} would be accepted: {why} (`penstock keys trust`)")


def _configuration(admin: Admin, loaded: Loaded, settings: Settings) -> Iterator[Finding]:
    """What the topics of releases must keep, and that a dead letter is larger than its record."""
    topology, wrong, known = loaded.topology, [], True
    releases = Topics.declared(settings.application, topology)
    needs = {releases.control: CONTROL_CONFIG, releases.status: STATUS_CONFIG} if settings.releases else {}
    found = admin.configs([*needs, *(topic for one in topology.sources for topic in (one.topic, one.dead_letter)), *_tables(loaded)])
    for topic, wanted in needs.items():
        known &= topic in found
        for name, value in wanted.items():
            if topic in found and (there := found[topic].get(name, "")) != value:
                fix = f"kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {name}={value}"
                wrong.append(
                    Finding("topics", "failed" if name in _NEEDED else "warning", f"{topic} has {name}={there}, not {value}: {fix}")
                )
    for topic, history in _tables(loaded).items():
        known &= topic in found
        if topic in found and "delete" in (policy := found[topic].get("cleanup.policy", "")):
            fix = f"kafka-configs --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=compact"
            text = f"{topic} has cleanup.policy={policy}: rows of the table go when they are old; {fix}"
            wrong.append(Finding("topics", "warning", text))
        elif topic in found and (lag := int(found[topic].get("min.compaction.lag.ms", "0"))) < history:
            fix = f"kafka-configs --alter --entity-type topics --entity-name {topic} --add-config min.compaction.lag.ms={history}"
            text = f"{topic} has min.compaction.lag.ms={lag}: rows may go before the history of the table ends; {fix}"
            wrong.append(Finding("topics", "warning", text))
    for source in topology.sources:
        known &= {source.topic, source.dead_letter} <= found.keys()
        if {source.topic, source.dead_letter} <= found.keys():
            record, letter = (int(found[topic]["max.message.bytes"]) for topic in (source.topic, source.dead_letter))
            if letter < record + LETTER_HEADERS:
                text = f"{source.dead_letter} takes {letter} bytes, {source.topic} {record}: the largest dead letters are cut"
                wrong.append(Finding("topics", "warning", f"{text}; max.message.bytes={record + LETTER_HEADERS} keeps them whole"))
    yield from wrong
    if not known:
        yield Finding("topics", "unknown", "the configuration of some topics may not be described: grant DescribeConfigs")
    elif not wrong:
        yield Finding("topics", "ok", "their configuration is what Penstock needs")


def _tables(loaded: Loaded) -> dict[str, int]:
    """Returns the history, ms, of each table that is read, by its topic."""
    return {topic: max(one.history_ms for one in loaded.topology.tables if one.topic == topic) for topic in topics.tables(loaded).values()}


def _access(admin: Admin, loaded: Loaded, settings: Settings, group: str) -> Iterator[Finding]:
    """What the worker's user may do, as docs/security.md lists it."""
    topology = loaded.topology
    needed = {topic: {"WRITE"} for topic in topics.written(loaded, settings)}
    needed |= {topic: {"READ", "WRITE"} for topic in topics.changelogs(loaded, settings).values()}
    for source in (one.source for stage in loaded.wiring.stages for one in stage.inputs):
        needed[source.topic] = needed.get(source.topic, set()) | {"READ"}
    needed |= {topic: {"READ"} for topic in topics.tables(loaded).values()}
    if settings.releases:
        control, status = Topics.declared(settings.application, topology)
        back = topology.releases.on_invalid == "rollback"
        needed |= {control: {"READ", "WRITE"} if back else {"READ"}, status: {"READ", "WRITE"} if back else {"WRITE"}}
    found = admin.allowed(needed, group)
    lacking: dict[str, set[str]] = {f"topic {name}": asked - found[name] for name, asked in needed.items() if name in found}
    if "" in found:
        lacking[f"group {group}"] = {"READ"} - found[""]
    if refused := {name: asked for name, asked in lacking.items() if asked}:
        listed = "; ".join(f"{' and '.join(map(str.title, sorted(asked)))} on {name}" for name, asked in refused.items())
        yield Finding("access", "failed", f"{settings.sasl_username or 'this user'} lacks {listed} (docs/security.md)")
    if unknown := [name or f"the group {group}" for name in (*needed, "") if name not in found]:
        yield Finding("access", "unknown", f"the brokers do not say what is allowed for {', '.join(unknown)}")
    elif not refused:
        yield Finding(
            "access",
            "ok",
            f"{settings.sasl_username or 'this user'} may do what a worker does, on {len(needed)} topics and the group {group}",
        )


async def _workers(loaded: Loaded, settings: Settings) -> list[Finding]:
    """What runs now: the generation, workers of other versions, and the brokers' clock beside this host's."""
    found: list[Finding] = []
    async with Desk(settings, loaded.topology) as desk:
        live = desk.fleet.live()
        if old := outdated(desk.fleet.workers()):
            listed = "; ".join(f"{one.worker}: {one.detail}" for one in old)
            found.append(Finding("workers", "warning", f"{len(old)} of {len(live)} run an older Penstock: {listed}"))
        text = f"generation {desk.log.generation}, {len(live)} live: {', '.join(one.name for one in live) or 'none yet'}"
        found.append(Finding("workers", "warning" if any(not one.status.ready for one in live) else "ok", text))
        until = time.monotonic() + settings.status_interval + 1.0
        while live and desk.fleet.clock.ahead_s is None and time.monotonic() < until:
            await desk.look(until - time.monotonic())
        ahead = desk.fleet.clock.ahead_s
    if ahead is None:
        found.append(Finding("clock", "unknown", "no worker reports, and so no stamp of the brokers to compare with"))
    elif abs(ahead) > SKEW_S:
        way = "ahead of" if ahead > 0 else "behind"
        fix = "set both by NTP: keys are trusted and begin to be by the brokers' clock"
        found.append(Finding("clock", "warning", f"the brokers' clock is {abs(ahead):.0f} s {way} this host's: {fix}"))
    else:
        found.append(Finding("clock", "ok", f"the brokers' clock and this host's differ by less than {SKEW_S:g} s"))
    return found
