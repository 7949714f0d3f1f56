"""The schemas of a registry as files of this host. Its rules:

1. The registry is asked once per id and process; an id never changes its schema. Its answer is kept in the cache.
2. The cache answers only while the registry does not: one that was set up anew gives ids that it has given before.
3. That there is no such schema is believed for ABSENT seconds: a registry may follow another one, and learn of an id late.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from penstock.codecs.framing import FRAME, frame_of, shown, stem_of
from penstock.codecs.schema import MAX_SCHEMA_BYTES, load_schema
from penstock.codecs.schema_registry.client import Absent, Client, Refused
from penstock.codecs.schema_registry.inline import MOST, definitions, inline
from penstock.codecs.writers import Part, name_of
from penstock.errors import DecodeError, Problem, SchemaError, SchemaWanted, TransportUnavailable
from penstock.host import private_folder, write_whole
from penstock.schema import Schema
from penstock.settings import Settings

__all__ = ["Registered", "SchemaRegistry"]

logger = logging.getLogger(__name__)

ABSENT: Final = 10.0  # seconds
_REMEMBERED: Final = 4096  # ids that do not exist; few, unless an attacker makes them up
_LARGEST: Final = 2**31 - 1  # the API's ids are Java's ints


class Registered(NamedTuple):
    """A schema as the registry has it. `id` and `version` are 0 where the answer does not name them."""

    text: str
    kind: str  # AVRO, JSON, PROTOBUF
    id: int
    version: int
    references: tuple[Mapping[str, Any], ...]


class SchemaRegistry:
    """A registry for sources and sinks; see `writers.Registry`. May be used by several threads.

    With `dry`, a schema that would be registered is only compared with its subject.
    """

    def __init__(self, client: Client, settings: Settings, *, dry: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._clock = client, clock
        self._register, self._dry = settings.schema_registry_register, dry
        self._subjects = settings.schema_registry_subjects
        place = hashlib.sha256(client.urls[0].geturl().encode()).hexdigest()[:16]
        self._cache = settings.cache.expanduser() / "schemas" / place
        self._files: dict[bytes, Path] = {}
        self._absent: dict[bytes, tuple[str, float]] = {}
        self._lock = threading.Lock()

    # -- sources -----------------------------------------------------------------------------------------------------

    def held(self, frame: bytes) -> Path:
        """See `writers.Registry.held`."""
        if (file := self._files.get(frame)) is not None:
            return file
        if len(frame) == FRAME and not 0 < int.from_bytes(frame[1:], "big") <= _LARGEST:
            raise DecodeError(f"{shown(frame)} is not one that a schema registry gives{_eight(frame)}")
        reason, until = self._absent.get(frame, ("", 0.0))
        if self._clock() < until:
            raise DecodeError(f"the schema registry has no {shown(frame)}: {reason}")
        raise SchemaWanted(shown(frame), lambda: self.fetch(frame))

    def fetch(self, frame: bytes) -> None:
        """Asks for the schema with this frame, unless it is held. Blocks. Raises TransportError when only the registry could answer."""
        with self._lock:
            if frame in self._files:
                return
            try:
                self._keep(frame, self.by_frame(frame))
            except (Absent, Refused, SchemaError) as error:
                if len(self._absent) >= _REMEMBERED:
                    self._absent.clear()
                self._absent[frame] = (str(error), self._clock() + ABSENT)
            except TransportUnavailable as error:
                if not (file := self._cache / f"{stem_of(frame)}.avsc").is_file():
                    raise
                logger.warning("%s; %s is read from the cache", error, shown(frame))
                self._files[frame] = file

    def newest(self, topic: str, reader: Schema, part: Part = "value") -> tuple[bytes, Path] | None:
        """See `writers.Registry.newest`."""
        subject = self.subject(topic, reader, part)
        try:
            found = self.version(subject)
        except Absent:
            logger.info("the schema registry has no subject %s yet", subject)
            return None
        frame = frame_of(found.id)
        try:
            return frame, self._keep(frame, found)
        except (Absent, Refused) as error:
            raise SchemaError(f"the newest schema of {subject} cannot be used: {error}") from None

    def kept(self) -> Path:
        """Returns the folder of the schemas that were fetched earlier."""
        return self._cache

    # -- sinks -------------------------------------------------------------------------------------------------------

    def subject(self, topic: str, schema: Schema, part: Part = "value") -> str:
        """Returns the subject of the schema for the values or keys of a topic, by the setting schema_registry_subjects."""
        name = name_of(schema)
        return {"topic": f"{topic}-{part}", "record": name, "topic-record": f"{topic}-{name}"}[self._subjects]

    def enter(self, topic: str, schema: Schema) -> bytes | None:
        """See `writers.Registry.enter`."""
        subject = self.subject(topic, schema)
        text = Path(schema.path).read_text(encoding="utf-8")
        try:
            return self._entered(subject, schema, text)
        except TransportUnavailable as error:
            for file in sorted(self._cache.glob("*.avsc")):
                if file.stem.isdecimal() and _same(file, schema):
                    logger.warning("%s; the id %s of %s is from the cache", error, file.stem, schema.path)
                    return frame_of(int(file.stem))
            raise

    def _entered(self, subject: str, schema: Schema, text: str) -> bytes | None:
        found = self.look_up(subject, text)
        if found is None and not self._register:
            fix = "register it (`penstock schema push`), or allow it with schema_registry_register"
            raise SchemaError(Problem(schema.path, 0, 0, f"not registered under the subject {subject}", fix))
        if found is None and self._dry:
            if reason := self.incompatible(subject, text):
                raise SchemaError(_refused(schema, subject, reason))
            return None
        if found is None:
            try:
                found = self.register(subject, text)
            except Refused as error:
                raise SchemaError(_refused(schema, subject, str(error))) from None
            logger.info("%s is registered under %s with the id %d", schema.path, subject, found)
        frame = frame_of(found)
        self._store(frame, text)
        return frame

    # -- the API -----------------------------------------------------------------------------------------------------

    def by_frame(self, frame: bytes) -> Registered:
        """Returns the schema with this id or GUID. Raises Absent, Refused, TransportError."""
        if len(frame) == FRAME:
            return _registered(self._client.get("schemas", "ids", stem_of(frame)), id=int.from_bytes(frame[1:], "big"))
        try:
            return _registered(self._client.get("schemas", "guids", stem_of(frame)))
        except TransportUnavailable:
            self._client.get("schemas", "types")  # it does answer: it is one without GUIDs
            raise Absent("it does not know GUIDs") from None

    def version(self, subject: str, version: str = "latest") -> Registered:
        """Returns a version of a subject. Raises Absent, Refused, TransportError."""
        return _registered(self._client.get("subjects", subject, "versions", version))

    def versions(self, subject: str) -> list[int]:
        """Returns the versions of a subject. Raises Absent, TransportError."""
        found = self._client.get("subjects", subject, "versions")
        return [one for one in found if isinstance(one, int)] if isinstance(found, list) else []

    def look_up(self, subject: str, text: str) -> int | None:
        """Returns the id of an Avro schema under the subject, None when it is not registered there. Raises TransportError."""
        try:
            return _id(self._client.post("subjects", subject, body={"schema": text}))
        except (Absent, Refused):
            return None

    def incompatible(self, subject: str, text: str) -> str:
        """Returns why the subject would refuse the schema, "" when it would not. Raises TransportError."""
        try:
            found = self._client.post("compatibility", "subjects", subject, "versions", "latest", body={"schema": text})
        except Absent:
            return ""
        except Refused as error:
            return str(error)
        wrong = isinstance(found, dict) and found.get("is_compatible") is False
        return "it is not compatible with the newest version" if wrong else ""

    def register(self, subject: str, text: str) -> int:
        """Registers an Avro schema and returns its id. Raises Refused, TransportError."""
        return _id(self._client.post("subjects", subject, "versions", body={"schema": text}))

    def whole(self, found: Registered) -> str:
        """Returns the text of an Avro schema, with what it refers to in its place. Raises Absent, Refused, TransportError."""
        if found.kind != "AVRO":
            raise Refused(f"it is a schema of type {found.kind}, and avro-confluent reads Avro")
        if len(found.text) > MAX_SCHEMA_BYTES:
            raise Refused(f"it is larger than {MAX_SCHEMA_BYTES} bytes")
        if not found.references:
            return _unicode(found.text)
        referred: dict[str, Any] = {}
        seen: set[tuple[str, str]] = set()
        self._refer(found, referred, seen)
        try:
            return _unicode(json.dumps(inline(json.loads(found.text), referred), indent=2, ensure_ascii=False))
        except (ValueError, RecursionError) as error:
            raise Refused(f"its references cannot be followed: {error}") from None

    def _refer(self, found: Registered, referred: dict[str, Any], seen: set[tuple[str, str]]) -> None:
        for reference in found.references:
            place = str(reference.get("subject", "")), str(reference.get("version", ""))
            if place in seen:
                continue
            seen.add(place)
            if len(seen) > MOST:
                raise Refused(f"it refers to more than {MOST} schemas")
            try:
                one = self.version(*place)
                referred.update(definitions(json.loads(one.text)))
            except Absent as error:
                raise Absent(f"it refers to version {place[1]} of {place[0]}, which is absent: {error}") from None
            except (ValueError, RecursionError) as error:
                raise Refused(f"it refers to version {place[1]} of {place[0]}, which is not JSON: {error}") from None
            self._refer(one, referred, seen)

    def _keep(self, frame: bytes, found: Registered) -> Path:
        return self._store(frame, self.whole(found))

    def _store(self, frame: bytes, text: str) -> Path:
        file = private_folder(self._cache) / f"{stem_of(frame)}.avsc"
        try:
            write_whole(file, text.encode())
        except OSError as error:
            raise TransportUnavailable(f"{file} cannot be written: {error.strerror}") from error
        self._files[frame] = file
        return file


def _registered(found: Any, *, id: int = 0) -> Registered:
    if not isinstance(found, dict) or not isinstance(found.get("schema"), str):
        raise Refused("the answer of the registry has no schema")
    references = found.get("references") or ()
    number, version = found.get("id"), found.get("version")
    return Registered(
        found["schema"],
        str(found.get("schemaType") or "AVRO"),
        number if isinstance(number, int) else id,
        version if isinstance(version, int) else 0,
        tuple(one for one in references if isinstance(one, dict)),
    )


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refused(f"it is not Unicode: {error.reason}") from None
    return text


def _id(found: Any) -> int:
    if not isinstance(found, dict) or type(found.get("id")) is not int or not 0 < found["id"] <= _LARGEST:
        raise TransportUnavailable(f"the schema registry gave no id: {json.dumps(found)[:200]}")
    return int(found["id"])


def _same(file: Path, schema: Schema) -> bool:
    try:
        return bool(load_schema(file).avro == schema.avro)
    except SchemaError:
        return False


def _refused(schema: Schema, subject: str, reason: str) -> Problem:
    return Problem(schema.path, 0, 0, f"the schema registry refuses it for the subject {subject}: {reason}", "change the schema")


def _eight(frame: bytes) -> str:
    """Returns a hint for Apicurio's ids of eight bytes, whose first ones are zeros."""
    return "; Apicurio's ids of 8 bytes are not read: let its serializer write content ids of 4" if not any(frame) else ""
