"""Who speaks on the control topic, and how it is sealed: with a key that the trust file holds, or bare where that is allowed."""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import dataclass

from penstock.control.messages import Message
from penstock.control.trust import SigningKey, Trust, seal
from penstock.errors import ConfigError
from penstock.settings import Settings

__all__ = ["Voice"]


@dataclass(frozen=True, slots=True)
class Voice:
    """An author, and the key that proves it (None: nothing does)."""

    author: str
    key: SigningKey | None

    @classmethod
    def of(cls, settings: Settings, trust: Trust, topology: str) -> Voice:
        """The voice that the settings give. Raises ConfigError when they give none, or one that nobody here would obey."""
        if settings.signing_key is not None:
            key = SigningKey.load(settings.signing_key)
            trusted = trust.keys.get(key.kid)
            if trusted is None:
                raise ConfigError(
                    f"the key in {settings.signing_key} is not in the trust file {settings.trust}, so nobody would obey it: "
                    f"penstock keys trust {key.name} --public {key.public} --topology {topology}"
                )
            if not trusted.serves(topology):
                listed = ", ".join(sorted(trusted.topologies))
                raise ConfigError(f"{trusted.name} may not speak for {topology}, only for {listed}: so says {settings.trust}")
            return cls(trusted.name, key)
        if settings.unsigned_control:
            return cls(f"{_user()}@{socket.gethostname()}"[:200], None)
        raise ConfigError(
            "releases are signed, and no key was given: --signing-key FILE or PENSTOCK_SIGNING_KEY (`penstock keys new NAME` makes one); "
            "or, for development only and obeyed only by workers that have it set too: --unsigned-control"
        )

    def seal(self, message: Message) -> bytes:
        """The value of the message's record. Raises ControlError when readers would refuse it."""
        return seal(message, self.key)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a user whom nobody has named
        return str(os.getuid())
