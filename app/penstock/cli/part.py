"""The one set of flags of commands that run over an input that has an end.

`--in` is a file, a folder or a pattern of files, the table of a database, or kafka://TOPIC; `--out` a file, or a folder with the parts of
each topic. `--from`, `--to`, `--limit` and `--sample` choose a part of the input. A run that was ended by Ctrl-C, or from outside, goes
on with `--resume`. With `-`, both are the standard streams.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from penstock.cli.options import Number

if TYPE_CHECKING:
    from penstock.runtime import Loaded

__all__ = ["KAFKA", "STANDARD", "Part", "bounded_options", "bounds", "check", "edge", "input_options", "ordered_options"]

F = TypeVar("F", bound=Callable[..., Any])
KAFKA: Final = "kafka://"
STANDARD: Final = "-"  # standard input, or output
FORMATS: Final = ("parquet", "csv", "ndjson", "arrow", "avro")


@dataclass(frozen=True, slots=True)
class Part:
    """What the flags say: the input, the output, and which part of the input."""

    input: str
    output: str
    start: int | datetime | None = None
    stop: int | datetime | None = None
    limit: int | None = None
    resume: bool = False
    sample: float | None = None
    query: str | None = None
    form: str | None = None
    workers: int = 1
    part_rows: int = 1_000_000
    share: int | None = None
    cause: str = ""
    on: str = ""

    @property
    def topic(self) -> str:
        """The Kafka topic of the input; "" for others."""
        return self.input.removeprefix(KAFKA) if self.input.startswith(KAFKA) else ""

    @property
    def about(self) -> dict[str, str]:
        """What a run that goes on has in common with the one before."""
        from penstock.transports.files.places import without_password  # it is kept beside the outputs, for others to read

        local = "://" not in self.input and self.input != STANDARD
        said = {"input": os.path.realpath(self.input) if local else without_password(self.input), "--query": self.query}
        edges = {"--from": self.start, "--to": self.stop, "--limit": self.limit, "--sample": self.sample, "cause": self.cause}
        return {name: "" if value is None else str(value) for name, value in {**said, **edges}.items()}

    @property
    def whole(self) -> bool:
        """Whether the rows of the input need not be counted from its beginning."""
        return self.start is None and self.stop is None and self.limit is None


class _Edge(click.ParamType):
    """A whole number, or a time of RFC 3339 with its zone."""

    name = "NUMBER|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | datetime:
        if isinstance(value, int) and value < 0:
            self.fail(f"{value} is below 0, the number of the first event", param, ctx)
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


def edge(value: int | str | None) -> int | datetime | None:
    """Returns what --from or --to would be for this value. Raises UsageError."""
    return None if value is None else _Edge().convert(value, None, None)


_OF_INPUTS: Final = (
    click.option(
        "--in", "input", metavar="FILES|URL|-",
        help="A file, a folder or a pattern, here or at a URL (s3://, gs://, abfs://, hdfs://); kafka://TOPIC; sqlite:///FILE#TABLE or "
        "postgresql://HOST/DATABASE#TABLE; or standard input.",
    ),
    click.option("--from", "start", type=_Edge(), help="The first event: its number in files; an offset, or a time, in a topic."),
    click.option("--to", "stop", type=_Edge(), help="The event to stop before: a number, an offset or a time, as for --from."),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many events."),
    click.option(
        "--sample", type=Number(0, 1, min_open=True), metavar="SHARE", help="A share of the rows, the same ones in each run."
    ),
    click.option("--resume", is_flag=True, help="Go on where a run with the same input and target was ended."),
)  # fmt: skip
_OF_OUTPUTS: Final = (
    click.option(
        "--out", "output", metavar="FILE|FOLDER|-",
        help="A file for the outputs of one sink, a folder with the parts of each topic, or standard output. Dead letters are beside it.",
    ),
    click.option("--as", "written_as", type=click.Choice(FORMATS), help="The format of a folder of outputs.  [default: that of --in]"),
    click.option("--query", metavar="SQL", help="The rows to read of a database."),
    click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Processes that share the work."),
    click.option(
        "--part-rows", type=click.IntRange(min=1), default=1_000_000, show_default=True, metavar="N",
        help="Rows after which a part of the outputs ends, with those that are scored in one go with the last of them.",
    ),
    click.option("--share", type=int, hidden=True, help="The descriptor of the conversation with the process that started this one."),
)  # fmt: skip


def bounded_options(command: F) -> F:
    """Adds the flags, given to the command as the argument `part`."""

    @functools.wraps(command)
    def parted(*args: Any, input: str | None, output: str | None, written_as: str | None, **options: Any) -> Any:
        names = ("start", "stop", "limit", "resume", "sample", "query", "workers", "part_rows", "share")
        given = {name: options.pop(name) for name in names}
        if options.pop("streams", None):
            input, output = input or STANDARD, output or STANDARD
        if (input is None or output is None) and given["share"] is None:
            raise click.UsageError(f"give {'--in' if input is None else '--out'}, or - for standard input and output")
        return command(*args, part=Part(input or "", output or "", form=written_as, on=options.pop("on", None) or "", **given), **options)

    for option in reversed((_OF_INPUTS[0], _OF_OUTPUTS[0], *_OF_INPUTS[1:], *_OF_OUTPUTS[1:])):
        parted = option(parted)
    return parted  # type: ignore[return-value]  # click keeps the callable, its type says less


def input_options(command: F) -> F:
    """Adds the flags of the input alone, for a command whose outputs are no files. Without --in, the part's input is ""."""

    @functools.wraps(command)
    def parted(*args: Any, input: str | None, **options: Any) -> Any:
        names = ("start", "stop", "limit", "resume", "sample")
        return command(*args, part=Part(input or "", "", **{name: options.pop(name) for name in names}), **options)

    for option in reversed(_OF_INPUTS):
        parted = option(parted)
    return parted  # type: ignore[return-value]  # click keeps the callable, its type says less


def ordered_options(command: F) -> F:
    """Adds the flags of a run that remembers what it has read: in one process, every event, from the beginning. The others are refused."""

    @functools.wraps(command)
    def parted(*args: Any, input: str | None, output: str | None, written_as: str | None, **options: Any) -> Any:
        if options.pop("streams", None):
            input, output = input or STANDARD, output or STANDARD
        if input is None or output is None:
            raise click.UsageError(f"give {'--in' if input is None else '--out'}, or - for standard input and output")
        given = {name: options.pop(name) for name in ("start", "stop", "limit", "query", "part_rows")}
        return command(*args, part=Part(input, output, form=written_as, **given), **options)

    shown = (_OF_INPUTS[0], _OF_OUTPUTS[0], *_OF_INPUTS[1:4], _OF_OUTPUTS[1], _OF_OUTPUTS[2], _OF_OUTPUTS[4])
    hidden = (
        _refused("--workers", "windows remember the events before, in one process", type=int),
        _refused("--sample", "a window counts every event: without some of them its features would be others"),
        _refused("--resume", "what the windows remembered is gone when a run ends: begin it anew, with another --out", is_flag=True),
    )
    for option in reversed((*shown, *hidden)):
        parted = option(parted)
    return parted  # type: ignore[return-value]  # click keeps the callable, its type says less


def _refused(flag: str, reason: str, **more: Any) -> Callable[[F], F]:
    """Returns a flag that other commands have, for one that has a reason to refuse it."""

    def refuse(_context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            raise click.UsageError(f"{flag}: {reason}")

    return click.option(flag, hidden=True, expose_value=False, callback=refuse, help=reason, **more)


def check(loaded: Loaded, part: Part) -> None:
    """Raises UsageError for flags that do not go together, or not with the topology."""
    sources = [one.name for one in loaded.topology.sources]
    if len(loaded.wiring.stages) > 1:
        raise click.UsageError(
            f"{loaded.topology.name} has {len(sources)} sources ({', '.join(sources)}): only one can be run over an input"
        )
    reads = loaded.topology.sources[0].topic
    if part.topic and part.topic != reads:
        raise click.UsageError(f"the topology reads the topic {reads}, not {part.topic}")
    streams = STANDARD in (part.input, part.output)
    if streams and part.resume:
        raise click.UsageError("standard streams cannot be resumed: give files for --in and --out")
    if part.output == STANDARD and part.form not in (None, "ndjson"):
        raise click.UsageError(f"--as {part.form} is for folders: standard output is NDJSON, a line per event")
    if part.input == STANDARD and (part.start is not None or part.stop is not None or part.sample is not None):
        raise click.UsageError("standard input is read once, from its beginning: --from, --to and --sample need files")
    if part.topic and part.sample is not None:
        raise click.UsageError("--sample needs files")
    if part.workers > 1 and (streams or part.topic or not part.whole):
        raise click.UsageError("several --workers share files, and all of them: without --from, --to and --limit")
    start: Any
    stop: Any
    start, stop = (part.start, part.stop) if part.topic else _numbers(part)
    first = 0 if start is None and isinstance(stop, int) else start
    if stop is not None and isinstance(first, type(stop)) and stop <= first:
        raise click.UsageError(f"--to {stop} is not behind --from {first}: there is nothing between them")


def _numbers(part: Part) -> tuple[int, int | None]:
    for edge, flag in ((part.start, "--from"), (part.stop, "--to")):
        if isinstance(edge, datetime):
            raise click.UsageError(f"{flag}: a file has no times; give the number of an event, counted from 0")
    return part.start or 0, part.stop  # type: ignore[return-value]  # the loop above has refused times


def bounds(part: Part) -> tuple[int, int | None]:
    """Returns the first row and the number of rows that are wanted."""
    start, stop = _numbers(part)
    return start, min((one for one in (part.limit, None if stop is None else stop - start) if one is not None), default=None)
