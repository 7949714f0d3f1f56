"""Which schema wrote an event of `avro-confluent`: the writer schemas of one source by their frame, from `ids/` and from a registry.

1. A frame is a zero byte and an id of four bytes, or a one and a GUID of sixteen. A file of `ids/` is named by either.
2. `ids/` may be shared by many sources and sinks. Avro reads only a record of the reader's name, or of one of its aliases; every
   other file belongs to another reader, and is passed over unread.
3. A writer of the reader's record that does not resolve is an error at start. Of the same name in another namespace, as Debezium
   names the records of all tables, it belongs to another reader.
4. What is found while events are decoded is a reason for a dead letter, never for the end of a worker.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

from penstock.codecs.avro_resolve import defaults
from penstock.codecs.schema import MAX_SCHEMA_BYTES, load_schema
from penstock.errors import DecodeError, Problem, SchemaError
from penstock.schema import Schema

__all__ = ["FRAME", "GUID_FRAME", "Registry", "Writers", "frame_in", "frame_of", "ids_folder", "name_of", "sink_frame"]

logger = logging.getLogger(__name__)

FRAME: Final = 5
GUID_FRAME: Final = 17
_LARGEST: Final = 2**32 - 1

Kin = Literal["own", "namesake", "other"]


class Registry(Protocol):
    """A registry of schemas, as the writers of a source use it. A schema is a file: a copy of what the registry holds."""

    def held(self, frame: bytes) -> Path:
        """Returns the schema without waiting. Raises DecodeError when the registry has none, SchemaWanted when it was not asked yet."""

    def newest(self, subject: str) -> tuple[bytes, Path] | None:
        """Returns the newest schema of a subject and its frame, None for an unknown subject. Blocks. Raises TransportError."""

    def enter(self, subject: str, schema: Schema) -> bytes | None:
        """Returns the frame of a schema that is written; it is registered if that is allowed. None: it is not, and may not be.

        Blocks. Raises TransportError, and SchemaError when the registry refuses the schema.
        """


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
    def load(cls, reader: Schema, directory: Path, *, registry: Registry | None = None, subject: str = "") -> Writers:
        """Reads the schemas of the reader's record in `directory`; with a registry, also the newest one of `subject`.

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
        return writers

    def find(self, frame: bytes) -> Schema:
        """Returns the schema with this frame. Raises DecodeError: it does not exist, is of another record, or it does not resolve.

        With a registry it raises SchemaWanted for a frame that it was not asked for yet.
        """
        if (found := self.known.get(frame)) is not None:
            return found
        if (reason := self._refused.get(frame)) is None:
            file = self._file(frame)
            name = _record_name(file)
            if _kin(name, self.reader) != "other":
                try:
                    found = self.known[frame] = _resolved(file, self.reader)
                    return found
                except SchemaError as error:
                    reason = f"{_shown(frame)} wrote it, which the source's schema cannot read: {error.problems[0].message}"
            else:
                theirs, ours = name or "a type that is no record", name_of(self.reader)
                fix = f'if both are one record, name the first under "aliases" in {self.reader.path}'
                reason = f"{_shown(frame)} is that of {theirs}, the source reads {ours}; {fix}"
            self._refused[frame] = reason
        raise DecodeError(reason)

    def written_by(self, frame: bytes) -> Schema:
        """Returns the schema with this frame, of whatever record. Raises DecodeError, SchemaError, SchemaWanted."""
        return self.known.get(frame) or load_schema(self._file(frame))

    def writing(self) -> tuple[bytes, Schema]:
        """Returns the frame and schema by which a test writes events: the reader's own where it has an id, else the newest writer.

        Without any writer it is the reader's own, as id 0, which no registry gives to a schema.
        """
        mine = [frame for frame, schema in self.known.items() if schema.avro == self.reader.avro]
        if not self.known:
            self.known[frame_of(0)] = self.reader
        frame = max(mine or self.known)
        return frame, self.known[frame]

    def _file(self, frame: bytes) -> Path:
        """Returns the file of the schema. A file that was added to the folder after the start is found, too."""
        file = None if self._directory is None else self._directory / f"{_stem(frame)}.avsc"
        if file is not None and file.is_file():
            return file
        if self._registry is not None:
            return self._registry.held(frame)
        where = f"put its schema into {self._directory} as {_stem(frame)}.avsc"
        raise DecodeError(f"unknown {_shown(frame)}; {where}")


def ids_folder(schema: Schema) -> Path:
    """Returns the folder of the writer schemas: `ids/` beside the schema's file."""
    return Path(schema.path).parent / "ids"


def frame_of(id: int | uuid.UUID) -> bytes:
    """Returns the bytes that come before a datum of the schema with this id, or GUID."""
    return b"\1" + id.bytes if isinstance(id, uuid.UUID) else b"\0" + id.to_bytes(4, "big")


def frame_in(value: bytes) -> bytes:
    """Returns the frame that the value begins with. Raises DecodeError when it begins with none."""
    size = GUID_FRAME if value[:1] == b"\1" else FRAME
    if len(value) < size or value[0] > 1:
        raise DecodeError("no Confluent frame: expected a zero byte and a schema id of four bytes")
    return value[:size]


def sink_frame(schema: Schema, directory: Path, *, registry: Registry | None = None, subject: str = "") -> bytes:
    """Returns the frame of a schema that is written: its id in `directory`, else in the registry. Raises SchemaError without an id."""
    problems: list[Problem] = []
    for entry in _entries(directory, problems):
        if entry.name == name_of(schema) and len(entry.frame) == FRAME and load_schema(entry.file).avro == schema.avro:
            return entry.frame
    if problems:
        raise SchemaError(problems)
    if registry is None:
        fix = f"copy it there under its id: 17.avsc; {directory} has {_listed(directory)}"
        raise SchemaError(Problem(schema.path, 0, 0, f"not among the schemas of {directory}", fix))
    found = registry.enter(subject, schema)
    if found is None:
        fix = "register it (`penstock schema push`), or allow it with schema_registry_register"
        raise SchemaError(Problem(schema.path, 0, 0, f"not registered under the subject {subject}", fix))
    return found


def name_of(schema: Schema) -> str:
    """Returns the record's name with its namespace."""
    return str(schema.avro["name"]) if schema.avro else schema.name


def _resolved(file: Path, reader: Schema) -> Schema:
    """Returns the schema of the file. Raises SchemaError when it does not resolve to the reader's."""
    found = load_schema(file)
    defaults(found, reader)
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
        if (frame := _frame(file.stem)) is None:
            problems.append(Problem(str(file), 0, 0, "the file name is not a schema id", "use the id of the registry: 17.avsc"))
            continue
        try:
            found.append(_Entry(frame, file, _record_name(file)))
        except DecodeError as error:
            problems.append(Problem(str(file), 0, 0, str(error), "copy it again from the registry"))
    yield from sorted(found)


def _frame(stem: str) -> bytes | None:
    if stem.isascii() and stem.isdecimal():
        return frame_of(int(stem)) if int(stem) <= _LARGEST else None
    try:
        return frame_of(uuid.UUID(stem))
    except ValueError:
        return None


def _stem(frame: bytes) -> str:
    return str(int.from_bytes(frame[1:], "big")) if len(frame) == FRAME else str(uuid.UUID(bytes=frame[1:]))


def _shown(frame: bytes) -> str:
    return f"schema {'id' if len(frame) == FRAME else 'GUID'} {_stem(frame)}"


def _record_name(file: Path) -> str:
    """Returns the name of the record in the file, with its namespace; "" for any other type. Raises DecodeError for what is no JSON."""
    try:
        with file.open("rb") as opened:
            raw: Any = json.loads(opened.read(MAX_SCHEMA_BYTES + 1))
    except OSError as error:
        raise DecodeError(f"its schema cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"its schema is not JSON: {error}") from None
    if not isinstance(raw, dict) or raw.get("type") != "record" or not isinstance(raw.get("name"), str):
        return ""
    name, space = raw["name"], raw.get("namespace")
    return f"{space}.{name}" if "." not in name and isinstance(space, str) and space else name


def _none(directory: Path, reader: Schema, others: list[str]) -> Problem:
    if not others:
        fix = "add each one under its id: 17.avsc"
        return Problem(str(directory), 0, 0, "the folder has no writer schemas", fix)
    fix = f'if one of them is the same record, name it under "aliases" in {reader.path}'
    return Problem(str(directory), 0, 0, f"no schema here is of the record {name_of(reader)}: {', '.join(others)}", fix)


def _listed(directory: Path) -> str:
    found = [file.name for file in sorted(directory.glob("*.avsc"))]
    return ", ".join(found[:10]) or "no schemas"
