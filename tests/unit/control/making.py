"""Messages and entries of a control topic as tests write them: what is not said is as it usually is."""

from __future__ import annotations

from typing import Any

from penstock.binding import Binding
from penstock.control.messages import Abort, Activate, Message, Pause, Promote, Release, new_id, timestamp
from penstock.control.trust import SigningKey, Trust, seal
from penstock.transports.kafka.journal import Entry

__all__ = [
    "CONTROL", "NOW_MS", "TOPOLOGY", "abort", "activate", "binding", "bytes_of", "entry", "id_of", "pause", "promote", "release",
    "trust_file", "trusting",
]  # fmt: skip

TOPOLOGY = "flights"
CLUSTER = "cluster-1"
CONTROL = "penstock.flights.control"
NOW_MS = 1_800_000_000_000


def id_of(number: int) -> str:
    """An id that is the same in every run."""
    return new_id(ms=NOW_MS, random=number.to_bytes(10))


def binding(version: int = 1, **fields: Any) -> Binding:
    digest = f"sha256:{version:064x}"
    return Binding(**{"uri": f"models:/trees/{version}", "digest": digest, "manifest": digest, **fields})


def _said(number: int, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of every message. With `version=1` there is no topic among them."""
    where = {"topology": TOPOLOGY, "cluster": CLUSTER, "control_topic": CONTROL if fields.get("version", 2) > 1 else ""}
    return {"id": id_of(number), **where, "time": timestamp(NOW_MS / 1000), "author": "alice", **fields}


def release(number: int = 1, base: int = 0, **fields: Any) -> Release:
    """The release with this number, which binds one node to the model version of that number."""
    return Release(**{"base": base, "bindings": {"trees": binding(number)}, **_said(number, fields)})


def activate(number: int = 1, **fields: Any) -> Activate:
    return Activate(**_said(number, fields))


def abort(number: int = 1, **fields: Any) -> Abort:
    return Abort(**_said(number, fields))


def promote(number: int = 1, base: int = 1, **fields: Any) -> Promote:
    return Promote(base=base, **_said(number, fields))


def pause(number: int = 1, **fields: Any) -> Pause:
    return Pause(**_said(number, fields))


def bytes_of(message: Message, key: SigningKey | None = None) -> bytes:
    return seal(message, key)


def entry(offset: int, message: Message, key: SigningKey | None = None, **fields: Any) -> Entry:
    """The message's record as the brokers hand it out."""
    usual = Entry(offset, NOW_MS, True, message.id.encode(), bytes_of(message, key))
    return usual._replace(**fields)


def trust_file(*keys: SigningKey, **fields: str) -> str:
    """A trust file with these keys; `fields` are lines of every one of them, as TOML."""
    lines = {"topologies": f'["{TOPOLOGY}"]', "trusted": "2026-01-01T00:00:00Z", **fields}
    rest = "\n".join(f"{name} = {value}" for name, value in lines.items())
    return "\n\n".join(f'[keys.{key.name}]\npublic = "{key.public}"\n{rest}' for key in keys)


def trusting(*keys: SigningKey, **fields: str) -> Trust:
    return Trust.parse(trust_file(*keys, **fields), file="trust.toml")
