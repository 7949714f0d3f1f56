"""Makes one release ready on this worker, while the plan in force goes on, in numbered steps; each is a state of `lifecycle`.

1. fetch       its files into the cache of this host, only from the registry roots
2. verify      model.onnx by its digest, from then on sealed; and who signed it, by the topology's policy
3. quarantine  in a child process, once a host
4. fit         the topology against the new signatures, metrics and parameters
5. prove       loaded in this process, it answers as its golden records say
6. warm        at the batch sizes that it will see; then the plan is made

What a plan of this worker has loaded already is taken as it is: it has been through all of this, and it must not be run here, since
the plan in force may be running it. Nothing here touches that plan. A worker serves meanwhile, in the same interpreter: so what would
hold its lock for long (parsing a model, copying it) is left to the child, or is done by libraries that let go of it. With a model of
100 MB the loop waits 16 ms at most. The thread that prepares keeps the worker's priority: at a lower one it is put aside by other processes
with the lock in its hand, and the loop waits with it (measured on a busy host: up to 500 ms, against 40). Only the child is nice.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from penstock.binding import Binding
from penstock.control.lifecycle import State
from penstock.control.messages import Release
from penstock.errors import ControlError, ModelError, PenstockError, Stopped
from penstock.model.artifact import GOLDEN_FILE, MODEL_FILE, Artifact
from penstock.model.quarantine import Limits, quarantine_once
from penstock.model.sealed import Sealed
from penstock.model.session import Session
from penstock.model.verify import verify
from penstock.registry.cache import Cache

__all__ = ["Build", "Fit", "Prepared", "Tell", "Updater"]

logger = logging.getLogger(__name__)

P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)

Tell = Callable[[State, str], None]
Stopping = Callable[[], bool]
Build = Callable[[Mapping[str, Session]], P]  # loaded models by node -> the plan


class Fit(Protocol[P_co]):
    """Step 4. `artifacts` and `parameters` are by node; raises ModelMismatch with all that does not fit, else says how the plan is made."""

    def __call__(self, artifacts: Mapping[str, Artifact], parameters: Mapping[str, Mapping[str, Any]]) -> Build[P_co]: ...


@dataclass(frozen=True, slots=True)
class Prepared(Generic[P]):
    """A release made ready: its plan, and the version of each node, whose files are in the cache."""

    plan: P
    artifacts: Mapping[str, Artifact]


class _Version(NamedTuple):
    """What makes two bindings the same version: not its name, and not where it was found."""

    manifest: str
    digest: str


@dataclass(slots=True, repr=False)
class _Case:
    """One version of the release on its way: the nodes that it is for, `shared` when it is loaded already, and what the steps add."""

    binding: Binding
    shared: Session | None
    nodes: list[str] = field(default_factory=list)
    artifact: Artifact = field(init=False)
    sealed: Sealed = field(init=False)
    session: Session = field(init=False)


class Updater(Generic[P]):
    """Prepares releases, one at a time. `warm_rows` is the batch size that models are warmed up at, beside single rows.

    `vouch` looks at who signed a version and raises ModelUntrusted; None where the policy is not to look. `timeout` is how
    long a release may take, in seconds.
    """

    def __init__(
        self,
        models: Cache,
        fit: Fit[P],
        *,
        cache: Path,
        timeout: float,
        warm_rows: int = 256,
        vouch: Callable[[Artifact], None] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._models = models
        self._fit = fit
        self._cache = cache
        self._timeout = timeout
        self._sizes = (1, warm_rows)
        self._vouch = vouch
        self._limits = limits
        self._sessions: WeakValueDictionary[_Version, Session] = WeakValueDictionary()
        self._artifacts: WeakKeyDictionary[Session, Artifact] = WeakKeyDictionary()

    def adopt(self, artifacts: Mapping[str, Artifact], sessions: Mapping[str, Session]) -> None:
        """Makes known what was loaded elsewhere, by node: a release that binds it shares it. Kept no longer than its plan."""
        for node, session in sessions.items():
            artifact = artifacts[node]
            self._sessions[_Version(artifact.manifest_digest, artifact.digest)] = session
            self._artifacts[session] = artifact

    def prepare(self, release: Release, tell: Tell, stopped: Stopping = lambda: False) -> Prepared[P]:
        """The release's plan, loaded and warm. Blocks: call it in a thread of its own.

        `tell` hears of each step once or more (details change), from the first to the last; that it is ready, or has failed, is
        for the caller to say. `stopped` is asked all the time. Raises ModelError or ControlError that names step, model and
        nodes (its code is `timeout` when it took too long), and Stopped when `stopped()` is true.
        """
        deadline = time.monotonic() + self._timeout
        try:
            return self._prepare(release, tell, lambda: stopped() or time.monotonic() >= deadline)
        except Stopped as error:
            if stopped():
                raise
            raise ControlError(f"not ready within {self._timeout:g} s (setting prepare_timeout): {error}", code="timeout") from error

    def prune(self, kept: Iterable[Binding]) -> None:
        """Gives back what of the cache no release has used for long, but for these; after an activation. Blocks as `prepare` does."""
        gone = self._models.prune({binding.manifest for binding in kept})
        if gone:
            logger.info("given back from the cache: %s", ", ".join(gone))

    def _prepare(self, release: Release, tell: Tell, stopped: Stopping) -> Prepared[P]:
        cases = self._cases(release.bindings)

        def each(state: State, step: Callable[[_Case], None]) -> None:
            _each([case for case in cases if case.shared is None], state, step, tell, stopped)

        with ExitStack() as seals:
            each(State.FETCHING, lambda case: self._fetch(case, stopped))  # 1
            each(State.VERIFYING, lambda case: self._verify(case, seals, stopped))  # 2
            each(State.QUARANTINED, lambda case: self._quarantine(case, stopped))  # 3
            tell(State.FITTING, "")  # 4
            artifacts = {node: case.artifact for case in cases for node in case.nodes}
            build = self._fit(artifacts, {node: binding.parameters for node, binding in release.bindings.items()})
            each(State.PROVING, _prove)  # 5
        each(State.WARMING, lambda case: case.session.warm_up(self._sizes))  # 6
        sessions = {node: case.session for case in cases for node in case.nodes}
        plan = build(sessions)
        self.adopt(artifacts, sessions)
        return Prepared(plan, artifacts)

    def _cases(self, bindings: Mapping[str, Binding]) -> list[_Case]:
        """The versions of a release, each once, with what is loaded of them."""
        cases: dict[_Version, _Case] = {}
        for node, binding in bindings.items():
            version = _Version(binding.manifest, binding.digest)
            if version not in cases:
                cases[version] = case = _Case(binding, shared=self._sessions.get(version))
                if case.shared is not None:
                    case.session, case.artifact = case.shared, self._artifacts[case.shared]
            cases[version].nodes.append(node)
        return list(cases.values())

    def _fetch(self, case: _Case, stopped: Stopping) -> None:
        case.artifact = self._models.fetch(case.binding, stopped=stopped, signature=self._vouch is not None)

    def _verify(self, case: _Case, seals: ExitStack, stopped: Stopping) -> None:
        with open(case.artifact.path / MODEL_FILE, "rb", buffering=0) as file:
            case.sealed = seals.enter_context(Sealed(file, limit=case.artifact.size, stopped=stopped))
        if stopped():
            raise Stopped
        if case.sealed.digest != case.artifact.digest:
            raise case.artifact.corrupt(MODEL_FILE, f"is {case.sealed.digest} now: the cache is damaged, or somebody writes there")
        if self._vouch is not None:
            self._vouch(case.artifact)

    def _quarantine(self, case: _Case, stopped: Stopping) -> None:
        golden = (case.artifact.path / GOLDEN_FILE).read_text(encoding="utf-8")  # believed in step 5, by its digest
        quarantine_once(case.sealed, golden=golden, cache=self._cache, limits=self._limits, stopped=stopped)


def _prove(case: _Case) -> None:
    case.session = Session.load_file(case.sealed.path, label=str(case.artifact))
    verify(case.artifact, case.session)


def _each(cases: Sequence[_Case], state: State, step: Callable[[_Case], None], tell: Tell, stopped: Stopping) -> None:
    """The step for each version, told one by one; it is told also when there is nothing to do in it."""
    if not cases:
        tell(state, "")
    for number, case in enumerate(cases, 1):
        if stopped():
            raise Stopped
        tell(state, f"{case.binding} ({number} of {len(cases)})" if len(cases) > 1 else str(case.binding))
        with _blaming(state, case):
            step(case)


@contextlib.contextmanager
def _blaming(state: State, case: _Case) -> Iterator[None]:
    """Puts before an error which step it was, and for which nodes."""
    about = f"{state}: {', '.join(f'nodes.{node}' for node in case.nodes)}: {case.binding}"
    try:
        yield
    except ModelError as error:
        raise type(error)(f"{about}: {error}", name=case.binding.name, version=case.binding.version) from error
    except Stopped as error:
        raise Stopped(f"{about}: {error}") from error
    except (PenstockError, OSError) as error:  # OSError: no space left, too many open files
        raise ControlError(f"{about}: {error}", code=error.code if isinstance(error, ControlError) else "host") from error
