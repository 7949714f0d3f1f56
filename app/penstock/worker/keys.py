"""The keys of a worker: those it trusts, from a file that is read again and again, and the one with which it takes a release back."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from penstock.control.rights import ROLLBACK, listed
from penstock.control.trust import Trust
from penstock.errors import ConfigError, PenstockError, Problem, SettingsError
from penstock.operate.voice import Voice
from penstock.settings import Settings
from penstock.topology.spec import Topology
from penstock.worker.folding import Folding
from penstock.worker.report import Problems

__all__ = ["Keys"]

logger = logging.getLogger(__name__)

LOOK: Final = 2.0  # seconds between two looks at the file


class Keys:
    """What is wrong with a key while the worker runs is one of its `problems`.

    Raises SettingsError when this worker may have to roll back (`rolls_back`), and has no key to sign that with.
    """

    def __init__(self, settings: Settings, topology: Topology, problems: Problems, *, rolls_back: bool) -> None:
        self._settings, self._topology, self._problems, self._rolls_back = settings, topology.name, problems, rolls_back
        self._own = ""  # the id of this worker's key
        if self._rolls_back and settings.signing_key is None and not settings.unsigned_control:
            raise SettingsError("`on_invalid: rollback` makes releases, so the worker needs a key to sign them with: --signing-key FILE")

    def begin(self, trust: Trust) -> None:
        """Warns of keys that are missing or may do more than they need. Raises ConfigError when this worker may never roll back.

        A key that has expired, or was revoked, is a problem and no reason not to score.
        """
        settings = self._settings
        if not trust.keys and not settings.unsigned_control:
            logger.warning(
                "no key is trusted (%s has none): the versions of the topology file are served, and every release is refused. "
                "`penstock keys trust NAME` adds a key",
                settings.trust,
            )
        if not self._rolls_back or settings.signing_key is None:
            return
        voice = Voice.of(settings, trust, self._topology)
        assert voice.key is not None  # it was named
        self._own = voice.key.kid
        if ROLLBACK not in voice.may:
            fix = "trust a key for workers: penstock keys trust NAME --may rollback"
            raise self._wrong(f"{voice.author} may {listed(voice.may)}, so this worker could not roll back", fix)
        if voice.may != {ROLLBACK}:
            logger.warning("this worker holds the key of %s, which may also %s: give workers a key that may only roll back "
                           "(penstock keys trust NAME --may rollback)", voice.author, listed(voice.may - {ROLLBACK}))  # fmt: skip
        self._look_at_own(trust)

    def refuse_to_fall_back(self, unknown: int, control: str, spelled: str) -> None:
        """Raises ConfigError when the log may hold releases that this worker cannot check: it would serve older models in silence.

        `spelled` is how the setting `from_file` is given to this process.
        """
        if unknown and not self._settings.from_file:
            fix = f"give the trust file of the other workers; or start with {spelled}, if the topology file's versions are to be served"
            message = (
                f"the control log {control} holds {unknown} messages signed with keys that this file does not have, and no release of a "
                "trusted key"
            )
            raise self._wrong(message, fix)

    async def watch(self, folding: Folding) -> None:
        """Reads the file again and again. After a change, `folding` judges the log anew, from its beginning."""
        while True:
            await asyncio.sleep(LOOK)
            self._look_at_own(folding.trust)
            try:
                folding.trust = await asyncio.to_thread(Trust.load, self._settings.trust)
            except PenstockError as error:
                self._problems.say("trust", f"{error}; the keys of the previous trust file stay trusted")
            else:
                self._problems.say("trust")

    def _look_at_own(self, trust: Trust) -> None:
        """Sets the problem that this worker's key can no longer roll back, or not yet."""
        if not self._own:
            return
        own, why = trust.keys.get(self._own), ""
        if own is None:
            why = f"it is no longer in {self._settings.trust}"
        elif fault := own.fault(time.time() * 1000):
            why = fault.why
        elif not own.serves(self._topology) or ROLLBACK not in own.may:
            why = f"{own.name} may no longer do it"
        self._problems.say("key", why and f"the key of this worker cannot roll back: {why}")

    def _wrong(self, message: str, fix: str) -> ConfigError:
        return ConfigError(Problem(str(self._settings.trust), 0, 0, message, fix))
