"""A file of cases is checked whole, and a case holds only when everything came out as it says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, TopologyError
from penstock.testing.case_file import CaseFile, read_cases
from penstock.testing.cases import run_case

HEAD = "cases:\n"
GOOD = """\
  - name: an order
    given: {orders: [{id: a, item: 1, embedding: [1, 1, 1]}]}
    expect: {scores: [{id: a, base: 20, total: 11}], by_item: 1}
"""
ORDER = "{id: a, item: 1, embedding: [1, 1, 1]}"

Read = Callable[[str], CaseFile]


@pytest.fixture
def read(shop: Path, request: pytest.FixtureRequest) -> Read:
    """Reads a file of cases with this text, beside the shop's topology."""
    file = shop / f"{request.node.name}.test.yaml"

    def call(text: str) -> CaseFile:
        file.write_text("topology: shop.yaml\n" + text)
        return read_cases(file, models=shop / "models", schemas=shop / "schemas")

    return call


@pytest.fixture
def mismatches(read: Read) -> Callable[[str, str], list[str]]:
    """What a case with this `given` and `expect` finds, a line each."""

    def call(given: str, expect: str) -> list[str]:
        file = read(f"cases:\n  - name: a case\n    given: {given}\n    expect: {expect}\n")
        (case,) = file.cases
        return [f"{one.where}: expected {one.expected}, got {one.got}" for one in run_case(file.driver, case)]

    return call


@pytest.fixture
def problems(read: Read) -> Callable[[str], list[str]]:
    """Everything that is wrong in a file with these cases, without the file's name."""

    def call(text: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text)
        return [str(problem).partition(".test.yaml:")[2] for problem in caught.value.problems]

    return call


@pytest.fixture
def schemas(shop: Path) -> Path:
    return shop / "schemas"


Mismatches = Callable[[str, str], list[str]]
Problems = Callable[[str], list[str]]


def test_case_holds_when_all_came_out_as_it_says(mismatches: Mismatches) -> None:
    assert mismatches(f"{{orders: [{ORDER}]}}", "{scores: [{id: a, base: 20, total: 11}], by_item: [{total: 11}]}") == []


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("11", None),
        ("11.0", None),
        ("10.9999999", None),  # no float32 lies between
        ("10.99", "10.99"),
        ("12", "12"),
        ("'11'", '"11"'),
        ("true", "true"),
        ("null", "null"),
        ("{above: 10.5}", None),
        ("{above: 11}", "above 11"),
        ("{below: 11}", "below 11"),
        ("{above: 10, below: 11.5}", None),
        ("{below: 10, above: -5}", "below 10 and above -5"),
        ("{near: 10.5, within: 0.5}", None),
        ("{near: 10.5, within: 0.25}", "near 10.5 within 0.25"),
        ("{above: -.inf, below: .inf}", None),
        ("[11]", "[11]"),
    ],
)
def test_value_is_held_against_its_rule(mismatches: Mismatches, rule: str, said: str | None) -> None:
    found = mismatches(f"{{orders: [{ORDER}]}}", f"{{scores: [{{total: {rule}}}], by_item: 1}}")
    assert found == ([] if said is None else [f"scores[0].total: expected {said}, got 11.0"])


def test_arrays_are_compared_element_by_element(mismatches: Mismatches) -> None:
    given = f"{{orders: [{ORDER}]}}"
    assert mismatches(given, "{scores: [{embedding: [1, {above: 0.5}, {near: 1, within: 0}]}], by_item: 1}") == []
    assert mismatches(given, "{scores: [{embedding: [1, 1]}], by_item: 1}") == ["scores[0].embedding: expected [1, 1], got [1.0, 1.0, 1.0]"]
    assert mismatches(given, "{scores: [{embedding: [1, 1, {above: 1}]}], by_item: 1}") == [
        "scores[0].embedding: expected [1, 1, above 1], got [1.0, 1.0, 1.0]"
    ]


def test_order_matters(mismatches: Mismatches) -> None:
    two = "{orders: [{id: a, item: 0, embedding: [0, 0, 0]}, {id: b, item: 1, embedding: [0, 0, 0]}]}"
    assert mismatches(two, "{scores: [{id: a}, {id: b}], by_item: 2}") == []
    assert mismatches(two, "{scores: [{id: b}, {id: a}], by_item: 2}") == [
        'scores[0].id: expected "b", got "a"',
        'scores[1].id: expected "a", got "b"',
    ]


def test_number_of_outputs_matters(mismatches: Mismatches) -> None:
    found = mismatches(f"{{orders: [{ORDER}, {ORDER}]}}", "{scores: [{}], by_item: 3}")
    assert found[0].startswith('scores: expected 1 record, got 2: {"id": "a", "base": 20.0')
    assert found[1:] == ['by_item: expected 3 records, got 2: {"total": 11.0}, {"total": 11.0}']
    assert mismatches(f"{{orders: [{ORDER}]}}", "{scores: [], by_item: [{}]}")[0].startswith("scores: expected nothing, got 1:")


def test_what_is_not_expected_must_not_come_out(mismatches: Mismatches) -> None:
    """A dead letter that nobody thought of is the failure that tests are for."""
    found = mismatches("{orders: [{id: a, item: 7, embedding: [0, 0, 0]}]}", "{scores: [{id: a}], by_item: [{}]}")
    assert found[:2] == ["scores: expected 1 record, got nothing", "by_item: expected 1 record, got nothing"]
    assert found[2].startswith('dead_letters.orders: expected nothing, got 1: {"message": "table@1 cannot score the event')


def test_dead_letters_are_known_by_reason_and_stage(mismatches: Mismatches) -> None:
    given = "{orders: [{raw: oops}, {base64: /w==}, null, {id: a, item: 7, embedding: [0, 0, 0]}, {id: 3}]}"
    right = "[{message: malformed, stage: decode}, {message: UTF-8}, {message: tombstone}, {stage: base}, {}]"
    assert mismatches(given, f"{{dead_letters: {{orders: {right}}}}}") == []
    assert mismatches(given, "{dead_letters: {orders: 5}}") == []
    wrong = "[{message: fine}, {stage: encode}, {}, {}, {}]"
    assert mismatches(given, f"{{dead_letters: {{orders: {wrong}}}}}") == [
        'dead_letters.orders[0].message: expected text with "fine", got "JSON is malformed: invalid character (byte 0)"',
        'dead_letters.orders[1].stage: expected "encode", got "decode"',
    ]


def test_two_sources_in_one_case(mismatches: Mismatches) -> None:
    given = f"{{returns: [{{id: r, refunded: 2}}], orders: [{ORDER}]}}"
    assert mismatches(given, "{scores: [{id: a}], by_item: 1, refunds: [{id: r, amount: 4}]}") == []


def test_key_headers_and_timestamp_reach_the_record(read: Read) -> None:
    event = f"{{event: {ORDER}, key: k, headers: {{x-request-id: r1, empty: null}}, timestamp: 77}}"
    file = read(f"cases:\n  - {{name: a, given: {{orders: [{event}, {ORDER}]}}, expect: {{scores: 2, by_item: 2}}}}\n")
    assert run_case(file.driver, file.cases[0]) == ()
    first, second = file.driver.records("scores")
    assert (first.key, first.timestamp, list(first.headers)[-2:]) == (b"k", 77, [("x-request-id", b"r1"), ("empty", None)])
    assert (second.key, second.timestamp) == (None, file.driver.now)


def test_cases_do_not_see_each_other(read: Read) -> None:
    file = read(HEAD + GOOD + GOOD.replace("an order", "another"))
    assert [run_case(file.driver, case) for case in (*file.cases, *file.cases)] == [()] * 4


def test_mismatch_points_into_the_file(read: Read) -> None:
    file = read(HEAD + GOOD.replace("total: 11", "total: 12"))
    (mismatch,) = run_case(file.driver, file.cases[0])
    assert (mismatch.mark.line, mismatch.mark.column) == (5, 48)


def test_every_problem_is_told_at_once_with_its_place(problems: Problems, schemas: Path) -> None:
    text = """\
cases:
  - name: one
    given:
      order: [{id: a}]
      orders:
        - {id: a, itm: 3, embedding: [1]}
        - 5
        - {base64: "?"}
        - {event: {id: a}, headers: [], timestamp: -1}
        - {raw: x, headers: {a: 3}, key: 7}
    expect:
      scores: [{totl: 3}, {total: {abov: 3}}, {total: {above: x}}, {total: {near: 1}}, {total: {above: 2, below: 1}}, {total: {}}]
      by-item: 1
      refunds: {id: r}
      dead_letters: {orders: [{stage: decod}, {mesage: x}, {message: 3}], scores: []}
  - {name: one, given: {orders: [null]}, expects: {}}
  - {name: 3, given: {}, expect: 3, extra: 1}
"""
    assert [problem.replace(str(schemas), "schemas") for problem in problems(text)] == [
        "5:7: unknown source 'order' (did you mean 'orders'?)",
        "7:19: schemas/order.avsc has no field 'itm' (did you mean 'item'?)",
        '8:11: an event of orders must be a mapping (or {raw: "text"}, {base64: ...}, null)',
        "9:20: not base64: Only base64 data is allowed",
        "10:37: headers must be a mapping of at least one key ({name: text})",
        "10:52: timestamp must be a whole number of ms since the epoch",
        '11:33: a must be text (quote it: "3")',
        '11:42: key must be text (quote it: "7")',
        "13:17: unknown key 'totl' (did you mean 'total'?)",
        "13:36: unknown key 'abov' of an expected range (did you mean 'above'?)",
        "13:63: above must be a number",
        "13:76: this is not a range (write {above: 0.5}, {above: 0.5, below: 0.9} or {near: 0.7, within: 0.01})",
        "13:96: no number is above 2 and below 1 (above must be less than below)",
        "13:127: this is not a range (write {above: 0.5}, {above: 0.5, below: 0.9} or {near: 0.7, within: 0.01})",
        "14:7: unknown sink 'by-item' (did you mean 'by_item'?)",
        "15:16: refunds must be a list of expected outputs, or their number",
        "16:39: unknown stage 'decod' (did you mean 'decode'?)",
        "16:48: unknown key 'mesage' (did you mean 'message'?)",
        '16:70: message must be text (quote it: "3")',
        "16:75: unknown source 'scores' (did you mean 'orders'?)",
        "17:5: a case: the key 'expect' is missing (add expect:)",
        "17:5: two cases are called 'one', the first on line 3 (rename one)",
        "17:42: unknown key 'expects' (did you mean 'expect'?)",
        '18:12: name must be text (quote it: "3")',
        "18:22: given must be a mapping of at least one key (the name of a source, with its events as a list)",
        "18:34: expect must be a mapping of at least one key (the name of a sink, with its events as a list)",
        "18:37: unknown key 'extra' (known: name, given, expect)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1:1: the file: the key 'cases' is missing (add cases:)"),
        ("case: []", "2:1: unknown key 'case' (did you mean 'cases'?)"),
        ("cases: []", "2:8: cases must be a list (- name: ...)"),
        ("cases: {a: 1}", "2:8: cases must be a list (- name: ...)"),
        ("cases: [3]", "2:9: a case must be a mapping of at least one key (with the keys name, given, expect)"),
        ("cases: [", "2:9: not YAML"),
        ("cases: [{name: a, name: b}]", "2:19: duplicate key 'name', first on line 2 (keep one of the two)"),
    ],
)
def test_file_of_another_shape_is_told_where(problems: Problems, text: str, problem: str) -> None:
    assert any(one.startswith(problem) for one in problems(text)), problems(text)


def test_topology_is_the_file_of_the_same_name(shop: Path) -> None:
    (shop / "shop.test.yaml").write_text(HEAD + GOOD)
    assert read_cases(shop / "shop.test.yaml", models=shop / "models", schemas=shop / "schemas").driver.topology.name == "shop"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("lost.test.yaml", HEAD + GOOD, r":1:1: there is no topology .*lost.yaml \(add or correct topology: FILE, relative to this file\)"),
        ("a.yaml", HEAD + GOOD, r":1:1: the topology is missing \(add topology: NAME.yaml, or name the file NAME.test.yaml\)"),
        ("b.test.yaml", "topology: [a]\n" + HEAD + GOOD, r":1:11: topology must be text"),
        ("c.test.yaml", "topology: nine.yaml\n" + HEAD + GOOD, r":1:11: there is no topology .*nine.yaml"),
    ],
)
def test_topology_that_is_not_there_is_told(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_cases(tmp_path / name)


PIECES = ["[]", "{}", "null", "3", "true", "- ", ".inf", ": ", "\t", "!x", "'", "&a ", "*a", "9" * 40, "\n", "  ", "", "id", "-1.5e400"]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_reader_raises_nothing_but_its_own_error(read: Read, edits: list[tuple[float, int, str]]) -> None:
    """Whatever an editor leaves behind half-way."""
    text = HEAD + GOOD + GOOD.replace("an order", "another").replace("total: 11", "total: {near: 11, within: 1}")
    for place, length, piece in edits:
        at = int(place * len(text))
        text = text[:at] + piece + text[at + length :]
    with contextlib.suppress(ConfigError):
        assert read(text).cases


def test_file_that_is_not_there_is_a_topology_error(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"cannot be read: No such file .*\(give the path of a file of cases"):
        read_cases(tmp_path / "none.test.yaml")


def test_event_that_the_format_cannot_hold_is_a_problem(shop: Path, tmp_path: Path) -> None:
    """Avro cannot write words where a number belongs; JSON can, and its decoder says so later."""
    topology = (shop / "shop.yaml").read_text().replace("schema: return.avsc", "schema: return.avsc, format: avro")
    (tmp_path / "avro.yaml").write_text(topology)
    text = "cases: [{{name: a, given: {{returns: [{{id: r, refunded: {value}}}]}}, expect: {{refunds: 1}}}}]"
    (tmp_path / "avro.test.yaml").write_text(text.format(value="much"))
    with pytest.raises(ConfigError, match=r"avro.test.yaml:1:37: cannot be written in the format of returns: "):
        read_cases(tmp_path / "avro.test.yaml", models=shop / "models", schemas=shop / "schemas")
    (tmp_path / "avro.test.yaml").write_text(text.format(value=2))
    file = read_cases(tmp_path / "avro.test.yaml", models=shop / "models", schemas=shop / "schemas")
    assert run_case(file.driver, file.cases[0]) == ()


def test_event_is_written_as_it_comes(shop: Path, tmp_path: Path) -> None:
    """By the names that its JSON has, which are aliases in the schema."""
    schema = (shop / "schemas/return.avsc").read_text()
    (tmp_path / "return.avsc").write_text(schema.replace('"name": "refunded"', '"name": "refunded", "aliases": ["re-funded"]'))
    (tmp_path / "order.avsc").write_text((shop / "schemas/order.avsc").read_text())
    (tmp_path / "shop.yaml").write_text((shop / "shop.yaml").read_text())
    (tmp_path / "shop.test.yaml").write_text("cases: [{name: a, given: {returns: [{id: r, re-funded: 2}]}, expect: {refunds: 1}}]")
    file = read_cases(tmp_path / "shop.test.yaml", models=shop / "models", schemas=tmp_path)
    assert run_case(file.driver, file.cases[0]) == ()
