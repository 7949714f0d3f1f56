"""The way that a path goes through a message, and the part of the message that is read for it.

Only that part is decoded, by a copy of the descriptors without the rest: what is not read costs neither time nor memory, whatever a
producer writes there. In the copy whole numbers have 64 bits and enums are numbers, so that the library neither cuts a number off
that a newer producer writes with more bits, nor drops a value of an enum that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass

from penstock.codecs.protobuf.files import Message, pool_of
from penstock.codecs.protobuf.kinds import UNSIGNED, is_map, leaf
from penstock.schema import steps

__all__ = ["Hop", "hops", "part", "reads"]

_WIDER: Final = {
    FieldDescriptor.TYPE_INT32: FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_ENUM: FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_SINT32: FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_UINT32: FieldDescriptor.TYPE_UINT64,
}

Reads = Mapping[str, frozenset[int]]  # by the full name of a message, the numbers of its fields that are read


class Hop(NamedTuple):
    """One field on the way of a path; `item` is the place of one in an array, `key` the key in a map. None: all of the field."""

    field: Any
    item: int | None = None
    key: Any = None


def hops(message: Any, path: str) -> tuple[Hop, ...]:
    """Returns the way of a path through the message, by its descriptor."""
    made: list[Hop] = []
    walked = list(steps(path))
    while walked:
        field = message.fields_by_name[walked.pop(0)]
        if is_map(field):
            entry = field.message_type.fields_by_name
            made.append(Hop(field, key=_key(entry["key"], str(walked.pop(0))) if walked else None))
            message = entry["value"].message_type
        else:
            made.append(Hop(field, walked.pop(0) if field.is_repeated and walked else None))  # type: ignore[arg-type]  # an index
            message = field.message_type
    return tuple(made)


def reads(message: Any, ways: Sequence[Sequence[Hop]]) -> Reads:
    """Returns what has to be read for these ways: their fields, the fields of the same oneof, and whatever is required."""
    found: dict[str, set[int]] = {}
    pending: list[Any] = [message]

    def read(field: Any) -> None:
        numbers = found.setdefault(field.containing_type.full_name, set())
        if field.number in numbers:
            return
        numbers.add(field.number)
        if field.message_type is not None:
            pending.append(field.message_type)
            inside = leaf(field)
            names = ("key", "value") if is_map(field) else inside.inside if inside is not None else ()
            for name in names:
                read(field.message_type.fields_by_name[name])
        for other in field.containing_oneof.fields if field.containing_oneof is not None else ():
            read(other)

    for way in ways:
        for hop in way:
            read(hop.field)
    requiring = _requiring(message)
    while pending:
        one = pending.pop()
        found.setdefault(one.full_name, set())
        for field in one.fields:
            if field.is_required or (field.message_type is not None and field.message_type.full_name in requiring):
                read(field)
    return {name: frozenset(numbers) for name, numbers in found.items()}


def part(message: Message, read: Reads) -> Any:
    """Returns the class of messages with nothing but the fields that are read."""
    whole = FileDescriptorSet.FromString(message.files)
    return GetMessageClass(pool_of(_part(whole, read, message)).FindMessageTypeByName(message.name))


def _part(whole: FileDescriptorSet, read: Reads, message: Message) -> bytes:
    pool = pool_of(message.files)
    made = FileDescriptorSet()
    for file in whole.file:
        less = FileDescriptorProto(name=file.name, package=file.package, dependency=file.dependency)
        less.public_dependency.extend(file.public_dependency)
        if file.HasField("syntax"):
            less.syntax = file.syntax
        if file.HasField("edition"):
            less.edition = file.edition
        if file.options.HasField("features"):
            less.options.features.CopyFrom(file.options.features)
        less.message_type.extend(_kept(file.message_type, file.package, read, pool))
        made.file.append(less)
    return bytes(made.SerializeToString())


def _kept(messages: Sequence[DescriptorProto], space: str, read: Reads, pool: Any) -> Iterator[DescriptorProto]:
    for one in messages:
        full = f"{space}.{one.name}" if space else one.name
        inside = list(_kept(one.nested_type, full, read, pool))
        if full not in read and not inside:
            continue
        less = DescriptorProto(name=one.name, nested_type=inside)
        if one.options.map_entry:
            less.options.map_entry = True
        if one.options.HasField("features"):
            less.options.features.CopyFrom(one.options.features)
        fields = [field for field in one.field if field.number in read.get(full, ())]
        oneofs = sorted({field.oneof_index for field in fields if field.HasField("oneof_index")})
        for field in fields:
            kept = less.field.add()
            kept.CopyFrom(field)
            kept.ClearField("options")
            if field.options.HasField("features"):
                kept.options.features.CopyFrom(field.options.features)
            kept.type = _WIDER.get(field.type, field.type)
            if field.type == FieldDescriptor.TYPE_ENUM:
                kept.ClearField("type_name")
                if field.default_value:
                    kept.default_value = str(pool.FindMessageTypeByName(full).fields_by_number[field.number].default_value)
            if field.HasField("oneof_index"):
                kept.oneof_index = oneofs.index(field.oneof_index)
        for index in oneofs:
            less.oneof_decl.add(name=one.oneof_decl[index].name)
        yield less


def _requiring(message: Any) -> set[str]:
    """Returns the messages, of those inside it and itself, that have a required field, or one inside them has."""
    holders: dict[str, list[str]] = {message.full_name: []}
    pending, found = [message], set()
    while pending:
        one = pending.pop()
        for field in one.fields:
            if field.is_required:
                found.add(one.full_name)
            if (inside := field.message_type) is not None:
                if inside.full_name not in holders:
                    holders[inside.full_name] = []
                    pending.append(inside)
                holders[inside.full_name].append(one.full_name)
    names = [*found]
    while names:
        more = {*holders[names.pop()]} - found
        found |= more
        names += more
    return found


def _key(field: Any, text: str) -> Any:
    """Returns the key of a map as the library has it; None for a text that no key of its type has."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return text
    if field.type == FieldDescriptor.TYPE_BOOL:
        return {"true": True, "false": False}.get(text)
    try:
        number = int(text)
    except ValueError:
        return None
    least, most = (0, 2**64) if field.type in UNSIGNED else (-(2**63), 2**63)
    return number if least <= number < most else None
