"""The state of a topology's releases and workers as values: what `penstock status` and `penstock history` print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from penstock.control.fleet import Worker
from penstock.control.log import Known, Log, Standing
from penstock.control.messages import AHEAD, Release, timestamp
from penstock.control.proposal import Difference, changes_of
from penstock.control.rollout import REFUSED, stands
from penstock.control.status import WorkerStatus
from penstock.control.strategy import Strategy, kind_of, shares_of
from penstock.operate.operator import Operator

__all__ = ["Past", "Status", "Trial", "described", "duration", "history", "past", "percent", "problems", "share", "short", "status"]

DEAD_SHARE: Final = 0.01  # the share of a worker's recent records above which dead letters need a person


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The trial of a release: the generation that it began with, and the last one that it had, with its share of the units and its step.

    `step` counts from 1; after the last of `steps` the release is live. `paused` holds for a trial that is on. `ended` is the generation
    that ended it, in which the release is live or was aborted; None while it is on.
    """

    generation: int
    begun: str
    begun_by: str
    last: int
    share: float
    step: int
    steps: int
    paused: bool
    ended: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A release and its result so far. Times are RFC 3339, UTC, by the brokers' clock.

    `generation`, `activated` and `activated_by` are of the first generation in which the release was live, None for one that was never.
    `trial` is None for a release that was never a candidate. `why` is the reason of its standing, `offset` that of its announcement on
    the control topic.
    """

    release: Release
    standing: Standing
    why: str
    announced: str
    offset: int
    changes: tuple[Difference, ...]
    generation: int | None = None
    activated: str | None = None
    activated_by: str | None = None
    trial: Trial | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A topology's releases and workers at one moment.

    `release` is the live one, None where that is what the topology file binds; `trial` is the candidate beside it, None without one.
    `workers` are those that reported within the last hour, services included. `problems` need a person; without any, all is well.
    `refused` counts control messages without effect, by cause. `unchecked` is why reports of workers were taken as they are, "" when
    only those of members of the consumer groups count.
    """

    topology: str
    generation: int
    release: Release | None
    trial: Past | None
    pending: tuple[Past, ...]
    workers: tuple[Worker, ...]
    problems: tuple[str, ...]
    refused: Mapping[str, int]
    unchecked: str


def short(id: str) -> str:
    """Returns the beginning of an id: its time, to the millisecond. Every command accepts it."""
    return id[:13]


def duration(seconds: float) -> str:
    """Returns a duration as text: `34 ms`, `12 s`, `3 min`, `2 h`, `5 d`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def share(of: float) -> str:
    """Returns the share of a trial, which people have written, with all its digits: `5 %`, `0.25 %`."""
    return f"{100 * of:.6g} %"


def past(log: Log, known: Known) -> Past:
    """Returns a release of the log, and its result so far."""
    generation = next((one for one in log.generations if one.live.id == known.release.id), None)
    return Past(
        release=known.release,
        standing=known.standing,
        why=known.why,
        announced=timestamp(known.at_ms / 1000),
        offset=known.offset,
        changes=changes_of(log, known.release),
        generation=generation and generation.number,
        activated=generation and timestamp(generation.at_ms / 1000),
        activated_by=generation and generation.activated_by,
        trial=_trial(log, known.release),
    )


def _trial(log: Log, release: Release) -> Trial | None:
    tried = [one for one in log.generations if one.candidate is not None and one.candidate.id == release.id]
    if not tried:
        return None
    first, last = tried[0], tried[-1]
    return Trial(
        generation=first.number,
        begun=timestamp(first.at_ms / 1000),
        begun_by=first.activated_by,
        last=last.number,
        share=last.share,
        step=last.step + 1,
        steps=len(shares_of(release.strategy)),
        paused=log.paused and log.tries(release.id),
        ended=None if log.tries(release.id) else last.number + 1,
    )


def described(strategy: Strategy, answers: float) -> str:
    """Returns the state of a trial in words: the strategy, the step, and the share of the units that the candidate answers."""
    text, shares = kind_of(strategy), shares_of(strategy)
    if len(shares) > 1:
        text += f", step {shares.index(answers) + 1} of {len(shares)}"
    return f"{text}: answers {share(answers)} of the units"


def history(log: Log, *, limit: int, everything: bool) -> list[Known]:
    """Returns the releases that are or were active or on trial, the newest first; with `everything`, also those that never were."""
    made = {one.release.id for one in log.generations}
    shown = [known for known in log.releases.values() if everything or known.release.id in made]
    return sorted(shown, key=lambda known: known.offset, reverse=True)[:limit]


def status(operator: Operator) -> Status:
    """Returns the state as far as the operator has read it."""
    log = operator.log
    live = log.generations[-1].live if log.generations else None
    return Status(
        topology=operator.topology.name,
        generation=log.generation,
        release=live if live and live.id else None,
        trial=past(log, log.releases[log.candidate.id]) if log.candidate else None,
        pending=tuple(past(log, log.releases[one.id]) for one in log.pending),
        workers=tuple(operator.fleet.workers()),
        problems=tuple(problems(operator)),
        refused=dict(log.refused + log.ignored),
        unchecked=operator.unchecked,
    )


def problems(operator: Operator) -> Iterator[str]:
    """Yields the problems that a person should look at."""
    log, workers = operator.log, operator.fleet.workers()
    if not any(one.live for one in workers):
        yield "no live worker"
    for stage in operator.fleet.lacking():
        yield f"no live worker runs the stage {stage}: penstock run {operator.topology.name} --stage {stage}"
    if newer := sum(log.refused[code] for code in AHEAD):
        yield f"{newer} control messages are of a newer version: the active generation may be another one; upgrade this Penstock"
    if newer := operator.fleet.strange["newer"]:
        yield f"{newer} status records are of a newer version: their workers are not listed here; upgrade this Penstock"
    if not operator.fleet.stamped:
        yield (
            f"{operator.status_topic} keeps the writers' times, so a wrong clock shows a worker as lost: kafka-configs --bootstrap-server "
            f"{operator.settings.brokers} --alter --entity-type topics --entity-name {operator.status_topic} "
            "--add-config message.timestamp.type=LogAppendTime"
        )
    for one in workers:
        if not one.member:  # whatever such a report names, no worker may be lost with it
            if operator.fleet.clock.now_ms() - one.said_ms <= operator.fleet.silence * 1000:
                yield f"{one.name} is no member of the consumer group, and is ignored: it has left, is starting, or is forged"
        elif not one.live:
            if not operator.fleet.replaced(one):
                yield f"{one.name} has not reported for {_age(operator, one)}"
        else:
            yield from (f"{one.name}{problem}" for problem in (*_wrong_releases(operator, one), *_wrong_records(one.status)))
            yield from (f"{one.name}: {problem}" for problem in one.status.problems)


def _wrong_releases(operator: Operator, worker: Worker) -> Iterator[str]:
    """Yields what is wrong with the releases on this worker."""
    log = operator.log
    both = [one for made in log.generations[-1:] for one in (made.live, made.candidate)]
    newest = [one for one in both if one is not None and one.id]
    if worker.generation != log.generation:
        ids = [one.id for one in newest]
        why = next((entry.detail for entry in worker.status.releases if entry.state == "failed" and entry.id in ids), "")
        yield f" scores with generation {worker.generation}, active is {log.generation}" + (f": {why}" if why else "")
    if worker.outdated:
        yield f" runs an older Penstock: {worker.outdated}; upgrade and restart it, until then no release can be made"
    for known in [log.releases[one.id] for one in [*log.pending, *newest]]:
        if (stand := stands([worker], known.release.id, {known.offset: known.at_ms})[0]).state == REFUSED:
            yield f" has refused release {short(known.release.id)}: {stand.detail}"


def _wrong_records(report: WorkerStatus) -> Iterator[str]:
    """Yields what is wrong with the stream on a worker."""
    if not report.ready:
        yield " is not ready"
    letters = report.dead_letters
    if letters is not None and letters.share > DEAD_SHARE:
        worst = max(letters.causes, key=lambda cause: cause.recent)
        yield (
            f": {percent(letters.share)} of the records of the last {duration(letters.seconds)} became dead letters, most "
            f"of them in {worst.step} ({worst.reason}): the dead-letter topic has each record with the reason"
        )
    if slowed := [place for place, there in report.partitions.items() if there.slowed]:
        yield f": {', '.join(slowed)} slowed to dead_letter_rate: too many of the records there fail"


def _age(operator: Operator, worker: Worker) -> str:
    return duration(max(operator.fleet.clock.now_ms() - worker.said_ms, 0) / 1000)
