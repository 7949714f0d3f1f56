"""What differs between schemas of Avro, JSON Schema and Protobuf: which files they are, whose they are, and when two of them resolve."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from penstock.codecs.avro_resolve import resolve
from penstock.codecs.json_schema import SUFFIX
from penstock.codecs.schema import MAX_SCHEMA_BYTES, PROTOBUF, load_schema
from penstock.errors import DecodeError, SchemaError
from penstock.schema import Language, Schema

__all__ = ["ENDINGS", "Dialect", "dialect", "name_of", "stem"]

ENDINGS: Final[Mapping[str, tuple[str, ...]]] = {"AVRO": (".avsc",), "JSON": (SUFFIX,), "PROTOBUF": PROTOBUF}  # of files, by language
Kin = Literal["own", "namesake", "other"]


class Dialect(NamedTuple):
    """How the schemas of writers are read for a reader of this language.

    `names` returns the records or messages in a file and raises DecodeError for what is no schema; `kin` is whether one of them is the
    reader's, one of the same name in another namespace, or another one. `load` returns the writer's schema of the reader's record from a
    file and `resolve` compares the two; both raise SchemaError. `same_as` is whether two schemas are one. `advice` is for a file of
    another name. `imports` is whether the folder may also have files that are only imported.
    `prepare` raises SchemaError where what a registry has for the reader could not be read here.
    """

    what: str
    language: Language
    names: Callable[[Path], tuple[str, ...]]
    kin: Callable[[tuple[str, ...], Schema], Kin]
    load: Callable[[Path, Schema], Schema]
    resolve: Callable[[Schema, Schema], object]
    same_as: Callable[[Schema, Schema], bool]
    advice: str
    imports: bool = False
    prepare: Callable[[Schema], None] = lambda reader: None

    @property
    def endings(self) -> tuple[str, ...]:
        return ENDINGS[self.language]


def dialect(schema: Schema) -> Dialect:
    """Returns the dialect of a schema."""
    return _DIALECTS[schema.language]


def stem(file: Path) -> str:
    """Returns the name of a schema file without its ending, which may have two dots."""
    return file.name.removesuffix(SUFFIX) if file.name.endswith(SUFFIX) else file.stem


def name_of(schema: Schema) -> str:
    """Returns the record's name with its namespace, or the message's with its package."""
    return str(schema.avro["name"]) if schema.avro else schema.name


def _parsed(file: Path) -> Any:
    """Returns what the file holds. Raises DecodeError for what is no JSON."""
    try:
        with file.open("rb") as opened:
            return json.loads(opened.read(MAX_SCHEMA_BYTES + 1))
    except OSError as error:
        raise DecodeError(f"its schema cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"its schema is not JSON: {error}") from None


def _records(file: Path) -> tuple[str, ...]:
    """Returns the name of the record in the file, with its namespace; nothing for any other type."""
    if file.suffix != ".avsc":
        raise DecodeError("its schema is not Avro")
    raw = _parsed(file)
    if not isinstance(raw, dict) or raw.get("type") != "record" or not isinstance(raw.get("name"), str):
        return ()
    name, space = raw["name"], raw.get("namespace")
    return (f"{space}.{name}" if "." not in name and isinstance(space, str) and space else name,)


def _kin(names: tuple[str, ...], reader: Schema) -> Kin:
    own = name_of(reader)
    space = own.rpartition(".")[0]
    ours = (own, *(alias if "." in alias or not space else f"{space}.{alias}" for alias in _aliases(reader)))
    if {*names} & {*ours}:
        return "own"
    for name in names:
        their_space, _, their_short = name.rpartition(".")
        for one in ours:
            our_space, _, our_short = one.rpartition(".")
            if our_short == their_short:
                return "own" if not our_space or not their_space else "namesake"
    return "other"


def _aliases(reader: Schema) -> list[str]:
    found = reader.avro.get("aliases", []) if isinstance(reader.avro, Mapping) else []
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _title(file: Path) -> tuple[str, ...]:
    _parsed(file)
    return ()


def _same_text(one: Schema, other: Schema) -> bool:
    try:
        return bool(_parsed(Path(one.path)) == _parsed(Path(other.path)))
    except DecodeError:
        return False


def _prepared(reader: Schema) -> None:
    from penstock.codecs.protobuf.files import check_protoc  # imports the library

    check_protoc(reader.path)


def _messages(file: Path) -> tuple[str, ...]:
    """Returns the messages that are defined in the file itself."""
    from penstock.codecs.protobuf.files import messages_in, read_set  # imports the library

    if file.suffix not in PROTOBUF:
        raise DecodeError("its schema is not Protobuf")
    try:
        return tuple(name for _, name in messages_in(read_set(file).file[-1]))
    except SchemaError as error:
        raise DecodeError(f"its schema cannot be read: {error.problems[0].message}") from None


_AVRO: Final = Dialect(
    what="record",
    language="AVRO",
    names=_records,
    kin=_kin,
    load=lambda file, reader: load_schema(file),
    resolve=lambda written, reader: resolve(written, reader, []),
    same_as=lambda one, other: bool(one.avro == other.avro),
    advice='if {both}, name {it} under "aliases" in {file}',
)
_JSON: Final = Dialect(  # events carry their names, so no reader asks for the schema of their writer: only sinks have ids
    what="object",
    language="JSON",
    names=_title,
    kin=lambda names, reader: "own",
    load=lambda file, reader: Schema(stem(file), (), path=str(file), language="JSON"),
    resolve=lambda written, reader: None,
    same_as=_same_text,
    advice="name the schema of the sink: {file}",
)
_PROTOBUF: Final = Dialect(
    what="message",
    language="PROTOBUF",
    names=_messages,
    kin=lambda names, reader: "own" if reader.name in names else "other",
    load=lambda file, reader: load_schema(f"{file}#{reader.name}"),
    resolve=lambda written, reader: None,  # only the fields that are read have to match: the decoder knows them
    same_as=lambda one, other: one.protobuf is not None and one.name == other.name and one.protobuf.file() == other.protobuf.file(),
    advice="name the message of the writers in the topology: {file}#MESSAGE",
    imports=True,
    prepare=_prepared,
)
_DIALECTS: Final[Mapping[Language, Dialect]] = {one.language: one for one in (_AVRO, _JSON, _PROTOBUF)}
