"""Every exception, grouped by what the catcher does about it.

PenstockError
├── ConfigError              a person must edit a file: all problems at once, never retried
│   ├── SettingsError
│   ├── TopologyError
│   └── SchemaError
├── ModelError               this version cannot serve; the live plan stays
│   ├── ModelNotFound
│   ├── ModelExists          versions are immutable
│   ├── ModelCorrupt         the digest differs, it does not load, or golden records fail
│   ├── ModelMismatch        its signature does not fit the nodes that read it
│   │   └── ModelMisdeclared  outputs have other axes than the file declares
│   └── ModelUntrusted       no trusted key has signed these files
├── RecordError              one record cannot be processed: becomes a Failure, then a dead letter
│   ├── DecodeError
│   ├── InferenceError
│   ├── EncodeError
│   └── MemberMissing        records of one event did not come together in time
├── Untraceable              the record cannot be traced to its origin: no worker wrote it, or its headers are false
├── ControlError             a release was not made, or a control message was refused; the live plan stays
├── CallRefused              the service does not answer a request; the caller gets the reason, and a code of HTTP or gRPC by its class
│   ├── Malformed            it cannot be read, or names, types or shapes do not fit
│   ├── NotThere             nothing here has that name or version
│   ├── Overloaded           too much is waiting: again after `.retry_after` seconds
│   ├── TooLate              it could not be answered before its deadline
│   ├── NotReady             models are being made ready, or the service stops
│   ├── Unauthenticated      no valid key, token or certificate
│   ├── Forbidden            the caller may not do this
│   ├── RateLimited          too many requests or rows: again after `.retry_after` seconds
│   └── TooLarge             more than one request may hold
├── KeysWanted               the keys that signed a token are not known yet: fetch them and admit again; nothing failed
├── AuditLost                the audit log cannot be written, so a call that must be in it is not made
├── FetchError               a root did not deliver a file of a version: try again, or use the next root
├── NoRoom                   a run beside the live plan had no memory: its rows are unchecked; nothing failed
├── SchemaWanted             an event's schema is not known yet: fetch it and decode again; nothing failed
├── Stopped                  the caller cancelled the work: clean up and raise it again; nothing failed
└── TransportError           an outside system failed: retried with back-off, then the worker stops
    ├── TransportUnavailable
    ├── AccessRefused        login or certificate; never retried
    ├── TopicMissing         a topic the topology names does not exist
    ├── RecordMissing        no record is at the position: not yet, or no longer
    ├── DeliveryFailed
    ├── IdentityTaken        another worker has this one's group_instance_id: a person must change one
    ├── Stalled              a worker made no progress without a reason; it ends to be started again
    └── WorkerFailed         a worker process ended with an error; its exit code is passed on
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

__all__ = [
    "AccessRefused",
    "AuditLost",
    "CallRefused",
    "ConfigError",
    "ControlError",
    "DecodeError",
    "DeliveryFailed",
    "EncodeError",
    "FetchError",
    "Forbidden",
    "IdentityTaken",
    "InferenceError",
    "KeysWanted",
    "Malformed",
    "MemberMissing",
    "ModelCorrupt",
    "ModelError",
    "ModelExists",
    "ModelMisdeclared",
    "ModelMismatch",
    "ModelNotFound",
    "ModelUntrusted",
    "NoRoom",
    "NotReady",
    "NotThere",
    "Overloaded",
    "PenstockError",
    "Problem",
    "RateLimited",
    "RecordError",
    "RecordMissing",
    "SchemaError",
    "SchemaWanted",
    "SettingsError",
    "Stalled",
    "Stopped",
    "TooLarge",
    "TooLate",
    "TopicMissing",
    "TopologyError",
    "TransportError",
    "TransportUnavailable",
    "Unauthenticated",
    "Untraceable",
    "WorkerFailed",
]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One problem in a file: its place, what is wrong, and what to do next.

    `line` and `column` count from 1; 0 means that the place is unknown.
    """

    file: str
    line: int
    column: int
    message: str
    fix: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}" + (f" ({self.fix})" if self.fix else "")


class PenstockError(Exception):
    """The root: catch it to catch everything that Penstock raises on purpose."""


class ConfigError(PenstockError):
    """Files or settings that a person must edit. `.problems` lists all of them."""

    problems: tuple[Problem, ...]

    def __init__(self, problems: Iterable[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = (Problem("", 0, 0, problems),)
        elif isinstance(problems, Problem):
            problems = (problems,)
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p).removeprefix(": ") for p in self.problems))


class SettingsError(ConfigError):
    """A setting is unknown, malformed or out of range."""


class TopologyError(ConfigError):
    """A topology file cannot be run."""


class SchemaError(ConfigError):
    """A schema file cannot be used."""


class ModelError(PenstockError):
    """A model version cannot serve."""

    def __init__(self, message: str, *, name: str = "", version: str = "") -> None:
        super().__init__(message)
        self.name = name
        self.version = version


class ModelNotFound(ModelError):
    """The registry has no such model, version or alias."""


class ModelExists(ModelError):
    """The version exists already, and versions never change."""


class ModelCorrupt(ModelError):
    """The file differs from its manifest, or does not run."""


class ModelMismatch(ModelError):
    """The signature does not fit the nodes that read it."""


class ModelMisdeclared(ModelMismatch):
    """Outputs have other axes than the file declares. `.shapes` has those that a run showed, without the rows; None is an open axis."""

    def __init__(self, message: str, *, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
        super().__init__(message)
        self.shapes = shapes


class ModelUntrusted(ModelError):
    """No trusted key has signed these files, or the signature cannot be checked."""


class RecordError(PenstockError):
    """One record cannot be processed. `.where` is read, decode, a node's name, or encode."""

    where = "process"

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(message)
        if where:
            self.where = where


class DecodeError(RecordError):
    """The bytes are not an event of the source's schema."""

    where = "decode"


class InferenceError(RecordError):
    """A model rejected the row, or returned a number that is not finite."""


class EncodeError(RecordError):
    """The result cannot be written to the sink. `.field` names the field that holds a number that is not finite; "" for another cause."""

    where = "encode"

    def __init__(self, message: str, *, where: str = "", field: str = "") -> None:
        super().__init__(message, where=where)
        self.field = field


class MemberMissing(RecordError):
    """Too few members of a join had a record of the event in time. `.members` names those that are missing."""

    where = "join"

    def __init__(self, message: str, *, where: str = "", members: tuple[str, ...] = ()) -> None:
        super().__init__(message, where=where)
        self.members = members


class ControlError(PenstockError):
    """A release was not made, or a control message was refused. `.code` is the reason in one word, for counting."""

    def __init__(self, message: str, *, code: str = "illegal") -> None:
        super().__init__(message)
        self.code = code


class CallRefused(PenstockError):
    """The service does not answer a request. `.code` is the reason in one word, for counting and for the caller."""

    code = "refused"

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        if code:
            self.code = code


class Malformed(CallRefused):
    """The request cannot be read, or its names, types or shapes do not fit."""

    code = "malformed"


class NotThere(CallRefused):
    """Nothing here has that name or version."""

    code = "not-there"


class Overloaded(CallRefused):
    """Too much is waiting. The same request can succeed after `.retry_after` seconds."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unauthenticated(CallRefused):
    """The request has no valid key, token or certificate."""

    code = "unauthenticated"


class Forbidden(CallRefused):
    """The caller is known and may not do this."""

    code = "forbidden"


class RateLimited(CallRefused):
    """The caller has sent too many requests or rows. The same request can succeed after `.retry_after` seconds."""

    code = "rate-limited"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooLate(CallRefused):
    """The request could not be answered before its deadline."""

    code = "too-late"


class NotReady(CallRefused):
    """Models are being made ready, or the service stops."""

    code = "not-ready"


class TooLarge(CallRefused):
    """One request holds more than one may; it never succeeds as it is."""

    code = "too-large"


class KeysWanted(PenstockError):
    """A token names a key that is not known here yet. `fetch()` blocks until its issuer has answered, or did not; it raises nothing."""

    def __init__(self, message: str, fetch: Callable[[], None]) -> None:
        super().__init__(message)
        self.fetch = fetch


class AuditLost(PenstockError):
    """The audit log cannot be written. Calls that change releases are refused until it can."""


class FetchError(PenstockError):
    """A registry root did not deliver a file of a model version. `.code` is `absent`, `again` (cut off or busy) or `refused`."""

    def __init__(self, message: str, *, code: str = "refused") -> None:
        super().__init__(message)
        self.code = code


class NoRoom(PenstockError):
    """A run beside the live plan had no memory, or gave way, because live runs need it. This says nothing about the model."""


class SchemaWanted(PenstockError):
    """The schema that wrote an event is not known here. `fetch()` blocks until it is, or is known not to exist.

    It raises TransportError when the registry does not answer.
    """

    def __init__(self, message: str, fetch: Callable[[], None]) -> None:
        super().__init__(message)
        self.fetch = fetch

    @classmethod
    def together(cls, several: Iterable[SchemaWanted]) -> Self:
        """Returns one for all of them."""
        wanted = list(several)

        def fetch() -> None:
            for one in wanted:
                one.fetch()

        return cls(", ".join(map(str, wanted)), fetch)


class Stopped(PenstockError):
    """The caller cancelled the work before it was done."""

    def __init__(self, message: str = "stopped") -> None:
        super().__init__(message)


class Untraceable(PenstockError):
    """A record cannot be traced to its origin: no worker wrote it, or its headers contradict the control log."""


class TransportError(PenstockError):
    """An outside system failed."""


class TransportUnavailable(TransportError):
    """The brokers did not answer within the time allowed."""


class AccessRefused(TransportError):
    """The brokers refused our login or certificate, or theirs is not trusted. Never retried: a person must act."""


class TopicMissing(TransportError):
    """A topic that the topology names does not exist."""


class RecordMissing(TransportError):
    """No record is at this position: it was not written yet, or is no longer kept."""


class DeliveryFailed(TransportError):
    """The broker refused an output; no offset beyond its input was committed."""


class IdentityTaken(TransportError):
    """Another worker has joined the group with this one's `group_instance_id`, and has its partitions."""


class Stalled(TransportError):
    """A worker made no progress without a reason for `stall_timeout` seconds; no offset beyond the acknowledged ones is committed."""


class WorkerFailed(TransportError):
    """A worker process ended with an error. `.code` is its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
