"""The client of a schema registry: what it takes for an answer, what it holds on to, and what it gives away."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from penstock.codecs import Writers, decoder, load_schema
from penstock.codecs.framing import frame_of, framed
from penstock.codecs.schema_registry import Client, SchemaRegistry
from penstock.codecs.schema_registry.client import Refused
from penstock.codecs.schema_registry.shelf import ABSENT, MOST_ABSENT
from penstock.codecs.writers import sink_frame
from penstock.errors import AccessRefused, DecodeError, SchemaError, SchemaWanted, SettingsError, TransportUnavailable
from penstock.schema import Column, Schema
from penstock.settings import Secret, Settings
from tests.clock import Clock
from tests.kafka.certificates import Authority
from tests.schema_registry import Double, double, guid_of

EVENT = {"type": "record", "name": "Event", "fields": [{"name": "x", "type": "int"}]}
OTHER = {**EVENT, "name": "Other"}
Open = Callable[..., SchemaRegistry]


@pytest.fixture
def site() -> Iterator[Double]:
    with double() as running:
        yield running


@pytest.fixture
def opened(site: Double, tmp_path: Path) -> Open:
    def open_one(**settings: Any) -> SchemaRegistry:
        dry, clock = settings.pop("dry", False), settings.pop("clock", time.monotonic)
        given = {"schema_registry_url": site.url, "cache": tmp_path / "cache", **settings}
        return SchemaRegistry(Client(Settings(**given)), Settings(**given), dry=dry, clock=clock)

    return open_one


@pytest.fixture
def event(tmp_path: Path) -> Schema:
    (tmp_path / "event.avsc").write_text(json.dumps(EVENT))
    return load_schema(tmp_path / "event.avsc")


def fetched(registry: SchemaRegistry, frame: bytes) -> Any:
    """The schema with this frame, as the loop gets it."""
    with pytest.raises(SchemaWanted) as wanted:
        registry.held(frame)
    wanted.value.fetch()
    return json.loads(registry.held(frame).read_text())


def refusal(registry: SchemaRegistry, frame: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        fetched(registry, frame)
    return str(caught.value)


# -- what is an answer ---------------------------------------------------------------------------------------------


def test_registry_is_asked_once_per_id(site: Double, opened: Open) -> None:
    site.add("t-value", EVENT)
    registry = opened()
    assert fetched(registry, frame_of(1)) == EVENT
    registry.fetch(frame_of(1))
    assert site.asked == ["GET /schemas/ids/1"]


def test_guid_is_asked_for_too(site: Double, opened: Open) -> None:
    site.add("t-value", EVENT)
    assert fetched(opened(), frame_of(UUID(guid_of(1)))) == EVENT


def test_schema_that_is_absent_is_believed_for_a_while(site: Double, opened: Open) -> None:
    """A registry that follows another one learns of an id late."""
    clock = Clock()
    registry = opened(clock=clock)
    assert refusal(registry, frame_of(1)) == "the schema registry has no schema id 1: Schema not found."
    site.add("t-value", EVENT)
    with pytest.raises(DecodeError):
        registry.held(frame_of(1))
    clock.now += ABSENT
    assert fetched(registry, frame_of(1)) == EVENT


@pytest.mark.parametrize("id", [0, 2**31, 2**32 - 1])
def test_id_that_no_registry_gives_is_not_asked_for(site: Double, opened: Open, id: int) -> None:
    with pytest.raises(DecodeError, match=f"schema id {id} is not one that a schema registry gives"):
        opened().held(frame_of(id))
    assert site.asked == []


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("JSON", '{"type": "object"}', "it is a schema of type JSON, and the formats with a schema for each writer are Avro"),
        ("PROTOBUF", "message {", "Expected message name"),
        ("AVRO", json.dumps({**EVENT, "doc": "x" * 2**20}), "it is larger than 1048576 bytes"),
        ("AVRO", '{"type": "record", "name": "E", "doc": "\ud800", "fields": []}', "it is not Unicode"),
    ],
)
def test_schema_that_cannot_be_used_is_a_dead_letter(site: Double, opened: Open, kind: str, text: str, reason: str) -> None:
    site.add("t-value", text, kind)
    assert reason in refusal(opened(), frame_of(1))


def test_references_that_lead_nowhere_or_in_a_circle(site: Double, opened: Open) -> None:
    user = {"type": "record", "name": "User", "fields": [{"name": "e", "type": "Event"}]}
    site.add("t-value", user, references=[{"name": "Event", "subject": "gone", "version": 1}])
    assert "it refers to version 1 of gone, which is absent: Subject not found." in refusal(opened(), frame_of(1))
    site.add("loop", EVENT, references=[{"name": "User", "subject": "loop", "version": 1}])
    site.add("u-value", {**user, "doc": "2"}, references=[{"name": "Event", "subject": "loop", "version": 1}])
    assert fetched(opened(), frame_of(3))["fields"][0]["type"] == EVENT


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (404, b"<html>a proxy</html>", "404 Not Found: no schema registry is there; Apicurio's URL ends with /apis/ccompat/v7"),
        (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}', "no schema registry is there"),
        (500, b'{"error_code": 50001, "message": "store is down"}', "500 store is down"),
        (429, b"", "429 Too Many Requests"),
        (200, b"<html>", "the answer is not JSON"),
        (302, b"", "302: it leads elsewhere, which is not followed; set that URL"),
    ],
)
def test_what_is_no_answer_makes_no_dead_letter(site: Double, opened: Open, status: int, body: bytes, reason: str) -> None:
    site.add("t-value", EVENT)
    site.status, site.body, site.location = status, body, "http://127.0.0.1:1/"
    registry = opened()
    with pytest.raises(TransportUnavailable) as caught:
        registry.fetch(frame_of(1))
    assert str(caught.value).startswith(f"the schema registry does not answer: {site.url}: ")
    assert reason in str(caught.value)
    site.status, site.location = 0, ""
    assert fetched(registry, frame_of(1)) == EVENT


@pytest.mark.parametrize(
    "wrong", [{"references": 5}, {"references": {"name": "x"}}, {"id": -1}, {"id": 2**40}, {"id": True}, {"version": "1"}]
)
def test_answer_with_odd_values_ends_nothing(site: Double, opened: Open, event: Schema, wrong: dict[str, Any]) -> None:
    site.status, site.body = 200, json.dumps({"schema": json.dumps(EVENT), "id": 1, "version": 1, **wrong}).encode()
    registry = opened()
    assert fetched(registry, frame_of(1)) == EVENT
    newest = registry.newest("t", event)
    assert newest is not None
    assert json.loads(newest[1].read_text()) == EVENT
    assert registry.versions("t-value") == []


def test_registered_json_schema_with_definitions_that_are_none_is_refused(site: Double, opened: Open) -> None:
    site.add("t-value", {"type": "object", "$defs": ["x"]}, "JSON", [{"name": "x", "subject": "x", "version": 1}])
    site.add("x", {"type": "string"}, "JSON")
    registry = opened()
    with pytest.raises(Refused, match=r"its references cannot be followed: \$defs is no object"):
        registry.whole(registry.version("t-value"))


def test_registry_that_does_not_answer_in_time_is_left(site: Double, opened: Open) -> None:
    site.silent = True
    with pytest.raises(TransportUnavailable, match=r"no answer within 0\.1 s"):
        opened(schema_registry_timeout=0.1).fetch(frame_of(1))


def test_second_url_answers_for_the_first(site: Double, opened: Open) -> None:
    site.add("t-value", EVENT)
    site.add("t-value", OTHER)
    with double() as first:
        first.status = 503
        registry = opened(schema_registry_url=f"{first.url}, {site.url}/")
        assert fetched(registry, frame_of(1)) == EVENT
        assert fetched(registry, frame_of(2)) == OTHER
        assert len(first.asked) == 1  # the one that answered is asked first from then on


# -- who it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({"schema_registry_username": "ada", "schema_registry_password": Secret("päss")}, "Basic YWRhOnDDpHNz"),
        ({"schema_registry_token": Secret("t0ken")}, "Bearer t0ken"),
        ({}, None),
    ],
)
def test_credentials_go_with_every_request(site: Double, opened: Open, settings: dict[str, Any], sent: str | None) -> None:
    site.add("t-value", EVENT)
    fetched(opened(**settings), frame_of(1))
    assert [headers.get("Authorization") for headers in site.headers] == [sent]


@pytest.mark.parametrize("status", [401, 403])
def test_refused_login_is_not_tried_again(site: Double, opened: Open, status: int) -> None:
    site.status = status
    with pytest.raises(AccessRefused, match="check schema_registry_username"):
        opened().fetch(frame_of(1))
    assert len(site.asked) == 1


def test_certificates_are_checked_on_both_sides(tmp_path: Path, opened: Open) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server, client = ours.sign("registry", "DNS:localhost"), ours.sign("worker")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours.certificate)
    context.load_cert_chain(server.certificate, server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    mine = {"schema_registry_certfile": client.certificate, "schema_registry_keyfile": client.key}
    with double(context) as site:
        site.add("t-value", EVENT)
        with pytest.raises(AccessRefused, match="is not trusted"):
            opened(schema_registry_url=site.url, schema_registry_cafile=theirs.certificate, **mine).fetch(frame_of(1))
        with pytest.raises(TransportUnavailable):
            opened(schema_registry_url=site.url, schema_registry_cafile=ours.certificate).fetch(frame_of(1))
        assert fetched(opened(schema_registry_url=site.url, schema_registry_cafile=ours.certificate, **mine), frame_of(1)) == EVENT


def test_certificate_that_cannot_be_used_is_named(opened: Open, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"schema_registry_cafile: .*absent\.pem cannot be used"):
        opened(schema_registry_url="https://registry", schema_registry_cafile=tmp_path / "absent.pem")


# -- without the registry ------------------------------------------------------------------------------------------


def test_cache_answers_only_while_the_registry_does_not(site: Double, opened: Open) -> None:
    """A registry that was set up anew gives the same ids to other schemas."""
    site.add("t-value", EVENT)
    fetched(opened(), frame_of(1))
    site.status = 503
    assert fetched(opened(), frame_of(1)) == EVENT
    site.status, site.schemas[0]["schema"] = 0, json.dumps(OTHER)
    assert fetched(opened(), frame_of(1)) == OTHER


def test_source_starts_by_files_or_cache_without_an_answer(site: Double, opened: Open, event: Schema, tmp_path: Path) -> None:
    site.status = 503
    with pytest.raises(TransportUnavailable):
        Writers.load(event, tmp_path / "ids", registry=opened(), topic="t")
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids/7.avsc").write_text(json.dumps(EVENT))
    assert [*Writers.load(event, tmp_path / "ids", registry=opened(), topic="t").known] == [frame_of(7)]
    site.status = 0
    site.add("t-value", {**EVENT, "doc": "new"})
    Writers.load(event, tmp_path / "ids", registry=opened(), topic="t")
    site.status = 503
    assert [*Writers.load(event, tmp_path / "none", registry=opened(), topic="t").known] == [frame_of(1)]


def test_sink_has_the_id_of_files_first_and_of_the_cache_last(site: Double, opened: Open, event: Schema, tmp_path: Path) -> None:
    assert sink_frame(event, tmp_path / "ids", registry=opened(), topic="t") == frame_of(1)
    site.status = 503
    assert sink_frame(event, tmp_path / "ids", registry=opened(), topic="t") == frame_of(1)
    with pytest.raises(TransportUnavailable):
        sink_frame(event, tmp_path / "ids", registry=opened(cache=tmp_path / "empty"), topic="t")
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids/7.avsc").write_text(json.dumps(EVENT))
    site.asked.clear()
    assert sink_frame(event, tmp_path / "ids", registry=opened(), topic="t") == frame_of(7)
    assert site.asked == []


# -- sources and sinks ---------------------------------------------------------------------------------------------


def test_newest_schema_that_does_not_resolve_is_refused_at_start(site: Double, opened: Open, event: Schema, tmp_path: Path) -> None:
    site.add("t-value", {**EVENT, "fields": [{"name": "x", "type": "string"}]})
    with pytest.raises(SchemaError) as caught:
        Writers.load(event, tmp_path / "ids", registry=opened(), topic="t")
    assert "the newest schema of the topic t (schema id 1) field 'x' is string and cannot be read as int" in str(caught.value)
    site.add("j-value", '{"type": "object"}', "JSON")
    with pytest.raises(SchemaError, match="the newest schema of j-value cannot be used: it is a schema of type JSON"):
        Writers.load(event, tmp_path / "ids", registry=opened(), topic="j")
    site.add("o-value", OTHER)
    assert Writers.load(event, tmp_path / "ids", registry=opened(), topic="o").known == {}


@pytest.mark.parametrize(("strategy", "subject"), [("topic", "t-value"), ("record", "Event"), ("topic-record", "t-Event")])
def test_subject_follows_the_setting(site: Double, opened: Open, event: Schema, strategy: str, subject: str) -> None:
    assert opened(schema_registry_subjects=strategy).enter("t", event) == frame_of(1)
    assert [*site.subjects] == [subject]


def test_dry_run_registers_nothing_and_says_what_would_be_refused(site: Double, opened: Open, event: Schema) -> None:
    assert opened(dry=True).enter("t", event) is None
    site.add("t-value", OTHER)
    assert opened(dry=True).enter("t", event) is None
    site.compatible = False
    for dry, reason in ((True, "it is not compatible with the newest version"), (False, "is incompatible with an earlier schema")):
        with pytest.raises(SchemaError, match=f"refuses it for the subject t-value: .*{reason}"):
            opened(dry=dry).enter("t", event)
    assert len(site.schemas) == 1


def test_refusal_has_the_reasons_of_the_registry(site: Double, opened: Open, event: Schema) -> None:
    site.add("t-value", OTHER)
    site.compatible, site.messages = False, ["reader type: INT not compatible"]
    for dry in (True, False):
        with pytest.raises(SchemaError, match=r"refuses it for the subject t-value: .*: reader type: INT not compatible"):
            opened(dry=dry).enter("t", event)


def test_json_schema_is_registered_as_such_and_found_in_the_cache(site: Double, opened: Open, tmp_path: Path) -> None:
    (tmp_path / "e.schema.json").write_text('{"type": "object", "title": "E", "properties": {"x": {"type": "number"}}}')
    schema = load_schema(tmp_path / "e.schema.json")
    assert opened(dry=False, schema_registry_subjects="record").enter("t", schema) == frame_of(1)
    assert (site.schemas[0]["schemaType"], [*site.subjects]) == ("JSON", ["E"])
    site.status = 503
    assert opened(dry=False, schema_registry_subjects="record").enter("t", schema) == frame_of(1)


def test_topic_of_invented_ids_asks_for_few_of_them(site: Double, opened: Open, event: Schema, tmp_path: Path) -> None:
    """In one batch, and in those that follow; known schemas are read all the while, and after some seconds others are asked for."""
    site.add("t-value", EVENT)
    clock = Clock()
    events = decoder("avro-confluent", event, [], writers=Writers(event, {}, directory=tmp_path, registry=opened(clock=clock)))
    for batch in range(3):
        values = [frame_of(1) + b"\2", *(frame_of(1000 * (batch + 1) + number) + b"\2" for number in range(200))]
        try:
            found = events.decode(values)
        except SchemaWanted as wanted:
            wanted.fetch()
            found = events.decode(values)
        assert (found.size, len(found.failures)) == (1, 200)
    assert len(site.asked) == 1 + MOST_ABSENT
    assert "not asked, since it has none of 64 others" in str(events.decode([frame_of(7000)]).failures[0].error)
    clock.now += ABSENT
    with pytest.raises(SchemaWanted):
        events.decode([frame_of(7000)])


def test_batch_asks_for_all_schemas_that_it_lacks_at_once(site: Double, opened: Open, event: Schema, tmp_path: Path) -> None:
    """Then it is decoded as if they had been known: rows in order, dead letters for what is not there."""
    site.add("t-value", EVENT)
    site.add("t-value", {**EVENT, "doc": "2"})
    site.add("t-value", OTHER)
    columns = [Column("x", "x", "int32")]
    events = decoder("avro-confluent", event, columns, writers=Writers(event, {}, directory=tmp_path, registry=opened()))
    values = [frame_of(2) + b"\2", b"", frame_of(1) + b"\4", frame_of(3) + b"\6", frame_of(9) + b"\6", frame_of(2) + b"\x08"]
    with pytest.raises(SchemaWanted, match="schema id 2, schema id 1, schema id 3, schema id 9") as wanted:
        events.decode(values)
    wanted.value.fetch()
    batch = events.decode(values)
    assert batch.columns["x"].tolist() == [1, 2, 4]
    assert [failure.row for failure in batch.failures] == [1, 3, 4]
    assert "schema id 3 is that of Other, the source reads Event" in str(batch.failures[1].error)


@pytest.mark.parametrize(
    ("headers", "frame"),
    [
        ([("__value_schema_id", b"\1" + bytes(15) + b"\7"), ("__value_schema_id", b"\1" + bytes(16))], b"\1" + bytes(15) + b"\7"),
        ([("a", None), ("__value_schema_id", b"\0\0\0\0\7")], b"\0\0\0\0\7"),
        ([("apicurio.value.contentId", bytes(7) + b"\7")], b"\0\0\0\0\7"),
        ([("__value_schema_id", None), ("__key_schema_id", b"\0\0\0\0\7")], b""),
        ([("__value_schema_id", b"\1short"), ("apicurio.value.contentId", bytes(8))], b""),
        ([("apicurio.value.contentId", b"\1" + bytes(7))], b""),
    ],
)
def test_frame_in_a_header_goes_before_the_value(headers: list[tuple[str, bytes | None]], frame: bytes) -> None:
    assert framed(b"datum", headers) == frame + b"datum"
    assert framed(None, headers) is None


# -- Protobuf ------------------------------------------------------------------------------------------------------


def test_protobuf_is_compiled_once_and_kept(site: Double, opened: Open, tmp_path: Path) -> None:
    """What was fetched starts a source, reads its events, and gives a sink its id while the registry does not answer."""
    (tmp_path / "event.proto").write_text('syntax = "proto3";\nmessage Event { int32 x = 1; }\n')
    event = load_schema(tmp_path / "event.proto")
    assert opened().enter("t", event) == frame_of(1)
    own = 'syntax = "proto3"; message Other { int32 y = 1; } message Event { sint32 x = 1; }'
    frame = frame_of(site.add("other", own, "PROTOBUF"))
    opened().fetch(frame)
    site.status = 503
    writers = Writers.load(event, tmp_path / "ids", registry=opened(), topic="t")
    assert {*writers.known} == {frame_of(1), frame}
    batch = decoder("protobuf-confluent", event, [Column("x", "x", "int32")], writers=writers).decode(
        [frame_of(1) + b"\0\x08\x05", frame + b"\0\x08\x05", frame + b"\2\2\x08\x05"]
    )
    assert batch.columns["x"].tolist() == [5]
    assert [str(one.error) for one in batch.failures] == [
        "it is a Other, the source reads Event",
        "schema id 2 wrote it, which the source's schema cannot read: field 'x' (number 1) is sint32 there, and int32 here",
    ]
    assert sink_frame(event, tmp_path / "ids", registry=opened(), topic="t") == frame_of(1)


def test_source_of_protobuf_passes_over_avro(site: Double, opened: Open, tmp_path: Path) -> None:
    (tmp_path / "event.proto").write_text('syntax = "proto3";\nmessage Event { int32 x = 1; }\n')
    event = load_schema(tmp_path / "event.proto")
    registry = opened()
    frame = frame_of(site.add("other", EVENT))
    registry.fetch(frame)
    writers = Writers(event, {}, registry=registry)
    with pytest.raises(DecodeError, match="its schema is not Protobuf"):
        writers.find(frame)
