"""`penstock validate`, `plan` and `draw`: inspect a topology file without a broker and without running a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from penstock import runtime
from penstock.cli.echo import echo
from penstock.cli.hops import Hop, hop
from penstock.cli.options import CONNECTION, with_settings
from penstock.cli.output import err, format_option, out, print_json, table
from penstock.codecs.schema_registry import open_schema_registry
from penstock.control.topics import group_of
from penstock.errors import ConfigError, TopologyError
from penstock.host import write_whole
from penstock.nodes.window import changelogs
from penstock.runtime import Loaded, load, placed
from penstock.schema import Column
from penstock.settings import Settings
from penstock.signature import Tensor
from penstock.topology.draw import mermaid, text
from penstock.topology.find import find
from penstock.topology.kinds import kind_of
from penstock.topology.matches import changelogs as changelogs_of_matches
from penstock.topology.parameters import shown
from penstock.topology.parse import parse
from penstock.topology.spec import LookupNode, ModelNode, Source, When, there
from penstock.topology.wiring import Emit, Feed, Input, Joined, Matched, Part, Stage, Step

__all__ = ["draw", "plan", "validate"]

_file = click.argument("topology", type=click.Path(path_type=Path), metavar="TOPOLOGY")


@click.command()
@_file
@with_settings(
    "models", "schemas", "schema_registry_url", *CONNECTION, "application", "releases", "trust", "unsigned_control", "model_trust"
)
@click.option("--live", is_flag=True, help="Check also whether a worker could run: models, trust, brokers, topics, access, clock.")
@format_option
@click.pass_context
def validate(ctx: click.Context, /, topology: Path, settings: Settings, live: bool, form: str) -> None:
    """Check TOPOLOGY, a file or a name: keys, names, models, types. Lists every problem with its line. Exit code 2 if there are any.

    With --live, one report on what a worker with these settings would meet: it verifies the models, reads the trust file, and asks the
    brokers for the topics, their partitions and configuration, for what this user may do, and for the workers that run. Nothing is
    written. Exit code 0 when no check has failed; else that of the first one that has: 3 a model, 4 no broker answers, 5 a topic is
    missing, 7 a login is refused, 1 anything else. A warning, and what the brokers do not say, fail nothing.
    """
    topology = find(topology, settings.topologies)
    try:
        loaded = _load(topology, settings)
        placed(loaded.topology, settings)
    except TopologyError as error:
        if form == "json":
            print_json({"valid": False, "problems": [asdict(problem) for problem in error.problems]})
        else:
            for problem in error.problems:
                err.print(str(problem), markup=False)
            count = len(error.problems)
            err.print(f"{topology}: {count} problem{'s' if count > 1 else ''}", markup=False)
        ctx.exit(2)
    if live:
        ctx.exit(_live(loaded, settings, form))
    counts = {part: len(getattr(loaded.topology, part)) for part in ("sources", "nodes", "sinks")}
    counts["nodes"] -= len(loaded.topology.conditions)
    counts |= {part: len(found) for part in ("matches", "tables") if (found := getattr(loaded.topology, part))}
    if form == "json":
        print_json({"valid": True, "problems": [], "topology": loaded.topology.name, **counts})
    else:
        one = {"matches": "match"}
        listed = ", ".join(f"{count} {part if count != 1 else one.get(part, part[:-1])}" for part, count in counts.items())
        out.print(f"{topology}: {loaded.topology.name} is valid: {listed}", markup=False)


def _live(loaded: Loaded, settings: Settings, form: str) -> int:
    """Prints what is found as it is found, and returns the exit code."""
    from penstock.cli.inspect import Finding, inspect
    from penstock.cli.main import exit_code

    def noted() -> Iterator[Finding]:
        yield Finding("file", "ok", f"{loaded.topology.file}: {loaded.topology.name} is valid, and so are its schemas")
        yield from inspect(loaded, settings)

    found = []
    for one in noted():
        found.append(one)
        if form != "json":
            line, colour = Table.grid(), {"ok": "green", "failed": "bold red"}.get(one.state, "yellow")
            for width in (9, 9, None):
                line.add_column(width=width, overflow="fold")
            line.add_row(Text(one.state, colour), Text(one.check, "bold"), Text(one.text))
            out.print(line)
    failed = [one for one in found if one.state == "failed"]
    if form == "json":
        rows = [{"check": one.check, "state": one.state, "message": one.text} for one in found]
        print_json({"valid": not failed, "problems": [], "topology": loaded.topology.name, "checks": rows})
    return (1 if failed[0].error is None else exit_code(failed[0].error)) if failed else 0


@click.command()
@_file
@with_settings("models", "schemas", "schema_registry_url", "application")
@click.option(
    "--rules", type=click.Path(path_type=Path, file_okay=False), help="Write the graph of each rule there, as NODE.onnx or NAME.when.onnx."
)
@format_option
def plan(topology: Path, settings: Settings, rules: Path | None, form: str) -> None:
    """Show what running TOPOLOGY on Kafka does, stage by stage: the columns read, the steps in order, the topics written.

    Where nodes are materialised, also which consumer group runs each stage, and what each topic between two stages costs: the bytes of a
    record, and the time to write and to read it, measured here on made-up rows.
    """
    loaded = _load(find(topology, settings.topologies), settings)
    if rules is not None:
        _write_rules(loaded, rules)
    name = loaded.topology.name
    shares = runtime.shares(loaded, f"{settings.application}.{name}")
    stages = [
        (stage, group_of(settings.application, name, process), share) for process, share in shares.items() for stage in share.wiring.stages
    ]
    hops = [] if (cut := stages[0][2].share) is None else [hop(one, cut.schemas[node]) for node, one in cut.between.items()]
    staged = cut is not None
    prefix = f"{settings.application}.{name}"
    logs = changelogs(loaded.topology, prefix) | changelogs_of_matches(loaded.topology, prefix)
    if form == "json":
        made = [{**_stage(stage, loaded), **({"group": group} if staged else {})} for stage, group, _ in stages]
        between = {"between": [asdict(one) for one in hops]} if hops else {}
        print_json({"topology": name, "stages": made, **between, **({"changelogs": logs} if logs else {})})
        return
    for stage, group, _ in stages:
        if staged:
            out.print(Text.assemble((f"stage {stage.name}", "bold"), f": consumer group {group}\n"))
        _print_stage(stage, loaded)
    if hops:
        _print_hops(hops)
    if logs:
        shown = table("what is remembered, with as many partitions as what its stage reads", "node", "topic")
        for node, topic in logs.items():
            _add(shown, node, topic)
        out.print(shown)
        out.print()


@click.command()
@_file
@with_settings("models", "schemas", "schema_registry_url")
@click.option(
    "--as", "style", type=click.Choice(["text", "mermaid"]), default="text", show_default=True, help="For a terminal, or for web pages."
)
def draw(topology: Path, settings: Settings, style: str) -> None:
    """Draw TOPOLOGY. An invalid file is drawn as far as its references resolve."""
    topology = find(topology, settings.topologies)
    parsed, wiring = parse(topology), None
    try:
        wiring = _load(topology, settings).wiring
    except TopologyError:
        err.print("drawn from the file alone, without the wires that follow from names: run `penstock validate` to see why", markup=False)
    echo({"text": text, "mermaid": mermaid}[style](parsed, wiring), nl=False)


def _load(topology: Path, settings: Settings) -> Loaded:
    return load(topology, models=settings.models, schemas=settings.schemas, schema_registry=open_schema_registry(settings))


def _write_rules(loaded: Loaded, folder: Path) -> None:
    """Raises ConfigError when the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for node, graph in loaded.wiring.graphs.items():
            write_whole(folder / f"{node.replace('?', '.when')}.onnx", graph.model, mode=0o644)
    except OSError as error:
        raise ConfigError(f"--rules {folder}: {error.strerror or error}") from error


def _stage(stage: Stage, loaded: Loaded) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "inputs": [_input(one, loaded) for one in stage.inputs],
        **({"match": _matched(stage.gather)} if isinstance(stage.gather, Matched) else {}),
        "steps": [_step(step, loaded) for step in stage.steps],
        "sinks": [_sink(emit) for emit in stage.emits],
    }


def _input(one: Input, loaded: Loaded) -> dict[str, Any]:
    source = one.source
    return {
        "source": source.name,
        "topic": source.topic,
        "format": source.format,
        "schema": source.schema,
        **({"envelope": source.envelope, "types": list(source.types)} if source.envelope else {}),
        "written_by": [sink.name for sink in loaded.topology.sinks if sink.topic == source.topic],
        "dead_letter": source.dead_letter,
        "columns": [
            {"name": column.name, "field": column.field, "dtype": column.dtype, "shape": list(column.shape), "missing": _missing(column)}
            for column in one.columns
        ],
    }


def _step(step: Step, loaded: Loaded) -> dict[str, Any]:
    node = step.node
    model = {"model": str(node.model), "version": loaded.artifacts[node.name].version} if isinstance(node, ModelNode) else {}
    given = node.providers or loaded.topology.providers if isinstance(node, ModelNode) else ()
    providers = {"providers": [{one.name: dict(one.options)} for one in given]} if given else {}
    table = {"table": node.table, "topic": _topic(node, loaded)} if isinstance(node, LookupNode) else {}
    rule = {} if step.graph is None else {"version": step.graph.label, "digest": f"sha256:{step.graph.digest}"}
    return {
        "node": node.name,
        "kind": node.kind,
        **model,
        **providers,
        **rule,
        "inputs": {feed.tensor.name: [_part(part) for part in feed.parts] for feed in step.feeds if feed.parts},
        "parameters": {feed.tensor.name: feed.constant for feed in step.feeds if not feed.parts},
        **table,
        "outputs": [tensor.name for tensor in _read(step)],
        **({} if node.when is None else {"when": node.when.like or node.when.condition}),
    }


def _sink(emit: Emit) -> dict[str, Any]:
    sink = emit.sink
    return {
        "sink": sink.name,
        "topic": sink.topic,
        "format": sink.format,
        "schema": sink.schema,
        "key": None if emit.key is None else _part(emit.key),
        "fields": {field.name: {"from": _part(field.part), "type": _type(field.dtype, field.shape)} for field in emit.fields},
        **({} if sink.when is None else {"when": sink.when.like or sink.when.condition}),
    }


def _print_stage(stage: Stage, loaded: Loaded) -> None:
    for one in stage.inputs:
        _print_input(one, loaded)
    if isinstance(stage.gather, Joined):
        out.print(f"{_joined(stage.gather)}\n", markup=False)
    elif isinstance(stage.gather, Matched):
        out.print(f"{_matched(stage.gather)}\n", markup=False)
    steps = table("steps", "", "node", "model", "inputs", "outputs read")
    for number, step in enumerate(stage.steps, 1):
        outputs = "\n".join(_outputs(step))
        name = step.node.name + _only(step.node.when)
        _add(steps, str(number), name, _computed_by(step, loaded), "\n".join(map(_fed, step.feeds)), outputs)
    sinks = table("sinks", "sink", "topic", "format", "key", "fields")
    for emit in stage.emits:
        fields = "\n".join(f"{field.name} <- {_whole(field.part)}" for field in emit.fields)
        key = "the input's" if emit.key is None else _part(emit.key)
        _add(sinks, emit.sink.name + _only(emit.sink.when), emit.sink.topic, emit.sink.format, key, fields)
    for each in (steps, sinks):
        out.print(each)
        out.print()


def _joined(gather: Joined) -> str:
    quorum = gather.quorum
    wanted = "all" if quorum.need == len(quorum.members) else f"{quorum.need} of {len(quorum.members)}"
    required = f", {' and '.join(sorted(quorum.require))} among them" if quorum.require else ""
    return f"joined by the event's id: {wanted}{required}, within {quorum.within} ms"


def _matched(gather: Matched) -> str:
    match = gather.match
    keys = ", ".join(f"{left} = {right}" for left, right in zip(*gather.by, strict=True))
    before = f"at most {match.before_ms / 1000:g} s before and " if match.before_ms else ""
    alone = f"one of {match.left} without a partner has null for {match.right}" if match.unmatched == "keep" else "others are dropped"
    return f"matched by {keys}: {match.right} {before}at most {match.within_ms / 1000:g} s after {match.left}; {alone}"


def _print_input(one: Input, loaded: Loaded) -> None:
    source = one.source
    writers = [sink.name for sink in loaded.topology.sinks if sink.topic == source.topic]
    written = f", written by {' and '.join(f'the sink {name}' for name in writers)}" if writers else ""
    title = f"outputs of the node {one.behind}" if one.behind else f"source {source.name}"
    out.print(Text.assemble((title, "bold"), f": {source.topic} ({', '.join(filter(None, (source.format, source.schema)))}){written}"))
    if source.envelope:
        out.print(f"  {_skipped(source)}", markup=False)
    out.print(f"  records that cannot be scored are written to {source.dead_letter}\n", markup=False)
    columns = table("columns read", "column", "field", "type", "null")
    for column in one.columns:
        _add(columns, column.name, column.field, _type(column.dtype, column.shape), _missing(column))
    out.print(columns)
    out.print()


def _print_hops(hops: Sequence[Hop]) -> None:
    shown = table(
        "topics between stages, with as many partitions as their source", "node", "topic", "kept", "compression", "a record", "CPU"
    )
    for one in hops:
        cpu = f"{one.write_us:.1f} µs to write, {one.read_us:.1f} to read"
        _add(shown, one.node, one.topic, f"{one.retention_ms / 3_600_000:g} h", one.compression, f"about {one.bytes} bytes", cpu)
    out.print(shown)
    out.print()


def _skipped(source: Source) -> str:
    """Returns which events an envelope has, and which of them are skipped."""
    if source.envelope == "debezium":
        return "changes as Debezium writes them: deletions, truncations and tombstones are skipped"
    return f"CloudEvents of the types {', '.join(source.types)}: others are skipped" if source.types else "CloudEvents of all types"


def _computed_by(step: Step, loaded: Loaded) -> str:
    """Returns the cell of a node: for a model, the exact version and the alias that selected it; for a rule, its digest and expressions."""
    node = step.node
    if step.graph is not None:
        return f"{step.graph.label}\n{kind_of(node).detail(node)}"
    if isinstance(node, LookupNode):
        return f"{kind_of(node).detail(node)}\nthe topic {_topic(node, loaded)}{', at its time' if node.historical else ''}"
    if not isinstance(node, ModelNode):
        return kind_of(node).detail(node)
    model = f"{node.model.name}@{loaded.artifacts[node.name].version}"
    model = model if model == str(node.model) else f"{model} ({node.model.version})"
    return "\n".join([model, *(f"on {one}" for one in node.providers or loaded.topology.providers)])


def _topic(node: LookupNode, loaded: Loaded) -> str:
    found = loaded.topology.table(node.table)
    return "" if found is None else found.topic


def _read(step: Step) -> list[Tensor]:
    """Returns the outputs that are read, without the columns that say where those of a lookup are null."""
    node = step.node
    hidden = {there(name) for name in node.names} if isinstance(node, LookupNode) else set()
    return [tensor for tensor in step.outputs if tensor.name not in hidden]


def _outputs(step: Step) -> list[str]:
    null = step.node.names if isinstance(step.node, LookupNode) else ()
    return [f"{tensor} or null" if tensor.name in null else str(tensor) for tensor in _read(step)]


def _only(when: When | None) -> str:
    """Returns the line below the name of what is for some events only."""
    return "" if when is None else f"\nwhen {when.like or when.condition}"


def _add(made: Table, *cells: str) -> None:
    """Adds a row of plain text, so that `[month, day]` is not read as markup."""
    made.add_row(*map(Text, cells))


def _fed(feed: Feed) -> str:
    if not feed.parts:
        return f"{feed.tensor} = {shown(feed.constant)}"
    parts = ", ".join(map(_whole, feed.parts))
    return f"{feed.tensor} <- {f'[{parts}]' if feed.stacked else parts}"


def _whole(part: Part) -> str:
    """Returns the part, and the value that it has for the events that its node leaves out."""
    return _part(part) if part.gap is None else f"{_part(part)} or {'null' if part.gap.fill is None else shown(part.gap.fill)}"


def _part(part: Part) -> str:
    return part.column if part.index is None else f"{part.column}[{part.index}]"


def _type(dtype: str, shape: tuple[int | None, ...]) -> str:
    return str(Tensor("", dtype, shape)).removeprefix(": ")


def _missing(column: Column) -> str:
    """Describes what happens to a null."""
    if column.missing.action == "reject":
        return "rejected"
    return "null" if column.missing.value is None else str(column.missing.value)
