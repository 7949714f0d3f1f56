"""Which schema wrote an event of `avro-confluent`: the writer schemas of one source by their frame, from `ids/` and from a registry.

1. A file of `ids/` is named by the id that its frame has, or by the GUID.
2. `ids/` may be shared by many sources and sinks. Avro reads only a record of the reader's name, or of one of its aliases; every
   other file belongs to another reader, and is passed over unread.
3. A writer of the reader's record that does not resolve is an error at start. Of the same name in another namespace, as Debezium
   names the records of all tables, it belongs to another reader.
4. What is found while events are decoded is a reason for a dead letter, never for the end of a worker.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

from penstock.codecs.avro_resolve import resolve
from penstock.codecs.framing import FRAME, UNREGISTERED, frame_of_name, shown, stem_of
from penstock.codecs.json_schema import SUFFIX
from penstock.codecs.schema import MAX_SCHEMA_BYTES, load_schema
from penstock.errors import DecodeError, Problem, SchemaError, TransportUnavailable
from penstock.schema import Schema

__all__ = ["SUFFIXES", "Part", "Registry", "Writers", "frames_of", "ids_folder", "name_of", "sink_frame"]

logger = logging.getLogger(__name__)


SUFFIXES: Final = {"AVRO": ".avsc", "JSON": SUFFIX}  # of the files of each type of schema, as registries name the types
Kin = Literal["own", "namesake", "other"]
Part = Literal["value", "key"]  # of a record


class Registry(Protocol):
    """A registry of schemas, as the writers of a source use it. A schema is a file: a copy of what the registry holds."""

    def held(self, frame: bytes) -> Path:
        """Returns the schema without waiting.

        Raises DecodeError when the registry has no such schema, SchemaWanted when it was not asked for it yet.
        """

    def newest(self, topic: str, reader: Schema, part: Part = "value") -> tuple[bytes, Path] | None:
        """Returns the frame and the newest schema of the values or keys of a topic, None where none is registered.

        Blocks. Raises TransportError, and SchemaError for a schema that is not Avro.
        """

    def enter(self, topic: str, schema: Schema) -> bytes | None:
        """Returns the frame of a schema that is written to a topic; it is registered if that is allowed.

        None: it would be registered, if this were no dry run. Blocks. Raises TransportError, and SchemaError when it is not registered
        and may not be, or is refused.
        """

    def kept(self) -> Path:
        """Returns the folder of the schemas that the registry has given earlier, named as those of `ids/`."""


class _Entry(NamedTuple):
    """A file of `ids/`."""

    frame: bytes
    file: Path
    name: str  # of its record, with the namespace; "" for any other type


class Writers:
    """The writer schemas of one source. `known` are those that resolve to the reader's schema, by frame; more are found by `find`."""

    def __init__(
        self, reader: Schema, known: Mapping[bytes, Schema], *, directory: Path | None = None, registry: Registry | None = None
    ) -> None:
        self.reader = reader
        self.known = dict(known)
        self._directory = directory
        self._registry = registry
        self._refused: dict[bytes, str] = {}

    @classmethod
    def load(cls, reader: Schema, directory: Path, *, registry: Registry | None = None, topic: str = "", part: Part = "value") -> Writers:
        """Reads the schemas of the reader's record in `directory`; with a registry, also the newest one of the values or keys of `topic`.

        Raises SchemaError with all problems: names that are no ids, files that are no JSON, writers that do not resolve, and without
        a registry no writer at all. Raises TransportError when the registry does not answer and no writer is known without it.
        """
        writers = cls(reader, {}, directory=directory, registry=registry)
        others: list[str] = []
        problems: list[Problem] = []
        for entry in _entries(directory, problems):
            kin = _kin(entry.name, reader)
            if kin == "other":
                others.append(f"{entry.file.stem} is {entry.name or 'no record'}")
                logger.debug("%s is the schema of %s: passed over for %s", entry.file, entry.name or "no record", reader.name)
                continue
            try:
                writers.known[entry.frame] = _resolved(entry.file, reader)
            except SchemaError as error:
                if kin == "own":
                    problems.extend(error.problems)
        if not problems and not writers.known and registry is None:
            problems.append(_none(directory, reader, others))
        if problems:
            raise SchemaError(problems)
        if registry is not None:
            writers._ask(registry, topic, part)
        return writers

    def _ask(self, registry: Registry, topic: str, part: Part) -> None:
        """Adds the newest schema of the topic, or where the registry does not answer, those that it has given earlier."""
        try:
            newest = registry.newest(topic, self.reader, part)
        except TransportUnavailable as error:
            for entry in _entries(registry.kept(), []):
                if _kin(entry.name, self.reader) != "other":
                    with contextlib.suppress(SchemaError):
                        self.known.setdefault(entry.frame, _resolved(entry.file, self.reader))
            if not self.known:
                raise
            logger.warning("%s; %s is read by the schemas of %s and of the cache", error, topic, self._directory)
            return
        if newest is None:
            return
        frame, file = newest
        try:
            if _kin(_record_name(file), self.reader) != "other":  # a topic may have several records
                self.known[frame] = _resolved(file, self.reader)
        except DecodeError as error:
            raise SchemaError(f"the newest schema of the topic {topic} ({shown(frame)}): {error}") from None
        except SchemaError as error:
            found = [f"the newest schema of the topic {topic} ({shown(frame)}) {one.message}" for one in error.problems]
            fix = "change this schema so that it reads that one"
            raise SchemaError([Problem(self.reader.path, 0, 0, text, fix) for text in found]) from None

    def find(self, frame: bytes) -> Schema:
        """Returns the schema with this frame. Raises DecodeError: it does not exist, is of another record, or it does not resolve.

        With a registry it raises SchemaWanted for a frame that the registry was not asked for yet.
        """
        if (found := self.known.get(frame)) is not None:
            return found
        if frame in self._refused:
            raise DecodeError(self._refused[frame])
        file = self._file(frame)
        return self._admit(frame, _record_name(file), lambda: load_schema(file))

    def admit(self, frame: bytes, schema: Schema) -> Schema:
        """Adds a schema that is written with this frame. Raises DecodeError when it is of another record or does not resolve."""
        return self.known.get(frame) or self._admit(frame, name_of(schema), lambda: schema)

    def _admit(self, frame: bytes, name: str, load: Callable[[], Schema]) -> Schema:
        if _kin(name, self.reader) == "other":
            theirs, ours = name or "a type that is no record", name_of(self.reader)
            fix = f'if both are one record, name the first under "aliases" in {self.reader.path}'
            reason = f"{shown(frame)} is that of {theirs}, the source reads {ours}; {fix}"
        else:
            try:
                found = load()
                resolve(found, self.reader, [])
            except SchemaError as error:
                reason = f"{shown(frame)} wrote it, which the source's schema cannot read: {error.problems[0].message}"
            else:
                self.known[frame] = found
                return found
        self._refused[frame] = reason
        raise DecodeError(reason)

    def written_by(self, frame: bytes) -> Schema:
        """Returns the schema with this frame, of whatever record. Raises DecodeError, SchemaError, SchemaWanted."""
        return self.known.get(frame) or load_schema(self._file(frame))

    def writing(self) -> tuple[bytes, Schema]:
        """Returns the frame and schema by which a test writes events: the reader's own where it has an id, else the newest writer.

        Without any writer it is the reader's own as UNREGISTERED.
        """
        mine = [frame for frame, schema in self.known.items() if schema.avro == self.reader.avro]
        if not self.known:
            self.known[UNREGISTERED] = self.reader
        frame = max(mine or self.known)
        return frame, self.known[frame]

    def _file(self, frame: bytes) -> Path:
        """Returns the file of the schema. A file that was added to the folder after the start is found, too."""
        file = None if self._directory is None else self._directory / f"{stem_of(frame)}.avsc"
        if file is not None and file.is_file():
            return file
        if self._registry is not None:
            return self._registry.held(frame)
        where = f"put its schema into {self._directory} as {stem_of(frame)}.avsc, or set schema_registry_url"
        raise DecodeError(f"unknown {shown(frame)}; {where}")


def ids_folder(schema: Schema) -> Path:
    """Returns the folder of the writer schemas: `ids/` beside the schema's file."""
    return Path(schema.path).parent / "ids"


def sink_frame(
    schema: Schema, directory: Path, *, registry: Registry | None = None, topic: str = "", unregistered: bytes = UNREGISTERED
) -> bytes:
    """Returns the frame of a schema that is written to a topic: its id in `directory`, else in the registry.

    A dry run gives `unregistered` to a schema that is not registered yet.
    Raises SchemaError without an id, TransportError when it depends on a registry that does not answer.
    """
    for frame in frames_of(schema, directory):
        if len(frame) == FRAME:
            return frame
    if registry is None:
        fix = f"copy it there under its id: 17{SUFFIXES[schema.language]}, or set schema_registry_url; {directory} has {_listed(directory)}"
        raise SchemaError(Problem(schema.path, 0, 0, f"not among the schemas of {directory}", fix))
    return registry.enter(topic, schema) or unregistered


def frames_of(schema: Schema, directory: Path) -> Iterator[bytes]:
    """Yields the frames under which the folder has this schema. Raises SchemaError for a file that cannot be read or is named by no id."""
    if schema.language == "JSON":
        for file in sorted(directory.glob(f"*{SUFFIX}")):
            try:
                same = _parsed(file) == _parsed(Path(schema.path))
            except DecodeError as error:
                raise SchemaError(Problem(str(file), 0, 0, str(error), "copy it again from the registry")) from None
            if same and (frame := frame_of_name(file.name.removesuffix(SUFFIX))) is not None:
                yield frame
        return
    problems: list[Problem] = []
    for entry in _entries(directory, problems):
        if entry.name == name_of(schema) and load_schema(entry.file).avro == schema.avro:
            yield entry.frame
    if problems:
        raise SchemaError(problems)


def name_of(schema: Schema) -> str:
    """Returns the record's name with its namespace."""
    return str(schema.avro["name"]) if schema.avro else schema.name


def _resolved(file: Path, reader: Schema) -> Schema:
    """Returns the schema of the file. Raises SchemaError when it does not resolve to the reader's."""
    found = load_schema(file)
    resolve(found, reader, [])
    return found


def _kin(name: str, reader: Schema) -> Kin:
    """Returns whether a record of this name is the reader's, one of the same name in another namespace, or another one."""
    own = name_of(reader)
    space = own.rpartition(".")[0]
    aliases = [alias if "." in alias or not space else f"{space}.{alias}" for alias in _aliases(reader)]
    if name in (own, *aliases):
        return "own"
    their_space, _, their_short = name.rpartition(".")
    for one in (own, *aliases):
        our_space, _, our_short = one.rpartition(".")
        if our_short == their_short:
            return "own" if not our_space or not their_space else "namesake"
    return "other"


def _aliases(reader: Schema) -> list[str]:
    found = reader.avro.get("aliases", []) if isinstance(reader.avro, Mapping) else []
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _entries(directory: Path, problems: list[Problem]) -> Iterator[_Entry]:
    """Yields the files of the folder in the order of their ids; adds what is wrong with a file to `problems`."""
    found = []
    for file in sorted(directory.glob("*.avsc")):
        if (frame := frame_of_name(file.stem)) is None:
            problems.append(Problem(str(file), 0, 0, "the file name is not a schema id", "use the id of the registry: 17.avsc"))
            continue
        try:
            found.append(_Entry(frame, file, _record_name(file)))
        except DecodeError as error:
            problems.append(Problem(str(file), 0, 0, str(error), "copy it again from the registry"))
    yield from sorted(found)


def _parsed(file: Path) -> Any:
    """Returns what the file holds. Raises DecodeError for what is no JSON."""
    try:
        with file.open("rb") as opened:
            return json.loads(opened.read(MAX_SCHEMA_BYTES + 1))
    except OSError as error:
        raise DecodeError(f"its schema cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"its schema is not JSON: {error}") from None


def _record_name(file: Path) -> str:
    """Returns the name of the record in the file, with its namespace; "" for any other type. Raises DecodeError for what is no JSON."""
    raw = _parsed(file)
    if not isinstance(raw, dict) or raw.get("type") != "record" or not isinstance(raw.get("name"), str):
        return ""
    name, space = raw["name"], raw.get("namespace")
    return f"{space}.{name}" if "." not in name and isinstance(space, str) and space else name


def _none(directory: Path, reader: Schema, others: list[str]) -> Problem:
    if not others:
        fix = "add each one under its id: 17.avsc (`penstock schema pull` does it), or set schema_registry_url"
        return Problem(str(directory), 0, 0, "the folder has no writer schemas", fix)
    fix = f'if one of them is the same record, name it under "aliases" in {reader.path}'
    return Problem(str(directory), 0, 0, f"no schema here is of the record {name_of(reader)}: {', '.join(others)}", fix)


def _listed(directory: Path) -> str:
    found = [file.name for file in sorted(directory.glob("*.avsc"))]
    return ", ".join(found[:10]) or "no schemas"
