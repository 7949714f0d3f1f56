"""Log records keep their fields in both forms."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from penstock.telemetry import NOISY, configure
from penstock.telemetry.logs import Seldom


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_record_has_its_fields() -> None:
    stream = io.StringIO()
    configure("info", "json", stream=stream)

    logging.getLogger("penstock.x").info("committed %d", 3, extra={"topic": "flights", "level": "mine"})

    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "logger": "penstock.x", "message": "committed 3", "topic": "flights"}


def test_json_record_holds_the_exception_in_one_line() -> None:
    stream = io.StringIO()
    configure("info", "json", stream=stream)
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("penstock.x").exception("failed")

    [line] = stream.getvalue().splitlines()
    assert "ValueError: boom" in json.loads(line)["exception"]


def test_text_record_reads_as_a_sentence_with_pairs() -> None:
    stream = io.StringIO()
    configure("info", "text", stream=stream)
    logging.getLogger("penstock.x").warning("slow", extra={"ms": 12, "share": 0.00012345678})
    assert stream.getvalue().endswith(" WARNING penstock.x: slow  ms=12 share=0.0001235\n")


def test_level_holds_and_libraries_are_quieter() -> None:
    """Their debug records would cost time on every batch even if nobody writes them."""
    configure("debug", "text", stream=io.StringIO())
    assert logging.getLogger("penstock.x").isEnabledFor(logging.DEBUG)
    assert not any(logging.getLogger(f"{name}.part").isEnabledFor(logging.INFO) for name in NOISY)


def test_configuring_again_replaces_the_handler() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("info", "text", stream=first)
    configure("error", "text", stream=second)
    logging.getLogger("penstock.x").error("once")
    assert (first.getvalue(), second.getvalue().count("once")) == ("", 1)


def test_client_library_repeats_a_warning_once_a_minute_with_the_number_left_out() -> None:
    now = 100.0
    seldom = Seldom(lambda: now)

    def passed(name: str, level: int = logging.WARNING) -> str | None:
        record = logging.LogRecord(name, level, "", 0, "no answer from %s", ("a node",), None)
        return record.getMessage() if seldom.filter(record) else None

    assert [passed("aiokafka.client") for _ in range(3)] == ["no answer from a node", None, None]
    assert [passed("penstock.worker") for _ in range(3)] == ["no answer from a node"] * 3
    assert passed("aiokafka.conn") == "no answer from a node", "another logger is another cause"
    now += Seldom.EVERY
    assert passed("aiokafka.client") == "no answer from a node (2 more like this since)"


def test_our_own_warnings_are_the_same_only_when_their_texts_are() -> None:
    """Seconds and counts differ while brokers are away; another topic is another cause."""
    seldom = Seldom(lambda: 100.0)

    def passes(text: str, *args: object) -> bool:
        return seldom.filter(logging.LogRecord("penstock.transports.kafka.lookout", logging.WARNING, "", 0, text, args, None))

    assert [passes("no broker has answered for %.0f s: %s", seconds, "refused") for seconds in range(3)] == [True, False, False]
    assert passes("no broker has answered for %.0f s: %s", 4, "no answer in time")
    assert [passes("without a leader: %s", topic) for topic in ("a/0", "b/0", "a/0")] == [True, True, False]
