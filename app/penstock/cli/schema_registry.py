"""`penstock schema pull` and `push`: between a schema registry and the files of a project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from penstock.cli.options import with_settings
from penstock.cli.output import err, format_option, out, print_json
from penstock.codecs import load_schema
from penstock.codecs.dialects import ENDINGS
from penstock.codecs.schema import MAX_SCHEMA_BYTES
from penstock.codecs.schema import PROTOBUF as PROTOBUF_ENDINGS
from penstock.codecs.schema_registry import SchemaRegistry, open_schema_registry
from penstock.codecs.schema_registry.client import Absent, Refused
from penstock.codecs.schema_registry.shelf import PROTOBUF, Registered
from penstock.errors import Problem, SchemaError, SettingsError
from penstock.host import read_regular, write_whole
from penstock.schema import Schema
from penstock.settings import Settings

__all__ = ["pull", "push"]

_REGISTRY: Final = (
    "schema_registry_url", "schema_registry_username", "schema_registry_password_file", "schema_registry_token_file",
    "schema_registry_cafile", "schema_registry_certfile", "schema_registry_keyfile", "insecure_plaintext",
)  # fmt: skip
_READABLE: Final = 0o644
_topic = click.option("--topic", "topics", multiple=True, metavar="TOPIC", help="The subject TOPIC-value; may be repeated.")


class _Pulled(NamedTuple):
    """A version of a subject: the file that holds it, or why it was left out."""

    subject: str
    version: int
    id: int
    file: str
    note: str


@click.command(short_help="Write the schemas of a registry to files.")
@click.argument("subjects", nargs=-1, metavar="[SUBJECTS]")
@_topic
@click.option("--force", is_flag=True, help="Write over files that differ.")
@with_settings("schemas", *_REGISTRY)
@format_option
def pull(subjects: tuple[str, ...], topics: tuple[str, ...], force: bool, settings: Settings, form: str) -> None:
    """Write every version of SUBJECTS to ids/ID.avsc in the schemas folder, and the newest one to SUBJECT.avsc (without -value).

    Workers then start and read events without the registry. What a schema refers to is put in its place. Of Protobuf, the descriptors are
    written to ids/ID.binpb, and the newest text to SUBJECT.proto with what it imports beside it. A file that is there
    with another content is an error for an id, which never changes its schema; SUBJECT.avsc is kept, since it may be edited.
    The files of a JSON Schema end with .schema.json.

    \b
      penstock schema pull --topic flights.departures \\
          --schema-registry-url https://registry:8081
    """
    named = _named(subjects, topics)
    registry = _registry(settings)
    pulled = [one for subject in named for one in _pull(registry, subject, settings.schemas, force=force)]
    if form == "json":
        print_json([one._asdict() for one in pulled])
        return
    for one in pulled:
        place = one.file or "left out"
        out.print(f"{one.subject} version {one.version}, id {one.id}: {place}{f' ({one.note})' if one.note else ''}", markup=False)


def _pull(registry: SchemaRegistry, subject: str, folder: Path, *, force: bool) -> Iterator[_Pulled]:
    try:
        versions = [registry.version(subject, str(number)) for number in registry.versions(subject)]
    except Absent as error:
        raise SchemaError(f"the schema registry has no subject {subject}: {error}") from None
    except Refused as error:
        raise SchemaError(f"the schema registry does not show the subject {subject}: {error}") from None
    (folder / "ids").mkdir(parents=True, exist_ok=True)
    newest: dict[str, bytes] = {}
    for one in versions:
        try:
            data = _whole(registry, one)
            name = f"{one.id}{'.binpb' if one.kind == PROTOBUF else ENDINGS[one.kind][0]}"
            newest = _editable(registry, one, subject.removesuffix("-value").replace("/", "-"), data)
        except (Absent, Refused, SchemaError) as error:
            yield _Pulled(subject, one.version, one.id, "", str(error))
            continue
        file = folder / "ids" / name
        if _differs(file, data) and not force:
            fix = "its id is of another registry: use another folder of schemas, or --force"
            raise SchemaError(Problem(str(file), 0, 0, f"it is not the schema that the registry has under the id {one.id}", fix))
        _write(file, data)
        yield _Pulled(subject, one.version, one.id, str(file), _usable(file))
    for name, data in newest.items():
        file = folder / name
        kept = _differs(file, data) and not force
        if not kept:
            _write(file, data)
        yield _Pulled(subject, versions[-1].version, versions[-1].id, str(file), "kept: it differs from the newest version" if kept else "")


def _whole(registry: SchemaRegistry, found: Registered) -> bytes:
    """Returns the content of the file of an id."""
    if found.kind == PROTOBUF:
        return registry.descriptors(found)
    text = registry.whole(found)
    try:
        return (json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n").encode()
    except (ValueError, RecursionError) as error:
        raise Refused(f"it is not JSON: {error}") from None


def _editable(registry: SchemaRegistry, found: Registered, name: str, whole: bytes) -> dict[str, bytes]:
    """Returns the files, by their names, in which a person may go on with the schema."""
    if found.kind != PROTOBUF:
        return {f"{name}{ENDINGS[found.kind][0]}": whole}
    texts = {f"{name}.proto": found.text, **registry.imports(found)}
    from penstock.codecs.protobuf.files import is_text  # imports the library

    if not all(map(is_text, texts.values())):
        return {f"{name}.binpb": whole}
    return {file: text.encode() for file, text in texts.items()}


def _differs(file: Path, data: bytes) -> bool:
    """Whether the file is there with another schema. Raises SchemaError when it cannot be read."""
    if not file.exists():
        return False
    try:
        there = read_regular(file, MAX_SCHEMA_BYTES)
        return there != data if file.suffix in PROTOBUF_ENDINGS else bool(json.loads(there) != json.loads(data))
    except OSError as error:
        raise SchemaError(Problem(str(file), 0, 0, f"cannot be read: {error.strerror}", "check the path and its permissions")) from None
    except (ValueError, RecursionError):
        return True


def _write(file: Path, data: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, data, mode=_READABLE)
    except OSError as error:
        raise SchemaError(
            Problem(str(file), 0, 0, f"cannot be written: {error.strerror}", "check the folder and its permissions")
        ) from None


def _usable(file: Path) -> str:
    """Returns why no source could read the schema, "" when one could."""
    if file.suffix in PROTOBUF_ENDINGS:
        return ""  # its messages are named by the sources
    try:
        load_schema(file)
    except SchemaError as error:
        return f"a source of this record would refuse it: {error.problems[0].message}"
    return ""


@click.command(short_help="Register a schema file, or check that it could be.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("subjects", nargs=-1, metavar="[SUBJECTS]")
@_topic
@click.option("--check", is_flag=True, help="Register nothing; exit 1 when a subject would refuse the schema.")
@with_settings(*_REGISTRY)
@format_option
def push(file: Path, subjects: tuple[str, ...], topics: tuple[str, ...], check: bool, settings: Settings, form: str) -> int:
    """Register the schema in FILE under SUBJECTS.

    A worker does it for its sinks, unless schema_registry_register is off. A schema that is registered already keeps its id.

    \b
      penstock schema push schemas/score.avsc --topic flights.scores \\
          --schema-registry-url https://registry:8081
      penstock schema push schemas/score.avsc --topic flights.scores --check
      penstock schema push schemas/score.schema.json --topic flights.scores
    """
    named = _named(subjects, topics)
    registry = _registry(settings)
    try:
        offer = registry.offer(_pushed(file), register=not check)
    except Refused as error:
        raise SchemaError(f"the schema registry refuses what {file} imports: {error}") from None
    rows: list[dict[str, Any]] = []
    for subject in named:
        id = None if offer is None else registry.look_up(subject, offer)
        reason = registry.incompatible(subject, offer) if id is None and offer is not None else ""
        registered = False
        if id is None and not reason and not check and offer is not None:
            try:
                id, registered = registry.register(subject, offer), True
            except Refused as error:
                reason = str(error)
        rows.append({"subject": subject, "id": id, "registered": registered, "refused": reason})
    if form == "json":
        print_json(rows)
    else:
        for row in rows:
            (err if row["refused"] else out).print(f"{file}: {_told(row)}", markup=False)
    return 1 if any(row["refused"] for row in rows) else 0


def _pushed(file: Path) -> Schema:
    """Returns the schema in the file; of a file of Protobuf, which is registered as a whole, that of any message."""
    if file.suffix in PROTOBUF_ENDINGS:
        from penstock.codecs.protobuf.files import load_messages  # imports the library

        if found := load_messages(file):
            return found[0]
    return load_schema(file)


def _told(row: dict[str, Any]) -> str:
    if row["refused"]:
        return f"the subject {row['subject']} refuses it: {row['refused']}"
    if row["id"] is None:
        return f"the subject {row['subject']} would take it"
    return f"id {row['id']} under the subject {row['subject']}{'' if row['registered'] else ' already'}"


def _named(subjects: tuple[str, ...], topics: tuple[str, ...]) -> list[str]:
    named = [*dict.fromkeys([*subjects, *(f"{topic}-value" for topic in topics)])]
    if not named:
        raise click.UsageError("name subjects, or topics with --topic")
    return named


def _registry(settings: Settings) -> SchemaRegistry:
    found = open_schema_registry(settings)
    if found is None:
        raise SettingsError("no schema registry is set: give --schema-registry-url, or set schema_registry_url")
    return found
