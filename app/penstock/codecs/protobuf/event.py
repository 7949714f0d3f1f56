"""Messages as mappings, one at a time, by the fields of the schema: for tests, examples and tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError as Malformed
from google.protobuf.message import EncodeError as Incomplete
from google.protobuf.message_factory import GetMessageClass

from penstock.codecs.protobuf.kinds import Leaf, is_map, leaf
from penstock.schema import Field, Schema

__all__ = ["read_message", "write_message"]


def read_message(body: bytes, schema: Schema) -> dict[str, Any]:
    """Returns the message as an event. Raises ValueError when the bytes are not such a message."""
    try:
        message = GetMessageClass(schema.protobuf.descriptor()).FromString(body)
    except Malformed as error:
        raise ValueError(str(error)) from None
    return _event(message, schema.fields)


def write_message(event: Mapping[str, Any], schema: Schema) -> bytes:
    """Returns the event as a message. Raises ValueError when the schema cannot hold it."""
    descriptor = schema.protobuf.descriptor()
    try:
        return bytes(_made(descriptor, event).SerializeToString())
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(next(_wrong(descriptor, event), str(error))) from None
    except Incomplete as error:
        raise ValueError(str(error)) from None


def _made(message: Any, event: Mapping[str, Any]) -> Any:
    return GetMessageClass(message)(**_arguments(message, event))


def _wrong(message: Any, event: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with each field; the library does not name it."""
    for name, value in event.items():
        try:
            _made(message, {name: value})
        except (ValueError, TypeError, AttributeError) as error:
            yield f"field {name!r}: {error}" if name in message.fields_by_name else str(error)


def _event(message: Any, fields: tuple[Field, ...]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for field in fields:
        declared = message.DESCRIPTOR.fields_by_name[field.name]
        if field.optional and not message.HasField(field.name):
            made[field.name] = None
            continue
        value = getattr(message, field.name)
        if field.values is not None:
            inner = declared.message_type.fields_by_name["value"]
            made[field.name] = {_key(key): _value(value[key], field.values, leaf(inner)) for key in value}
        elif field.items is not None:
            items, found = field.items, leaf(declared)
            made[field.name] = [_value(one, items, found) for one in value]
        else:
            made[field.name] = _value(value, field, leaf(declared))
    return made


def _value(value: Any, field: Field, found: Leaf | None) -> Any:
    if found is None:
        return _event(value, field.fields)
    if found.kind == "union":
        return MessageToDict(value)
    return value if found.read is None else found.read(value)


def _arguments(message: Any, event: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in event.items():
        if (field := message.fields_by_name.get(name)) is None:
            raise ValueError(f"{message.full_name} has no field {name!r}")
        if value is None:
            continue
        if is_map(field):
            inner = field.message_type.fields_by_name["value"]
            made[name] = {key: _argument(one, inner) for key, one in value.items()}
        elif field.is_repeated:
            made[name] = [_argument(one, field) for one in value]
        else:
            made[name] = _argument(value, field)
    return made


def _argument(value: Any, field: Any) -> Any:
    found = leaf(field)
    if found is None:
        return GetMessageClass(field.message_type)(**_arguments(field.message_type, value))
    return value if found.write is None else found.write(value)


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)
