"""The one table from classes of errors to codes of HTTP and gRPC, and what a caller reads of an error."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from penstock import errors

__all__ = ["CODES", "Code", "code_of", "described"]


class Code(NamedTuple):
    """The status of an HTTP answer, and the name of the gRPC code."""

    http: int
    grpc: str


_WORDS: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
LONGEST: Final = 1000  # characters of a message that a caller reads

CODES: Final[Mapping[type[BaseException], Code]] = {
    errors.Malformed: Code(400, "INVALID_ARGUMENT"),
    errors.NotThere: Code(404, "NOT_FOUND"),
    errors.TooLarge: Code(413, "INVALID_ARGUMENT"),  # not RESOURCE_EXHAUSTED: the same request can never succeed
    errors.Unauthenticated: Code(401, "UNAUTHENTICATED"),
    errors.Forbidden: Code(403, "PERMISSION_DENIED"),
    errors.RateLimited: Code(429, "RESOURCE_EXHAUSTED"),
    errors.AuditLost: Code(503, "UNAVAILABLE"),
    errors.Overloaded: Code(429, "RESOURCE_EXHAUSTED"),
    errors.TooLate: Code(504, "DEADLINE_EXCEEDED"),
    errors.NotReady: Code(503, "UNAVAILABLE"),
    errors.CallRefused: Code(400, "FAILED_PRECONDITION"),
    errors.RecordError: Code(422, "INVALID_ARGUMENT"),
    errors.ConfigError: Code(400, "INVALID_ARGUMENT"),
    errors.ModelError: Code(409, "FAILED_PRECONDITION"),
    errors.ControlError: Code(409, "FAILED_PRECONDITION"),
    errors.TransportError: Code(503, "UNAVAILABLE"),
    errors.PenstockError: Code(500, "INTERNAL"),
    Exception: Code(500, "INTERNAL"),
}


def code_of(error: BaseException) -> Code:
    """Returns the codes of the error's class, or those of its nearest parent in the table."""
    return next(CODES[parent] for parent in type(error).__mro__ if parent in CODES)


def described(error: BaseException) -> dict[str, Any]:
    """Returns what a caller reads: the message as `error`, as the Open Inference Protocol has it; of a failed event its failure, too.

    The message of a bug stays in the log.
    """
    if not isinstance(error, errors.PenstockError):
        return {"error": "internal error; the log of the service has its cause"}
    code = getattr(error, "code", None)
    if not isinstance(code, str):
        code = _WORDS.sub("-", type(error).__name__).lower()  # TopicMissing: topic-missing
    if isinstance(error, errors.ConfigError):  # without the places of files, which are this host's
        error = errors.ConfigError([dataclasses.replace(problem, file="", line=0) for problem in error.problems])
    text = _cut(str(error))
    if isinstance(error, errors.RecordError):
        return {"error": text, "failure": failure(error)}
    return {"error": text, "code": code}


def failure(error: errors.RecordError) -> dict[str, str]:
    """Returns the failure of an event as an answer has it: what its dead letter has in its headers."""
    return {"stage": error.where, "reason": type(error).__name__, "message": _cut(str(error))}


def _cut(text: str) -> str:
    """Returns a message without what is too long of it: names that callers sent can have megabytes, and trailers of gRPC are small."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
