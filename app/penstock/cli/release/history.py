"""`penstock history` and `penstock releases`: the generations and their times, and every release that was announced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import msgspec
from rich.markup import escape

from penstock.cli.options import with_settings
from penstock.cli.output import format_option, out, print_json, table
from penstock.cli.release.asking import LOOKING, ask, named, topology_argument
from penstock.cli.release.words import author_of, coloured, known_json, moment, short, without_effect
from penstock.control.fleet import Worker
from penstock.control.log import Known, Log, Standing
from penstock.control.proposal import changes_of, find
from penstock.control.rollout import Stand, stands
from penstock.control.status import Boundary
from penstock.control.strategy import kind_of
from penstock.operate.operator import Operator
from penstock.operate.state import Past, described, past, share
from penstock.operate.state import history as history_of
from penstock.settings import Settings

__all__ = ["history", "releases"]


@dataclass(frozen=True)
class _Seen:
    """The content of both topics at one moment."""

    log: Log
    workers: Sequence[Worker]
    boundaries: Sequence[Boundary]
    proven: Sequence[bool]


async def _look(operator: Operator) -> _Seen:
    await operator.refresh()
    boundaries = operator.fleet.boundaries()
    return _Seen(operator.log, operator.fleet.workers(), boundaries, [operator.fleet.proven(one) for one in boundaries])


@click.command()
@topology_argument
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="So many of the newest.")
@click.option("--all", "everything", is_flag=True, help="Also pending, aborted and rejected releases.")
@click.option("--boundaries", is_flag=True, help="Also the first offset of each generation in each input partition.")
@with_settings(*LOOKING)
@format_option
def history(topology: str, limit: int, everything: bool, boundaries: bool, settings: Settings, form: str) -> None:
    """Print the generations of TOPOLOGY, the newest first: time, author, reason and changes.

    Each step of a trial is a generation: of the release that was on trial, the first and the last are printed.

    A boundary is the input offset from which on a worker scored with a generation. So the generation of every prediction is
    known; its headers name it too. A boundary is proven when a worker that is in the consumer group now has signed it; others
    may be of a worker that has left, or of another client that can write to the status topic.
    """
    seen = ask(settings, named(topology, settings), _look)
    shown = history_of(seen.log, limit=limit, everything=everything)
    if form == "json":
        print_json(
            {
                "generation": seen.log.generation,
                "releases": [known_json(seen.log, known) for known in shown],
                "refused": dict(seen.log.refused + seen.log.ignored),
                **({"boundaries": _boundaries_json(seen)} if boundaries else {}),
            }
        )
        return
    _print_releases(seen.log, shown, everything=everything)
    if boundaries:
        out.print()
        _print_boundaries(seen)


@click.group()
def releases() -> None:
    """List all releases, or print one.

    \b
      penstock releases ls flights
      penstock releases show flights 0199d3c2
    """


@releases.command("ls")
@topology_argument
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="So many of the newest.")
@with_settings(*LOOKING)
@format_option
def ls(topology: str, limit: int, settings: Settings, form: str) -> None:
    """List the releases of TOPOLOGY, the newest first, with their results."""
    log = ask(settings, named(topology, settings), _look).log
    shown = history_of(log, limit=limit, everything=True)
    if form == "json":
        print_json([known_json(log, known) for known in shown])
    else:
        _print_releases(log, shown, everything=True)


@releases.command("show")
@topology_argument
@click.argument("id")
@with_settings(*LOOKING)
@format_option
def show(topology: str, id: str, settings: Settings, form: str) -> None:
    """Print the release ID of TOPOLOGY: its bindings and their digests, and its state on each worker.

    The beginning of an id is enough.
    """
    seen = ask(settings, named(topology, settings), _look)
    known = find(seen.log, id)
    told = [one for one in stands(seen.workers, known.release.id, {known.offset: known.at_ms}) if one.state]
    if form == "json":
        print_json({**known_json(seen.log, known), "workers": [one._asdict() for one in told]})
        return
    _print_release(seen.log, known, told)


def _print_releases(log: Log, shown: Sequence[Known], *, everything: bool) -> None:
    listed = table("", "generation", *(["standing"] if everything else []), "release", "strategy", "announced", "by", "changes", "reason")
    for known in shown:
        release = known.release
        seen = past(log, known)
        by = author_of(release)
        activated_by = seen.trial.begun_by if seen.trial else seen.activated_by
        if activated_by is not None and activated_by != release.author:
            by += f", activated by {activated_by}"
        standing = [coloured(known.standing)] if everything else []
        changes = "\n".join(map(str, seen.changes))
        back = "" if release.restores is None else f"(back to {release.restores}) "
        why = f"\n{known.why}" if known.standing in {"aborted", "rejected"} else ""
        listed.add_row(
            "\n".join(_generations(seen)),
            *standing,
            short(release.id),
            kind_of(release.strategy),
            moment(known.at_ms),
            escape(by),
            escape(changes),
            escape(f"{back}{release.reason}{why}"),
        )
    if log.generations and log.generations[0].release.id in {known.release.id for known in shown}:
        bound = "\n".join(f"{node}: {binding}" for node, binding in (log.bound(0) or {}).items())
        listed.add_row("0", *([""] if everything else []), "", "", "", "", bound, "what the topology file bound")
    if not log.generations:
        nothing = "no release of a key that is trusted here was activated" if log.refused else "no release was activated yet"
        out.print(f"generation 0 is active: what the topology file binds; {nothing}")
    if shown:
        out.print(listed)
    elif log.generations:
        out.print("nothing to show")
    if vain := without_effect(log):
        out.print(vain, style="yellow", markup=False)


def _generations(seen: Past) -> Iterator[str]:
    """Yields the generations that a release has made, as markup: those of its trial, and the one that it became live in."""
    if trial := seen.trial:
        numbers = str(trial.generation) if trial.last == trial.generation else f"{trial.generation}-{trial.last}"
        step = f", step {trial.step} of {trial.steps}" if trial.steps > 1 else ""
        if seen.generation is None and trial.ended is None:
            yield f"[yellow]{numbers}[/] on trial: {share(trial.share)}{step}" + (", paused" if trial.paused else "")
        else:
            yield f"{numbers} trial, up to {share(trial.share)}"
        if seen.generation is None and trial.ended is not None:
            yield f"{trial.ended} without it"
    if seen.generation is not None:
        number = f"[green]{seen.generation}[/]" if seen.standing is Standing.ACTIVE else str(seen.generation)
        yield f"{number} live" if seen.trial else number


def _boundaries_json(seen: _Seen) -> list[dict[str, Any]]:
    return [{**msgspec.to_builtins(one), "proven": sure} for one, sure in zip(seen.boundaries, seen.proven, strict=True)]


def _print_boundaries(seen: _Seen) -> None:
    if not seen.boundaries:
        out.print("no worker has reported a boundary yet")
        return
    listed = table("", "topic", "partition", "from offset", "generation", "worker", "by the worker's clock", "proven")
    for one, sure in zip(seen.boundaries, seen.proven, strict=True):
        place = (escape(one.topic), str(one.partition), str(one.offset), str(one.generation), escape(one.worker), escape(one.time))
        listed.add_row(*place, "yes" if sure else "no")
    out.print(listed)


def _print_release(log: Log, known: Known, told: Sequence[Stand]) -> None:
    release = known.release
    about: dict[str, Any] = {
        "standing": coloured(known.standing) + (f" {escape(known.why)}" if known.why else ""),
        "announced": f"{moment(known.at_ms)} by {escape(author_of(release))}, at offset {known.offset}",
        "for generation": f"{release.base}",
        "strategy": kind_of(release.strategy),
        "reason": escape(release.reason) or "-",
    }
    for generation in log.generations:
        if generation.release.id == release.id:
            what = "live" if generation.live.id == release.id else "without it"
            if generation.candidate is not None:
                what = described(release.strategy, generation.share)
            about[f"generation {generation.number}"] = f"since {moment(generation.at_ms)}, by {escape(generation.activated_by)}: {what}"
    if release.restores is not None:
        about["back to"] = f"generation {release.restores}"
    shown = table(release.id, "", "")
    for name, text in about.items():
        shown.add_row(name, text)
    out.print(shown)
    changed = {one.node for one in changes_of(log, release)}
    bound = table("\nbinds", "node", "model", "files", "")
    for node, binding in release.bindings.items():
        note = ("changed" if node in changed else "") + (f", by {release.aliases[node]}" if node in release.aliases else "")
        parameters = [f"{name} = {value}" for name, value in binding.parameters.items()]
        files = f"model.onnx {binding.digest}\nmodel.toml {binding.manifest}"
        bound.add_row(node, str(binding), files, escape("\n".join([*filter(None, [note]), *parameters])))
    out.print(bound)
    if told:
        workers = table("\non the workers", "worker", "state", "", "since")
        for one in told:
            workers.add_row(
                escape(one.worker), coloured(one.state) if one.live else f"[red]{escape(one.step)}[/]", escape(one.detail), one.since
            )
        out.print(workers)
