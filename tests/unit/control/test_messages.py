"""A message means the same to every reader, in this version, the next, and on any Python."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.binding import Binding, same
from penstock.control.messages import MAX_BYTES, Message, encode, json_schema, new_id, parse, timestamp
from penstock.control.strategy import SINGLE, STRATEGIES, Canary, Single, Split, Strategy, kind_of, shares_of
from penstock.errors import ControlError
from penstock.tame import UNPRINTABLE
from tests.unit.control.making import NOW_MS, abort, activate, binding, pause, promote, release

PUBLISHED = Path(__file__).parents[3] / "schemas/control.schema.json"
SAID: list[Message] = [
    release(),
    release(2, base=7, reason="größer", restores=3),
    release(bindings={"trees": binding(1, parameters={"x": [1.5, 2, True, "a"], "dense/b:0": -(2**63)}), "logistic": binding(2)}),
    release(baseline={"trees": binding(3)}),
    activate(),
    abort(reason="too slow"),
    promote(base=3),
    promote(base=3, resume=True, full=True, requested_by="carol"),
    pause(reason="wait for the labels"),
    release(strategy=Split(0.5)),
    release(strategy=Canary((0.01, 0.05, 0.25, 1.0), unit="customer.id")),
    release(strategy=Canary((0.5,))),
    *(made(version=1) for made in (release, activate, abort)),
]


def fields(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(message))
    return found


def code(data: bytes) -> str:
    with pytest.raises(ControlError) as caught:
        parse(data)
    assert str(caught.value)
    return caught.value.code


@pytest.fixture(scope="module")
def published() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text(encoding="utf-8")))


@pytest.mark.parametrize("message", SAID)
def test_message_reads_as_it_was_said(message: Message, published: jsonschema.Draft202012Validator) -> None:
    assert parse(encode(message)) == message
    assert fields(message)["version"] == message.version
    published.validate(fields(message))


def test_published_schema_is_in_step() -> None:
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == json_schema(), "penstock schema control > schemas/control.schema.json"


def test_published_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": None}, {"version": 0}, {"version": "1"}, {"version": None}, {"version": 1},
        {"control_topic": ""}, {"control_topic": "a b"}, {"control_topic": "a" * 250}, {"control_topic": "a\n"}, {"control_topic": None},
        {"strategy": None}, {"strategy": "single"}, {"strategy": {}}, {"strategy": {"kind": 1}}, {"strategy": [{"kind": "single"}]},
        {"strategy": {"kind": "split"}}, {"strategy": {"kind": "split", "share": 0}}, {"strategy": {"kind": "split", "share": 1}},
        {"strategy": {"kind": "split", "share": "0.5"}}, {"strategy": {"kind": "split", "share": 0.5, "unit": "a\nb"}},
        {"strategy": {"kind": "canary", "steps": []}}, {"strategy": {"kind": "canary", "steps": 0.5}},
        {"strategy": {"kind": "canary", "steps": [0, 0.5]}}, {"strategy": {"kind": "canary", "steps": [0.5, 1.1]}},
        {"strategy": {"kind": "canary", "steps": [n / 100 for n in range(1, 22)]}},
        {"id": "1"}, {"id": release().id + "\n"}, {"id": release().id.upper()}, {"id": "00000000-0000-4000-8000-000000000000"},
        {"topology": "a b"}, {"topology": "flights\n"}, {"topology": ""},
        {"cluster": "c\n"}, {"cluster": "c" * 256}, {"cluster": None},
        {"time": "2027-01-15T08:00:00"}, {"time": "2027-01-15T08:00:00Z\n"}, {"time": "20\u0662\u0667-01-15T08:00:00Z"}, {"time": 0},
        {"author": ""}, {"author": "a\x1b[31m"}, {"author": "a\n"}, {"author": "\u202ebob"}, {"author": "x" * 201},
        {"reason": "two\nlines"}, {"reason": "x" * 1025}, {"reason": "\x9b31m"},
        {"base": -1}, {"base": 2**53}, {"base": 1.5}, {"base": True},
        {"bindings": {}}, {"bindings": {"a b": fields(release())["bindings"]["trees"]}}, {"bindings": []},
        {"restores": -1},
    ],
)  # fmt: skip
def test_parser_and_schema_refuse_the_same(changed: dict[str, Any], published: jsonschema.Draft202012Validator) -> None:
    said = {**fields(release()), **changed}
    assert code(json.dumps(said).encode()) == "malformed"
    assert not published.is_valid(said)


@pytest.mark.parametrize(
    "changed",
    [
        {"uri": "models:/trees"}, {"uri": "file:///etc/passwd"}, {"uri": "models:/../1"}, {"uri": "models:/trees/../../etc"},
        {"uri": "models:/trees/1\n"}, {"uri": "models:/trees/latest"}, {"uri": None},
        {"digest": "sha256:0"}, {"digest": "sha256:" + "A" * 64}, {"digest": "md5:" + "0" * 64}, {"manifest": "sha256:" + "0" * 64 + "\n"},
        {"parameters": {"": 1}}, {"parameters": {"x\n": 1}}, {"parameters": []},
    ],
)  # fmt: skip
def test_parser_and_schema_refuse_the_same_bindings(changed: dict[str, Any], published: jsonschema.Draft202012Validator) -> None:
    said = fields(release())
    said["bindings"]["trees"].update(changed)
    assert code(json.dumps(said).encode()) == "malformed"
    assert not published.is_valid(said)


@pytest.mark.parametrize("value", ["null", "{}", "[null]", '{"a": 1}', str(2**63), str(-(2**63) - 1), "1e999", "NaN", "[[[{}]]]"])
def test_parameter_that_feeds_no_tensor_is_refused(value: str) -> None:
    said = encode(release(bindings={"trees": binding(1, parameters={"x": 17})})).replace(b"17", value.encode())
    assert code(said) == "malformed"


@pytest.mark.parametrize(
    "changed",
    [
        {"time": "2027-02-30T08:00:00Z"}, {"time": "2027-01-15T25:00:00Z"}, {"time": "0000-01-01T00:00:00Z"},
        {"restores": 1}, {"base": 1, "baseline": fields(release())["bindings"]},
        {"strategy": {"kind": "canary", "steps": [0.5, 0.5]}}, {"strategy": {"kind": "canary", "steps": [0.5, 0.25]}},
        {"strategy": {"kind": "canary", "steps": [1]}},
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(changed: dict[str, Any]) -> None:
    """A schema cannot say this."""
    assert code(json.dumps({**fields(release()), **changed}).encode()) == "malformed"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"{}", b"junk", b"\xff\xfe", b"\xef\xbb\xbf" + encode(release()), encode(release()) + b"{}",
        encode(release())[:-1],
        encode(release()).decode().encode("utf-16"), encode(release()).replace(b"flights", b"fl\xffghts"),
        encode(release()).replace(b"alice", b"\\ud800"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(data: bytes) -> None:
    assert code(data) == "malformed"


@pytest.mark.parametrize(
    "more",
    ['"author": "bob"', '"extra": {"a": 1, "a": 2}', '"bindings": {}', '"\\u0061uthor": "bob"'],
    ids=["known", "nested", "bindings", "escaped"],
)
def test_name_that_stands_twice_is_refused(more: str) -> None:
    """One reader would take the first, another the last."""
    assert code(encode(release()).replace(b"{", b"{" + more.encode() + b",", 1)) == "malformed"


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_is_limited_whoever_reads(opening: str) -> None:
    """A parser's own limit depends on how deep its caller's stack is, so two readers could differ. Brackets in texts do not count."""
    closing = "]" if opening == "[" else "}"

    def nested(depth: int) -> bytes:
        value = opening * depth + "1" + closing * depth
        return encode(release(reason="[" * 1000 + '\\"{')).replace(b"{", b'{"later":' + value.encode() + b",", 1)

    assert parse(nested(31)) == release(reason="[" * 1000 + '\\"{')
    assert code(nested(32)) == "malformed"
    assert code(nested(5000)) == "malformed"


def test_depth_is_told_in_linear_time() -> None:
    """A text that is never closed, full of quotes, would be looked at again from each of them."""
    assert code(b"[" * 40 + b'"' + b'\\"' * 32_000) == "malformed"


@pytest.mark.parametrize("message", [release(version=1), activate(version=1), abort(version=1)])
@pytest.mark.parametrize(
    "changed",
    [
        {"strategy": {"kind": "single"}}, {"strategy": {"kind": "canary", "share": 0.01}}, {"strategy": None},
        {"control_topic": "penstock.flights.control"}, {"control_topic": ""}, {"kind": "revert"},
    ],
)  # fmt: skip
def test_version_1_has_no_field_of_version_2(message: Message, changed: dict[str, Any], published: jsonschema.Draft202012Validator) -> None:
    """Readers of version 1 ignored a strategy, and put the release in force for every row; no reader may go on with that."""
    said = {**fields(message), **changed}
    assert code(json.dumps(said).encode()) == "malformed"
    assert not published.is_valid(said)


@pytest.mark.parametrize("name", ["control_topic", "strategy"])
def test_version_2_names_its_topic_and_its_strategy(name: str, published: jsonschema.Draft202012Validator) -> None:
    """A default would be a guess of the reader's."""
    said = {field: value for field, value in fields(release()).items() if field != name}
    assert code(json.dumps(said).encode()) == "malformed"
    assert not published.is_valid(said)


@pytest.mark.parametrize("message", [promote(), pause()])
def test_promotion_and_pause_are_of_version_2(message: Message, published: jsonschema.Draft202012Validator) -> None:
    """Readers of version 1 do not know these kinds, and it has no trials."""
    for gone in ((), ("control_topic",)):
        said = {name: value for name, value in {**fields(message), "version": 1}.items() if name not in gone}
        assert code(json.dumps(said).encode()) == "malformed"
        assert not published.is_valid(said)


@pytest.mark.parametrize("changed", [{"base": -1}, {"base": None}, {"base": 2**53}, {"full": 1}, {"resume": "yes"}])
def test_parser_and_schema_refuse_the_same_promotions(changed: dict[str, Any], published: jsonschema.Draft202012Validator) -> None:
    said = {**fields(promote()), **changed}
    assert code(json.dumps(said).encode()) == "malformed"
    assert not published.is_valid(said)


def test_release_of_version_1_reads_as_the_one_strategy_that_there_was() -> None:
    assert parse(encode(release(version=1))) == release(version=1)
    assert release(version=1).strategy == release().strategy == SINGLE
    assert encode(release(version=1, strategy=Single())) == encode(release(version=1)), "which value it is does not matter"


@pytest.mark.parametrize(
    "strategy",
    [
        {"kind": "bandit"}, {"kind": ""}, {"kind": "canary", "steps": [0.5], "seed": {"deep": []}}, {"kind": "single", "share": 0.05},
        {"kind": "Single"}, {"kind": "split", "share": 0.5, "arms": 3}, {"kind": "shadow"},
    ],
)  # fmt: skip
def test_strategy_that_is_not_known_is_never_taken_for_another(
    strategy: dict[str, Any], published: jsonschema.Draft202012Validator
) -> None:
    """Neither a kind nor a field of a kind may be ignored: the release would score every row."""
    said = {**fields(release()), "strategy": strategy}
    assert code(json.dumps(said).encode()) == "unknown-strategy"
    assert not published.is_valid(said)


def test_kind_that_is_not_known_is_refused_as_that() -> None:
    """A later Penstock may write more kinds within version 2: the reader is old, the message is not damaged."""
    for kind in ("freeze", "Promote", ""):
        assert code(json.dumps({**fields(activate()), "kind": kind}).encode()) == "unknown-kind"


def test_every_strategy_is_in_the_table_of_strategies() -> None:
    """The table decides what is refused, the type what is decoded."""
    made: list[Strategy] = [SINGLE, Split(0.5), Canary((0.5,))]
    assert {kind_of(one): type(one) for one in made} == STRATEGIES
    assert [msgspec.convert(msgspec.to_builtins(one), Strategy) for one in made] == made


def test_shares_of_a_trial_are_those_that_come_before_the_candidate_is_live() -> None:
    assert [shares_of(one) for one in (SINGLE, Split(0.5))] == [(), (0.5,)]
    assert shares_of(Canary((0.01, 0.5))) == shares_of(Canary((0.01, 0.5, 1.0))) == (0.01, 0.5)


def test_fields_of_a_later_version_are_ignored_and_a_later_version_is_not_read() -> None:
    for version in (1, 2):
        said = release(version=version)
        assert parse(json.dumps({**fields(said), "canary": {"percent": 5}}).encode()) == said
    for version in (3, 2**70):
        assert code(json.dumps({**fields(release()), "version": version}).encode()) == "newer"
    assert code(b'{"version": 3, "kind": "freeze"}') == "newer"
    unsaid = {name: value for name, value in fields(release()).items() if name != "version"}
    assert code(json.dumps(unsaid).encode()) == "malformed"


def test_size_is_looked_at_first() -> None:
    assert code(b"x" * (MAX_BYTES + 1)) == "too-large"
    with pytest.raises(ControlError, match="the limit is 65,536; shorten the reason"):
        encode(release(bindings={"trees": binding(1, parameters={"x": "y" * MAX_BYTES})}))


@pytest.mark.parametrize("said", [release(author="a\nb"), release(topology="a b"), activate(id="1"), release(bindings={})])
def test_what_readers_would_refuse_is_not_said(said: Message) -> None:
    with pytest.raises(ControlError, match="every reader would refuse this message"):
        encode(said)


def test_number_that_json_cannot_say_is_not_a_parameter() -> None:
    with pytest.raises(ValueError, match="parameter x: a boolean, a finite number"):
        binding(1, parameters={"x": float("nan")})


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_parser_raises_nothing_but_control_errors(data: bytes) -> None:
    assert code(data) in {"malformed", "newer", "unknown-kind"}


def test_new_ids_are_uuids_that_sort_by_their_time() -> None:
    found = UUID(new_id(ms=NOW_MS, random=bytes(10)))
    assert (found.version, found.variant, found.int >> 80) == (7, "specified in RFC 4122", NOW_MS)
    assert new_id(ms=NOW_MS, random=b"\xff" * 10) < new_id(ms=NOW_MS + 1, random=bytes(10))
    assert len({new_id() for _ in range(100)}) == 100
    parse(encode(release(id=new_id())))


def test_timestamp_is_utc_to_the_millisecond() -> None:
    assert timestamp(1_800_000_000.1239) == "2027-01-15T08:00:00.123Z"
    assert release(time="2027-01-15T08:00:00.123456Z").at_ms == NOW_MS + 123
    assert parse(encode(release(time=timestamp()))).at_ms > NOW_MS - 10**11


def test_bindings_are_the_same_when_they_bind_the_same_files_and_parameters() -> None:
    one = {"a": binding(1, parameters={"x": 1, "y": 2}), "b": binding(2)}
    assert same(one, {"b": binding(2, uri="models:/other/9"), "a": binding(1, parameters={"y": 2, "x": 1})})
    assert not same(one, {"a": binding(1, parameters={"x": 1, "y": 3}), "b": binding(2)})
    assert not same(one, {"a": binding(1, parameters={"x": 1, "y": 2})})
    assert not same(one, {**one, "b": binding(2, manifest=binding(3).digest)})


def test_binding_says_its_version() -> None:
    named = Binding(uri="models:/flight-trees/1.2-rc", digest="", manifest="")
    assert (named.name, named.version, str(named)) == ("flight-trees", "1.2-rc", "flight-trees@1.2-rc")


def test_what_steers_a_terminal_is_unprintable_and_what_people_write_is_not() -> None:
    """On every Python alike, so by a list and not by the tables of one."""
    steering = [chr(code) for code in range(sys.maxunicode) if UNPRINTABLE.match(chr(code))]
    assert "\n" in steering
    assert {"\x1b", "\x7f", "\x9b", "\u202e", "\u2066"} <= set(steering)
    assert len(steering) == 32 + 33 + 7 + 4
    assert not re.search(UNPRINTABLE, "Ärger, 日本語, 👍🏽 — “ok” \u200b")
