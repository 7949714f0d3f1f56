"""The author of control messages, and how they are sealed: with a key of the trust file, or bare where that is allowed."""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import dataclass

from penstock.control.messages import Message
from penstock.control.rights import ALL
from penstock.control.trust import SigningKey, Trust, seal
from penstock.errors import ConfigError, Problem
from penstock.settings import Settings

__all__ = ["Voice"]


@dataclass(frozen=True, slots=True)
class Voice:
    """An author, the key that proves it (None: messages are unsigned), and what it may do."""

    author: str
    key: SigningKey | None
    may: frozenset[str] = ALL

    @classmethod
    def of(cls, settings: Settings, trust: Trust, topology: str) -> Voice:
        """Returns the voice of the settings. Raises ConfigError when they name no key, or one that is not trusted for the topology."""
        if settings.signing_key is not None:
            key = SigningKey.load(settings.signing_key)
            trusted = trust.keys.get(key.kid)
            if trusted is None:
                message = f"the key in {settings.signing_key} is not in this trust file, so workers would refuse its messages"
                fix = f"penstock keys trust {key.name} --public {key.public} --topology {topology}"
                raise ConfigError(Problem(str(settings.trust), 0, 0, message, fix))
            if not trusted.serves(topology):
                listed = ", ".join(sorted(trusted.topologies))
                raise ConfigError(Problem(str(settings.trust), 0, 0, f"{trusted.name} may not sign for {topology}, only for {listed}"))
            return cls(trusted.name, key, trusted.may)
        if settings.unsigned_control:
            return cls(f"{_user()}@{socket.gethostname()}"[:200], None)
        raise ConfigError(
            "releases are signed, and no key is given: set --signing-key NAME|FILE or PENSTOCK_SIGNING_KEY "
            "(`penstock keys new NAME` makes it); or, for development only, --unsigned-control here and on the workers"
        )

    def seal(self, message: Message) -> bytes:
        """Returns the value of the message's record. Raises ControlError when readers would refuse it."""
        return seal(message, self.key)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a user without a name
        return str(os.getuid())
