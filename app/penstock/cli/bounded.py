"""The one set of flags of commands that run over an input that has an end, with its progress bar, Ctrl-C and resume.

`--in` is a file of events, one per line, or kafka://TOPIC; `--out` is a file, or a folder with one file per topic. `--from`, `--to` and
`--limit` choose a part of the input. A run that was ended by Ctrl-C, or from outside, goes on with `--resume`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from penstock.cli.output import err
from penstock.host import on_signals
from penstock.settings import Settings

if TYPE_CHECKING:
    from penstock.pipeline import Program
    from penstock.runners.bounded import Bounded, Ran
    from penstock.runtime import Loaded
    from penstock.transports.base import Sink
    from penstock.transports.checkpoint import Checkpoint

__all__ = ["KAFKA", "Into", "Part", "bounded_options", "dead_letters", "input_options", "run_bounded"]

F = TypeVar("F", bound=Callable[..., Any])
KAFKA: Final = "kafka://"


@dataclass(frozen=True, slots=True)
class Part:
    """What the flags say: the input, the output, and which part of the input."""

    input: str
    output: Path
    start: int | datetime | None = None
    stop: int | datetime | None = None
    limit: int | None = None
    resume: bool = False

    @property
    def topic(self) -> str:
        """The Kafka topic of the input; "" for a file."""
        return self.input.removeprefix(KAFKA) if self.input.startswith(KAFKA) else ""

    @property
    def path(self) -> str:
        """The whole path of the file, by which a checkpoint knows it."""
        return os.path.realpath(self.input)


class Into(NamedTuple):
    """Where outputs go in place of files, and what keeps the progress of the run."""

    sink: Sink
    checkpoint: Checkpoint


class _Edge(click.ParamType):
    """A whole number, or a time of RFC 3339 with its zone."""

    name = "NUMBER|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | datetime:
        if isinstance(value, int | datetime):
            return value
        if value.isascii() and value.isdecimal():
            return int(value)
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor a time such as 2026-11-29T08:00:00Z", param, ctx)
        if found.tzinfo is None:
            self.fail(f"{value!r} has no time zone: add Z, or +01:00", param, ctx)
        return found


_OPTIONS: Final = (
    click.option("--in", "input", metavar="FILE|kafka://TOPIC", help="Events, one JSON object per line; or a topic."),
    click.option(
        "--out", "output", type=click.Path(path_type=Path), metavar="FILE|FOLDER",
        help="A file (its name has an ending) for the outputs of one sink, or a folder with a file per topic. "
        "Dead letters get a file beside it.",
    ),
    click.option("--from", "start", type=_Edge(), help="The first event: its number in a file; an offset, or a time, in a topic."),
    click.option("--to", "stop", type=_Edge(), help="The event to stop before: a number, an offset or a time, as for --from."),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many events."),
    click.option("--resume", is_flag=True, help="Go on where a run with the same --in and --out was ended."),
)  # fmt: skip


def dead_letters(loaded: Loaded, part: Part) -> Path:
    """Returns the file of the dead letters."""
    return _topics(loaded, part)[loaded.topology.sources[0].dead_letter]


def bounded_options(command: F) -> F:
    """Adds the flags, given to the command as the argument `part`."""

    @functools.wraps(command)
    def parted(
        *args: Any, input: str | None, output: Path | None, start: Any, stop: Any, limit: int | None, resume: bool, **options: Any
    ) -> Any:
        if input is None or output is None:
            raise click.UsageError(f"Missing option '--{'in' if input is None else 'out'}'.")
        return command(*args, part=Part(input, output, start, stop, limit, resume), **options)

    for option in reversed(_OPTIONS):
        parted = option(parted)
    return parted  # type: ignore[return-value]  # click keeps the callable, its type says less


def input_options(command: F) -> F:
    """Adds the flags of the input alone, for a command whose outputs are no files. Without --in, the part's input is ""."""

    @functools.wraps(command)
    def parted(*args: Any, input: str | None, start: Any, stop: Any, limit: int | None, resume: bool, **options: Any) -> Any:
        return command(*args, part=Part(input or "", Path(), start, stop, limit, resume), **options)

    for option in reversed((_OPTIONS[0], *_OPTIONS[2:])):
        parted = option(parted)
    return parted  # type: ignore[return-value]  # click keeps the callable, its type says less


def run_bounded(loaded: Loaded, program: Program, part: Part, settings: Settings, *, into: Into | None = None) -> Ran:
    """Runs it, with a progress bar on a terminal. What a Ctrl-C or SIGTERM ends is finished and kept: `complete` is false then.

    Outputs go to the part's files, or `into` something else. Raises UsageError for flags that do not go together, ConfigError for files,
    TransportError for brokers.
    """
    return asyncio.run(_run(loaded, program, part, settings, into))


async def _run(loaded: Loaded, program: Program, part: Part, settings: Settings, into: Into | None = None) -> Ran:
    from penstock.pipeline import Pace
    from penstock.runners import bounded

    topics = _topics(loaded, part) if into is None else {}
    reads, stage = loaded.topology.sources[0].topic, loaded.wiring.stages[0].name
    stopped = asyncio.Event()
    with on_signals(stopped.set):
        async with _opened(loaded, part, settings, topics, into) as (source, sink, checkpoint), _progress(source) as advance:
            ran = await bounded.run(
                program, source, sink, stages={reads: stage},
                pace=Pace.of(settings), progress=lambda _: advance(), stopped=stopped,
            )  # fmt: skip
            if ran.complete:
                checkpoint.done()
    if ran.complete and not checkpoint.rows:  # empty files would only be in the way of the next try
        for path in topics.values():
            path.unlink()
    return ran


def _topics(loaded: Loaded, part: Part) -> dict[str, Path]:
    """The file of each topic that is written. Raises UsageError for a topology that has no files to be written to."""
    sources = [one.name for one in loaded.topology.sources]
    if len(loaded.wiring.stages) > 1:
        raise click.UsageError(
            f"{loaded.topology.name} has {len(sources)} sources ({', '.join(sources)}): only one can be run over an input"
        )
    (stage,) = loaded.wiring.stages
    written = dict.fromkeys(emit.sink.topic for emit in stage.emits)
    dead = stage.source.dead_letter
    for emit in stage.emits:
        if emit.sink.format != "json":
            raise click.UsageError(f"the sink {emit.sink.name} writes {emit.sink.format}; lines of a file are JSON")
    if part.output.suffix and len(written) == 1:
        return {**dict.fromkeys(written, part.output), dead: part.output.with_suffix(f".dead-letters{part.output.suffix}")}
    if part.output.suffix:
        raise click.UsageError(f"there are {len(written)} topics to write ({', '.join(written)}): give a folder for --out")
    return {topic: part.output / f"{topic}.ndjson" for topic in (*written, dead)}


@asynccontextmanager
async def _opened(
    loaded: Loaded, part: Part, settings: Settings, paths: dict[str, Path], into: Into | None
) -> AsyncIterator[tuple[Bounded, Sink, Checkpoint]]:
    """The source, the sink, and the checkpoint between them. An output that is there already is not written over."""
    from penstock.transports.checkpoint import Checkpoint
    from penstock.transports.files import FileSink

    if into is not None:
        async with _source(loaded.topology.sources[0].topic, part, settings, into.checkpoint) as source:
            yield source, into.sink, into.checkpoint
        return
    there = [path for path in paths.values() if path.exists()]
    mark = part.output.with_name(f"{part.output.name}.checkpoint")
    if there and not part.resume:
        raise click.UsageError(f"{there[0]} is there already: remove it, give another --out, or go on with --resume")
    if part.resume and not mark.exists():
        raise click.UsageError(f"there is no run to resume: no {mark}, which a run has until it comes to its end")
    about = {
        "input": part.input if part.topic else part.path,
        "--from": str(part.start or ""),
        "--to": str(part.stop or ""),
        "--limit": str(part.limit or ""),
        "models": ", ".join(f"{node}={one}" for node, one in loaded.artifacts.items()),
    }
    checkpoint = Checkpoint(mark, about, resume=part.resume)
    async with _source(loaded.topology.sources[0].topic, part, settings, checkpoint) as source:
        with contextlib.closing(FileSink(paths, checkpoint=checkpoint)) as sink:
            checkpoint.save()  # from the first moment on: a file without one is of a run that has come to its end
            yield source, sink, checkpoint


@asynccontextmanager
async def _source(reads: str, part: Part, settings: Settings, checkpoint: Checkpoint) -> AsyncIterator[Bounded]:
    if part.topic:
        from penstock.transports.kafka.extent import KafkaExtent

        if part.topic != reads:
            raise click.UsageError(f"the topology reads the topic {reads}, not {part.topic}")
        extent = KafkaExtent(settings, part.topic, start=part.start, stop=part.stop, limit=part.limit, checkpoint=checkpoint)
        await extent.begin()
        try:
            yield extent
        finally:
            await extent.close()
        return
    from penstock.transports.files import FileSource

    start, stop = _numbers(part)
    if stop is not None and stop <= start:
        raise click.UsageError(f"--to {stop} is not behind --from {start}: there is nothing between them")
    limits = [one for one in (part.limit, None if stop is None else stop - start) if one is not None]
    with contextlib.closing(
        FileSource(Path(part.path), reads, start=start, limit=min(limits, default=None), checkpoint=checkpoint)
    ) as lines:
        yield lines


def _numbers(part: Part) -> tuple[int, int | None]:
    for edge, flag in ((part.start, "--from"), (part.stop, "--to")):
        if isinstance(edge, datetime):
            raise click.UsageError(f"{flag}: a file has no times; give the number of an event, counted from 0")
    return part.start or 0, part.stop  # type: ignore[return-value]  # the loop above has refused times


@asynccontextmanager
async def _progress(source: Bounded) -> AsyncIterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("scoring", total=max(source.total, 1))
        yield lambda: bar.update(task, completed=source.done)
