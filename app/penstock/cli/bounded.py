"""Runs over an input that has an end, as the flags of `part` say, with a progress bar, Ctrl-C and resume."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from penstock.cli.output import err
from penstock.cli.part import STANDARD, Part, bounds, check
from penstock.errors import ConfigError, Problem, RecordMissing, Stopped
from penstock.host import locked, on_signals
from penstock.settings import Settings

if TYPE_CHECKING:
    from penstock.pipeline import Program, Writes
    from penstock.runners.bounded import Bounded, Ran
    from penstock.runners.files import Job, Target
    from penstock.runners.shares import Share, Talk
    from penstock.runtime import Loaded
    from penstock.state import States
    from penstock.transports.base import Sink
    from penstock.transports.checkpoint import Checkpoint, Unit
    from penstock.transports.checkpoint import Part as FilePart
    from penstock.transports.files import Format, Place
    from penstock.transports.files.manifest import Manifest

__all__ = ["Into", "Outcome", "run_bounded", "run_for_cause", "written_to"]


class Outcome(NamedTuple):
    """What a run, with those that it resumed, has done; `letters` is where its dead letters are, `first` the reason of the first one."""

    read: int
    written: int
    failed: int
    complete: bool
    letters: str = ""
    first: str = ""


class Into(NamedTuple):
    """Where outputs go in place of files, in which form (None: that of the sinks), and what keeps the progress of the run.

    `columns` is called with each field that is read of files with columns, its type, the column that feeds it, and that one's type.
    `files` is called with the names and bytes of the input's files, before one is read; with none where the input is no files.
    """

    sink: Sink
    checkpoint: Checkpoint
    writes: Writes | None = None
    columns: Callable[[list[tuple[str, str, str, str]]], None] | None = None
    files: Callable[[list[tuple[str, int]]], None] | None = None


def run_bounded(
    loaded: Loaded, program: Program, part: Part, settings: Settings, *, into: Into | None = None, states: States | None = None
) -> Outcome:
    """Runs it, with a progress bar on a terminal. What a Ctrl-C or SIGTERM ends is finished and kept: `complete` is false then.

    Outputs go to the part's files, or `into` something else. With `states`, the nodes remember in them, and the run is never resumed: what
    an earlier one remembered is gone. Raises UsageError for flags that do not go together, ConfigError for files,
    TransportError for brokers, topics and stores.
    """
    check(loaded, part)
    if part.topic and part.share is None:
        from penstock.transports.kafka.connection import Admin

        Admin(settings).require([part.topic])  # with patience, and before the loop: Ctrl-C ends it; the client of the loop gives up at once
    return asyncio.run(_run(loaded, program, part, settings, into, states))


async def _run(loaded: Loaded, program: Program, part: Part, settings: Settings, into: Into | None, states: States | None) -> Outcome:
    stopped = asyncio.Event()
    with on_signals(stopped.set):
        if part.share is not None:
            return await _shared(loaded, program, part, settings, stopped)
        if into is not None or part.output == STANDARD:
            return await _into(loaded, program, part, settings, stopped, into or _standard(loaded), states)
        return await _to_files(loaded, program, part, settings, stopped, states)


async def run_for_cause(loaded: Loaded, program: Program, part: Part, settings: Settings, stopped: asyncio.Event) -> Outcome:
    """Runs it to files, in the caller's event loop; goes on with a run of the same cause. Raises as `run_bounded`."""
    check(loaded, part)
    return await _to_files(loaded, program, part, settings, stopped)


# -- to standard output, or what a command brings -------------------------------------------------------------------------------------


async def _into(
    loaded: Loaded, program: Program, part: Part, settings: Settings, stopped: asyncio.Event, into: Into, states: States | None
) -> Outcome:
    from penstock.pipeline import Pace
    from penstock.runners import bounded
    from penstock.runners.files import batch_pace, columns_of, formed
    from penstock.transports.files import place

    (stage,) = loaded.wiring.stages
    program = formed(loaded, program, lines=not part.topic, writes=into.writes)
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        fetched = _fetched(part, place(f"{folder}/rows.arrow"), most=part.limit)
        found = fetched or _found(part)
        if into.files is not None:
            into.files([] if fetched else [(str(one), size) for one, size in found.files])
        if into.columns is not None and found.files and found.format.columns:
            into.columns(columns_of(loaded, stage, found.format, found.files[0][0]))
        async with _source(loaded, part, settings, into.checkpoint, found) as source:
            with _progress(source.total, 0, shown=part.output != STANDARD) as advance:
                ran = await bounded.run(
                    program, source, into.sink, stages={stage.source.topic: stage.name}, pace=batch_pace(Pace.of(settings)),
                    stopped=stopped, progress=lambda ran: advance(ran, source.done), states=states,
                )  # fmt: skip
                into.checkpoint.commit()
    return Outcome(*ran)


def _standard(loaded: Loaded) -> Into:
    from penstock.transports.checkpoint import Checkpoint
    from penstock.transports.files.standard import StandardSink

    topics = _topics(loaded)
    if len(topics) > 1:
        raise click.UsageError(f"there are {len(topics)} topics to write ({', '.join(topics)}): give a folder for --out")
    return Into(StandardSink(), Checkpoint(), "json")


def _topics(loaded: Loaded) -> list[str]:
    """Returns the topics that are written, each once."""
    (stage,) = loaded.wiring.stages
    return list(dict.fromkeys(emit.sink.topic for emit in stage.emits))


@asynccontextmanager
async def _source(loaded: Loaded, part: Part, settings: Settings, checkpoint: Checkpoint, found: _Found) -> AsyncIterator[Bounded]:
    (stage,) = loaded.wiring.stages
    reads = stage.source.topic
    if part.topic:
        from penstock.transports.kafka.extent import KafkaExtent

        extent = KafkaExtent(settings, part.topic, start=part.start, stop=part.stop, limit=part.limit, checkpoint=checkpoint)
        await extent.begin()
        try:
            yield extent
        finally:
            await extent.close()
    elif part.input == STANDARD:
        from penstock.transports.files.standard import StandardSource

        yield StandardSource(reads, limit=part.limit, checkpoint=checkpoint)
    else:
        from penstock.runners.files import tables_of
        from penstock.transports.files import FileSource, Input

        start, limit = bounds(part)
        tables = tables_of(loaded, stage, found.format, {number: str(one) for number, (one, _) in enumerate(found.files)})
        inputs = [Input(number, one, size) for number, (one, size) in enumerate(found.files)]
        with contextlib.closing(
            FileSource(inputs, reads, found.format, tables=tables, start=start, limit=limit, sample=part.sample, checkpoint=checkpoint)
        ) as files:
            yield files


# -- to files -------------------------------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """The format and the files of the input, with their bytes; no files where it is a topic or a stream."""

    format: Format
    files: list[tuple[Place, int]]


async def _to_files(
    loaded: Loaded, program: Program, part: Part, settings: Settings, stopped: asyncio.Event, states: States | None = None
) -> Outcome:
    from penstock.runners.files import ROWS, finish, job_of, planned
    from penstock.transports.files.manifest import Manifest

    found = _found(part)
    target = _target(loaded, part, found.format)
    manifest = _manifest(loaded, part, target, resumable=states is None)  # what is refused leaves no folder
    if manifest is not None and manifest.complete and not (target.whole and target.work.is_folder()):
        return _ended(manifest, target)
    with _alone(target, below=bool(part.cause)):
        manifest = _manifest(loaded, part, target, resumable=states is None)  # another run may have come to its end in between
        if manifest is not None and manifest.complete:
            if target.whole:
                target.work.remove()  # it was ended while it removed its parts
            return _ended(manifest, target)
        if manifest is None:
            found = _fetched(part, target.manifest.beside(ROWS)) or found
            units = planned(found.format, loaded.topology.sources[0].topic, found.files, part.workers)
            manifest = Manifest(_about(loaded, part, target), [(str(one), size) for one, size in found.files], units)
        else:
            found = _as_before(manifest, found.format, _base(part, target)) if manifest.files else found
            for orphan in target.orphans({one.name for one in manifest.parts}):
                orphan.remove()
        start, limit = (0, None) if part.topic else bounds(part)
        job = job_of(
            loaded, found.format, target, {number: str(one) for number, (one, _) in enumerate(found.files)},
            part_rows=part.part_rows, start=start, limit=limit, sample=part.sample, states=states,
        )  # fmt: skip
        try:
            manifest.save(target.manifest)  # from the first moment on: outputs without one are of a run that has come to its end
            complete = await _through(loaded, program, part, settings, stopped, _Begun(job, target, manifest, found))
        except (ConfigError, RecordMissing):
            if not manifest.parts and not part.resume:
                _clear(target)  # it was refused, and nothing of it is left
            raise
        if complete and not manifest.read:
            _clear(target)  # what is empty would only be in the way of the next try
        elif complete:
            await asyncio.to_thread(finish, target, job.outputs, manifest)  # a topic that is listened to wants its heartbeats
    return _outcome(manifest, target, complete=complete)


class _Begun(NamedTuple):
    """A run to files, ready to start."""

    job: Job
    target: Target
    manifest: Manifest
    found: _Found


def _found(part: Part) -> _Found:
    from penstock.runners.files import inputs_of
    from penstock.transports.files import FORMATS, place
    from penstock.transports.files.sql import is_database

    if part.topic or part.input == STANDARD:
        return _Found(FORMATS["ndjson"], [])
    if is_database(part.input):
        return _Found(FORMATS["arrow"], [])
    if part.query is not None:
        raise click.UsageError("--query is for databases: sqlite:///FILE, or postgresql://HOST/DATABASE")
    return _Found(*inputs_of(part.input, place(part.input)))


def _target(loaded: Loaded, part: Part, format: Format) -> Target:
    """Returns where outputs go; `format` is that of a folder, unless the flags name another."""
    from penstock.runners.files import Target
    from penstock.transports.files import FORMATS, place

    (stage,) = loaded.wiring.stages
    target = Target.of(place(part.output), _topics(loaded), stage.source.dead_letter, FORMATS[part.form] if part.form else format)
    if part.form and target.format.name != part.form:
        raise click.UsageError(f"--as {part.form} is for folders: the ending of {target.output} says {target.format.name}")
    return target


def _manifest(loaded: Loaded, part: Part, target: Target, *, resumable: bool = True) -> Manifest | None:
    """Returns the manifest of the run to resume; None for a new one. Raises UsageError where its output is there already."""
    from penstock.transports.files.manifest import Manifest

    # The one that stays is written last: beside it, what is left of the parts does not count.
    found = (Manifest.load(target.left) if part.resume or part.cause else None) or Manifest.load(target.manifest)
    if part.resume or (found is not None and part.cause and found.about.get("cause") == part.cause):
        if found is None:
            raise click.UsageError(f"there is no run to resume: no {target.manifest}, which a run has from its beginning on")
        found.check(target.manifest, _about(loaded, part, target))
        return found
    # A folder that is called like the file would be found when all is done.
    there = next(
        (one for one in (*target.whole.values(), target.left) if one.size() is not None or (target.whole and one.is_folder())), None
    )
    if there is None and (found is not None or target.holds):
        there = target.work
    if there is not None:
        resumable = resumable and (found is not None or target.left.size() is not None)  # otherwise it is of another output
        what = "remove it, give another --out, or go on with --resume" if resumable else "remove it, or give another --out"
        raise click.UsageError(f"{there} is there already: {what}")
    return None


def written_to(loaded: Loaded, part: Part) -> dict[str, str]:
    """Returns where each topic is written, dead letters too. Raises UsageError and ConfigError as a run does."""
    check(loaded, part)
    (stage,) = loaded.wiring.stages
    if part.output == STANDARD:
        return {**dict.fromkeys(_topics(loaded), "standard output"), stage.source.dead_letter: "standard error"}
    target = _target(loaded, part, _found(part).format)
    _manifest(loaded, part, target)
    named = {topic: f"{target.work / topic}/part-*{target.ending}" for topic in _topics(loaded)}
    return {**named, stage.source.dead_letter: f"{target.work / stage.source.dead_letter}/part-*.ndjson"} | {
        topic: str(one) for topic, one in target.whole.items()
    }


def _about(loaded: Loaded, part: Part, target: Target) -> dict[str, str]:
    from penstock.runtime import digest

    models = ", ".join(f"{node}={one}" for node, one in loaded.artifacts.items())
    # Beside what decides the outputs, what decides their columns and folders, and what dead letters are called.
    columns = [(one.topic, one.schema) for one in loaded.topology.sinks], [one.fields for one in loaded.sink_schemas.values()]
    (stage,) = loaded.wiring.stages
    named = stage.source.dead_letter, stage.source.id
    return {**part.about, "models": models, "topology": digest(loaded, None, columns, named), "--as": target.format.name}


@contextmanager
def _alone(target: Target, *, below: bool) -> Iterator[None]:
    """Holds the folder of the parts, where it is on this host: two runs of one output would remove each other's parts.

    With `below`, the folders above it are made as well.
    """
    if target.work.system is not None:
        yield
        return
    work = Path(target.work.path)
    new = not work.exists()
    try:
        work.mkdir(exist_ok=True, parents=below)
    except OSError as error:
        raise ConfigError(Problem(str(target.output), 0, 0, f"cannot be written: {error.strerror}", "use another --out")) from error
    try:
        with locked(work, lambda: True):
            yield
    except Stopped:
        raise click.UsageError(f"another run is writing to {target.output}") from None
    finally:
        if new:
            with contextlib.suppress(OSError):  # it holds something, or is gone
                work.rmdir()


def _clear(target: Target) -> None:
    """Removes what a run without outputs has left."""
    if target.whole:
        target.work.remove()
        return
    from penstock.runners.files import ROWS

    for one in (*target.orphans(()), target.manifest, target.manifest.beside(ROWS)):
        one.remove()


def _fetched(part: Part, rows: Place, *, most: int | None = None) -> _Found | None:
    """Returns the rows of a database, or about the first `most` of them, as the file `rows`; None for another input."""
    from penstock.transports.files import FORMATS
    from penstock.transports.files.sql import fetch, is_database

    if not is_database(part.input):
        return None
    with err.status("reading the database") if err.is_terminal else contextlib.nullcontext():
        fetch(part.input, part.query, rows, most=most)
    return _Found(FORMATS["arrow"], [(rows, rows.size() or 0)])


def _as_before(manifest: Manifest, format: Format, base: Place) -> _Found:
    """Returns the files that a run has begun with; one that was repaired counts anew, unless rows of it are in the outputs.

    Raises ConfigError for one that has changed since, or is gone.
    """
    files = []
    for number, (name, size) in enumerate(manifest.files):
        one = base.named(name)
        if (there := one.size()) != size and (there is None or not manifest.renew(number, there)):
            now = "" if there is None else f"has changed: it had {size:,} bytes when rows of it were written, and has {there:,} now"
            raise ConfigError(Problem(name, 0, 0, now or "is gone", "begin anew with another --out"))
        files.append((one, there))
    return _Found(format, files)


def _base(part: Part, target: Target) -> Place:
    """Returns a place in the file system of the input's files: those of a database are beside the outputs."""
    from penstock.transports.files import place
    from penstock.transports.files.sql import is_database

    return target.work if is_database(part.input) else place(part.input)


async def _through(loaded: Loaded, program: Program, part: Part, settings: Settings, stopped: asyncio.Event, begun: _Begun) -> bool:
    """Runs what is left. Returns whether the end was reached."""
    from penstock.pipeline import Pace
    from penstock.runners.files import batch_pace, formed, run_source, run_units, shares_of
    from penstock.runners.shares import About, share_out
    from penstock.transports.checkpoint import Checkpoint
    from penstock.transports.files import Input

    job, target, manifest, found = begun
    pace = batch_pace(Pace.of(settings))

    def keep(units: Sequence[Unit], parts: Sequence[FilePart]) -> None:
        manifest.keep(units, parts)
        manifest.save(target.manifest)

    program = formed(loaded, program, lines=not part.topic, writes=target.format.encodes)
    if not found.files:
        checkpoint = Checkpoint(manifest.units, keep)
        async with _source(loaded, part, settings, checkpoint, found) as source:
            with _progress(source.total, manifest.read) as advance:
                ran = await run_source(program, job, source, checkpoint, pace=pace, progress=advance, stopped=stopped)
        return ran.complete
    shares = shares_of(manifest.units, manifest.sizes, part.workers) if part.whole else [manifest.units]
    with _progress(sum(manifest.sizes(unit) for share in shares for unit in share), manifest.read) as advance:
        if part.workers > 1:
            command = [sys.executable, "-m", "penstock", *sys.argv[1:]]
            about = About(part.input, part.output, found.format.name, target.format.name, part.sample, part.part_rows)
            return await share_out(command, part.workers, shares, manifest.files, about, keep=keep, progress=advance, stopped=stopped)
        rows = done = 0
        for share in shares:
            inputs = [Input(unit.partition, *found.files[unit.partition], unit.at, unit.end) for unit in share]
            ran = await run_units(
                program, job, inputs, Checkpoint(share, keep), pace=pace, stopped=stopped,
                progress=functools.partial(_added, advance, rows, done),
            )  # fmt: skip
            if not ran.complete:
                return False
            rows, done = rows + ran.read, done + sum(map(manifest.sizes, share))
    return True


def _added(advance: Advance, rows: int, done: int, ran: Ran, now: int) -> None:
    advance(ran._replace(read=ran.read + rows), done + now)


async def _shared(loaded: Loaded, program: Program, part: Part, settings: Settings, stopped: asyncio.Event) -> Outcome:
    """Runs the shares that another process gives to this one."""
    from penstock.cli.main import exit_code
    from penstock.pipeline import Pace
    from penstock.runners.files import batch_pace, formed, job_of, run_units
    from penstock.runners.shares import serve
    from penstock.transports.checkpoint import Checkpoint
    from penstock.transports.files import FORMATS, Input

    pace = batch_pace(Pace.of(settings))

    async def run(share: Share, talk: Talk) -> Ran:
        about = share.about
        mine = replace(part, input=about.input, output=about.output, form=about.form)
        target = _target(loaded, mine, FORMATS[about.form])
        scored = formed(loaded, program, lines=True, writes=target.format.encodes)
        base = _base(mine, target)
        names = {unit.partition: name for unit, (name, _) in zip(share.units, share.files, strict=True)}
        job = job_of(loaded, FORMATS[about.format], target, names, part_rows=about.part_rows, sample=about.sample)
        inputs = [
            Input(unit.partition, base.named(name), size, unit.at, unit.end)
            for unit, (name, size) in zip(share.units, share.files, strict=True)
        ]
        checkpoint = Checkpoint(share.units, talk.keep)
        return await run_units(scored, job, inputs, checkpoint, pace=pace, progress=talk.going, stopped=stopped)

    assert part.share is not None
    await serve(part.share, run, stopped, exit_code)
    return Outcome(0, 0, 0, complete=True)


def _ended(manifest: Manifest, target: Target) -> Outcome:
    err.print("the run has come to its end already: nothing is left to do", markup=False)
    return _outcome(manifest, target)


def _outcome(manifest: Manifest, target: Target, *, complete: bool = True) -> Outcome:
    """Returns what the manifest says, and the first dead letter."""
    from penstock.transports.files.letters import first_reason

    dead = next((one for one in manifest.parts if one.dead), None)
    if dead is None:
        return Outcome(manifest.read, manifest.written, manifest.failed, complete)
    file = target.left.beside(dead.name) if manifest.complete and target.whole else target.work / dead.name
    with file.open() as lines:
        first = first_reason(lines)
    where = file if manifest.complete and target.whole else target.work / dead.topic
    return Outcome(manifest.read, manifest.written, manifest.failed, complete, str(where), first)


# -- what a person sees ---------------------------------------------------------------------------------------------------------------

Advance = Callable[["Ran", int], None]


@contextmanager
def _progress(total: int, before: int, *, shown: bool = True) -> Iterator[Advance]:
    """Yields what moves a bar on a terminal: by how much of `total` is done, with rows per second and what is left of the time."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not (shown and err.is_terminal)) as bar:
        task = bar.add_task("scoring", total=max(total, 1), rows="")
        began = time.monotonic()

        def advance(ran: Ran, done: int) -> None:
            rate = ran.read / max(time.monotonic() - began, 1e-3)
            bar.update(task, completed=done, rows=f"{before + ran.read:,} events, {rate:,.0f}/s")

        yield advance
