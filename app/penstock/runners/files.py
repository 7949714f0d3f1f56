"""A run over files, from its plan to its end: what it reads and in which units, what it writes and where, and its manifest.

An output is a folder, with a folder of parts per topic, or one file; then the parts are in a folder beside it (`OUT.parts`) until the
run is complete, and are joined. The units of a run are files, or row groups of them where processes share the work; they never change
while it lasts, so any number of processes can go on with those that are left.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Final, NamedTuple

from penstock.batch import Table
from penstock.codecs.container import container_schema, plain_avro
from penstock.errors import ConfigError, Problem
from penstock.pipeline import Pace, Program, Writes, ports, tensors
from penstock.runners import bounded
from penstock.runners.bounded import Bounded, Ran
from penstock.runtime import Loaded
from penstock.schema import REQUIRED, Schema
from penstock.state import States
from penstock.topology.wiring import Emit, Stage
from penstock.transports.base import UNLIMITED
from penstock.transports.checkpoint import Checkpoint, Part, Unit
from penstock.transports.files import FORMATS, FileSink, FileSource, Format, Input, Output, Place, Shape, Tables, format_of, hive
from penstock.transports.files.manifest import Manifest
from penstock.transports.files.places import without_password

__all__ = [
    "Job",
    "Target",
    "batch_pace",
    "columns_of",
    "finish",
    "formed",
    "inputs_of",
    "job_of",
    "planned",
    "run_source",
    "run_units",
    "shares_of",
    "tables_of",
]

MANIFEST: Final = "_manifest.json"
ROWS: Final = "_input.arrow"  # the rows that were read of a database
GROUPS: Final = 8  # groups of a stream that are one here
UNITS: Final = 200  # most units of a share: the loop looks at each of them
SHARES: Final = 4  # pieces of the work per process, so that a slow one holds up no other


@dataclass(frozen=True, slots=True)
class Target:
    """Where outputs go: `work` is the folder of the parts, with a folder for each of the `topics`, those of dead letters too.

    `whole` has, by topic, the file that the parts become at the end; empty: none.
    """

    output: Place
    work: Place
    manifest: Place
    format: Format
    ending: str
    topics: tuple[str, ...]
    whole: Mapping[str, Place]

    @classmethod
    def of(cls, output: Place, topics: Sequence[str], dead: str, default: Format) -> Target:
        """Returns the target of an output with these topics; its format is that of the ending, or `default` where it is a folder.

        Raises ConfigError for an ending that no format has, and for a file for several topics.
        """
        found = format_of(output.last) if not output.name.endswith("/") else None
        if found is None:
            if "." in output.last.strip(".") and not output.name.endswith("/") and not output.is_folder():
                known = ", ".join(one.endings[0] for one in FORMATS.values())
                problem = f"is no file of a format that is known ({known}; .gz and .zst behind those of lines)"
                raise ConfigError(Problem(str(output), 0, 0, problem, "end the name of a folder with /"))
            return cls(output, output, output / MANIFEST, default, default.endings[0], (*topics, dead), {})
        if len(topics) > 1:
            raise ConfigError(f"there are {len(topics)} topics to write ({', '.join(topics)}): give a folder for --out")
        format, ending = found
        work = output.beside(f"{output.last}.parts")
        letters = output.beside(f"{output.last}.dead-letters.ndjson")
        return cls(output, work, work / MANIFEST, format, ending, (*topics, dead), {**dict.fromkeys(topics, output), dead: letters})

    @property
    def left(self) -> Place:
        """The manifest that stays when the run is complete."""
        return (
            self.manifest
            if not self.whole
            else next(iter(self.whole.values())).beside(f"{next(iter(self.whole.values())).last}.manifest.json")
        )

    def orphans(self, parts: Collection[str]) -> list[Place]:
        """Returns the files in the folders of parts that are not among `parts`: a run has written them and not kept.

        Other folders below are not looked into: they may hold the outputs of other runs.
        """
        found = [(topic, one) for topic in self.topics for one in (self.work / topic).files()]
        return [
            one
            for topic, one in found
            if "part-" in one.last and f"{topic}/{one.last}" not in parts and one.path == (self.work / topic / one.last).path
        ]

    @property
    def holds(self) -> bool:
        """Whether there is more in the folder of the parts than what a run leaves that was killed before it had a manifest."""
        return any(one.last != ROWS and not (one.last.startswith(".") and one.last.endswith(".part")) for one in self.work.files())


@dataclass(frozen=True, slots=True)
class Job:
    """A run, as every process of it knows it. `states` are what its nodes remember, from its first unit to its last."""

    topic: str
    stage: str
    format: Format
    tables: Tables | None
    outputs: Mapping[str, Output]
    place: Callable[[int, int], dict[str, object]]
    part_rows: int
    start: int = 0
    limit: int | None = None
    sample: float | None = None
    states: States | None = None


async def run_units(
    program: Program,
    job: Job,
    inputs: Sequence[Input],
    checkpoint: Checkpoint,
    *,
    pace: Pace,
    progress: Callable[[Ran, int], None],
    stopped: asyncio.Event,
) -> Ran:
    """Runs these inputs. What was written when `stopped` is set is kept as well."""
    source = FileSource(
        inputs, job.topic, job.format, tables=job.tables, start=job.start, limit=job.limit, sample=job.sample, checkpoint=checkpoint
    )
    with contextlib.closing(source):
        return await run_source(program, job, source, checkpoint, pace=pace, progress=progress, stopped=stopped)


async def run_source(
    program: Program,
    job: Job,
    source: Bounded,
    checkpoint: Checkpoint,
    *,
    pace: Pace,
    progress: Callable[[Ran, int], None],
    stopped: asyncio.Event,
) -> Ran:
    """Runs what a source yields, and writes it as the job says."""
    with contextlib.closing(FileSink(job.outputs, checkpoint=checkpoint, rows=job.part_rows, place=job.place)) as sink:
        ran = await bounded.run(
            program, source, sink, stages={job.topic: job.stage}, pace=pace, stopped=stopped,
            progress=lambda ran: progress(ran, source.done), states=job.states,
        )  # fmt: skip
        checkpoint.commit()
        progress(ran, source.done)
    return ran


def batch_pace(pace: Pace) -> Pace:
    """Returns the pace of a run that nothing waits for but its end: positions are kept part by part, and a group is many chunks."""
    forever = float("inf")
    return replace(
        pace, group_rows=pace.group_rows * GROUPS, offload_after=forever, uncommitted_rows=UNLIMITED, uncommitted_seconds=forever
    )


# -- what is read --------------------------------------------------------------------------------------------------------------------


def inputs_of(name: str, place: Place) -> tuple[Format, list[tuple[Place, int]]]:
    """Returns the format of the input and its files. Raises ConfigError without files, and for files of several formats, or of none."""
    name, found = without_password(name), place.find()
    known = [(one, format_of(one.place.last)) for one in found]
    files = [(one.place, one.size) for one, format in known if format is not None]
    formats = {format[0].name for _, format in known if format is not None}
    if not files:
        endings = ", ".join(ending for one in FORMATS.values() for ending in one.endings)
        what = "holds no file of a format that is known" if found or place.is_folder() else "cannot be read: No such file or directory"
        if len(found) == 1 and found[0].place.path == place.path:
            what = "does not say its format by its ending"
            endings += f"; or pipe NDJSON: --in - < {shlex.quote(name)}" if place.system is None else ""
        raise ConfigError(Problem(name, 0, 0, what, f"give files with one of these endings: {endings}"))
    if len(formats) > 1:
        raise ConfigError(Problem(name, 0, 0, f"holds files of several formats ({', '.join(sorted(formats))})", "give a pattern for one"))
    return FORMATS[formats.pop()], files


def job_of(
    loaded: Loaded,
    format: Format,
    target: Target,
    files: Mapping[int, str],
    *,
    part_rows: int,
    start: int = 0,
    limit: int | None = None,
    sample: float | None = None,
    states: States | None = None,
) -> Job:
    """Returns the job of a topology with one stage; `files` are the names of the inputs by their number, empty where no files are read."""
    (stage,) = loaded.wiring.stages

    def place(partition: int, offset: int) -> dict[str, object]:
        return {"file": files[partition], "row": offset} if files else {"partition": partition, "offset": offset}

    tables = tables_of(loaded, stage, format, files) if files else None
    outputs = outputs_of(loaded, stage, target)
    return Job(stage.source.topic, stage.name, format, tables, outputs, place, part_rows, start, limit, sample, states)


def tables_of(loaded: Loaded, stage: Stage, format: Format, names: Mapping[int, str]) -> Tables | None:
    """Returns how the columns of these files become the rows of a stage; None for files of lines. Folders named `year=2013` are columns."""
    if not format.columns:
        return None
    from penstock.transports.files.places import arrow

    pa = arrow()
    from penstock.codecs.arrow import ArrowReader

    (only,) = stage.inputs
    source, schema = only.source, loaded.schemas[only.source.name]
    fields = list(dict.fromkeys(column.field for column in only.columns))
    reader = ArrowReader(schema, fields, coerce=source.coerce, text=format.text)
    texts = ArrowReader(schema, fields, coerce=source.coerce, text=True)
    folders = {number: {key: value for key, value in hive(name).items() if key in reader.names} for number, name in names.items()}

    def table(batch: Any, number: int, offset: int) -> Table:
        made = reader.table(batch, source.topic, partition=number, offset=offset)
        constant = {key: value for key, value in folders[number].items() if key not in batch.schema.names}
        if not constant:
            return made
        repeated = [pa.repeat(pa.scalar(value, pa.string()), batch.num_rows) for value in constant.values()]
        beside = texts.table(pa.RecordBatch.from_arrays(repeated, list(constant)), source.topic)
        columns, nulls = {**made.columns, **beside.columns}, {**made.nulls, **beside.nulls}
        return replace(
            made, columns=columns, nulls=nulls, problems={**beside.problems, **made.problems}, texts=[*made.texts, *beside.texts]
        )

    return Tables(reader.names, table)


def columns_of(loaded: Loaded, stage: Stage, format: Format, file: Place) -> list[tuple[str, str, str, str]]:
    """Returns each field that the stage reads with its type, the column of the file that feeds it, and the type of this."""
    from penstock.codecs.arrow import ArrowReader

    given = format.module.columns(file)
    (only,) = stage.inputs
    reader = ArrowReader(loaded.schemas[only.source.name], dict.fromkeys(column.field for column in only.columns))
    folders = hive(str(file))
    rows = []
    for field, name in reader.mapping(given):
        kind = f"{field.kind}{list(field.shape) if field.shape else ''}{' or null' if field.optional else ''}"
        if name:
            rows.append((field.name, kind, name, str(given.field(name).type)))
        elif (folder := next((one for one in reader.heads(field) if one in folders), "")) != "":
            rows.append((field.name, kind, folder, "a folder's name"))
        else:
            absent = "null in every row" if field.optional and field.default in (REQUIRED, None) else f"its default, {field.default!r}"
            rows.append(
                (field.name, kind, "-", "no column: every row fails" if field.default is REQUIRED and not field.optional else absent)
            )
    return rows


def planned(format: Format, topic: str, files: Sequence[tuple[Place, int]], workers: int) -> list[Unit]:
    """Returns the units of a run: whole files, or for several processes row groups of those that are large."""
    units: list[Unit] = []
    most = max(sum(size for _, size in files) // (workers * SHARES), 1)
    for number, (place, size) in enumerate(files):
        groups = format.module.groups(place) if workers > 1 and size > most and hasattr(format.module, "groups") else []
        if len(groups) < 2:
            units.append(Unit(topic, number))
            continue
        each, rows, start = max(sum(groups) * most // size, 1), 0, 0
        for end in accumulate(groups):
            rows = end - start
            if rows >= each or end == sum(groups):
                units.append(Unit(topic, number, start, end, start))
                start = end
    return units


def shares_of(units: Sequence[Unit], sizes: Callable[[Unit], int], workers: int) -> list[list[Unit]]:
    """Returns the units that are left in shares of about one size. Those of a share follow each other, so that its parts do, too."""
    left = [at for at, unit in enumerate(units) if not unit.done]
    most = max(sum(sizes(units[at]) for at in left) // (workers * SHARES), 1)
    shares: list[list[Unit]] = []
    full, before = most, -1
    for at in left:
        unit = units[at]
        # A share has one unit of a file: it knows them by their file.
        if full >= most or at != before + 1 or len(shares[-1]) == UNITS or any(unit.partition == one.partition for one in shares[-1]):
            shares.append([])
            full = 0
        shares[-1].append(unit)
        full, before = full + sizes(unit), at
    return shares


# -- what is written -----------------------------------------------------------------------------------------------------------------


def outputs_of(loaded: Loaded, stage: Stage, target: Target) -> dict[str, Output]:
    """Returns how each topic is written. Raises ConfigError for columns of several sinks in one topic."""
    made: dict[str, Output] = {}
    for emit in stage.emits:
        topic = emit.sink.topic
        if topic in made and target.format.encodes != "json":
            raise ConfigError(f"several sinks write to {topic}, which one file of {target.format.name} cannot hold: write ndjson")
        made[topic] = Output(target.work / topic, target.format, target.ending, _shape(loaded, emit, target.format))
    dead = stage.source.dead_letter
    made[dead] = Output(target.work / dead, FORMATS["ndjson"], ".ndjson", Shape(()), dead=True)
    return made


def _shape(loaded: Loaded, emit: Emit, format: Format) -> Shape:
    fields, schema = tensors(emit), loaded.sink_schemas.get(emit.sink.name)
    avro = plain_avro(container_schema(emit.sink.name, fields, schema)) if format.encodes == "avro" else None
    return Shape(tuple(fields), {field.name: _leaf(schema, field.name) for field in fields}, avro)


def _leaf(schema: Schema | None, name: str) -> Any:
    return None if schema is None else schema.leaf(name)


def formed(loaded: Loaded, program: Program, *, lines: bool, writes: Writes | None) -> Program:
    """Returns the program with ports that read lines of JSON (`lines`), whatever producers write to the topic, and write in this form."""
    json = [stage.name for stage in loaded.wiring.stages] if lines else []
    return replace(program, ports=ports(loaded.wiring, loaded, json=json, writes=writes))


class _Whole(NamedTuple):
    topic: str
    place: Place


def finish(target: Target, outputs: Mapping[str, Output], manifest: Manifest) -> None:
    """Joins the parts where the output is a file, and keeps the manifest of a complete run."""
    manifest.complete = True
    if not target.whole:
        for orphan in target.orphans({one.name for one in manifest.parts}):  # of workers that were killed
            orphan.remove()
        target.manifest.beside(ROWS).remove()
        manifest.save(target.manifest)
        return
    from penstock.transports.files.join import join

    for one in _wholes(target, outputs, manifest.parts):
        parts = sorted(part.name for part in manifest.parts if part.topic == one.topic)
        if len(parts) == 1 and (target.work / parts[0]).size() is not None:
            (target.work / parts[0]).move(one.place)
            continue
        if len(parts) == 1 and one.place.size() is not None:
            continue  # an earlier run was ended between this move and the end
        join(outputs[one.topic], [target.work / name for name in parts], one.place)
    manifest.parts = [
        Part(topic, place.last, sum(part.rows for part in manifest.parts if part.topic == topic), place.size() or 0, outputs[topic].dead)
        for topic, place in _wholes(target, outputs, manifest.parts)
    ]
    manifest.save(target.left)
    target.work.remove()


def _wholes(target: Target, outputs: Mapping[str, Output], parts: Sequence[Part]) -> Iterator[_Whole]:
    """Yields the files to write: those of outputs, and of dead letters if there are any."""
    for topic, place in target.whole.items():
        if not outputs[topic].dead or any(part.topic == topic for part in parts):
            yield _Whole(topic, place)
