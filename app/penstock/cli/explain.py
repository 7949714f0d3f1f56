"""`penstock explain`: one prediction, from its input event through each model to the published record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.text import Text

from penstock.batch import Array
from penstock.cli.options import CONNECTION, with_settings
from penstock.cli.output import format_option, out, print_json, table
from penstock.cli.release.asking import named
from penstock.engine import Run
from penstock.explain import ABSENT, Bound, Compared, DeadLetter, Explanation, Verdict
from penstock.explain import explain as trace
from penstock.record import Position
from penstock.settings import Settings
from penstock.tame import UNPRINTABLE

__all__ = ["explain"]

_LONGEST: Final = 72  # characters of a value that are printed
_ITEMS: Final = 8  # items of an array that are printed
_COLOURS: Final = {Verdict.EQUAL: "green", Verdict.CLOSE: "green", Verdict.DIFFERENT: "bold red"}


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[TOPOLOGY] TOPIC:PARTITION:OFFSET")
@with_settings(
    *CONNECTION, "application", "topologies", "models", "schemas", "releases", "trust", "unsigned_control", "roots", "cache", "model_trust"
)
@click.option("--now", is_flag=True, help="Run a dead letter through what is active today, not through what failed on it.")
@format_option
def explain(words: tuple[str, ...], settings: Settings, now: bool, form: str) -> int:
    """Trace one prediction to its input and its models, make it once more, and compare.

    \b
      penstock explain predictions:3:1045
      penstock explain topologies/flights.yaml predictions:3:1045 --format json
      penstock explain flights departures.dead-letter:0:7

    The record's headers name its input, generation and models. The control log gives the versions of that generation, with
    their digests. For generation 0, or with --no-releases, the versions in the headers are read from the registry. The event
    is run through that plan again, and every field is printed beside the published one.

    TOPOLOGY is a file or a name; without it, the record's headers name it. For a position in a dead-letter topic, the command
    prints the recorded failure, and runs the record through what failed on it, or with --now through what is active today.
    Exit code 1 when a field is DIFFERENT, or when the headers are false. Nothing is written to any topic.
    """
    *topology, place = words
    if len(topology) > 1:
        raise click.UsageError(f"too many arguments: {' '.join(words)}")
    try:
        position = Position.parse(place)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    found = trace(position, settings, named(topology[0], settings) if topology else None, now=now)
    if form == "json":
        print_json(_document(found))
    else:
        _show(found)
    return 1 if found.verdict is Verdict.DIFFERENT else 0


# -- for people --------------------------------------------------------------------------------------------------------


def _show(found: Explanation) -> None:
    what = "dead letter" if found.recorded else "prediction"
    _print(Text.assemble((str(found.record.position), "bold"), f"  {what} of {found.topology.name} ({found.topology.file})"))
    _print(f"  generation {found.bound.generation}: {_authority(found.bound)}")
    for node, artifact in found.bound.artifacts.items():
        _print(f"    {node} = {artifact}  {artifact.digest[:19]}…")
    _show_input(found)
    for run in found.rerun.runs:
        _show_run(run)
    if found.recorded:
        _show_fate(found, found.recorded)
    else:
        _show_comparison(found)


def _authority(bound: Bound) -> str:
    if bound.release and not bound.release.id:
        return "bound by the control log: what the topology file had bound when the trial began; digests checked"
    if bound.release:
        reason = f", {bound.release.reason}" if bound.release.reason else ""
        return f"bound by the control log, release {bound.release.id} by {bound.release.author}{reason}; digests checked"
    if bound.said_by == "headers":
        parameters = "; no control log was read, so the parameters are those of the file" if bound.generation else ""
        return f"the versions that the record's headers name, from the registry{parameters}"
    return "there is no release: what the topology file binds today"


def _show_input(found: Explanation) -> None:
    came = found.input
    moment = datetime.fromtimestamp(came.timestamp / 1000, UTC).isoformat(timespec="milliseconds") if came.timestamp >= 0 else "no time"
    id = f", id {found.event_id}" if found.event_id else ""
    _heading("input", f"{came.position}  source {found.source.name}, {moment}, key {_text(came.key)}{id}")
    if found.rerun.event is None:
        _print(f"  not an event: {_text(came.value)}")
        return
    _rows((name, "", _text(value)) for name, value in found.rerun.event.items())
    if found.partner is not None:
        _print(f"  matched with {found.partner.position}: {_text(found.partner.value)}")


def _show_run(run: Run) -> None:
    _heading(f"node {run.node}", run.version)
    tensors = [("in ", run.inputs), ("out", run.outputs)]
    _rows((f"{way} {name}", _kind(array), _shortened(array)) for way, arrays in tensors for name, array in arrays.items())
    if run.error:
        _print(Text(f"  failed: {run.error}", style="red"))


def _show_comparison(found: Explanation) -> None:
    compared = found.comparison
    _heading("output", compared.sink if compared else found.record.topic)
    if found.rerun.failure:
        _print(Text(f"  run again, it fails at {_reason(found.rerun.failure)}", style="red"))
    if compared is None:
        _print(Text("  DIFFERENT: it was published, and run again there is no output for this topic", style="bold red"))
        return
    shown = table("", "  FIELD", "PUBLISHED", "AGAIN", "")
    for one in (compared.key, *compared.fields):
        name = "  (key)" if one is compared.key else f"  {one.name}"
        shown.add_row(name, Text(_text(one.published)), Text(_text(one.again)), Text(str(one.verdict), style=_COLOURS[one.verdict]))
    out.print(shown)
    _print(Text(_conclusion(compared.verdict, compared.same_bytes), style=_COLOURS[compared.verdict]))


def _conclusion(verdict: Verdict, same_bytes: bool) -> str:
    if verdict is Verdict.DIFFERENT:
        return (
            "DIFFERENT: the file, a schema or a parameter has changed since, the input topic was recreated, or no worker wrote this record"
        )
    if verdict is Verdict.CLOSE:
        return "equal within 1e-6, not to the last digit: the processor may use other instructions for a single row than for a batch"
    return "equal, byte by byte" if same_bytes else "equal in every field; the bytes differ (order of fields, sign of a zero, framing)"


def _show_fate(found: Explanation, recorded: DeadLetter) -> None:
    _heading("recorded", f"failed at {_reason(recorded)}")
    when = "today" if found.now else "run again"
    for output in found.rerun.outputs:
        _heading(when, f"it reaches {output.sink} ({output.topic}), key {_text(output.key)}")
        _rows((name, "", _text(value)) for name, value in output.event.items())
    if found.rerun.failure:
        _heading(when, f"it fails at {_reason(found.rerun.failure)}")
    elif not found.rerun.outputs:
        _heading(when, "it does not fail, and no sink writes it")


def _reason(failed: DeadLetter) -> str:
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", f"{failed.where}: {failed.message}")


def _heading(title: str, rest: str) -> None:
    out.print()
    _print(Text.assemble((title, "bold"), f"  {rest}"))


def _rows(rows: Iterable[tuple[str, str, str]]) -> None:
    listed = list(rows)
    first, second = (max((len(row[at]) for row in listed), default=0) for at in (0, 1))
    for name, kind, value in listed:
        _print(f"  {name:{first}}  {kind:{second}}{'  ' if second else ''}{value}")


def _print(line: str | Text) -> None:
    out.print(line, markup=False)


def _kind(array: Array) -> str:
    """Returns dtype and shape, with the dimension of the one row."""
    return f"{_dtype(array)}[{', '.join(map(str, array.shape))}]"


def _dtype(array: Array) -> str:
    return "string" if array.dtype.kind == "O" else str(array.dtype)


def _shortened(array: Array) -> str:
    values = array.reshape(-1)
    text = ", ".join(_text(value) for value in values[:_ITEMS].tolist())
    more = f", … {values.size} in total" if values.size > _ITEMS else ""
    return f"[{text}{more}]" if values.size != 1 else text


def _text(value: Any) -> str:
    """Returns a value on one line, without control characters; of a long one the beginning."""
    if value is ABSENT:
        return "(absent)"
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, list) and len(value) > _ITEMS:
        return f"{_text(value[:_ITEMS])[:-1]}, … {len(value)} in total]"
    text = UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… {len(text)} characters in total"


# -- for programs ------------------------------------------------------------------------------------------------------


def _document(found: Explanation) -> dict[str, Any]:
    bound, came, compared = found.bound, found.input, found.comparison
    return {
        "position": str(found.record.position),
        "kind": "dead letter" if found.recorded else "prediction",
        "topology": found.topology.name,
        "file": found.topology.file,
        "generation": bound.generation,
        "said_by": bound.said_by,
        "release": bound.release.id or None if bound.release else None,
        "models": {node: {"version": str(one), "digest": one.digest} for node, one in bound.artifacts.items()},
        "input": {
            "position": str(came.position),
            "source": found.source.name,
            "id": found.event_id,
            "timestamp": came.timestamp,
            "key": _plain(came.key),
            "event": _plain(found.rerun.event),
            **({} if found.partner is None else {"partner": str(found.partner.position)}),
        },
        "nodes": [_run(run) for run in found.rerun.runs],
        "outputs": [
            {"sink": one.sink, "topic": one.topic, "key": _plain(one.key), "event": _plain(one.event)} for one in found.rerun.outputs
        ],
        "failure": _failure(found.rerun.failure),
        "recorded": _failure(found.recorded),
        "key": _compared(compared.key) if compared else None,
        "fields": [_compared(one) for one in compared.fields] if compared else [],
        "same_bytes": compared.same_bytes if compared else None,
        "verdict": found.verdict and found.verdict.name.lower(),
    }


def _run(run: Run) -> dict[str, Any]:
    def tensors(arrays: Mapping[str, Array]) -> list[dict[str, Any]]:
        return [
            {"name": name, "dtype": _dtype(array), "shape": list(array.shape), "value": _plain(array.tolist())}
            for name, array in arrays.items()
        ]

    error = str(run.error) if run.error else None
    return {"node": run.node, "model": run.version, "inputs": tensors(run.inputs), "outputs": tensors(run.outputs), "error": error}


def _failure(failed: DeadLetter | None) -> dict[str, str] | None:
    return {"stage": failed.where, "message": failed.message} if failed else None


def _compared(one: Compared) -> dict[str, Any]:
    values = {"published": one.published, "again": one.again}
    there = {name: _plain(value) for name, value in values.items() if value is not ABSENT}
    return {"name": one.name, **there, "verdict": one.verdict.name.lower()}


def _plain(value: Any) -> Any:
    """Returns the value for JSON: bytes as text, and NaN and infinity, which JSON lacks, as strings."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
