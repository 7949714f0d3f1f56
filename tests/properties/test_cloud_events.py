"""CloudEvents: the two modes of one event are opened to the same, and no record that a topic can hold raises."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.codecs.cloudevents import MARK, REQUIRED, CloudEvents
from penstock.record import Header, Record

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5)
VALUES = TEXTS | st.integers(-(2**31), 2**31 - 1) | st.booleans()
DATA = st.dictionaries(TEXTS, st.integers() | TEXTS | st.lists(st.booleans()), max_size=3)
STRUCTURED: Header = ("content-type", b"application/cloudevents+json")


def text(value: Any) -> bytes:
    return (str(value).lower() if isinstance(value, bool) else str(value)).encode()


@given(st.tuples(TEXTS, TEXTS, TEXTS), st.dictionaries(st.sampled_from(["subject", "region", "unread"]), VALUES), DATA, st.booleans())
def test_both_modes_are_opened_to_the_same(required: Any, others: dict[str, Any], data: Any, other_type: bool) -> None:
    id, source, kind = required
    attributes = {"specversion": "1.0", "id": id, "source": source, "type": kind, **others}
    structured = Record("t", json.dumps({**attributes, "data": data}).encode(), b"k", [STRUCTURED, ("h", b"1")], 7, 0, 3)
    headers = [(MARK + name, text(value)) for name, value in attributes.items()]
    binary = Record("t", json.dumps(data).encode(), b"k", [*headers, ("h", b"1")], 7, 0, 3)
    read = ["subject", "region", *REQUIRED]
    events = CloudEvents(read, [f"{kind}x"] if other_type else [], json=True, max_bytes=1_000_000)
    found, rows, errors = events.open([structured, binary])
    assert (len(found), rows, errors) == ((0, [], {}) if other_type else (2, [0, 1], {}))
    for one in found:
        assert json.loads(one.value or b"") == data
        assert (one.key, one.offset, one.timestamp) == (b"k", 3, 7)
        names = {MARK + name for name in read} | {"h"}
        assert {name: value for name, value in one.headers if name in names} == {
            "h": b"1",
            **{MARK + name: text(value) for name, value in attributes.items() if name in read},
        }


NAMES = st.sampled_from(["content-type", "ce_specversion", "ce_id", "ce_source", "ce_type", "x"])
BYTES = st.sampled_from([b"1.0", b"", b"a", b"\xff", b"application/cloudevents+json", b"application/cloudevents-batch+json"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*REQUIRED, "data", "data_base64", "x"]), inner, max_size=6)
    ),
)


@given(
    st.lists(
        st.tuples(
            st.none() | st.binary(max_size=9) | JSON.map(lambda one: json.dumps(one).encode()),
            st.lists(st.tuples(NAMES, st.none() | BYTES), max_size=6),
        ),
        max_size=4,
    )
)
def test_no_record_raises_and_each_is_opened_skipped_or_an_error(records: list[Any]) -> None:
    events = CloudEvents(["ce", "time", "x"], ["a"], json=True, max_bytes=1_000)
    _, rows, errors = events.open([Record("t", value, None, headers) for value, headers in records])
    assert not {*rows} & {*errors}
    assert {*rows} | {*errors} <= {*range(len(records))}
