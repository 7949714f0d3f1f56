"""The kind window: features of the recent events of a key. What they mean is in `penstock.windows.definition`.

It reads fields and outputs of nodes as they are; filters and derived values are outputs of a rule before it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast, get_args

from penstock.schema import Field, Missing
from penstock.signature import Signature, Tensor
from penstock.topology.document import Listed, Scalar, Value
from penstock.topology.kinds.base import Kind
from penstock.topology.kinds.reads import KEY, KEYS, TIME, TIME_US, Read, Reads, not_a_key, not_a_time
from penstock.topology.kinds.rule import RuleKind
from penstock.topology.names import ref
from penstock.topology.resolve import Finding, FromField, FromNode, Names, Target, Wire
from penstock.topology.shapes import DURATION, FIELD_NAME, REFERENCE, Choice, Flag, Forms, Key, Keys, Listing, Named, Text, Whole
from penstock.topology.spec import Aggregated, Feature, Mark, Node, Ref, RuleNode, WindowNode
from penstock.topology.values import duration, items, keys, marks, plain, refs, word

__all__ = ["DISTINCT", "KEY", "LATE", "TIME", "TIME_US", "VALUE", "WHERE", "WindowKind", "rules_of"]

# What further tensors of a window are for: values (with DISTINCT those that are compared, in their own type), and filters.
VALUE: Final = "value"
DISTINCT: Final = "distinct"
WHERE: Final = "where"
LATE: Final = "late"  # the output that marks late rows

MAX_FEATURES: Final = 1000
MAX_LAST: Final = 64
MAX_HOPS: Final = 4096  # of one key and look-back
_ALONE: Final = ("count", "rate", "since")  # of the events themselves as well
_SKETCHED: Final = ("distinct", "quantile")  # by a library, unless all events are kept
_KINDS: Final[tuple[Aggregated, ...]] = get_args(Aggregated)
_REF: Final = r'[A-Za-z_][A-Za-z0-9_-]*(?:\.(?:"[^"]+"|[^\s\[\]."(),]+)|\[[0-9]{1,6}\])*'  # in a name with brackets or commas: quotes
_TEXT: Final = re.compile(
    rf"({'|'.join(_KINDS)})(?:\(\s*({_REF})\s*(?:,\s*([0-9]{{1,3}}(?:\.[0-9]{{1,17}})?)\s*)?\))?(?:\s+where\s+({_REF}))?"
)
_AGGREGATES: Final = "count, mean(FIELD), distinct(FIELD), last_k(FIELD, 3), quantile(FIELD, 0.95)"
_FEATURE: Final = Text(f"an aggregate: {_AGGREGATES}, each with an optional `where FIELD`", rf"^{_TEXT.pattern}$")
_FLOATS: Final = ("float16", "float32", "float64")

_KEYS: Final = Keys(
    {
        "by": Key(Forms(text=REFERENCE, listing=Listing(REFERENCE)), "The key: one field or output, or several together.", required=True),
        "features": Key(
            Named("feature", FIELD_NAME, _FEATURE),
            "Aggregates by name; one over 5m is the output NAME_5m. Values that are null, and events without `where`, do not count.",
            required=True,
        ),
        "over": Key(Listing(DURATION), "How far back each of them reaches.", required=True),
        "hops": Key(Whole(1, MAX_HOPS), "In how many hops of equal length a look-back is kept.", default=12),
        "exact": Key(Flag(), "true: a look-back has exactly its length, and each event in it is kept.", default=False),
        "include_self": Key(Flag(), "Whether the features of an event contain its own values.", default=False),
        "late": Key(Choice(("drop", "update")), "Whether later events see one that is late.", default="drop"),
        "lateness": Key(DURATION, "How far behind the newest of its partition an event is not late yet.", default="1m"),
        "ahead": Key(DURATION, "How far ahead of the clock an event may be; one further ahead is a dead letter.", default="1h"),
        "max_keys": Key(
            Whole(1, 1_000_000_000), "Keys of a partition that are kept at the most; then those seen longest ago go.", default=10_000_000
        ),
        "time": Key(REFERENCE, "The event time; that of the source when omitted, and the record's timestamp where it has none."),
    }
)


class WindowKind(Kind[WindowNode]):
    """A node that remembers."""

    keys = _KEYS

    @property
    def outline(self) -> tuple[str, str]:
        return "[/", "/]"

    def parse(self, name: Scalar, kind: str, value: Value) -> WindowNode:
        given = keys(value)
        found: dict[str, Any] = {
            key: one for key, one in plain(value).items() if key in ("hops", "exact", "include_self", "late", "max_keys")
        }
        found |= {f"{key}_ms": duration(given[key]) for key in ("lateness", "ahead") if key in given}
        return WindowNode(
            name=name.text,
            kind=kind,
            by=refs(given["by"]),
            features=tuple(_feature(key, word(text), text.mark) for key, text in items(given["features"])),
            over=tuple((word(one), duration(one)) for one in cast(Listed, given["over"]).items),
            time=refs(given["time"])[0] if "time" in given else None,
            mark=name.mark,
            marks=marks(value),
            **found,
        )

    def clashes(self, node: WindowNode) -> Iterator[Finding]:
        where = f"nodes.{node.name}"
        for back, length in node.over:
            if length % node.hops:
                message = f"{where}.over: {back} is not {node.hops} hops of whole milliseconds"
                yield node.at("over"), message, "choose another number of hops"
            elif not node.exact and (kept := node.hops + -(-node.lateness_ms * node.hops // length)) > MAX_HOPS:
                message = f"{where}: over {back}, {kept:,} hops would be kept for each key, {node.hops} and those that late events see"
                yield node.at("lateness", "hops"), message, f"at most {MAX_HOPS}: a shorter lateness, fewer hops, or two windows"
        names = [name for name, _ in node.outputs]
        for twice in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield node.at("over"), f"{where}: two features are {twice!r}", "name each look-back once, and each feature differently"
        if len(names) > MAX_FEATURES:
            yield node.at("features"), f"{where}: {len(names)} features, a window has at most {MAX_FEATURES}", "make two windows of it"
        for one in node.features:
            about = f"{where}.features.{one.name}"
            if one.of is None and one.kind not in _ALONE:
                yield one.mark, f"{about}: {one.kind} is of a value", f"write {one.kind}(FIELD)"
            if not 1 <= one.k <= MAX_LAST or (one.k != 1 and one.kind != "last_k"):
                yield one.mark, f"{about}: a number is for last_k, from 1 to {MAX_LAST}", "write last_k(FIELD, 3)"
            if one.kind == "quantile" and (one.q is None or one.q > 1):
                yield one.mark, f"{about}: a quantile has the share of the values below it, from 0 to 1", "write quantile(FIELD, 0.95)"
            if one.kind in _SKETCHED and not node.exact and importlib.util.find_spec("datasketches") is None:
                message = f"{about}: the package datasketches computes it, which is not installed"
                yield one.mark, message, "pip install 'penstock[sketches]', or keep each event: exact: true"

    def signature(self, node: WindowNode, model: Signature | None) -> Signature | None:
        return Signature((), (*(Tensor(name, *_type(feature)) for name, feature in node.outputs), Tensor(LATE, "bool")))

    def wires(self, node: WindowNode, names: Names) -> list[Wire]:
        made = _Reads(node, names)
        for number, one in enumerate(node.by):
            made.add(f"{KEY}.{number}", one, "by")
        values = dict.fromkeys((DISTINCT if one.kind == "distinct" else VALUE, one.of) for one in node.features if one.of is not None)
        filters = dict.fromkeys(one.where for one in node.features if one.where is not None)
        for what, one in values:
            made.add(f"{what}.{one.text}", one, "features")
        for one in filters:
            made.add(f"{WHERE}.{one.text}", one, "features")
        made.time()
        return made.wires

    def refs(self, node: WindowNode) -> tuple[Ref, ...]:
        found = [*node.by, *([] if node.time is None else [node.time])]
        found += [one for feature in node.features for one in (feature.of, feature.where) if one is not None]
        return tuple(dict.fromkeys(found))

    def detail(self, node: WindowNode) -> str:
        text = f"by {', '.join(one.text for one in node.by)}, over {', '.join(back for back, _ in node.over)}"
        return f"{text}: {', '.join(one.name for one in node.features)}"[:120]


class _Reads(Reads):
    """What feeds a window."""

    node: WindowNode

    def read(self, what: str, found: Ref, target: Target, dtype: str, fields: list[Field]) -> Read:
        null = isinstance(target, FromNode) and self._may_be_null(target)
        missing = None
        if (what == VALUE and dtype != "string" and (isinstance(target, FromField) or (null and self._is_of_table(target)))) or (
            what == DISTINCT and dtype in _FLOATS and isinstance(target, FromField)
        ):
            dtype, missing = "float64", Missing("fill", math.nan)
        elif what == DISTINCT and dtype not in _FLOATS and (null or any(one.optional and not one.shape for one in fields)):
            missing = Missing("fill", None)  # a text and a whole number have no NaN
        elif what == WHERE and (null or any(one.optional for one in fields)):
            missing = Missing("fill", False)
        elif what in (KEY, TIME, TIME_US) and any(one.optional for one in fields):
            missing = Missing("reject")  # an event without a key or a time is a dead letter
        elif what in (VALUE, DISTINCT) and null and dtype in _FLOATS:
            missing = Missing("fill", math.nan)
        return Read(dtype, missing, self._problem(what, found, target, dtype, fields))

    def _may_be_null(self, target: FromNode) -> bool:
        return target.tensor is not None and self.names.topology.may_be_null(target.node, target.tensor.name, self.node)

    def _is_of_table(self, target: Target) -> bool:
        return isinstance(target, FromNode) and self.names.topology.node(target.node) in self.names.topology.lookups

    def _problem(self, what: str, found: Ref, target: Target, dtype: str, fields: list[Field]) -> tuple[str, str] | None:
        """Returns why the reference cannot be what it is for, and what to do."""
        if what in (KEY, TIME, TIME_US) and isinstance(target, FromNode) and self._may_be_null(target):
            return f"{found.text!r} may be null, and an event without it cannot be counted", "name a rule's output: coalesce(...)"
        if what in (TIME, TIME_US):
            return not_a_time(found, dtype, fields)
        if what == KEY:
            return not_a_key(found, dtype)
        if what == DISTINCT and dtype not in (*KEYS, *_FLOATS):
            return f"{found.text!r} is {dtype or 'of no type that is counted'}", "text, numbers, and true and false are counted"
        if what == WHERE and dtype != "bool":
            return f"{found.text!r} is {dtype}, a filter is true or false", "compare it in a rule, and name its output"
        if what == VALUE and dtype == "string":
            return f"{found.text!r} is text", "a window counts numbers; a rule makes one of text: map, or a comparison"
        return None


def rules_of(node: WindowNode, nodes: Mapping[str, Node]) -> Iterator[tuple[str, str]]:
    """Yields the references of a window that rules compute, each with a digest of the texts of these rules."""
    for one in (*WindowKind().refs(node), *([] if node.when is None else [node.when.ref])):
        if texts := sorted(_texts(one, nodes, set())):
            yield one.text, hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _texts(found: Ref, nodes: Mapping[str, Node], seen: set[str]) -> Iterator[str]:
    rule = nodes.get(found.head)
    if not isinstance(rule, RuleNode) or rule.name in seen:
        return
    seen.add(rule.name)
    yield from (f"{rule.name}.{one.name} = {' '.join(one.text.split())}" for one in rule.outputs)
    yield from (f"{rule.name}: {one.tensor} = {[each.text for each in one.refs]} {one.missing}" for one in rule.inputs)
    for one in (*RuleKind().refs(rule), *([] if rule.when is None else [rule.when.ref])):
        yield from _texts(one, nodes, seen)


def _feature(name: Scalar, text: str, mark: Mark) -> Feature:
    found = _TEXT.fullmatch(text)
    assert found is not None, "conforming text is always an aggregate"
    kind, of, number, where = found.groups()
    read, only = ref(of, mark) if of else None, ref(where, mark) if where else None
    if kind == "quantile":
        return Feature(name.text, "quantile", read, only, q=None if number is None else float(number), mark=mark)
    k = int(number or 1) if (number or "1").isdecimal() else 0  # 0 is refused, as other numbers of last_k are
    return Feature(name.text, cast(Aggregated, kind), read, only, k, mark=mark)


def _type(feature: Feature) -> tuple[str, tuple[int, ...]]:
    if feature.kind == "last_k":
        return "float64", (feature.k,)
    return ("int64" if feature.kind in ("count", "distinct") else "float64"), ()
