"""Makes one release ready on this worker while the live plan scores, in numbered steps; each is a state of `lifecycle`.

1. fetch       its files into the cache of this host, only from the registry roots
2. verify      model.onnx by its digest, and seal it; then its signature, by the topology's policy
3. quarantine  in a child process, once per host
4. fit         the topology against the new signatures, metrics and parameters
5. prove       load it in this process and compare its outputs with its golden records, first on the processor, then on the
               topology's providers; then the new plan, beside the live one, on the last real rows (`proof`)
6. warm        at the batch sizes that it will see

A version that a plan of this worker has already loaded is reused: it has passed all steps. Its session must not run here, since the live
plan may be running it; a proof runs a twin of it. Nothing here changes the live plan. The worker scores at the same time, in the same
interpreter. So work that would hold the interpreter lock for long (parsing a model, copying it) is left to the child, or to libraries that
release the lock. With a model of 100 MB the loop waits 16 ms at most. The preparing thread keeps the worker's priority: at a lower one the
system may suspend it while it holds the lock, and the loop waits too (measured on a busy host: up to 500 ms, compared with 40). Only the
child has a lower priority.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

from penstock import runtime
from penstock.binding import Binding
from penstock.control.lifecycle import State
from penstock.control.messages import Release
from penstock.errors import ControlError, ModelError, PenstockError, Stopped
from penstock.model.artifact import GOLDEN_FILE, MODEL_FILE, Artifact
from penstock.model.parity import Pair, check_parity
from penstock.model.quarantine import Limits, quarantine_once
from penstock.model.sealed import Sealed
from penstock.model.session import Session, limit_memory
from penstock.model.trust import load_trust
from penstock.model.verify import verify
from penstock.pipeline import Program
from penstock.provider import CPU, Provider
from penstock.registry.open import open_cache
from penstock.runtime import Loaded
from penstock.settings import Settings

__all__ = ["Preparation", "Prepared", "Prove", "Tell", "untried"]

logger = logging.getLogger(__name__)

Tell = Callable[[State, str], None]
Stopping = Callable[[], bool]
Prove = Callable[[Program, Mapping[str, Pair], Stopping], str]
"""Tries a program on real rows, and the pairs of its nodes with providers; returns what came of it, or raises ControlError."""


def untried(_program: Program, _pairs: Mapping[str, Pair], _stopped: Stopping) -> str:
    """Proves nothing: for a release that is made ready before anything is scored."""
    return ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A release made ready: its plan, and the version of each node, whose files are in the cache. `proof` is what its proof has shown."""

    program: Program
    artifacts: Mapping[str, Artifact]
    proof: str = ""


class _Version(NamedTuple):
    """The identity of a loaded version: its digests, not its name or location, and what computes it."""

    manifest: str
    digest: str
    providers: tuple[Provider, ...]


@dataclass(slots=True, repr=False)
class _Piece:
    """A version of the release in preparation: its nodes, `shared` when it is already loaded, and the results of the steps."""

    binding: Binding
    providers: tuple[Provider, ...]
    shared: Session | None
    elsewhere: bool = False  # another stage runs it: only its signature is needed here
    nodes: list[str] = field(default_factory=list)
    artifact: Artifact = field(init=False)
    sealed: Sealed = field(init=False)
    session: Session = field(init=False)
    pair: Pair | None = None


class Preparation:
    """Prepares releases of a topology, one at a time.

    Raises SettingsError for a registry root that cannot be used, TopologyError for providers that are not installed.
    """

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        self._loaded = loaded
        self._models = open_cache(settings)
        self._cache = settings.cache.expanduser()
        self._timeout = settings.prepare_timeout
        self._sizes = (1, settings.chunk_rows)
        self._policy = loaded.topology.releases.signatures
        self._model_trust = settings.model_trust
        self._threads = settings.model_threads
        self._placed = runtime.placed(loaded.topology, settings)
        limit_memory(settings.model_memory)
        self._limits = Limits(
            tensors=settings.model_memory, memory=settings.quarantine_memory, cpu=settings.quarantine_seconds, wall=settings.prepare_timeout
        )
        self._sessions: WeakValueDictionary[_Version, Session] = WeakValueDictionary()
        self._artifacts: WeakKeyDictionary[Session, Artifact] = WeakKeyDictionary()

    def adopt(self, artifacts: Mapping[str, Artifact], sessions: Mapping[str, Session]) -> None:
        """Registers sessions that were loaded elsewhere, by node: a release that binds their versions shares them. Weak references."""
        for node, session in sessions.items():
            artifact = artifacts[node]
            self._sessions[_Version(artifact.manifest_digest, artifact.digest, self._placed[node])] = session
            self._artifacts[session] = artifact

    def prepare(self, release: Release, tell: Tell, stopped: Stopping = lambda: False, prove: Prove = untried) -> Prepared:
        """Returns the release's plan, loaded and warm. Blocks: call it in a separate thread. `prove` is the second half of step 5.

        `tell` is called for each step once or more (details change), from the first to the last; the caller reports that the release
        is ready or has failed. `stopped` is called often. Raises ModelError or ControlError that names step, model and
        nodes (its code is `timeout` when it took too long), and Stopped when `stopped()` is true.
        """
        deadline = time.monotonic() + self._timeout
        try:
            return self._prepare(release, tell, lambda: stopped() or time.monotonic() >= deadline, prove)
        except Stopped as error:
            if stopped():
                raise
            raise ControlError(f"not ready within {self._timeout:g} s (setting prepare_timeout): {error}", code="timeout") from error

    def store(self, bindings: Iterable[Binding], stopped: Stopping) -> None:
        """Fetches versions into the cache, for a start without their registry. Blocks as `prepare` does. Raises ModelError, Stopped."""
        for binding in bindings:
            self._models.fetch(binding, stopped=stopped, signature=self._policy != "off")

    def prune(self, kept: Iterable[Binding]) -> None:
        """Removes the versions from the cache that no release has used for long, except `kept`. Blocks as `prepare` does."""
        gone = self._models.prune({binding.manifest for binding in kept})
        if gone:
            logger.info("removed from the cache: %s", ", ".join(gone))

    def _prepare(self, release: Release, tell: Tell, stopped: Stopping, prove: Prove) -> Prepared:
        pieces = self._pieces(release.bindings)

        def each(state: State, step: Callable[[_Piece], None]) -> None:
            here = [piece for piece in pieces if piece.shared is None and (not piece.elsewhere or state is State.FETCHING)]
            _each(here, state, step, tell, stopped)

        with ExitStack() as seals:
            each(State.FETCHING, lambda piece: self._fetch(piece, stopped))  # 1
            each(State.VERIFYING, lambda piece: self._verify(piece, seals, stopped))  # 2
            each(State.QUARANTINED, lambda piece: self._quarantine(piece, stopped))  # 3
            tell(State.FITTING, "")  # 4
            artifacts = {node: piece.artifact for piece in pieces for node in piece.nodes}
            parameters = {node: binding.parameters for node, binding in release.bindings.items()}
            loaded = runtime.rebind(self._loaded, artifacts, parameters)
            each(State.PROVING, self._check_golden)  # 5
        sessions = {node: piece.session for piece in pieces if not piece.elsewhere for node in piece.nodes}
        program = runtime.program(loaded, sessions, parameters)
        tell(State.PROVING, "on real rows")
        pairs = {node: piece.pair for piece in pieces for node in piece.nodes if piece.pair is not None}
        proof = prove(program, pairs, stopped)
        each(State.WARMING, lambda piece: piece.session.twin().warm_up(self._sizes))  # 6
        self.adopt(artifacts, sessions)
        return Prepared(program, artifacts, proof)

    def _pieces(self, bindings: Mapping[str, Binding]) -> list[_Piece]:
        """Returns the versions of a release, each once, with the sessions that are already loaded."""
        elsewhere = (
            {one.name for one in self._loaded.topology.model_nodes} - self._loaded.nodes if self._loaded.share is not None else set()
        )
        pieces: dict[_Version, _Piece] = {}
        for node, binding in bindings.items():
            providers = self._placed.get(node, CPU)  # a node that the topology does not have is refused by step 4
            version = _Version(binding.manifest, binding.digest, providers)
            if version not in pieces:
                pieces[version] = piece = _Piece(binding, providers, shared=self._sessions.get(version), elsewhere=True)
                if piece.shared is not None:
                    piece.session, piece.artifact = piece.shared, self._artifacts[piece.shared]
            pieces[version].nodes.append(node)
            pieces[version].elsewhere &= node in elsewhere
        return list(pieces.values())

    def _fetch(self, piece: _Piece, stopped: Stopping) -> None:
        piece.artifact = self._models.fetch(piece.binding, stopped=stopped, signature=self._policy != "off")

    def _verify(self, piece: _Piece, seals: ExitStack, stopped: Stopping) -> None:
        with open(piece.artifact.path / MODEL_FILE, "rb", buffering=0) as file:
            piece.sealed = seals.enter_context(Sealed(file, limit=piece.artifact.size, stopped=stopped))
        if stopped():
            raise Stopped
        if piece.sealed.digest != piece.artifact.digest:
            raise piece.artifact.corrupt(MODEL_FILE, f"is {piece.sealed.digest} now: the cache is damaged, or another process writes there")
        if self._policy != "off":  # the keys are read each time: one may be added while the worker runs
            runtime.admit(self._policy, piece.artifact, load_trust(self._model_trust) if self._model_trust else None)

    def _quarantine(self, piece: _Piece, stopped: Stopping) -> None:
        golden = (piece.artifact.path / GOLDEN_FILE).read_text(encoding="utf-8")  # step 5 checks its digest
        rows = piece.artifact.manifest.rows
        quarantine_once(piece.sealed, golden=golden, cache=self._cache, rows=rows, limits=self._limits, stopped=stopped)

    def _check_golden(self, piece: _Piece) -> None:
        artifact = piece.artifact
        load = partial(Session.load_file, piece.sealed.path, label=str(artifact), rows=artifact.manifest.rows, threads=self._threads)
        piece.session = load()
        verify(artifact, piece.session.twin())  # it must not take memory from what scores
        if piece.providers != CPU:
            cpu, piece.session = piece.session.twin(), load(providers=piece.providers)
            check_parity(artifact, piece.session.twin(), cpu, piece.providers)
            piece.pair = Pair(artifact, piece.session.twin(), cpu, piece.providers)


def _each(pieces: Sequence[_Piece], state: State, step: Callable[[_Piece], None], tell: Tell, stopped: Stopping) -> None:
    """Runs the step for each version, and calls `tell` before each; calls it also when there is no version."""
    if not pieces:
        tell(state, "")
    for number, piece in enumerate(pieces, 1):
        with _blaming(state, piece):
            if stopped():
                raise Stopped
            tell(state, f"{piece.binding} ({number} of {len(pieces)})" if len(pieces) > 1 else str(piece.binding))
            step(piece)


@contextlib.contextmanager
def _blaming(state: State, piece: _Piece) -> Iterator[None]:
    """Prefixes an error with its step, nodes and version."""
    about = f"{state}: {', '.join(f'nodes.{node}' for node in piece.nodes)}: {piece.binding}"
    try:
        yield
    except ModelError as error:
        raise type(error)(f"{about}: {error}", name=piece.binding.name, version=piece.binding.version) from error
    except Stopped as error:
        raise Stopped(f"{about}: {error}") from error
    except (PenstockError, OSError) as error:  # OSError: no space left, too many open files
        raise ControlError(f"{about}: {error}", code=error.code if isinstance(error, ControlError) else "host") from error
