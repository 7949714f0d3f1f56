"""A topology as the file declares it: frozen values, each with its place in the file.

`sources -> nodes -> sinks`. Several sources share one graph: an event runs the nodes and sinks that the fields of its
source can reach, so a graph with two sources is wired into two stages (see `wiring`). A node is of one of
several kinds; each kind has a file in `kinds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from penstock.provider import Provider
from penstock.schema import Coercion, Missing
from penstock.signature import Tensor

__all__ = [
    "CONDITION", "FOUND", "Absent", "Aggregated", "Constant", "Entry", "Feature", "Input", "Join", "LookupNode", "Mark", "Match",
    "Materialize", "ModelNode", "ModelRef", "Node", "Output", "Precomputed", "Ref", "Releases", "Requirement", "RuleNode", "Sink", "Source",
    "Table", "Topology", "When", "WindowNode", "condition_of", "there",
]  # fmt: skip

Format = Literal["json", "json-confluent", "avro", "avro-confluent", "protobuf", "protobuf-confluent", "bytes"]
Aggregated = Literal["count", "sum", "mean", "min", "max", "variance", "first", "last", "last_k", "rate", "since", "distinct", "quantile"]
Constant = bool | int | float | str | tuple["Constant", ...]  # tuples are nested like the axes of a tensor
CONDITION: Final = "when"  # the only output of a rule that is a condition
FOUND: Final = "found"  # the output of a lookup that says whether its table has the key


def condition_of(name: str) -> str:
    """Returns the name of the rule that is the `when` of a node or a sink. No node of a file has such a name."""
    return f"{name}?"


def there(output: str) -> str:
    """Returns the output of a lookup, bool, that is false where this output is null. No file can name it."""
    return f"{output}?"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the topology file, counted from 1."""

    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What sources, nodes and sinks share: the place of the name, and the places of the values of the keys."""

    mark: Mark = field(default=Mark(), compare=False)
    marks: Mapping[str, Mark] = field(default_factory=dict, compare=False)

    def at(self, *keys: str) -> Mark:
        """Returns the place of the first of these keys that the file has, or the place of the name when it has none of them."""
        return next((self.marks[key] for key in keys if key in self.marks), self.mark)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """`name@version` or `name@alias`: a version begins with a digit, an alias with a letter."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Ref:
    """A name on the right-hand side: `field`, `source.field`, `node`, `node.output`, each with an optional `[index]`.

    A field may be a path into others (`after.amount`, `items[0].price`); `tail` is all of the text between the head and the index at
    the end. `node` alone means its only output. `[index]` picks one element of the tensor's last axis, or of an array whose size is open.
    """

    text: str
    head: str
    tail: str | None = None
    index: int | None = None
    mark: Mark = field(default=Mark(), compare=False)

    @property
    def path(self) -> str:
        """The path of the field, where the head is a field."""
        return self.head if self.tail is None else f"{self.head}{'' if self.tail.startswith('[') else '.'}{self.tail}"


@dataclass(frozen=True, slots=True)
class Input:
    """What feeds one input tensor of a node. Several refs are stacked along the last axis, in this order.

    `how` an array becomes the tensor: as it is, in other axes, filled up with `pad`, or as the mask of what was filled up.
    """

    tensor: str
    refs: tuple[Ref, ...]
    stacked: bool = False
    missing: Missing | None = None
    mark: Mark = field(default=Mark(), compare=False)
    how: Literal["", "reshape", "pad", "mask"] = ""
    pad: Constant | None = None


@dataclass(frozen=True, slots=True)
class Requirement:
    """`metric comparison bound`, as in `auc >= 0.85`: a condition on the manifest of a node's model. `comparison` is >=, <=, > or <."""

    metric: str
    comparison: str
    bound: float
    mark: Mark = field(default=Mark(), compare=False)


@dataclass(frozen=True, slots=True)
class Source(Entry):
    """Events of one topic. `id` names the field that identifies an event, `time` the field with its event time.

    `schema` is "" where the format has none.

    `key_schema` is the schema of the records' keys, which are text without it. `envelope` names what wraps the events: of Debezium's
    changes, deletions and tombstones are skipped; of CloudEvents, all but those of `types`, where it names any. `coerce` is what JSON may
    write otherwise than the schema has it.
    """

    name: str
    topic: str
    schema: str = ""
    format: Format = "json"
    id: str | None = None
    time: str | None = None
    dead_letter: str = ""
    max_bytes: int = 1_048_576
    key_schema: str | None = None
    envelope: Literal["debezium", "cloudevents"] | None = None
    types: tuple[str, ...] = ()
    coerce: tuple[Coercion, ...] = ()


@dataclass(frozen=True, slots=True)
class Table(Source):
    """The newest event of each key of a topic, for lookups: its row. A tombstone, or a deletion in the envelope, removes it.

    `key` names the fields of the key; empty: the record's key, which is text. With a `history`, ms, rows that were replaced are kept for
    that long, and a lookup sees the row of the event's time.
    """

    key: tuple[str, ...] = ()
    history_ms: int = 0

    @property
    def keyed_by(self) -> tuple[str, ...]:
        """The fields of the key."""
        return self.key or ("key",)


@dataclass(frozen=True, slots=True)
class Match(Entry):
    """A source whose events are pairs: an event of the source `left`, and one of `right` with the same key whose time is near.

    `by` are the fields of the key, of the left event and of the right one. The right event is at most `within_ms` later than the left one,
    and at most `before_ms` earlier. A left event without a partner is dropped, or kept with null in the place of the right one. It has
    none when the right topic is read `lateness_ms` beyond its time. `ahead_ms` is how far ahead of the clock an event may be, and
    `max_keys` bounds the keys of a side of a partition.
    """

    name: str
    left: str
    right: str
    by: tuple[tuple[str, ...], tuple[str, ...]]
    within_ms: int
    before_ms: int = 0
    unmatched: Literal["drop", "keep"] = "drop"
    lateness_ms: int = 60_000
    ahead_ms: int = 3_600_000
    max_keys: int = 10_000_000

    @property
    def sides(self) -> tuple[str, str]:
        """The names of the sources that it reads."""
        return self.left, self.right


@dataclass(frozen=True, slots=True)
class When:
    """The events of a node or a sink: those for which the rule `condition` is true, which the parser made of the text in the file.

    `like` is the node that the file names in place of a text: the condition is that node's, so its outputs are there for these events.
    """

    condition: str
    like: str | None = None
    mark: Mark = field(default=Mark(), compare=False)

    @property
    def ref(self) -> Ref:
        return Ref(self.condition, self.condition, mark=self.mark)

    @property
    def column(self) -> str:
        """The column that the condition becomes, bool [N]."""
        return f"{self.condition}.{CONDITION}"


@dataclass(frozen=True, slots=True)
class Materialize:
    """The topic that a node's outputs go to, "" for the default name; how long it keeps them, and how it is compressed.

    `key` is that of its records; None keeps the event's.
    """

    topic: str = ""
    compression: Literal["lz4", "zstd", "snappy", "gzip", "none"] = "lz4"
    retention_ms: int = 86_400_000
    key: Ref | None = None
    mark: Mark = field(default=Mark(), compare=False)


@dataclass(frozen=True, slots=True)
class Join(Entry):
    """How the answers of several stages to one event become a row: `need` of them (None: all) are there, those in `require` among them.

    `missing` has the values of a node's outputs where it did not answer `within_ms` after the timestamp of the first.
    """

    within_ms: int
    need: int | None = None
    require: tuple[str, ...] = ()
    missing: Mapping[str, Constant] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Node(Entry):
    """A place in the graph where columns are computed: what the nodes of every kind share. `kind` is a row of `kinds.KINDS`.

    Its outputs are null for the events that `when` leaves out. With `materialize`, what reads it runs in another stage on Kafka.
    """

    name: str
    kind: str
    when: When | None = field(default=None, kw_only=True)
    materialize: Materialize | None = field(default=None, kw_only=True)
    join: Join | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class ModelNode(Node):
    """A registered model at a place in the graph; a release may bind another version. The kinds feature, model and ensemble.

    `inputs` holds the entries of the file; other tensors are wired by name. `parameters` are input tensors that neither an
    event nor a node feeds: each has one value for all rows. `providers` compute it, in this order; empty: those of the topology.
    """

    model: ModelRef
    inputs: tuple[Input, ...] = ()
    require: tuple[Requirement, ...] = ()
    parameters: Mapping[str, Constant] = field(default_factory=dict, hash=False)
    providers: tuple[Provider, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """A named expression. `places` are those of its characters in the file."""

    name: str
    text: str
    mark: Mark = field(default=Mark(), compare=False)
    places: tuple[Mark, ...] = field(default=(), compare=False, repr=False)

    def at(self, offset: int) -> Mark:
        """Returns the place of a character of the text."""
        return self.places[offset] if offset < len(self.places) else self.mark


@dataclass(frozen=True, slots=True)
class RuleNode(Node):
    """Expressions over fields and outputs of nodes: the topology itself computes it, and no release binds it.

    `inputs` are further names for its expressions, beside fields and nodes. `condition` is the place of a rule that is the `when` of
    something: `nodes.NAME.when`.
    """

    outputs: tuple[Output, ...]
    inputs: tuple[Input, ...] = ()
    condition: str | None = None

    def where(self, output: str) -> str:
        """Returns what names the place of an output's text in messages."""
        return self.condition or f"nodes.{self.name}.outputs.{output}"


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of a window: an aggregate `kind` of what `of` names, or of the events themselves, among those for which `where` is true.

    `k` is how many values `last_k` has, and `q` which share of the values lies below a `quantile`.
    """

    name: str
    kind: Aggregated
    of: Ref | None = None
    where: Ref | None = None
    k: int = 1
    q: float | None = None
    mark: Mark = field(default=Mark(), compare=False)

    @property
    def nullable(self) -> bool:
        """Whether it has no value where the window has none: counts, a sum and a rate are 0 then."""
        return self.kind not in ("count", "sum", "rate", "distinct")


@dataclass(frozen=True, slots=True)
class WindowNode(Node):
    """Features of the recent events of a key: each of `features` over each of `over`, which are names and lengths in ms.

    The words are those of `penstock.windows.Definition`; `time` is the event time, None for that of the source. A row's features
    depend on the rows before it, so its state follows the partitions of one source. `rules` has a digest of the rules that each of its
    references depends on, by the text of the reference, and `clock` names its time: with another of these, it is another state.
    """

    by: tuple[Ref, ...]
    features: tuple[Feature, ...]
    over: tuple[tuple[str, int], ...]
    hops: int = 12
    exact: bool = False
    include_self: bool = False
    late: Literal["drop", "update"] = "drop"
    lateness_ms: int = 60_000
    ahead_ms: int = 3_600_000
    max_keys: int = 10_000_000
    time: Ref | None = None
    rules: tuple[tuple[str, str], ...] = ()
    clock: str = ""

    @property
    def outputs(self) -> Iterator[tuple[str, Feature]]:
        """Yields the name of each output, `spent_5m`, and the feature that it is."""
        return ((f"{one.name}_{back}", one) for one in self.features for back, _ in self.over)


@dataclass(frozen=True, slots=True)
class LookupNode(Node):
    """The row of a table that has the values of `by` as its key, in the order of the table's.

    `time` is the event's, None for that of the source; it is read where the table is `historical`. `keyed` are the dtypes of the table's
    key, and `columns` its fields, None until its schema is read.
    """

    table: str
    by: tuple[Ref, ...]
    time: Ref | None = None
    historical: bool = False
    keyed: tuple[str, ...] = ()
    columns: tuple[Tensor, ...] | None = None

    @property
    def names(self) -> frozenset[str]:
        """The outputs that are fields of the table."""
        return frozenset(one.name for one in self.columns or ())


@dataclass(frozen=True, slots=True)
class Absent:
    """Where an output of a node is null for some events: the column, bool [N], that is true for the others; the reason, and a remedy."""

    column: str
    why: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Sink(Entry):
    """Predictions to one topic. `fields` are the fields of the output event, in order; `key` None keeps the input's key.

    Events that `when` leaves out are not written.
    """

    name: str
    topic: str
    fields: tuple[tuple[str, Ref], ...]
    format: Format = "json"
    schema: str | None = None
    key: Ref | None = None
    when: When | None = None


@dataclass(frozen=True, slots=True)
class Releases(Entry):
    """How models are swapped while the stream runs.

    `signatures` sets whether models must be signed, `on_invalid` what happens when a live generation fails its guard or its periodic
    check, and `check_every` the seconds between two checks (0: never). `unit` is the field by whose value events are assigned while a
    release is on trial, "" for the record's key. `control` and `status` are topics, "" when the file does not name one: the default
    contains the application's name, which is a setting.
    """

    signatures: Literal["off", "warn", "require"] = "off"
    on_invalid: Literal["report", "rollback"] = "report"
    check_every: int = 60
    unit: str = ""
    control: str = ""
    status: str = ""


@dataclass(frozen=True, slots=True)
class Precomputed(Entry):
    """How answers are found that were computed before (`penstock.stores`): by the id of an `entity`, or by all `inputs` of the nodes.

    `decimals` has those of each input that is a float or a double. `on_miss` is what an event gets that has no answer: `default` holds the
    fields of the sink, `scale` the difference of each number that counts as 1 to the nearest. For `stale` seconds since they became live,
    answers of other models, or of another version of the file, may be served.
    """

    entity: str | None = None
    inputs: tuple[str, ...] = ()
    decimals: Mapping[str, int] = field(default_factory=dict, hash=False)
    on_miss: Literal["score", "default", "nearest", "unknown"] = "score"
    default: Mapping[str, Constant] = field(default_factory=dict, hash=False)
    scale: Mapping[str, float] = field(default_factory=dict, hash=False)
    stale: int = 0

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the key is made of."""
        return self.inputs if self.entity is None else (self.entity,)


@dataclass(frozen=True, slots=True)
class Topology(Entry):
    """A whole file. `providers` compute the models of the nodes that name none; empty: the processor."""

    name: str
    sources: tuple[Source, ...]
    nodes: tuple[Node, ...]
    sinks: tuple[Sink, ...]
    releases: Releases = Releases()
    file: str = "<topology>"
    providers: tuple[Provider, ...] = ()
    precomputed: Precomputed | None = None
    tables: tuple[Table, ...] = ()
    matches: tuple[Match, ...] = ()

    def source(self, name: str) -> Source | None:
        return next((source for source in self.sources if source.name == name), None)

    def table(self, name: str) -> Table | None:
        return next((table for table in self.tables if table.name == name), None)

    def match(self, name: str) -> Match | None:
        return next((match for match in self.matches if match.name == name), None)

    def node(self, name: str) -> Node | None:
        return next((node for node in self.nodes if node.name == name), None)

    def provided(self) -> Iterator[tuple[str, Entry, tuple[Provider, ...]]]:
        """Yields each list of providers that the file has: its path, the entry that it is in, and the list."""
        for where, entry, providers in (
            ("", self, self.providers),
            *((f"nodes.{one.name}.", one, one.providers) for one in self.model_nodes),
        ):
            if providers:
                yield f"{where}providers", entry, providers

    @property
    def model_nodes(self) -> tuple[ModelNode, ...]:
        """The nodes that a release binds to model versions."""
        return tuple(node for node in self.nodes if isinstance(node, ModelNode))

    @property
    def conditions(self) -> frozenset[str]:
        """The names of the rules that are a `when`: the file cannot name them."""
        return frozenset(node.name for node in self.nodes if isinstance(node, RuleNode) and node.condition is not None)

    def with_nodes(self, nodes: Iterable[Node]) -> Topology:
        """Returns the topology with each of these nodes in place of the node with the same name."""
        changed = {node.name: node for node in nodes}
        return replace(self, nodes=tuple(changed.get(node.name, node) for node in self.nodes))

    @property
    def windows(self) -> tuple[WindowNode, ...]:
        """The nodes that keep state."""
        return tuple(node for node in self.nodes if isinstance(node, WindowNode))

    @property
    def lookups(self) -> tuple[LookupNode, ...]:
        """The nodes that read a table."""
        return tuple(node for node in self.nodes if isinstance(node, LookupNode))

    @property
    def remembering(self) -> tuple[WindowNode | LookupNode, ...]:
        """The nodes whose outputs depend on other events than the one that they compute."""
        return (*self.windows, *self.lookups)

    def nullable(self, node: str, output: str) -> bool:
        """Whether an output of a node may be null for an event that the node computes. In its column null is NaN."""
        found = self.node(node)
        return isinstance(found, WindowNode) and any(feature.nullable for name, feature in found.outputs if name == output)

    def model_node(self, name: str) -> ModelNode | None:
        return next((node for node in self.model_nodes if node.name == name), None)

    def may_be_null(self, node: str, output: str, reader: Node | Sink) -> bool:
        """Whether an output of a node may be null for an event of the reader."""
        return self.nullable(node, output) or self.absent(node, output, reader) is not None

    def absent(self, name: str, output: str, reader: Node | Sink) -> Absent | None:
        """Returns where an output of a node is null for an event of the reader; None where it is for none, or NaN in its column is null."""
        node = self.node(name)
        if isinstance(node, LookupNode) and output in node.names:  # its column is false, too, for events that `when` leaves out
            return Absent(f"{name}.{there(output)}", f"where the table {node.table} has none for the event")
        if node is None or node.when is None or (reader.when is not None and reader.when.condition == node.when.condition):
            return None
        why = f"for the events that the `when` on line {node.when.mark.line} leaves out"
        return Absent(node.when.column, why, f"add when: {name} to leave them out here too")
