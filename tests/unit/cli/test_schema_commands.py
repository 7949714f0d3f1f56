"""`penstock schema`, from the outside: arguments in; exit code, stdout and stderr out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.cli.main import main
from tests.unit.cli.done import Done, Run

SCHEMA = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "id", "type": "string", "doc": "Who."},
        {"name": "x", "type": ["null", "float"], "default": None},
        {"name": "v", "type": {"type": "array", "items": "int", "size": 3}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "raw", "type": "bytes"},
    ],
}


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `penstock schema ...` in a folder with the one schema `schemas/event.avsc`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("schemas").mkdir()
    Path("schemas/event.avsc").write_text(json.dumps(SCHEMA))

    def call(*arguments: str) -> Done:
        code = main(["schema", *arguments])
        return Done(code, *capfd.readouterr())

    return call


def test_ls_lists_what_is_there(run: Run) -> None:
    assert run("ls", "--format", "json").json == [{"file": "schemas/event.avsc", "name": "Event", "fields": 5}]
    assert "schemas/event.avsc" in run("ls").out


def test_show_tells_what_each_field_can_feed(run: Run) -> None:
    fields = run("show", "schemas/event.avsc", "--format", "json").json["fields"]
    assert [(field["name"], field["type"], field["default"], field["feeds"]) for field in fields] == [
        ("id", "string", "", "string[N]"),
        ("x", "float or null", "null", "float32[N]"),
        ("v", "int[3]", "", "int32[N, 3]"),
        ("at", "timestamp (ms)", "", "int64[N]"),
        ("raw", "bytes", "", "nothing"),
    ]
    assert "int32[N, 3]" in run("show", "schemas/event.avsc").out


def test_check_reports_every_problem_of_every_file(run: Run) -> None:
    Path("schemas/bad.avsc").write_text('{"type": "record", "name": "B", "fields": [{"name": "x", "type": "flot"}, {"name": "y"}]}')
    Path("schemas/worse.avsc").write_text("{")
    done = run("check", "schemas/bad.avsc", "schemas/event.avsc", "schemas/worse.avsc")
    assert done.code == 2
    assert "3 problems" in done.err
    assert "schemas/worse.avsc:1:2: not JSON" in done.err
    assert run("check", "schemas/event.avsc").out == "schemas/event.avsc: Event, 5 fields\n"


def test_check_lists_what_no_topology_can_read(run: Run) -> None:
    """A mistake in a JSON Schema is no error of the file: events may hold anything there."""
    Path("schemas/e.schema.json").write_text('{"type": "object", "properties": {"a": {"type": "numbr"}, "b": {"type": "string"}}}')
    done = run("check", "schemas/e.schema.json")
    reason = "schemas/e.schema.json#/properties/a has the type 'numbr': use one of boolean, integer, number, string, object and array"
    assert (done.code, done.out) == (0, f"schemas/e.schema.json: e, 2 fields\n  no topology can read: {reason}\n")
    assert run("check", "schemas/e.schema.json", "--format", "json").json["unreadable"] == [reason]


def test_check_takes_a_file_of_several_messages(run: Run) -> None:
    Path("schemas/shop.proto").write_text('syntax = "proto3"; message A { string id = 1; } message B { A a = 1; }')
    assert run("check", "schemas/shop.proto").out == "schemas/shop.proto: A, 1 field\nschemas/shop.proto: B, 1 field\n"
    Path("events.ndjson").write_text('{"id": "a"}')
    assert "name one of them" in run("check", "schemas/shop.proto", "--events", "events.ndjson").err


def test_check_finds_the_bad_events_by_line(run: Run) -> None:
    """Blank lines are no events, and count as lines."""
    good = json.dumps({"id": "a", "v": [1, 2, 3], "at": 0, "raw": ""})
    Path("events.ndjson").write_text("\n".join([good, "", "{", *[good] * 300, good.replace("[1, 2, 3]", "[1]"), ""]))
    done = run("check", "schemas/event.avsc", "--events", "events.ndjson")
    assert done.code == 1
    said = done.out.splitlines()
    assert said[1].startswith("events.ndjson:3: ")
    assert said[2].startswith("events.ndjson:304: ")
    assert said[3] == "303 events, 2 bad"
    told = run("check", "schemas/event.avsc", "--events", "events.ndjson", "--format", "json").json
    assert (told["events"], [bad["line"] for bad in told["bad"]]) == (303, [3, 304])
    Path("events.ndjson").write_text(good)
    assert run("check", "schemas/event.avsc", "--events", "events.ndjson").code == 0


def test_check_holds_events_against_one_schema(run: Run) -> None:
    Path("events.ndjson").write_text("")
    done = run("check", "schemas/event.avsc", "schemas/event.avsc", "--events", "events.ndjson")
    assert done.code == 2
    assert "one FILE" in done.err


def test_inferred_schema_takes_the_events_it_came_from(run: Run) -> None:
    events = [
        {"id": "a", "n": 1, "x": 1, "ok": True, "v": [1, 2.5], "w": [1]},
        {"id": "b", "n": 2**40, "x": 0.5, "ok": False, "v": [3, 4], "w": [], "note": "late"},
        {"id": "c", "n": 3, "x": None, "ok": True, "v": [0, 0], "w": [2, 3]},
    ]
    Path("events.ndjson").write_text("\n".join(map(json.dumps, events)))
    done = run("infer", "events.ndjson", "--name", "Mine")
    assert {field["name"]: field["type"] for field in done.json["fields"]} == {
        "id": "string",
        "n": "long",
        "x": ["null", "double"],
        "ok": "boolean",
        "v": {"type": "array", "items": "double", "size": 2},
        "w": {"type": "array", "items": "long"},
        "note": ["null", "string"],
    }
    Path("mine.avsc").write_text(done.out)
    assert run("check", "mine.avsc", "--events", "events.ndjson").code == 0


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("", "no events"),
        ("{}\n[1]", "events.ndjson:2:1: not a JSON object: [1] (write one JSON object per line)"),
        ("{}\n{", "events.ndjson:2:2: not JSON: Expecting property name"),
        ('{"x": 1}\n{"x": "a"}', "'x' has values of the types integer and string"),
        ('{"x": null}', "'x' is null in every event"),
        ('{"x": {}}', "'x' has no field that can be used"),
        ('{"x": []}', "'x' is empty in every event"),
    ],
)
def test_infer_says_why_no_schema_fits(run: Run, lines: str, says: str) -> None:
    Path("events.ndjson").write_text(lines)
    done = run("infer", "events.ndjson")
    assert done.code == 2
    assert says in done.err


def test_inferred_schema_has_records_and_aliases_and_leaves_out_what_it_cannot_use(run: Run) -> None:
    """Cases 15 and 16, and what application events have."""
    events = [
        {
            "after": {"amount": 2.0, "user": {"age": 31}},
            "op": "c",
            "@timestamp": 1,
            "mixed": 1,
            "list": [{"a": 1}],
            "Petal Length (cm)": 1.5,
        },
        {"after": None, "op": "d", "@timestamp": 2, "mixed": "x", "list": [{"a": 2}, {"b": None}], "none": None, "Petal Length (cm)": 2},
    ]
    Path("events.ndjson").write_text("\n".join(map(json.dumps, events)))
    done = run("infer", "events.ndjson")
    assert done.code == 0
    assert done.err.splitlines()[:3] == [
        "left out: 'mixed' has values of the types integer and string",
        "left out: 'list[].b' is null in every event",
        "left out: 'none' is null in every event",
    ]
    fields = {field["name"]: field for field in done.json["fields"]}
    assert list(fields) == ["after", "op", "timestamp", "list", "Petal_Length_cm"]
    assert fields["timestamp"] == {"name": "timestamp", "aliases": ["@timestamp"], "type": "long"}
    Path("mine.avsc").write_text(done.out)
    assert run("check", "mine.avsc", "--events", "events.ndjson").code == 0
    shown = {row["name"]: row["feeds"] for row in run("show", "mine.avsc", "--format", "json").json["fields"]}
    assert shown["after.user.age"] == "int64[N]"
    assert shown["list[0].a"] == "int64[N]"
    assert shown["after"] == "nothing"


def test_dates_of_a_draft_are_noted_and_checked_as_the_source_would(run: Run) -> None:
    events = [{"at": "2026-11-29T08:00:00Z", "n": 1, "day": "soon"}, {"at": "2026-11-29", "n": 2.0, "day": "2026-11-29"}]
    Path("events.ndjson").write_text("\n".join(map(json.dumps, events)))
    done = run("infer", "events.ndjson")
    assert "'at' has dates: for an event time, declare" in done.err
    assert "'day'" not in done.err
    stamp = {"type": "long", "logicalType": "timestamp-millis"}
    fields = [{"name": "at", "type": stamp}, {"name": "n", "type": "long"}, {"name": "day", "type": "string"}]
    Path("mine.avsc").write_text(json.dumps({"type": "record", "name": "Event", "fields": fields}))
    assert run("check", "mine.avsc", "--events", "events.ndjson").out.endswith("2 events, 2 bad\n")
    assert run("check", "mine.avsc", "--events", "events.ndjson", "--coerce", "dates", "--coerce", "whole_numbers").code == 0


def test_topology_prints_the_json_schema_of_topology_files(run: Run) -> None:
    assert "sources" in run("topology").json["properties"]


@pytest.mark.parametrize(("command", "names"), [("control", "Penstock control message"), ("status", "Penstock status record")])
def test_schemas_of_the_control_and_status_topics_are_printed(run: Run, command: str, names: str) -> None:
    """As they are published."""
    published = Path(__file__).parents[3] / f"schemas/{command}.schema.json"
    assert run(command).json["title"] == names
    assert run(command).out == published.read_text(encoding="utf-8")
