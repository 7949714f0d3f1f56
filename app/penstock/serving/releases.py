"""Releases over HTTP: what a caller with the right `deploy` or `rollback` may ask, and how a release is shown.

    POST /v1/releases {"deploy": {"trees": "flight-trees@2"}, "reason": "..."}, or {"rollback": 3}, or {"rollback": null}
    GET  /v1/releases, /v1/releases/ID

The service signs with its key, and the release names the caller. A release is answered as soon as it is announced; `standing` shows later
its result.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from penstock.access import Caller
from penstock.errors import CallRefused, ConfigError, Forbidden, Malformed, ModelError, NotReady, PenstockError, TopologyError
from penstock.operate.requests import Requested, Requests
from penstock.operate.state import Past
from penstock.serving.handlers import Service

__all__ = ["Asked", "asked", "listed", "read", "shown"]

logger = logging.getLogger(__name__)


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request for a release."""

    deploy: dict[str, str] | None = None
    rollback: int | str | msgspec.UnsetType | None = msgspec.UNSET
    reason: str = ""


_READ: Final = msgspec.json.Decoder(Asked).decode


def read(service: Service, body: bytes) -> tuple[Asked, str]:
    """Returns the release that a body asks for, and the right that it needs. Raises Malformed, and CallRefused where none can be made."""
    _requests(service)
    if service.settings.signing_key is None:
        raise CallRefused(
            "this service has no key to sign releases with: start it with --signing-key (penstock deploy makes them, too)", code="no-key"
        )
    try:
        wanted = _READ(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the request cannot be read: {error}") from error
    if (wanted.deploy is None) is (wanted.rollback is msgspec.UNSET):
        raise Malformed('ask for one of {"deploy": {NODE: "NAME@VERSION"}} and {"rollback": GENERATION}; null is the generation before')
    return wanted, "rollback" if wanted.deploy is None else "deploy"


async def asked(service: Service, caller: Caller, wanted: Asked, right: str) -> Mapping[str, Any]:
    """Announces the release, and returns how it stands. Raises CallRefused, ControlError, ConfigError, ModelError."""
    requests = _requests(service)
    _check(service, caller, right, wanted.deploy)
    service.note(caller, right, "begun")  # before it: a call that cannot be noted is not made
    topology = service.loaded.topology
    try:
        if wanted.deploy is not None:
            made = await requests.deploy(topology, wanted.deploy, requested_by=_name(caller), reason=wanted.reason)
        else:
            to = None if wanted.rollback is msgspec.UNSET else wanted.rollback
            made = await requests.rollback(topology, to, requested_by=_name(caller), reason=wanted.reason)
    except ConfigError as error:
        raise _own_fault(error) from error
    except ModelError as error:  # it may name a file of the registry
        error.args = (str(error).replace(f"{service.settings.models}/", ""),)
        raise
    service.note(caller, right, "ok", request=made.release.id)
    return _requested(made, service, caller, right)


async def shown(service: Service, caller: Caller, id: str) -> Mapping[str, Any]:
    """Returns how a release stands, and on which workers and services. Raises ControlError for one that does not exist."""
    requests = _requests(service)
    try:
        return _requested(await requests.get(service.loaded.topology, id), service, caller)
    except ConfigError as error:
        raise _own_fault(error) from error


async def listed(service: Service, caller: Caller) -> Mapping[str, Any]:
    """Returns the last releases, the newest first."""
    requests = _requests(service)
    try:
        return {"releases": [_past(one, service, caller) for one in await requests.history(service.loaded.topology)]}
    except ConfigError as error:
        raise _own_fault(error) from error


def _check(service: Service, caller: Caller, right: str, changes: Mapping[str, str] | None) -> None:
    """Raises Forbidden for a caller that may not make this release: of the whole topology, or of each node with its new version."""
    if not changes or caller.allows(right, topology=service.name):
        caller.check(right, topology=service.name)
        return
    versions = service.live.versions
    for node, reference in changes.items():
        name, _, version = reference.rpartition("@")
        caller.check(right, topology=service.name, model=f"{service.name}.{node}", version=version)
        if name != versions.get(node, "").rpartition("@")[0]:  # a version is named by its number alone: it is one of the node's model
            raise Forbidden(f"{caller.name} may {right} versions of the model that {node} has, not another model")


def _requests(service: Service) -> Requests:
    if service.requests is None:
        raise CallRefused(
            f"this service follows no releases: start it with --brokers, and to make them with --signing-key "
            f"(penstock deploy {service.name} makes them, too)",
            code="no-releases",
        )
    return service.requests


def _own_fault(error: ConfigError) -> PenstockError:
    """Returns the error; where it is in a file of this service, which the caller cannot mend and is not shown, NotReady."""
    if isinstance(error, TopologyError) or not any(problem.file for problem in error.problems):
        return error
    logger.error("releases cannot be read or made: %s", error)
    return NotReady("this service cannot use its keys or its models now; its log has the reason", code="unusable")


def _name(caller: Caller) -> str:
    return f"{caller.name} ({caller.subject})" if caller.subject else caller.name


def _requested(one: Requested, service: Service, caller: Caller, right: str = "read") -> Mapping[str, Any]:
    workers = [{"worker": each.worker, "state": each.state, "detail": each.detail, "live": each.live} for each in one.workers]
    return {**_past(one.past, service, caller, right), "workers": workers}


def _past(one: Past, service: Service, caller: Caller, right: str = "read") -> dict[str, Any]:
    """Returns a release with those models that the caller has this right for, or all of them where it has it for the topology."""
    release, whole = one.release, caller.allows(right, topology=service.name)
    made = dataclasses.asdict(dataclasses.replace(one, changes=()))
    del made["release"], made["changes"], made["offset"]
    named = {node: (bound.name, bound.uri.rpartition("/")[2]) for node, bound in release.bindings.items()}
    bindings = {
        node: f"{name}@{version}"
        for node, (name, version) in named.items()
        if whole or caller.allows(right, topology=service.name, model=f"{service.name}.{node}", version=version)
    }
    return {
        "id": release.id,
        **made,
        "standing": one.standing.value,
        "author": release.author,
        "requested_by": getattr(release, "requested_by", ""),
        "reason": release.reason,
        "bindings": bindings,
    }
