"""`penstock batch --on kafka://TOPIC`: messages ask for runs over files below --in, to folders below --out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from penstock.cli.bounded import Outcome, run_for_cause
from penstock.cli.output import err, print_json_line
from penstock.cli.part import KAFKA, STANDARD, Part, edge
from penstock.errors import ConfigError
from penstock.host import on_signals
from penstock.settings import Settings

if TYPE_CHECKING:
    from penstock.pipeline import Program
    from penstock.runners.asked import Asked, Result
    from penstock.runtime import Loaded

__all__ = ["listen"]

_CREATE: Final = (
    "both have one partition: kafka-topics.sh --bootstrap-server HOST:PORT --create --partitions 1 --topic {topic}; "
    "and for --topic {results} with --config cleanup.policy=compact"
)


def listen(prepare: Callable[[], tuple[Loaded, Program]], part: Part, settings: Settings) -> None:
    """Answers the messages until SIGTERM or Ctrl-C. `prepare` loads the topology, for each run anew, with the models that it names by then.

    Raises UsageError for flags that do not go together, TransportError for brokers that do not answer at the start, TopicMissing.
    """
    from penstock.runners.asked import results_of
    from penstock.transports.kafka.connection import Admin

    if not part.on.startswith(KAFKA) or part.on == KAFKA:
        raise click.UsageError(f"--on {part.on}: give kafka://TOPIC")
    if STANDARD in (part.input, part.output) or part.resume:
        raise click.UsageError("with --on, --in and --out are what messages may name files below of; each run goes on by itself")
    if part.start is not None or part.stop is not None or part.limit is not None or part.sample is not None or part.query is not None:
        raise click.UsageError("with --on, the messages say which part of the input is read")
    topic = part.on.removeprefix(KAFKA)
    Admin(settings).require([topic, results_of(topic)], _CREATE.format(topic=topic, results=results_of(topic)))
    asyncio.run(_listen(prepare, part, settings))


async def _listen(prepare: Callable[[], tuple[Loaded, Program]], part: Part, settings: Settings) -> None:
    from penstock.runners.asked import Refusal, answer

    stopped = asyncio.Event()

    async def run(asked: Asked, offset: int) -> Result | None:
        try:
            mine = _part(part, asked)
            loaded, program = await asyncio.to_thread(prepare)
            ran = await run_for_cause(loaded, program, mine, settings, stopped)
        except (click.ClickException, ConfigError) as error:
            raise Refusal(error.format_message() if isinstance(error, click.ClickException) else str(error)) from error
        return _result(asked, offset, mine, ran) if ran.complete else None

    with on_signals(stopped.set):
        topic = part.on.removeprefix(KAFKA)
        err.print(f"listening to {topic}", markup=False)
        await answer(settings, topic, run, _tell, stopped)


def _part(part: Part, asked: Asked) -> Part:
    """Returns the part that a message asks for. Raises UsageError for names that lead elsewhere."""
    if asked.limit is not None and asked.limit < 1:
        raise click.UsageError(f"limit: {asked.limit} is not at least 1")
    if asked.sample is not None and not 0 < asked.sample <= 1:
        raise click.UsageError(f"sample: {asked.sample} is not a share above 0, at most 1")
    if part.topic and asked.input:
        raise click.UsageError("in: the topic that is read is that of the command")
    return replace(
        part,
        input=part.input if part.topic else _below(part.input, asked.input, "in"),
        output=_below(part.output, asked.output or asked.id, "out"),
        start=edge(asked.start),
        stop=edge(asked.stop),
        limit=asked.limit,
        sample=asked.sample,
        cause=asked.id,
    )


def _below(base: str, name: str, what: str) -> str:
    """Returns a name below the base, whose query (an endpoint, for example) stays. Raises UsageError for one that leads out of it."""
    steps = name.removesuffix("/").split("/")
    if "" in steps or ".." in steps or "." in steps or any(one in name for one in ("?", "://", "\\", "\0", "#")):
        raise click.UsageError(f"{what}: {name!r} is no name below the folder of the command")
    folder, mark, query = base.partition("?")
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def _result(asked: Asked, offset: int, part: Part, ran: Outcome) -> Result:
    from penstock.runners.asked import Result
    from penstock.transports.files.places import without_password

    failed = bool(ran.read) and ran.failed == ran.read
    reason = "no event could be scored: " + ran.first if failed else "" if ran.read else "no event lies in the part that was asked for"
    out = without_password(part.output).partition("?")[0]
    return Result(asked.id, offset, "failed" if failed else "done", reason, out, ran.read, ran.written, ran.failed)


def _tell(result: Result) -> None:
    print_json_line({name: getattr(result, name) for name in result.__struct_fields__})
