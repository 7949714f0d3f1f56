"""The schemas of a registry as files of this host. Its rules:

1. The registry is asked once per id and process; an id never changes its schema. Its answer is kept in the cache.
2. The cache answers only while the registry does not: one that was set up anew gives ids that it has given before.
3. That there is no such schema is believed for ABSENT seconds: a registry may follow another one, and learn of an id late.
4. While MOST_ABSENT ids are believed to be absent, no other unknown id is asked for: it is taken to be absent too. So a topic full of
   invented ids costs at most so many requests per ABSENT seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from penstock.codecs.dialects import ENDINGS, name_of
from penstock.codecs.framing import FRAME, frame_of, shown, stem_of
from penstock.codecs.schema import MAX_SCHEMA_BYTES
from penstock.codecs.schema_registry.client import Absent, Client, Refused
from penstock.codecs.schema_registry.inline import MOST, bundle, definitions, inline
from penstock.codecs.writers import Part, frames_of
from penstock.errors import DecodeError, Problem, SchemaError, SchemaWanted, TransportUnavailable
from penstock.host import private_folder, write_whole
from penstock.schema import Schema
from penstock.settings import Settings

__all__ = ["PROTOBUF", "Offer", "Registered", "SchemaRegistry"]

logger = logging.getLogger(__name__)

Offer = Mapping[str, Any]  # a schema as the API takes it: `schema`, but for Avro `schemaType`, and for Protobuf `references`

PROTOBUF: Final = "PROTOBUF"
ABSENT: Final = 10.0  # seconds
MOST_ABSENT: Final = 64  # ids; few, unless someone makes them up or the registry is another one
_FEW, _LONGEST = 5, 500  # reasons that are shown, and characters of one
_LARGEST: Final = 2**31 - 1  # the API's ids are Java's ints
_ENDINGS: Final = (".avsc", ".binpb")  # of kept schemas: Avro's text, Protobuf's descriptors


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
        if (reason := self._denied(frame)) is not None:
            raise DecodeError(f"the schema registry has no {shown(frame)}: {reason}")
        raise SchemaWanted(shown(frame), lambda: self.fetch(frame))

    def fetch(self, frame: bytes) -> None:
        """Asks for the schema with this frame, unless it is held. Blocks. Raises TransportError when only the registry could answer."""
        with self._lock:
            if frame in self._files or self._denied(frame) is not None:
                return
            try:
                self._keep(frame, self.by_frame(frame))
            except (Absent, Refused, SchemaError) as error:
                self._absent[frame] = (str(error), self._clock() + ABSENT)
            except TransportUnavailable as error:
                kept = [file for ending in _ENDINGS if (file := self._cache / f"{stem_of(frame)}{ending}").is_file()]
                if not kept:
                    raise
                logger.warning("%s; %s is read from the cache", error, shown(frame))
                self._files[frame] = kept[0]

    def _denied(self, frame: bytes) -> str | None:
        """Returns why the schema with this frame is taken to be absent, None where the registry has to be asked."""
        now = self._clock()
        for one in [one for one, (_, until) in self._absent.copy().items() if now >= until]:
            self._absent.pop(one, None)
        if frame in (absent := self._absent.copy()):
            return absent[frame][0]
        return f"not asked, since it has none of {MOST_ABSENT} others of the last seconds" if len(absent) >= MOST_ABSENT else None

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
        try:
            return self._entered(subject, schema)
        except TransportUnavailable as error:
            with contextlib.suppress(SchemaError):
                for frame in frames_of(schema, self._cache):
                    logger.warning("%s; the %s of %s is from the cache", error, shown(frame), schema.path)
                    return frame
            raise

    def _entered(self, subject: str, schema: Schema) -> bytes | None:
        try:
            offer = self.offer(schema, register=self._register and not self._dry)
        except Refused as error:
            raise SchemaError(_refused(schema, subject, str(error))) from None
        found = None if offer is None else self.look_up(subject, offer)
        if found is None and not self._register:
            fix = "register it (`penstock schema push`), or allow it with schema_registry_register"
            raise SchemaError(Problem(schema.path, 0, 0, f"not registered under the subject {subject}", fix))
        if found is None and self._dry:
            if offer is not None and (reason := self.incompatible(subject, offer)):
                raise SchemaError(_refused(schema, subject, reason))
            return None
        if found is None:
            assert offer is not None, "what it imports is registered"
            try:
                found = self.register(subject, offer)
            except Refused as error:
                with contextlib.suppress(Refused):
                    error = Refused(f"{error}{_told(self._compared(subject, offer))}")
                raise SchemaError(_refused(schema, subject, str(error))) from None
            logger.info("%s is registered under %s with the id %d", schema.path, subject, found)
        frame = frame_of(found)
        if schema.protobuf is None:
            self._store(frame, str(offer and offer["schema"]).encode(), ENDINGS[schema.language][0])
        else:
            self._store(frame, schema.protobuf.files, ".binpb")
        return frame

    def offer(self, schema: Schema, *, register: bool) -> Offer | None:
        """Returns the schema as the registry takes it. What a Protobuf file imports is registered too, under its name in the import.

        That is done here with `register`; None: it would have to be done. Raises Refused, TransportError.
        """
        if schema.protobuf is None:
            text = Path(schema.path).read_text(encoding="utf-8")
            return {"schema": text} if schema.language == "AVRO" else {"schema": text, "schemaType": schema.language}
        made: dict[str, Offer] = {}
        for name, text, imports in schema.protobuf.sources():
            references = []
            for one in imports:
                if (version := self._version_of(one, made[one])) is None:
                    if not register:
                        return None
                    self.register(one, made[one])
                    version = self._version_of(one, made[one])
                references.append({"name": one, "subject": one, "version": version})
            made[name] = {"schema": text, "schemaType": PROTOBUF, "references": references}
        return made[""]

    def _version_of(self, subject: str, offer: Offer) -> int | None:
        try:
            found = self._client.post("subjects", subject, body=offer)
        except (Absent, Refused):
            return None
        return int(found["version"]) if isinstance(found, dict) and type(found.get("version")) is int else None

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

    def look_up(self, subject: str, offer: Offer) -> int | None:
        """Returns the id of a schema under the subject, None when it is not registered there. Raises TransportError."""
        try:
            return _id(self._client.post("subjects", subject, body=offer))
        except (Absent, Refused):
            return None

    def incompatible(self, subject: str, offer: Offer) -> str:
        """Returns why the subject would refuse the schema, "" when it would not. Raises TransportError."""
        try:
            found = self._compared(subject, offer)
        except Refused as error:
            return str(error)
        return f"it is not compatible with the newest version{_told(found)}" if found.get("is_compatible") is False else ""

    def _compared(self, subject: str, offer: Offer) -> Mapping[str, Any]:
        path = "compatibility", "subjects", subject, "versions", "latest"
        try:
            found = self._client.post(*path, body=offer, verbose="true")
        except Absent:
            return {}
        return found if isinstance(found, dict) else {}

    def register(self, subject: str, offer: Offer) -> int:
        """Registers a schema and returns its id. Raises Refused, TransportError."""
        return _id(self._client.post("subjects", subject, "versions", body=offer))

    def whole(self, found: Registered) -> str:
        """Returns the text of a schema in Avro or JSON Schema, with what it refers to in it. Raises Absent, Refused, TransportError."""
        if found.kind not in ("AVRO", "JSON"):
            raise Refused(f"it is a schema of type {found.kind}, which is not read")
        if len(found.text) > MAX_SCHEMA_BYTES:
            raise Refused(f"it is larger than {MAX_SCHEMA_BYTES} bytes")
        if not found.references:
            return _unicode(found.text)
        referred: dict[str, Any] = {}
        for name, one in self._referred(found, set()).items():
            try:
                referred.update(definitions(json.loads(one)) if found.kind == "AVRO" else {name: json.loads(one)})
            except (ValueError, RecursionError) as error:
                raise Refused(f"it refers to a schema that is not JSON: {error}") from None
        join = inline if found.kind == "AVRO" else bundle
        try:
            return _unicode(json.dumps(join(json.loads(found.text), referred), indent=2, ensure_ascii=False))
        except (ValueError, RecursionError) as error:
            raise Refused(f"its references cannot be followed: {error}") from None

    def descriptors(self, found: Registered) -> bytes:
        """Returns the descriptors of a Protobuf schema and of what it imports. Raises Absent, Refused, SchemaError, TransportError."""
        from penstock.codecs.protobuf.files import compiled  # imports the library

        imports = self.imports(found)
        if max(map(len, (found.text, *imports.values()))) > MAX_SCHEMA_BYTES:
            raise Refused(f"it, or what it imports, is larger than {MAX_SCHEMA_BYTES} bytes")
        return compiled(_unicode(found.text), imports)

    def imports(self, found: Registered) -> dict[str, str]:
        """Returns the texts of what a Protobuf schema imports, by the name in the import. Raises Absent, Refused, TransportError."""
        return {name: _unicode(text) for name, text in self._referred(found, set()).items()}

    def _referred(self, found: Registered, seen: set[tuple[str, str]]) -> dict[str, str]:
        """Returns the texts of what a schema refers to, directly or not, by the names of the references."""
        made: dict[str, str] = {}
        for reference in found.references:
            place = str(reference.get("subject", "")), str(reference.get("version", ""))
            if place in seen:
                continue
            seen.add(place)
            if len(seen) > MOST:
                raise Refused(f"it refers to more than {MOST} schemas")
            try:
                one = self.version(*place)
            except Absent as error:
                raise Absent(f"it refers to version {place[1]} of {place[0]}, which is absent: {error}") from None
            made[str(reference.get("name", ""))] = one.text
            made |= self._referred(one, seen)
        return made

    def _keep(self, frame: bytes, found: Registered) -> Path:
        if found.kind == PROTOBUF:
            return self._store(frame, self.descriptors(found), ".binpb")
        if found.kind != "AVRO":
            raise Refused(f"it is a schema of type {found.kind}, and the formats with a schema for each writer are Avro and Protobuf")
        return self._store(frame, self.whole(found).encode(), ".avsc")

    def _store(self, frame: bytes, data: bytes, ending: str) -> Path:
        file = private_folder(self._cache) / f"{stem_of(frame)}{ending}"
        try:
            write_whole(file, data)
        except OSError as error:
            raise TransportUnavailable(f"{file} cannot be written: {error.strerror}") from error
        self._files[frame] = file
        return file


def _registered(found: Any, *, id: int = 0) -> Registered:
    if not isinstance(found, dict) or not isinstance(found.get("schema"), str):
        raise Refused("the answer of the registry has no schema")
    references = found.get("references")
    number, version = found.get("id"), found.get("version")
    return Registered(
        found["schema"],
        str(found.get("schemaType") or "AVRO"),
        number if type(number) is int and 0 < number <= _LARGEST else id,
        version if isinstance(version, int) else 0,
        tuple(one for one in references if isinstance(one, dict)) if isinstance(references, list) else (),
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


def _told(found: Mapping[str, Any]) -> str:
    """Returns why a schema is not compatible, as far as the registry says it."""
    said = found.get("messages")
    reasons = [str(one)[:_LONGEST] for one in said[:_FEW]] if isinstance(said, list) else []
    return f": {'; '.join(reasons)}" if reasons else ""


def _refused(schema: Schema, subject: str, reason: str) -> Problem:
    return Problem(schema.path, 0, 0, f"the schema registry refuses it for the subject {subject}: {reason}", "change the schema")


def _eight(frame: bytes) -> str:
    """Returns a hint for Apicurio's ids of eight bytes, whose first ones are zeros."""
    return "; Apicurio's ids of 8 bytes are not read: let its serializer write content ids of 4" if not any(frame) else ""
