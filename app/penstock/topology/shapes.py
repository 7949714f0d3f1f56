"""The shapes that a value of a topology file may have, and the texts and inputs that several keys share.

Values only: `conform` compares a file with them, `language` publishes them as a JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from penstock.provider import NAME as PROVIDER
from penstock.topology.names import FIELD, FIELD_PATH, MODEL, NAME, REF, TOPIC
from penstock.topology.requirements import THRESHOLD

__all__ = [
    "DURATION",
    "ENTRY_NAME",
    "EVENT_TYPE",
    "FIELD_NAME",
    "FIELD_TEXT",
    "FILE_NAME",
    "INPUTS",
    "METRIC_NAME",
    "MODEL_NAME",
    "PROVIDERS",
    "REFERENCE",
    "TENSOR_NAME",
    "THRESHOLD_TEXT",
    "TOPIC_NAME",
    "Choice",
    "Either",
    "Flag",
    "Forms",
    "Key",
    "Keys",
    "Kinds",
    "Listing",
    "Literal",
    "Named",
    "Nested",
    "Shape",
    "Text",
    "Whole",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """A string that matches `pattern`; `what` describes it in words."""

    what: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer between two bounds, both allowed."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, a string or a boolean."""


@dataclass(frozen=True, slots=True)
class Nested:
    """A literal, or a list with at least one literal or list."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A list with at least one item."""

    of: Shape


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping whose keys are names that the author chooses; at least one unless `empty`."""

    what: str
    key: Text
    of: Shape
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a mapping with fixed keys."""

    shape: Shape
    doc: str
    required: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Keys:
    """A mapping with fixed keys. Exactly one of the keys in `one_of` must be there."""

    keys: Mapping[str, Key]
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forms:
    """The same thing written as text, as a list or as a mapping."""

    text: Shape | None = None
    listing: Shape | None = None
    mapping: Shape | None = None


class HasKeys(Protocol):
    """A member of a family of mappings."""

    @property
    def keys(self) -> Keys: ...


@dataclass(frozen=True, slots=True)
class Kinds:
    """A mapping whose key `kind` names a row of the table `of`; the other keys are those of the row, and `shared` by all rows."""

    of: Mapping[str, HasKeys]
    shared: Mapping[str, Key]

    def groups(self) -> list[tuple[tuple[str, ...], Keys]]:
        """Returns the kinds that share the same keys, and these keys with `kind`, in the order of the table."""
        groups: list[tuple[list[str], Keys]] = []
        for kind, row in self.of.items():
            same = next((kinds for kinds, keys in groups if keys == row.keys), None)
            if same is None:
                groups.append(([kind], row.keys))
            else:
                same.append(kind)
        return [(tuple(kinds), self._whole(tuple(kinds), keys)) for kinds, keys in groups]

    def named(self, kind: object) -> Keys:
        """Returns the keys of one kind. For an unknown kind these are the keys of all kinds, required where all kinds require them."""
        if isinstance(kind, str) and kind in self.of:
            return self._whole(tuple(self.of), self.of[kind].keys)
        rows = [row.keys for row in self.of.values()]
        merged = {name: key for row in reversed(rows) for name, key in row.keys.items()}
        required = {name for name in merged if all(name in row.keys and row.keys[name].required for row in rows)}
        return self._whole(tuple(self.of), Keys({name: replace(key, required=name in required) for name, key in merged.items()}))

    def _whole(self, kinds: tuple[str, ...], keys: Keys) -> Keys:
        return Keys({"kind": Key(Choice(kinds), "What the node is for.", required=True), **keys.keys, **self.shared}, keys.one_of)


@dataclass(frozen=True, slots=True)
class Either:
    """A mapping of one of two forms: `marked` if it has the key `key`, else `plain`."""

    key: str
    marked: Keys
    plain: Keys


Shape = Either | Text | Choice | Whole | Flag | Literal | Nested | Listing | Named | Keys | Forms | Kinds

ENTRY_NAME: Final = Text("a name (letters, digits, _ and -, not beginning with a digit)", NAME)
FIELD_NAME: Final = Text("a field name (letters, digits and _; inside a record: after.amount)", FIELD)
FIELD_TEXT: Final = Text("a field, or a path to one inside others: after.amount, items[0].price", FIELD_PATH)
TENSOR_NAME: Final = Text("a tensor name", r"^\S(.*\S)?$")
EVENT_TYPE: Final = Text("a type of CloudEvents", r"^\S(.*\S)?$")
TOPIC_NAME: Final = Text("a topic name (letters, digits, '.', '_' and '-')", TOPIC)
DURATION: Final = Text("a duration (40ms, 30s, 5m, 12h or 7d)", r"^[1-9][0-9]{0,8}(ms|s|m|h|d)$")
FILE_NAME: Final = Text(
    "a file of the schemas folder", r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*(#[A-Za-z_][A-Za-z0-9_.]*)?$"
)
MODEL_NAME: Final = Text("name@version or name@alias", MODEL)
REFERENCE: Final = Text("a reference: field, source.field, node or node.output, each with an optional [index]", REF)
METRIC_NAME: Final = Text("the name of a metric", r"^\S(.*\S)?$")
THRESHOLD_TEXT: Final = Text("a threshold: >=, <=, > or < and a number", THRESHOLD)

MISSING: Final = Key(Literal(), "What replaces null: a value, nan, or reject (the row goes to the dead-letter topic).")

_PART: Final = Text(f"{REFERENCE.what}; what replaces null is the same for all: {{stack: [...], missing: VALUE}}", REF)

INPUT: Final = Forms(
    text=REFERENCE,
    listing=Listing(_PART),
    mapping=Keys(
        {
            "field": Key(REFERENCE, "Where the tensor comes from."),
            "stack": Key(Listing(_PART), "Several scalars or arrays joined along the last axis, in this order."),
            "reshape": Key(REFERENCE, "An array with other axes and as many values, in the same order: 8 x 8 for 64."),
            "mask": Key(REFERENCE, "Which items of a padded array are there (1), and which are padding (0)."),
            "pad": Key(Literal(), "What fills arrays of different lengths: to the tensor's size, or to the longest of the chunk."),
            "missing": MISSING,
        },
        one_of=("field", "stack", "reshape", "mask"),
    ),
)

_PROVIDER_NAME: Final = Text("an execution provider, as onnxruntime names it: CUDAExecutionProvider", PROVIDER)
_OPTION_NAME: Final = Text("the name of an option", r"^[A-Za-z0-9_.:-]+$")
_OPTIONS: Final = Named("option", _OPTION_NAME, Literal(), empty=True)
PROVIDERS: Final = Listing(Forms(text=_PROVIDER_NAME, mapping=Named("provider", _PROVIDER_NAME, _OPTIONS)))

INPUTS: Final = Key(Named("tensor", TENSOR_NAME, INPUT, empty=True), "Where input tensors come from; by equal name when omitted.")
