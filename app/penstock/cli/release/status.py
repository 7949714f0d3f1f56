"""`penstock status`: the active generation, the state of every worker, and whether a person should look."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
import msgspec
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from penstock.cli.options import with_settings
from penstock.cli.output import format_option, out, print_json, print_json_line, table
from penstock.cli.release.asking import LOOKING, ask, named, topology_argument
from penstock.cli.release.words import author_of, coloured, known_json, moment, release_json, trial_of, without_effect
from penstock.control.fleet import Worker
from penstock.control.lifecycle import ENDS
from penstock.control.messages import timestamp
from penstock.control.status import Place, WorkerStatus
from penstock.operate.operator import Operator
from penstock.operate.state import duration, problems, short
from penstock.settings import Settings

__all__ = ["status"]


@click.command()
@topology_argument
@click.option("--watch", is_flag=True, help="Print again every second, until Ctrl-C.")
@with_settings(*LOOKING)
@format_option
def status(topology: str, watch: bool, settings: Settings, form: str) -> int:
    """Print the active generation of TOPOLOGY, the release on trial, and each worker with the states of the releases on it.

    A worker counts as lost when it has not reported for five times --status-interval, at least 10 s. After a minute it counts as
    replaced if live workers have all its partitions; after an hour it is no longer listed. Exit code 1 when a person should look:
    there is no live worker, or none of a stage, or a worker is lost and not replaced, or not ready, scores with
    another generation than the active one, runs a Penstock that is too old for new releases, or reports a problem; or more than 1 %
    of the records that it finished in the last minute became dead letters, or a partition is slowed to --dead-letter-rate; or a
    recent report is of no member of the consumer group, or the status topic keeps the writers' times.
    Dead letters are counted by the step that failed (read, decode, a node, encode, send) and the class of the error.
    """
    found = named(topology, settings)
    if not watch:
        return ask(settings, found, lambda it: _once(it, form))
    try:
        return ask(settings, found, lambda it: _again(it, form))
    except KeyboardInterrupt:
        return 0


async def _once(operator: Operator, form: str) -> int:
    await operator.refresh()
    if form == "json":
        print_json(_json(operator))
    else:
        out.print(_picture(operator))
    return 1 if any(problems(operator)) else 0


async def _again(operator: Operator, form: str) -> int:
    if form == "json":
        while True:
            await operator.refresh()
            print_json_line(_json(operator))
            await asyncio.sleep(1)
    with Live(console=out, auto_refresh=False) as live:
        while True:
            await operator.refresh()
            live.update(_picture(operator), refresh=True)
            await asyncio.sleep(1)


def _dead_letters(reports: Iterable[WorkerStatus]) -> list[dict[str, Any]]:
    """Returns the dead letters of these workers by step and kind of error, the most frequent first: recently per second, and in total."""
    sums: dict[tuple[str, str], tuple[float, int]] = {}
    for letters in filter(None, (one.dead_letters for one in reports)):
        for cause in letters.causes:
            rate, total = sums.get((cause.step, cause.reason), (0.0, 0))
            sums[cause.step, cause.reason] = rate + letters.per_second(cause.recent), total + cause.total
    listed = [{"step": step, "reason": reason, "per_second": rate, "total": total} for (step, reason), (rate, total) in sums.items()]
    return sorted(listed, key=lambda one: (one["per_second"], one["total"]), reverse=True)


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 or not per_second else f"{per_second:.2g}"


def _age(operator: Operator, worker: Worker) -> str:
    return duration(max(operator.fleet.clock.now_ms() - worker.said_ms, 0) / 1000)


def _json(operator: Operator) -> dict[str, Any]:
    log = operator.log
    live = log.generations[-1].live if log.generations else None
    return {
        "topology": operator.topology.name,
        "generation": log.generation,
        "release": release_json(live) if live and live.id else None,
        "trial": known_json(log, log.releases[log.candidate.id]) if log.candidate else None,
        "pending": [known_json(log, log.releases[one.id]) for one in log.pending],
        "refused": dict(log.refused + log.ignored),
        "strange": dict(operator.fleet.strange),
        "unchecked": operator.unchecked or None,
        "wrong": list(problems(operator)),
        "dead_letters": _dead_letters(one.status for one in operator.fleet.live()),
        "workers": [
            {
                **msgspec.to_builtins(one.status),
                "reads": one.status.reads,
                "live": one.live,
                "replaced": one.member and not one.live and operator.fleet.replaced(one),
                "member": one.member,
                "said": timestamp(one.said_ms / 1000),
                "dead_letters": _dead_letters([one.status]) if one.status.dead_letters else None,
            }
            for one in operator.fleet.workers()
        ],
    }


def _picture(operator: Operator) -> RenderableType:
    log = operator.log
    parts: list[RenderableType] = [Text.from_markup(f"[bold]{operator.topology.name}[/]: {_active(operator)}")]
    if trial := trial_of(log):
        parts.append(Text(f"on trial: {trial}", style="yellow"))
    parts += [Text(f"pending: {one.id} by {author_of(one)}: {one.reason or 'no reason given'}", style="yellow") for one in log.pending]
    shown = table("", "worker", "", "generation", "ready", "partitions", "lag", "dead letters/s", "releases", "said", wraps="releases")
    for one in operator.fleet.workers():
        report, places = one.status, one.status.partitions
        lags = [place.lag for place in places.values() if place.lag is not None]
        shown.add_row(
            escape(f"{one.name} ({what})" if (what := one.status.role or one.status.stage) else one.name),
            _presence(operator, one),
            str(one.generation) if one.generation == log.generation else f"[red]{one.generation}[/]",
            "yes" if report.ready else "[red]no[/]",
            escape("\n".join(_ranges(places))) or "-",
            f"{sum(lags):,}" if lags else "-",
            _rate(sum(cause["per_second"] for cause in _dead_letters([report]))) if report.dead_letters else "-",
            "\n".join(_releases(operator, one)) or "-",
            f"{_age(operator, one)} ago",
        )
    if shown.row_count:
        parts += [Text(), shown]
    if causes := _dead_letters(one.status for one in operator.fleet.live()):
        letters = table("dead letters of the live workers", "step", "error", "per second", "total")
        for cause in causes:
            letters.add_row(escape(cause["step"]), escape(cause["reason"]), _rate(cause["per_second"]), f"{cause['total']:,}")
        parts += [Text(), letters]
    if vain := without_effect(log):
        parts += [Text(), Text(vain, style="yellow")]
    if strange := operator.fleet.strange.total():
        parts.append(Text(f"{strange} status records cannot be read; the last: {operator.fleet.last_strange}", style="yellow"))
    if operator.unchecked:
        parts.append(Text(operator.unchecked, style="yellow"))
    if untrusting := [one.name for one in operator.fleet.live() if one.status.trusts == 0 and not one.status.unsigned]:
        text = f"no key is trusted by {', '.join(untrusting)}, which refuse every release: give each a trust file (`penstock keys trust`)"
        parts.append(Text(text, style="yellow"))
    if any(one.live and one.status.unsigned for one in operator.fleet.workers()):
        parts.append(Text("UNSIGNED: workers accept unsigned control messages. For development only.", style="bold red"))
    if wrong := list(problems(operator)):
        parts += [Text(), *(Text(f"! {one}", style="red") for one in wrong)]
    return Group(*parts)


def _ranges(places: Mapping[str, Place]) -> Iterator[str]:
    """Yields the partitions by topic, runs of them as one: `orders/0-2,5`; those that are slowed apart."""
    topics: dict[tuple[str, bool], list[int]] = {}
    for name, place in places.items():
        topic, _, number = name.rpartition("/")
        if number.isascii() and number.isdecimal() and len(number) < 10:
            topics.setdefault((topic, place.slowed), []).append(int(number))
        else:  # a report is text that others wrote
            yield name
    for (topic, slowed), numbers in topics.items():
        runs: list[list[int]] = []
        for one in sorted(numbers):
            if runs and one == runs[-1][-1] + 1:
                runs[-1].append(one)
            else:
                runs.append([one])
        shown = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
        yield f"{topic}/{shown}" + (" (slowed)" if slowed else "")


def _active(operator: Operator) -> str:
    log = operator.log
    if not log.generations:
        return "generation [bold]0[/], what the topology file binds"
    newest = log.generations[-1]
    release = newest.live
    by = f"release {short(release.id)} by {escape(author_of(release))}" if release.id else "what the topology file binds"
    by += f": {escape(release.reason)}" if release.reason else ""
    return f"generation [bold]{newest.number}[/] since {moment(newest.at_ms)}, {by}"


def _presence(operator: Operator, worker: Worker) -> str:
    if worker.live:
        return "[green]live[/]"
    if not worker.member:
        return "[red]no member[/]"
    return "lost, replaced" if operator.fleet.replaced(worker) else "[red]lost[/]"


def _releases(operator: Operator, worker: Worker) -> Iterator[str]:
    """Yields the releases in preparation on the worker, and recently ended ones, whose reason a person may need."""
    newest = {one.release.id for one in operator.log.generations[-2:]} | {one.id for one in operator.log.pending}
    for one in worker.status.releases[-5:]:
        if one.state not in ENDS or one.id in newest or one is worker.status.releases[-1]:
            yield f"{escape(short(one.id))} {coloured(one.state)}" + (f": {escape(one.detail)}" if one.detail else "")
