"""The fields of a message as those of a schema.

| Protobuf | field |
|---|---|
| a field without presence (proto3) | never null; its default is zero, false or empty |
| `optional`, a member of a oneof, a message | null where it is not set |
| proto2 with a default | never null; the default |
| proto2 `required` | never null, without a default |
| a message inside itself | a record without fields |
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from penstock.codecs.protobuf.kinds import is_map, leaf
from penstock.codecs.schema import MAX_FIELDS
from penstock.schema import Field

__all__ = ["fields_of"]


def fields_of(message: Any) -> tuple[Field, ...]:
    """Returns the fields of a message, by its descriptor. Raises ValueError for more than a schema may have."""
    return _Fields().of(message, ())[0]


class _Fields:
    """One walk over a message. A type that is used twice has its fields made once.

    Where types are inside each other, one that is left out of such a type, since it is around it there, is left out of it everywhere.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[Field, ...], int]] = {}

    def of(self, message: Any, above: tuple[str, ...]) -> tuple[tuple[Field, ...], int]:
        """Returns the fields of the message, and their number with those inside."""
        name = message.full_name
        if name in above:
            return (), 0
        if name not in self._known:
            made, total = [], 0
            for field in message.fields:
                one, inside = self.field(field, (*above, name))
                made.append(one)
                total += 1 + inside
                if total > MAX_FIELDS:
                    raise ValueError(f"more than {MAX_FIELDS:,} fields, those inside others counted")
            self._known[name] = tuple(made), total
        return self._known[name]

    def field(self, field: Any, above: tuple[str, ...]) -> tuple[Field, int]:
        if is_map(field):
            values, inside = self.one(field.message_type.fields_by_name["value"], above, "values")
            return Field(field.name, "map", values=values, default={}), inside
        if field.is_repeated:
            items, inside = self.one(field, above, "items")
            return Field(field.name, "array", items=items, default=[]), inside
        made, inside = self.one(field, above, field.name)
        if field.is_required:
            return made, inside
        nullable = field.has_presence and not field.has_default_value
        return _with_default(made, field, nullable=nullable), inside

    def one(self, field: Any, above: tuple[str, ...], name: str) -> tuple[Field, int]:
        """Returns one value of the field."""
        found = leaf(field)
        if found is not None:
            return Field(name, found.kind, symbols=found.symbols, unit=found.unit), 0
        fields, inside = self.of(field.message_type, above)
        return Field(name, "record", fields=fields), inside


def _with_default(made: Field, field: Any, *, nullable: bool) -> Field:
    if nullable:
        default: Any = None
    elif field.type == FieldDescriptor.TYPE_ENUM:
        default = next(value.name for value in field.enum_type.values if value.number == field.default_value)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        default = field.default_value.decode("latin-1")
    else:
        default = field.default_value
    return Field(made.name, made.kind, nullable, default, made.symbols, unit=made.unit, fields=made.fields)
