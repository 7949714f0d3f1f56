"""`penstock schema`: event schemas, checks of events, and the JSON Schemas of topology files, control messages and status records."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args

import click
from rich.markup import escape

from penstock.cli.options import CONNECTION, with_settings
from penstock.cli.output import counted, err, format_option, out, print_json, table
from penstock.cli.part import KAFKA
from penstock.cli.schema_registry import pull, push
from penstock.codecs import decoder, load_schema
from penstock.codecs.dialects import ENDINGS
from penstock.codecs.infer import infer as infer_schema
from penstock.control import messages
from penstock.control import status as records
from penstock.errors import Problem, SchemaError
from penstock.record import RecordLike
from penstock.schema import REQUIRED, Coercion, Field, Schema, innermost
from penstock.settings import Settings
from penstock.topology.language import json_schema

__all__ = ["schema"]

_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Named(click.Path):
    """A file that exists, and after # the message in it."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        file, mark, message = str(value).partition("#")
        super().convert(file, param, ctx)
        return Path(f"{file}{mark}{message}")


_SCHEMA = _Named(exists=True, dir_okay=False, path_type=Path)
_CHUNK = 256
_DEEPEST = 5


@click.group()
def schema() -> None:
    """List, show, check and propose event schemas (Avro, *.avsc; JSON Schema, *.schema.json; Protobuf, *.proto).

    Pull and push them; print JSON Schemas.

    \b
      penstock schema show schemas/flight.avsc
      penstock schema show schemas/shop.proto#Order
      penstock schema check schemas/flight.avsc --events sample.ndjson
      penstock schema infer sample.ndjson > schemas/mine.avsc
    """


@schema.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path), default="schemas")
@format_option
def ls(directory: Path, form: str) -> None:
    """List the schemas in DIRECTORY (default: schemas/)."""
    files = sorted(file for language in ("AVRO", "JSON") for file in directory.rglob(f"*{ENDINGS[language][0]}"))
    found = [*_load(files), *_messages(directory)]
    if form == "json":
        print_json([{"file": each.path, "name": each.name, "fields": len(each.fields)} for each in found])
        return
    listing = table("", "file", "name", "fields")
    for each in found:
        listing.add_row(escape(each.path), escape(each.name), str(len(each.fields)))
    out.print(listing)


@schema.command(short_help="Show the fields and the tensors that they can feed.")
@click.argument("file", type=_SCHEMA)
@format_option
def show(file: Path, form: str) -> None:
    """Show the fields of a schema: type, default, and the tensor that each can feed."""
    found = load_schema(file)
    rows = [
        {"name": path, "type": _type(field), "default": _default(field), "feeds": _feeds(field), "doc": field.why or field.doc}
        for path, field in _listed(found.fields)
    ]
    if form == "json":
        print_json({"file": found.path, "name": found.name, "fields": rows})
        return
    listing = table(escape(f"{found.name} ({found.path})"), "field", "type", "default", "feeds", "doc")
    for row in rows:
        listing.add_row(*(escape(cell) for cell in row.values()))
    out.print(listing)


@schema.command(short_help="Check schema files, and events against one.")
@click.argument("files", nargs=-1, required=True, type=_SCHEMA)
@click.option("--events", type=_EXISTING, help="JSON events, one per line, to compare with the schema (one FILE then).")
@click.option(
    "--coerce", multiple=True, type=click.Choice(get_args(Coercion)), help="What the source may accept otherwise, as in a topology."
)
@format_option
def check(files: tuple[Path, ...], events: Path | None, coerce: tuple[Coercion, ...], form: str) -> int:
    """Check schema files, and events against one; exit 1 when an event is not valid.

    Lists every problem of every file, the fields that no topology can read, and every bad event with its line and the reason.
    """
    if events is not None and len(files) > 1:
        raise click.UsageError("--events compares events with one schema; give one FILE")
    found = _load(files, whole=events is None)
    total, bad = _check_events(found[0], events, coerce) if events is not None else (0, [])
    if form == "json":
        print_json(
            {
                "schemas": [each.path for each in found],
                "unreadable": [reason for each in found for reason in _unreadable(each)],
                "events": total,
                "bad": [{"line": line, "reason": reason} for line, reason in bad],
            }
        )
        return 1 if bad else 0
    for each in found:
        out.print(f"{escape(each.path)}: {escape(each.name)}, {counted(len(each.fields), 'field')}")
        for reason in _unreadable(each):
            out.print(f"  no topology can read: {escape(reason)}")
    if events is not None:
        for line, reason in bad:
            out.print(f"{escape(str(events))}:{line}: {escape(reason)}")
        out.print(f"{counted(total, 'event')}, {len(bad)} bad")
    return 1 if bad else 0


@schema.command(short_help="Propose a schema from sample events.")
@click.argument("events", metavar="FILE|kafka://TOPIC")
@click.option("--name", default="Event", show_default=True, help="Name of the record.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=1_000, show_default=True, metavar="N", help="At most so many events of a topic."
)
@with_settings(*CONNECTION)
def infer(events: str, name: str, limit: int, settings: Settings) -> None:
    """Propose a schema from sample events: a file of JSON objects, one per line, or the first events of a topic.

    \b
      penstock schema infer sample.ndjson > schemas/mine.avsc
      penstock schema infer kafka://orders --limit 500 > schemas/order.avsc

    Edit the result: a sample does not show every case. Objects become records, whose fields a topology names by path (after.amount), and
    names that Avro does not allow become aliases. What cannot be used (no value, values of several types) is left out, with a note.
    """
    topic = events.removeprefix(KAFKA) if events.startswith(KAFKA) else ""
    if events.startswith(KAFKA) and not topic:
        raise click.UsageError(f"name the topic: {KAFKA}TOPIC")
    proposed, notes = infer_schema(_sampled(topic, settings, limit) if topic else _parsed(_file(events)), name)
    print_json(proposed)
    for note in notes:
        err.print(note, markup=False)
    then = "name it in a topology" if topic else f"penstock schema check FILE --events {events}"
    guessed = "Whole numbers became long, and arrays of one length got that size: change these where other events may differ"
    err.print(f"fields: {len(proposed['fields'])}. {guessed}; then: {then}", markup=False)


@schema.command(short_help="Print the JSON Schema of topology files.")
def topology() -> None:
    """Print the JSON Schema of topology files, for completion in editors."""
    print_json(json_schema())


@schema.command(short_help="Print the JSON Schema of control messages.")
def control() -> None:
    """Print the JSON Schema of the messages of a control topic (the signed payload)."""
    print_json(messages.json_schema())


@schema.command(short_help="Print the JSON Schema of status records.")
def status() -> None:
    """Print the JSON Schema of what workers write to a status topic."""
    print_json(records.json_schema())


schema.add_command(pull)
schema.add_command(push)


def _messages(directory: Path) -> Iterator[Schema]:
    """Yields the schemas of the messages in the files of Protobuf."""
    for file in sorted(one for one in directory.rglob("*.*") if one.suffix in ENDINGS["PROTOBUF"]):
        yield from _messages_of(file)


def _messages_of(file: Path) -> list[Schema]:
    from penstock.codecs.protobuf.files import load_messages  # imports the library

    return load_messages(file)


def _load(files: Iterable[Path], *, whole: bool = False) -> list[Schema]:
    """Loads all files, of Protobuf's `whole` ones every message. Raises SchemaError with the problems of all of them."""
    found: list[Schema] = []
    problems: list[Problem] = []
    for file in files:
        try:
            found += _messages_of(file) if whole and file.suffix in ENDINGS["PROTOBUF"] else [load_schema(file)]
        except SchemaError as error:
            problems.extend(error.problems)
    if problems:
        raise SchemaError(problems)
    return found


def _unreadable(found: Schema) -> list[str]:
    """Returns why fields of a JSON Schema are no columns: a mistake in it, or what events may hold in several types."""
    return [field.why for _, field in _listed(found.fields) if field.why]


def _lines(events: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines that are not blank, with their numbers."""
    with events.open("rb") as opened:
        for number, line in enumerate(opened, 1):
            if line.strip():
                yield number, line.rstrip(b"\r\n")


def _check_events(found: Schema, events: Path, coerce: Collection[Coercion]) -> tuple[int, list[tuple[int, str]]]:
    """Returns the number of events, and the line and reason of each bad event."""
    decode = decoder("json", found, [], coerce=coerce).decode
    total, bad = 0, []
    for chunk in _chunks(_lines(events)):
        total += len(chunk)
        failures = decode([line for _, line in chunk]).failures
        bad += [(chunk[failure.row][0], str(failure.error)) for failure in failures]
    return total, bad


def _chunks(lines: Iterator[tuple[int, bytes]]) -> Iterator[Sequence[tuple[int, bytes]]]:
    while chunk := list(islice(lines, _CHUNK)):
        yield chunk


def _parsed(events: Path) -> Iterator[Any]:
    for number, line in _lines(events):
        try:
            event = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            column, why = (error.colno, error.msg) if isinstance(error, json.JSONDecodeError) else (1, str(error))
            raise SchemaError(Problem(str(events), number, column, f"not JSON: {why}", "write one JSON object per line")) from None
        if not isinstance(event, dict):
            raise SchemaError(Problem(str(events), number, 1, f"not a JSON object: {line[:40].decode()}", "write one JSON object per line"))
        yield event


def _file(name: str) -> Path:
    return cast(Path, _EXISTING.convert(name, None, None))


def _sampled(topic: str, settings: Settings, limit: int) -> Iterator[Any]:
    """Yields the first events of a topic that have a value; a frame of a schema registry before JSON is passed over."""
    from penstock.codecs.framing import FRAME
    from penstock.transports.kafka.extent import KafkaExtent

    async def read() -> list[RecordLike]:
        extent, found = KafkaExtent(settings, topic, limit=limit), []
        await extent.begin()
        try:
            while spans := await extent.take(limit):
                found += [record for span in spans for record in span.records]
        finally:
            await extent.close()
        return found

    for record in asyncio.run(read()):
        if (value := record.value) is None:
            continue
        try:
            yield json.loads(value[FRAME:] if value[:1] == b"\0" else value, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            fix = "what is Avro has a schema already: `penstock schema pull` takes it from a registry"
            raise SchemaError(Problem(f"{topic}, offset {record.offset}", 0, 0, f"not JSON: {error}", fix)) from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON: write null")


def _listed(fields: Sequence[Field], at: str = "", depth: int = 0) -> Iterator[tuple[str, Field]]:
    """Yields the fields with their paths, each before those inside it; those deeper than five levels are not listed."""
    for field in fields:
        yield at + field.name, field
        inside = field.fields or (field.values.fields if field.values else ()) or innermost(field).fields
        step = ".KEY" if field.values else "[0]" * len(field.shape)
        if depth < _DEEPEST:
            yield from _listed(inside, f"{at}{field.name}{step}.", depth + 1)


def _type(field: Field) -> str:
    kind = f"timestamp ({field.unit}{', from a date' if field.dated else ''})" if field.kind == "timestamp" else field.kind
    if field.items is not None:
        kind = f"{_type(field.items)}[{field.size or ''}]"
    elif field.values is not None:
        kind = f"map of {_type(field.values)}"
    elif field.symbols:
        kind = f"enum {' '.join(field.symbols)}"
    return f"{kind} or null" if field.optional else kind


def _default(field: Field) -> str:
    return "" if field.default is REQUIRED else json.dumps(field.default, ensure_ascii=False)


def _feeds(field: Field) -> str:
    axes = ", ".join(["N", *("?" if axis is None else str(axis) for axis in field.shape)])
    return f"{field.dtype}[{axes}]" if field.dtype else "nothing"
