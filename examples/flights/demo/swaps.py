"""The demo's two releases: retrained models are deployed while events flow, and rolled back a little later.

They use `penstock.operate.operator`, the Python API behind `penstock deploy` and `penstock rollback`, in a thread with its own event
loop. The replay calls `room` before it sends, which enforces these limits, in shares of all events:

    0.80  received: the deploy begins            0.94  not passed before the new generation is active
    0.95  received: the rollback begins          0.99  not passed before the old models are back

A release that fails leaves the active models as they are: the replay continues, and the summary shows the error.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from demo.replay import Room
from penstock.control.rollout import Stand
from penstock.control.trust import SigningKey
from penstock.errors import PenstockError
from penstock.operate.operator import Deployed, Operator, Phase, Progress
from penstock.settings import Settings
from penstock.topology.spec import Topology

__all__ = ["FEWEST", "REASON", "RETRAINED", "SWAPPED", "Act", "Swaps", "marks", "signed"]

RETRAINED: Final = {
    "flights": {"trees": "flight-trees@2", "stack": "flight-stack@2"},
    "flights-windows": {"trees": "flight-window-trees@2", "stack": "flight-window-stack@2"},
    "flights-stages": {"trees": "flight-window-trees@2", "stack": "flight-window-stack@2"},
}
SWAPPED: Final = ("trees", "stack")
REASON: Final = "retrained on January to September"
SECOND_THOUGHTS: Final = "the demo takes it back"
FEWEST: Final = 3  # events: one for each generation


@dataclass(slots=True)
class Act:
    """A release of the demo, and its progress. `begins` and `holds` are numbers of events, times are `time.perf_counter`'s."""

    command: str
    begins: int
    holds: int
    due: asyncio.Event = field(default_factory=asyncio.Event)
    stands: tuple[Stand, ...] = ()
    began: float = 0.0
    ready: float = 0.0
    result: Deployed | None = None
    error: str = ""

    @property
    def over(self) -> bool:
        return self.result is not None or bool(self.error)

    @property
    def good(self) -> bool:
        """Active on every live worker."""
        return self.result is not None and not self.late

    @property
    def generation(self) -> int | None:
        """The generation that it created."""
        return self.result.generation if self.result else None

    @property
    def late(self) -> tuple[Stand, ...]:
        """The workers that have not switched."""
        return self.result.late if self.result else ()

    def saw(self, told: Progress) -> None:
        """The operator's watcher. `activate` is sent right after the change that made the release ready."""
        self.stands = told.stands
        if told.phase is Phase.ANNOUNCED:
            self.ready = time.perf_counter()


class Swaps:
    """Use as a context manager, while a worker runs. `deploy` and `rollback` may be read at any time."""

    def __init__(self, settings: Settings, topology: Topology, total: int) -> None:
        """`total` is the number of all events, FEWEST or more."""
        self._settings, self._topology, self._total = settings, topology, total
        (deploy, deployed), (rollback, rolled_back) = marks(total)
        changes = " ".join(f"{node}={model}" for node, model in RETRAINED[topology.name].items())
        self.deploy = Act(f'penstock deploy {topology.name} {changes} --reason "{REASON}"', deploy, deployed)
        self.rollback = Act(f"penstock rollback {topology.name}", rollback, rolled_back)
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._carry_out())
        self._thread = threading.Thread(target=self._run, name="releases", daemon=True)

    @property
    def acts(self) -> tuple[Act, Act]:
        return self.deploy, self.rollback

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Aborts a release in progress."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._loop.close()

    def room(self, answered: int) -> Room:
        """Returns what may be sent after `answered` outputs; begins the next release when it is due. Raises an error of the thread."""
        for act in self.acts:
            if act.over:
                continue
            if not self._thread.is_alive():
                self._task.result()
            if answered < act.begins:
                return Room(act.begins, scarce=False)
            if not act.due.is_set():
                self._loop.call_soon_threadsafe(act.due.set)
            return Room(act.holds, scarce=True)
        return Room(self._total, scarce=False)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(asyncio.wait({self._task}))
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())

    async def _carry_out(self) -> None:
        try:
            async with Operator(self._settings, self._topology) as operator:
                await self.deploy.due.wait()
                self.deploy.began = time.perf_counter()
                self.deploy.result = await operator.deploy(RETRAINED[self._topology.name], reason=REASON, on_progress=self.deploy.saw)
                await self.rollback.due.wait()
                self.rollback.began = time.perf_counter()
                self.rollback.result = await operator.rollback(reason=SECOND_THOUGHTS, on_progress=self.rollback.saw)
        except PenstockError as error:
            if not self.deploy.over:
                self.deploy.error = str(error)
            self.rollback.error = "there was nothing to roll back" if self.deploy.error else str(error)


def marks(total: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where deploy and rollback begin and hold, of `total` events (FEWEST or more): every generation gets at least one."""
    back = min(int(total * 0.99), total - 1)
    again = min(int(total * 0.95), back)
    forth = min(int(total * 0.94), again - 1)
    return (min(int(total * 0.8), forth), forth), (again, back)


def signed(settings: Settings, folder: Path) -> Settings:
    """`settings` with a key made for this run, and a trust file with only this key; writes both to `folder`.

    So the control log of a real cluster starts empty for each demo: messages of earlier demos have keys that are not trusted any more.
    """
    key = SigningKey.new("demo")
    path, trust = folder / "demo.pem", folder / "trust.toml"
    key.save(path)
    trust.write_text(f'[keys.demo]\npublic = "{key.public}"\ntopologies = ["*"]\ntrusted = 1970-01-01T00:00:00Z\n', encoding="utf-8")
    return replace(settings, signing_key=path, trust=trust, from_file=True)
