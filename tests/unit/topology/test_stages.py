"""Where a topology is cut: which stages there are, what each runs, what the topics between them hold, and what is refused."""

from __future__ import annotations

import pytest

from penstock.errors import TopologyError
from penstock.schema import Column, Field, Schema
from penstock.signature import Signature, Tensor
from penstock.topology.check import wire
from penstock.topology.parse import parse_text
from penstock.topology.spec import Materialize
from penstock.topology.stages import Cut, cut
from penstock.topology.wiring import Joined, Wiring

ONE = Signature((Tensor("x", "float32", (1,)),), (Tensor("y", "float32", (1,)),))
TWO = Signature((Tensor("a", "float32", (1,)), Tensor("b", "float32", (1,))), (Tensor("y", "float32", (1,)),))
EVENT = Schema("Event", (Field("id", "string"), Field("x", "float"), Field("place", "string")))
#  events ─ a ─┬─ b ─┬─ d ─ out
#              └─ c ─┘
TEXT = """\
topology: t
sources: {{events: {{topic: events, schema: event.avsc, id: id}}}}
nodes:
  a: {{kind: model, model: m@1, inputs: {{x: x}}{a}}}
  b: {{kind: model, model: m@1, inputs: {{x: a}}{b}}}
  c: {{kind: model, model: m@1, inputs: {{x: a}}{c}}}
  d: {{kind: ensemble, model: n@1, inputs: {{a: b, b: c}}{d}}}
sinks:
  out: {{topic: out, fields: {{id: id, y: d, place: place}}}}
  early: {{topic: early, fields: {{id: id, a: a}}}}
"""
YES = ", materialize: true"


def wired(text: str, **signatures: Signature) -> Wiring:
    return wire(parse_text(text, "t.yaml"), {"events": EVENT}, {**dict.fromkeys("abc", ONE), "d": TWO, **signatures})


def stages(*materialised: str) -> Cut:
    return cut(wired(TEXT.format(**{name: YES if name in materialised else "" for name in "abcd"})), "app.t")


def shown(found: Cut) -> dict[str, tuple[list[str], list[str], list[str]]]:
    """By stage: the topics that it reads, its nodes, and the topics that it writes."""
    return {
        one.name: (
            [each.source.topic for each in one.inputs],
            [step.node.name for step in one.steps],
            [emit.sink.topic for emit in one.emits],
        )
        for one in found.wiring.stages
    }


def refused(text: str, **signatures: Signature) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        wired(text, **signatures)
    return [str(problem) for problem in caught.value.problems]


def test_nothing_is_cut_where_nothing_is_materialised() -> None:
    found = stages()
    assert shown(found) == {"events": (["events"], ["a", "b", "c", "d"], ["out", "early"])}
    assert (found.between, found.processes) == ({}, {"": ("events",)})


def test_what_reads_a_materialised_node_is_another_stage() -> None:
    """The sink that reads only the event's fields and that node is in it as well."""
    found = stages("a")
    assert shown(found) == {"a": (["events"], ["a"], ["app.t.a"]), "out": (["app.t.a"], ["b", "c", "d"], ["out", "early"])}
    assert found.processes == {"a": ("a",), "out": ("out",)}


def test_each_materialised_node_ends_a_stage_of_its_own() -> None:
    """What is not materialised runs where it is read, here `c`; sinks that read different nodes are in different stages."""
    assert shown(stages("a", "b")) == {
        "a": (["events"], ["a"], ["app.t.a"]),
        "b": (["app.t.a"], ["b"], ["app.t.b"]),
        "out": (["app.t.b"], ["c", "d"], ["out"]),
        "early": (["app.t.a"], [], ["early"]),
    }


def test_a_node_runs_in_each_stage_that_reads_it() -> None:
    """The stage of the source stays for the sinks that nothing cuts off, and is a process with others like it."""
    found = stages("b")
    assert shown(found) == {
        "b": (["events"], ["a", "b"], ["app.t.b"]),
        "out": (["app.t.b"], ["a", "c", "d"], ["out"]),
        "events": (["events"], ["a"], ["early"]),
    }
    assert found.processes == {"": ("events",), "b": ("b",), "out": ("out",)}


def test_a_topic_between_stages_holds_what_is_read_behind_it() -> None:
    """Fields have the names and types of the columns, so what is read is what was written."""
    found = stages("a", "b")
    assert {node: {column: field.name for column, field in one.fields.items()} for node, one in found.between.items()} == {
        "a": {"a.y": "y", "id": "id", "place": "place"},
        "b": {"a.y": "a_y", "b.y": "y", "id": "id", "place": "place"},
    }
    (out,) = (stage for stage in found.wiring.stages if stage.name == "out")
    assert out.inputs[0].columns == (
        Column("a.y", "a_y", "float32", (1,)),
        Column("b.y", "y", "float32", (1,)),
        Column("id", "id", "string"),
        Column("place", "place", "string"),
    )


def test_the_file_says_how_a_topic_is_kept() -> None:
    text = TEXT.format(a=", materialize: {topic: mine, compression: zstd, retention: 90m}", b="", c="", d="")
    found = cut(wired(text), "app.t")
    assert (found.between["a"].topic, found.between["a"].spec) == ("mine", Materialize("mine", "zstd", 5_400_000))
    assert shown(found)["out"][0] == ["mine"]


@pytest.mark.parametrize(
    ("a", "expected"),
    [
        (", materialize: yes!", "t.yaml:4:61: nodes.a.materialize: expected true or false"),
        (", materialize: 1", "t.yaml:4:61: nodes.a.materialize: expected true or false"),
        (", materialize: {retention: 90}", "t.yaml:4:73: nodes.a.materialize.retention: expected a duration"),
        (", materialize: {retention: 0s}", "t.yaml:4:73: nodes.a.materialize.retention: '0s' is not a duration"),
        (", materialize: {topic: events}", "t.yaml:4:61: nodes.a.materialize: the topic 'events' is read by the source 'events'"),
        (", materialize: {topic: early}", "t.yaml:4:61: nodes.a.materialize: the topic 'early' is written by the sink 'early'"),
        (", materialize: {topic: ..}", "t.yaml:4:61: nodes.a.materialize: '..' is not a topic name (choose another name)"),
        (", materialize: {topic: __offsets}", "t.yaml:4:61: nodes.a.materialize: the topic '__offsets' is reserved"),
        (f", materialize: {{topic: {'x' * 240}}}", "t.yaml:4:61: nodes.a.materialize: the topic name 'xxxxxxxxxxxxxxxxxxxx"),
        (", materialize: {kept: 1h}", "t.yaml:4:62: nodes.a.materialize: unknown key 'kept'"),
    ],
)
def test_what_the_key_may_hold(a: str, expected: str) -> None:
    assert refused(TEXT.format(a=a, b="", c="", d=""))[0].startswith(expected)


def test_false_is_as_if_it_were_not_there() -> None:
    assert cut(wired(TEXT.format(a=", materialize: false", b="", c="", d="")), "p").between == {}


def test_names_of_stages_are_unique() -> None:
    text = TEXT.format(a="", b="", c=YES, d="").replace("  early:", "  c:")
    (found,) = refused(text)
    assert found.startswith("t.yaml:10:3: sinks.c: the node of this name on line 6 is materialised: both name a stage (rename one)")


@pytest.mark.parametrize("name", ["control", "status"])
def test_a_topic_between_stages_is_none_of_the_releases(name: str) -> None:
    """Their logs carry nothing else. By default they are called as the topic of a node of their name would be."""
    text = TEXT.format(a=YES, b="", c="", d="").replace(" a: {kind", f" {name}: {{kind").replace("x: a", f"x: {name}").replace("a: a}", "}")
    signatures = {name: ONE}
    (found,) = refused(text, **signatures)
    assert f"nodes.{name}.materialize: its topic would have the name of the releases' {name} topic (rename the node" in found
    wired(f"{text}releases: {{{name}: mine}}\n", **signatures)
    text = text.replace("materialize: true", "materialize: {topic: mine}")
    wired(text, **signatures)
    (found,) = refused(f"{text}releases: {{{name}: mine}}\n", **signatures)
    assert f"nodes.{name}.materialize: the topic 'mine' is releases.{name} (use another topic)" in found


def test_a_node_of_two_sources_is_not_materialised() -> None:
    """Both would write one topic."""
    text = TEXT.format(a=YES, b="", c="", d="").replace("id: id}}\nnodes", "id: id}, others: {topic: others, schema: event.avsc}}\nnodes")
    with pytest.raises(TopologyError) as caught:
        wire(parse_text(text, "t.yaml"), {"events": EVENT, "others": EVENT}, {**dict.fromkeys("abc", ONE), "d": TWO})
    (found,) = map(str, caught.value.problems)
    assert found.startswith("t.yaml:4:61: nodes.a.materialize: its events come from the sources events and others, and a topic is of one")


JOIN = ", join: {need: 1, within: 1s, missing: {b: nan, c: 0.5}}"


def test_two_stages_are_joined_where_a_node_says_how() -> None:
    (found,) = refused(TEXT.format(a="", b=YES, c=YES, d=""))
    assert found.startswith("t.yaml:9:3: sinks.out: it reads b and c, which come from different stages (give the node that reads them")
    stages = cut(wired(TEXT.format(a="", b=YES, c=YES, d=JOIN)), "app.t").wiring.stages
    made = next(one for one in stages if one.name == "out")
    assert isinstance(made.gather, Joined)
    assert made.topics == ("app.t.b", "app.t.c")
    assert (made.gather.quorum.members, made.gather.quorum.need, made.gather.quorum.within) == (("b", "c"), 1, 1000)
    assert (made.gather.shared, made.gather.fills["c"]) == (("id", "place"), 0.5)


@pytest.mark.parametrize(
    ("join", "expected"),
    [
        ("{need: 3, within: 1s, missing: {b: 0, c: 0}}", "nodes.d.join.need: 3 is not all, nor a number from 1 to 2 (it joins b, c)"),
        ("{need: 0, within: 1s}", "nodes.d.join.need: 0 is not all, nor a number from 1 to 2"),
        ("{need: some, within: 1s}", "nodes.d.join.need: 'some' is not all, nor a number from 1 to 2"),
        ("{require: [a], within: 1s}", "nodes.d.join: 'a' is not joined here (it joins b, c)"),
        ("{need: 1, within: 1s, missing: {a: 0, b: 0, c: 0}}", "nodes.d.join: 'a' is not joined here (it joins b, c)"),
        ("{need: 1, within: 1s, missing: {b: 0}}", "nodes.d.join.missing: c may be missing, and its outputs have no value then"),
        ("{need: 1}", "nodes.d.join: the key 'within' is missing"),
        ("{within: 0.5}", "nodes.d.join.within: expected a duration"),
        ("{need: 1, within: 1s, missing: {b: x, c: 0}}", "nodes.d.join.missing.b: 'x' is no float32, which b.y is"),
        ("{need: 1, within: 1s, missing: {b: 0, c: true}}", "nodes.d.join.missing.c: True is no float32, which c.y is"),
        ("{within: 1s, until: 2s}", "nodes.d.join: unknown key 'until'"),
    ],
)
def test_what_a_join_may_say(join: str, expected: str) -> None:
    assert expected in refused(TEXT.format(a="", b=YES, c=YES, d=f", join: {join}"))[0]


def test_a_topic_behind_a_join_has_what_stands_in() -> None:
    """Null is for sinks: the nodes behind the topic read the value."""
    found = cut(wired(TEXT.format(a="", b=YES, c=YES, d=JOIN + YES)), "app.t")
    made = next(one for one in found.wiring.stages if one.name == "d")
    assert isinstance(made.gather, Joined)
    assert [field.part.gap for emit in made.emits for field in emit.fields] == [None] * len(found.between["d"].fields)


#  events ─┬─ a ─┬─ b ─┬─ e ─ out
#          │     └─ c ─┤
#          └─ d ───────┘
THREE = """\
topology: t
sources: {{events: {{topic: events, schema: event.avsc, id: id}}}}
nodes:
  a: {{kind: model, model: m@1, inputs: {{x: x}}, materialize: true}}
  b: {{kind: model, model: m@1, inputs: {{x: a}}, materialize: true}}
  c: {{kind: model, model: m@1, inputs: {{x: a}}, materialize: true}}
  d: {{kind: model, model: m@1, inputs: {{x: x}}, materialize: true}}
  e: {{kind: rule, outputs: {{y: "a[0] + b[0] + c[0] + d[0]"}}, join: {join}}}
sinks:
  out: {{topic: out, fields: {{id: id, y: e.y, a: a}}}}
"""


def test_a_column_that_some_of_the_members_carry_is_shared() -> None:
    join = "{need: 2, within: 1s, missing: {b: 0.0, c: 0.0, d: 0.0}}"
    made = next(one for one in cut(wired(THREE.format(join=join), d=ONE), "app.t").wiring.stages if one.name == "out")
    assert isinstance(made.gather, Joined)
    carriers = {name: [one.behind for one in made.inputs if any(c.name == name for c in one.columns)] for name in ("a.y", "b.y")}
    assert carriers == {"a.y": ["b", "c"], "b.y": ["b"]}
    assert {*made.gather.shared} == {"id", "a.y"}
    (emit,) = made.emits
    assert [field.part.gap for field in emit.fields] == [None, None, None]


def test_a_column_without_a_value_where_its_members_are_missing_is_refused() -> None:
    (found,) = refused(THREE.format(join="{need: 1, within: 1s, missing: {b: 0.0, c: 0.0, d: 0.0}}"), d=ONE)
    assert "nodes.e.join: a.y comes with b and c, which may all be missing, and has no value then" in found
    assert found.endswith("(require one of them, or let need be 2)")
    assert cut(wired(THREE.format(join="{need: 1, require: [c], within: 1s, missing: {b: 0.0, d: 0.0}}"), d=ONE), "app.t").between


def test_members_whose_records_have_different_keys_are_not_joined() -> None:
    """Their records of one event may be in different partitions."""
    key = ", materialize: {key: place}"
    (found,) = refused(TEXT.format(a="", b=key, c=YES, d=JOIN))
    assert "nodes.b.materialize.key: it is joined with c, whose records have another key (give all the same key" in found
    assert cut(wired(TEXT.format(a="", b=key, c=key, d=JOIN)), "app.t").between


def test_a_window_does_not_run_where_stages_are_joined() -> None:
    """It counts by the offsets of one topic."""
    text = (
        TEXT.format(a="", b=YES, c=YES, d=JOIN)
        .replace(
            "sinks:", "  r: {kind: rule, outputs: {v: 'd[0]'}}\n  w: {kind: window, by: place, over: [5m], features: {s: sum(r.v)}}\nsinks:"
        )
        .replace("y: d, place: place", "y: d, s: w.s_5m")
    )
    found = refused(text)
    assert "nodes.w: it runs in the stage out, which joins, and a window counts the events of one topic" in found[0]


def test_a_join_of_nothing_is_refused() -> None:
    (found,) = refused(TEXT.format(a="", b=YES, c="", d=", join: {within: 1s}"))
    assert "nodes.d.join: nothing that it reads comes from different stages (materialise what is to be joined" in found


def test_an_axis_of_open_size_is_not_materialised() -> None:
    wide = Signature((Tensor("x", "float32", (1,)),), (Tensor("y", "float32", (None,)),))
    text = TEXT.format(a=YES, b="", c="", d="").replace("inputs: {x: a}", 'inputs: {x: "a[0]"}').replace("a: a", "a: id")
    (found,) = refused(text, a=wide)
    assert found.startswith("t.yaml:4:61: nodes.a.materialize: a.y has an axis of open size, and a topic holds arrays of one size")
