"""`penstock deploy`, `rollback`, `promote`, `pause` and `abort`: run an operator, and print the result."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import click
import msgspec

from penstock.cli.options import with_settings
from penstock.cli.output import err, format_option, out, print_json
from penstock.cli.release.asking import SPEAKING, ask, named, topology_argument
from penstock.cli.release.screen import Screen, print_changes
from penstock.cli.release.strategies import strategy_of, strategy_options, text_of
from penstock.cli.release.words import compared_json, compared_lines, duration, release_json, short, stand_json
from penstock.control.messages import Release
from penstock.control.proposal import Change, Proposal
from penstock.control.rights import DEPLOY, ROLLBACK
from penstock.control.strategy import SINGLE
from penstock.errors import ConfigError, ControlError
from penstock.operate.comparing import Compared
from penstock.operate.operator import Deployed, OnChanges, Operator, Watcher
from penstock.operate.state import described
from penstock.settings import Settings
from penstock.topology.spec import Topology

__all__ = ["abort", "deploy", "pause", "promote", "rollback"]

F = TypeVar("F", bound=Callable[..., Any])
Act = Callable[..., Awaitable[Deployed]]  # of an operator, with on_progress and on_changes
Looked = tuple[Proposal, tuple[Compared, ...]]

_min_ready = click.option(
    "--min-ready", type=click.IntRange(0), metavar="N", help="Activate when N workers are ready. [default: all live ones, at least one]"
)
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Seconds to wait before the release is aborted. [default: --prepare-timeout, and 10 s]",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Only print what would change, and check it; publish nothing.")


@click.command()
@topology_argument
@click.argument("changes", nargs=-1, metavar="[NODE=NAME@VERSION]...")
@click.option("--set", "parameters", multiple=True, metavar="NODE.PARAM=JSON", help="A parameter of a node; null: the file's value again.")
@click.option("--reason", default="", help="Why, for those who read the history.")
@_dry_run
@strategy_options
@click.option("--yes", is_flag=True, help="Do not ask before a model with worse metrics is deployed.")
@click.option("--wait/--no-wait", default=True, help="Wait for the switch; or only announce the release, and continue later with --resume.")
@_min_ready
@_timeout
@click.option("--resume", metavar="ID", help="Continue with an announced release; the beginning of its id is enough.")
@with_settings(*SPEAKING)
@format_option
def deploy(
    topology: str, changes: tuple[str, ...], parameters: tuple[str, ...], reason: str, dry_run: bool, yes: bool, wait: bool,
    canary: tuple[float, ...] | None, split: float | None,
    min_ready: int | None, timeout: float | None, resume: str | None, settings: Settings, form: str,
) -> int:  # fmt: skip
    """Swap models of TOPOLOGY (a file, or its name) while the stream runs.

    \b
      penstock deploy flights trees=flight-trees@2 --reason "retrained on autumn"
      penstock deploy flights features=flight-features@3 trees=flight-trees@live
      penstock deploy flights --set stack.threshold=0.4
      penstock deploy flights trees=flight-trees@2 --canary 1,5,25

    Every live worker fetches, checks, tries and warms the new models while the old ones score. When all are ready, they
    switch together, between two batches. If one fails, the release is aborted, the reasons are printed, and nothing has
    changed. Nodes that are not named stay unchanged. An alias is resolved once, at the start.

    With --canary or --split the release is on trial after the switch: the live models stay live, and it answers a
    share of the units (record keys, or what the topology file names as `unit`). Go on with `penstock promote`, or end the
    trial with `penstock abort`; until then, nothing else can be released.

    The metrics of the versions, before and after, are printed first. On a terminal the command asks before it goes on with a
    model that is worse by one of them; elsewhere it prints a warning.

    Ctrl-C before the switch aborts the release. A killed command leaves it pending: continue with --resume ID, or end it
    with `penstock abort`. Exit code 8: the release was not activated. 1: it is active, but a worker has not switched.
    """
    wanted, strategy = _changes(changes, parameters), strategy_of(canary, split)
    if bool(wanted) == bool(resume):
        raise click.UsageError("name a change, as NODE=NAME@VERSION or --set NODE.PARAM=JSON; or continue with a release, by --resume ID")
    if resume and strategy != SINGLE:
        raise click.UsageError("an announced release has its strategy: leave --canary and --split out")
    found = named(topology, settings)
    if resume:
        return _see_through(settings, found, form, functools.partial(Operator.resume, id=resume, min_ready=min_ready, timeout=timeout))

    async def look(operator: Operator) -> Looked:
        if not (dry_run and _keyless(settings)):
            await operator.demand(DEPLOY)
        proposal = await operator.propose(wanted, strategy)
        return proposal, await operator.compare(proposal.differences)

    if dry_run:
        return _show(found, ask(settings, found, look), form, settings)
    options: dict[str, Any] = {"reason": reason, "min_ready": min_ready, "timeout": timeout, "wait": wait}
    if yes or not (sys.stdin.isatty() and err.is_terminal):
        return _see_through(settings, found, form, functools.partial(Operator.deploy, changes=wanted, strategy=strategy, **options))
    # The question comes between two connections: while an event loop runs, Ctrl-C would have to wait for the answer.
    proposal, compared = ask(settings, found, look)
    print_changes(err, compared)
    if any(one.worse for one in compared) and not click.confirm("Deploy it all the same?", err=True):
        raise ControlError(f"nothing was announced: generation {proposal.base} of {found.name} stays active", code="declined")

    async def carry_out(operator: Operator, *, on_progress: Watcher, on_changes: OnChanges) -> Deployed:
        return await operator.carry_out(proposal, **options, on_progress=on_progress)

    return _see_through(settings, found, form, carry_out, compared)


@click.command()
@topology_argument
@click.option("--to", metavar="GENERATION|ID", help="The generation to restore. [default: the one before the active one]")
@click.option("--reason", default="", help="Why, for those who read the history.")
@_dry_run
@_min_ready
@_timeout
@with_settings(*SPEAKING)
@format_option
def rollback(
    topology: str, to: str | None, reason: str, dry_run: bool, min_ready: int | None, timeout: float | None, settings: Settings, form: str
) -> int:
    """Roll TOPOLOGY back: release the bindings of an earlier generation again.

    \b
      penstock rollback flights --reason "too many alarms"
      penstock rollback flights --to 3

    A rollback is an ordinary release, with an entry in the history. A second one goes further back, never to what the first
    one took back; --to goes anywhere. Workers keep the previous plan loaded, so the switch back to it takes no time. 0 is
    what the topology file bound before the first release. The exit codes are those of `deploy`.

    While a release is on trial, its trial is ended instead, as by `penstock abort`, and with --to nothing is done (8).
    """
    found = named(topology, settings)

    async def look(operator: Operator) -> Looked | Release:
        if not _keyless(settings):
            await operator.demand(ROLLBACK)
        if to is None and operator.log.candidate is not None:
            return operator.log.candidate
        proposal = await operator.propose_rollback(to)
        return proposal, await operator.compare(proposal.differences)

    if dry_run:
        return _show(found, ask(settings, found, look), form, settings)
    return _see_through(
        settings, found, form, functools.partial(Operator.rollback, to=to, reason=reason, min_ready=min_ready, timeout=timeout)
    )


@click.command()
@topology_argument
@click.option("--full", is_flag=True, help="Make it live now, whatever steps are left.")
@click.option("--reason", default="", help="Why, for those who read the control log.")
@with_settings(*SPEAKING)
@format_option
def promote(topology: str, full: bool, reason: str, settings: Settings, form: str) -> int:
    """Promote the release on trial in TOPOLOGY: to its next share of the units, or after the last one to all of them.

    \b
      penstock promote flights
      penstock promote flights --full --reason "as good as the live one"

    What it answered before, it still answers: a larger share only adds units. After the last step it is live, and the models
    before stay loaded for a rollback. A trial that was paused goes on. Nothing is loaded, so the switch takes no time.

    Exit code 8: nothing is on trial, or another message was first. 1: promoted, but a worker has not switched.
    """

    async def go_on(operator: Operator, *, on_progress: Watcher, on_changes: OnChanges) -> Deployed:
        return await operator.promote(full=full, resume=True, reason=reason, on_progress=on_progress)

    return _see_through(settings, named(topology, settings), form, go_on)


@click.command()
@topology_argument
@click.option("--reason", default="", help="Why, for those who read the status.")
@with_settings(*SPEAKING)
@format_option
def pause(topology: str, reason: str, settings: Settings, form: str) -> None:
    """Pause the trial in TOPOLOGY: the release keeps its share of the units, and programs do not promote it.

    `penstock promote` goes on, `penstock abort` ends the trial. Exit code 8 when nothing is on trial, or it is paused.
    """

    async def keep(operator: Operator) -> tuple[Release, str]:
        return await operator.pause(reason=reason), operator.unchecked

    release, unchecked = ask(settings, named(topology, settings), keep, speaks=True)
    if form == "json":
        print_json({"paused": release_json(release), "unchecked": unchecked or None})
    else:
        out.print(f"paused the trial of {release.id}: it keeps its share until `penstock promote {topology}`", markup=False)


@click.command()
@topology_argument
@click.argument("id", required=False)
@click.option("--reason", default="", help="Why, for those who read the history.")
@with_settings(*SPEAKING)
@format_option
def abort(topology: str, id: str | None, reason: str, settings: Settings, form: str) -> None:
    """End the release ID of TOPOLOGY, which was announced and is not active, or is on trial. The beginning of an id is enough.

    Without ID it is the one on trial: what is live answers all events again. An active release cannot be aborted; use
    `penstock rollback`. Exit code 8 when the release is neither pending nor on trial.
    """

    async def end(operator: Operator) -> tuple[Release, str]:
        return await operator.abort(id, reason), operator.unchecked

    release, unchecked = ask(settings, named(topology, settings), end, speaks=True)
    if form == "json":
        print_json({"aborted": release_json(release), "unchecked": unchecked or None})
    else:
        out.print(f"aborted {release.id}, which {release.author} announced{f': {reason}' if reason else ''}", markup=False)


def _changes(models: tuple[str, ...], parameters: tuple[str, ...]) -> dict[str, Change]:
    """Parses the arguments, by node. Raises ConfigError."""
    changes: dict[str, Change] = {}
    for text in models:
        node, separator, reference = text.partition("=")
        if not (node and separator):
            raise ConfigError(f"{text!r}: write NODE=NAME@VERSION, such as trees=flight-trees@2")
        if node in changes:
            raise ConfigError(f"{node} is given twice")
        changes[node] = Change.to(reference)
    for text in parameters:
        place, separator, value = text.partition("=")
        node, dot, name = place.partition(".")
        if not (node and dot and name and separator):
            raise ConfigError(f"--set {text!r}: write NODE.PARAM=JSON, such as stack.threshold=0.4")
        try:
            given = json.loads(value)
        except ValueError as error:
            raise ConfigError(f"--set {text!r}: not JSON ({error}); a text needs double quotes, which the shell must not remove") from error
        before = changes.get(node, Change())
        changes[node] = Change(before.model, {**before.parameters, name: given})
    return changes


def _keyless(settings: Settings) -> bool:
    """Returns whether there is no key whose rights a dry run could check."""
    return settings.signing_key is None and not settings.unsigned_control


def _show(topology: Topology, looked: Looked | Release, form: str, settings: Settings) -> int:
    if isinstance(looked, Release):
        if form == "json":
            print_json({"topology": topology.name, "valid": True, "changes": [], "aborts": release_json(looked)})
        else:
            out.print(f"{topology.name}: the trial of release {looked.id} would be ended", markup=False)
            out.print("dry run: nothing was published", markup=False)
        return 0
    proposal, changes = looked
    if form == "json":
        strategy = msgspec.to_builtins(proposal.strategy)
        print_json(
            {"topology": topology.name, "base": proposal.base, "valid": True, "strategy": strategy, "changes": compared_json(changes)}
        )
        return 0
    out.print(f"{topology.name}: generation {proposal.base} → {proposal.base + 1} would change", markup=False)
    for line, style in compared_lines(changes):
        out.print(line, style=style or None, markup=False)
    if trial := text_of(proposal.strategy):
        out.print(f"  {trial}", markup=False)
    fits = "files, requirements and tensors" if _keyless(settings) else "files, requirements, tensors and the rights of the key"
    unasked = "; no key was given, so its rights were not checked" if _keyless(settings) else ""
    out.print(f"dry run: {fits} fit; nothing was published{unasked}", markup=False)
    return 0


def _see_through(settings: Settings, topology: Topology, form: str, act: Act, changes: tuple[Compared, ...] = ()) -> int:
    """Runs the deploy with a screen, prints the result, and returns the exit code. `changes` were shown before."""
    with Screen(err, changes) as screen:

        async def carry_out(operator: Operator) -> Deployed:
            screen.unchecked = operator.unchecked
            return await act(operator, on_progress=screen.show, on_changes=screen.compare)

        try:
            deployed = ask(settings, topology, carry_out, speaks=True)
        except ControlError as error:
            if form == "json":
                print_json({"released": False, "code": error.code, "error": str(error), **_told(screen, {})})
            raise
    if form == "json":
        told = {"released": deployed.outcome in ("live", "candidate"), "outcome": deployed.outcome or "announced", "share": deployed.share}
        print_json({**told, "generation": deployed.generation, **_told(screen, deployed.seconds or {})})
    else:
        _print(topology, deployed)
    return 1 if deployed.late else 0


def _told(screen: Screen, seconds: Mapping[str, float]) -> dict[str, Any]:
    last = screen.last
    common = {"changes": compared_json(screen.changes), "unchecked": screen.unchecked or None}
    if last is None:
        return {**common, "release": None, "workers": []}
    workers = [stand_json(one, last.generations.get(one.worker), seconds.get(one.worker)) for one in last.stands]
    return {**common, "release": release_json(last.release), "workers": workers}


def _print(topology: Topology, deployed: Deployed) -> None:
    release = deployed.release
    if deployed.generation is None:
        out.print(f"{topology.name}: release {release.id} is announced, and not active", markup=False)
        out.print(f"continue with:  penstock deploy {topology.name} --resume {short(release.id)}", markup=False)
        return
    out.print(f"{topology.name}: generation {deployed.generation} is active{_trial(deployed)}", style="green", markup=False)
    for one in deployed.changes if deployed.outcome != "aborted" else ():
        out.print(f"  {one}", markup=False)
    if deployed.seconds:
        within = f"the last within {duration(max(deployed.seconds.values()))} of the message that made it, by the broker's clock"
        out.print(f"  {len(deployed.seconds)} switched, {within}", markup=False)
    for late in deployed.late:
        out.print(f"  not switched: {late}", style="red", markup=False)
    if deployed.share is not None:
        out.print(f"go on with:  penstock promote {topology.name}", markup=False)
        out.print(f"or end it:   penstock abort {topology.name}", markup=False)


def _trial(deployed: Deployed) -> str:
    """Returns what a trial has come to, to be added to a line; "" for a release that is live."""
    id = short(deployed.release.id)
    if deployed.share is not None:
        return f", with {id} on trial: {described(deployed.release.strategy, deployed.share)}"
    return f": the trial of {id} was ended, and what was live before answers all events" if deployed.outcome == "aborted" else ""
