"""What the service answers, without a protocol: HTTP and gRPC turn requests into events or tensors, and outcomes into answers.

Requests wait in the batcher; whenever the models are free, the next batch runs: at once in the event loop, or in a thread when it is
expected to take long. A door that gets its requests one by one may let a batch gather for a moment. Everything in here runs in one event
loop, and one batch runs at a time, since a session has one run at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from penstock.access import Audit, Caller, Gate
from penstock.batch import Array
from penstock.engine.observe import Observers
from penstock.errors import CallRefused, Forbidden, NotReady, NotThere, PenstockError, RateLimited, TooLate
from penstock.operate.requests import Requests
from penstock.pipeline import Served
from penstock.record import RecordLike
from penstock.runtime import Loaded
from penstock.schema import Step, steps
from penstock.serving import oip
from penstock.serving.batching import Batch, Batcher, Waiting
from penstock.serving.looking import Looking
from penstock.serving.targets import Columns, Events, Live, Model, Outcome, Scored, gaps
from penstock.settings import Settings
from penstock.telemetry import Metrics

__all__ = ["Receiver", "Service", "Tally"]

logger = logging.getLogger(__name__)

NAME: Final = "penstock"
GATHERING: Final = 0.005  # seconds, at most
PAUSE: Final = 0.0003  # seconds without another request, which end it
ENOUGH: Final = 3  # requests that make it worth while
FADES: Final = 0.8  # per batch
EXTENSIONS: Final = ("binary_tensor_data", "model_repository", "statistics")


@dataclass(slots=True)
class Tally:
    """What a model has answered, as OIP's statistics have it: counts, and nanoseconds."""

    requests: int = 0
    failed: int = 0
    rows: int = 0
    runs: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    failed_ns: int = 0
    last_ms: int = 0


class Receiver(Protocol):
    """What waits for an outcome: a future, or what receives it at once, in the turn in which the batch has run."""

    def done(self) -> bool:
        """Whether it has the outcome, or waits no longer."""

    def set_result(self, result: tuple[Live, Outcome], /) -> None:
        """Gives it the outcome. It does not raise."""

    def set_exception(self, exception: Exception, /) -> None:
        """Gives it the reason why it gets no outcome. It does not raise."""


@dataclass(slots=True, kw_only=True)
class _Job(Waiting):
    """A request for a model or for the events of a source, and what its outcome is given to."""

    part: Any
    version: str
    answer: Receiver
    model: Model | None = None  # that its tensors fit


class Service:
    """The doors' way to the models. `serving` returns the active program, None before there is one."""

    def __init__(
        self,
        loaded: Loaded,
        settings: Settings,
        serving: Callable[[], Served | None],
        metrics: Metrics | None = None,
        *,
        observers: Callable[[], Observers | None] = lambda: None,
        gate: Gate | None = None,
        audit: Audit | None = None,
        requests: Requests | None = None,
        looking: Looking | None = None,
    ) -> None:
        """`observers` returns those of the active program, `gate` admits callers (None: everyone), `audit` notes what they did,
        `requests` makes the releases that they ask for, and `looking` finds precomputed answers.
        """
        self.loaded, self.settings = loaded, settings
        self.gate, self.audit = gate or Gate.open(None, time.time), audit
        self.name = loaded.topology.name
        self.requests = requests
        self.metrics = metrics or Metrics()
        self.stopping = False
        self._looking = looking
        self._serving, self._observers = serving, observers
        self._served: Served | None = None
        self._live: Live | None = None
        self._batcher: Batcher[_Job] = Batcher(max_rows=settings.max_batch_rows, max_bytes=settings.max_in_flight_bytes)
        self._offload_after = settings.offload_after_ms / 1000
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._busy = self._due = False
        self._gathered = 0.0  # requests of the last batches that gathered: the most, and what it fades to
        self._last = self._until = 0.0  # when a request came last that gathers, and when its batch has to begin
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._reading = 0  # bytes of bodies that are being read
        self.metrics.requests_waiting.set_function(lambda: len(self._batcher))

    # -- what is live ------------------------------------------------------------------------------------------------

    @property
    def live(self) -> Live:
        """What can be asked now. Raises NotReady."""
        served = self._serving()
        if served is None:
            raise NotReady(f"the models of {self.name} are being made ready")
        if served is not self._served or self._live is None:
            self._live = Live(
                served.program, served.generation, self.loaded, chunk_rows=self.settings.chunk_rows, metrics=self.metrics,
                observers=self._observers(),
            )  # fmt: skip
            if self._served is not None:
                for name in self._live.models:
                    self._batcher.forget(name)
                self._tallies = {key: tally for key, tally in self._tallies.items() if self._is_live(*key)}
            self._served = served
        return self._live

    def _is_live(self, name: str, version: str) -> bool:
        found = None if self._live is None else self._live.models.get(name)
        return found is not None and found.version == version

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return not self.stopping and self._serving() is not None

    def tally(self, model: Model) -> Tally:
        """Returns what the model has answered."""
        return self._tallies.setdefault((model.name, model.version), Tally())

    # -- who asks ----------------------------------------------------------------------------------------------------

    def check(self, caller: Caller, name: str = "", version: str = "") -> None:
        """Raises Forbidden for a caller that may not score with the model ("": the whole topology), whether there is one or not."""
        self._check(caller, "score", name, version, self.live.models.get(name or self.name))

    def check_read(self, caller: Caller, name: str = "", version: str = "") -> None:
        """Raises Forbidden for a caller that may not read about the model ("": about any), whether there is one or not."""
        self._check(caller, "read", name or None, version, self.live.models.get(name))

    def _check(self, caller: Caller, right: str, name: str | None, version: str, model: Model | None) -> None:
        """Without a version, the live one decides. The refusal names what was asked, and nothing of what there is."""
        if not caller.allows(right, topology=self.name, model=name, version=version or ("" if model is None else model.version)):
            caller.check(right, topology=self.name, model=name, version=version)

    def model(self, caller: Caller, name: str, version: str = "") -> Model:
        """Returns a model that the caller was checked for. Raises NotThere, which shows a caller of certain models no other one."""
        try:
            return self.live.model(name, version)
        except NotThere:
            if caller.rules.models is None:
                raise
            raise NotThere(f"{name}{f'@{version}' if version else ''} is not active here") from None

    def readable(self, caller: Caller) -> list[Model]:
        """Returns the models that a caller may read about."""
        models = self.live.models.values()
        return [one for one in models if caller.allows("read", topology=self.name, model=one.name, version=one.version)]

    def pinned(self, caller: Caller, model: Model) -> str:
        """Returns the version that a request has to run: for a caller that may use certain ones, the one that was checked."""
        return "" if caller.rules.models is None else model.version

    def refused(self, caller: Caller, events: Events, records: Sequence[RecordLike]) -> dict[int, str]:
        """Returns the events that the caller may not send because of the values of their fields, each with the reason.

        The fields are those that the topology can read, where it reads them: not what is beside the data in an envelope under the same
        name, nor what the schema does not have.
        """
        if not caller.rules.only:
            return {}
        schema = self.loaded.schemas[events.source.name]
        found = [_decoded(value) for value in events.opened(records)]
        columns: dict[str, Array] = {"": np.zeros(len(found))}  # says how many rows there are
        for path in caller.rules.only:
            if schema.field(path) is not None and not schema.is_beside(path):
                way = (path,) if schema.has(path) else steps(path)
                columns[path] = _column([_at(event, way) for event in found])
        return caller.refused(columns)

    def refuses(self, caller: Caller, part: Columns) -> None:
        """Raises Forbidden for tensors with a value that the caller may not send."""
        if caller.rules.only:
            columns = {name: oip.joined([one]) for name, one in part.tensors.items()}
            columns = columns if caller.rules.only.keys() & columns.keys() else {"": np.zeros(part.rows)}
            nulls = {name: gaps(one, part.rows) for name, one in part.tensors.items() if one.nulls is not None}
            for row, why in sorted(caller.refused(columns, nulls).items()):
                raise Forbidden(f"row {row}: {why}")

    def counted(self, caller: Caller | None, error: Exception) -> Exception:
        """Returns what a request is refused with. One that was not counted yet counts now: it was read, however wrong it is."""
        if caller is not None and not caller.spent:
            try:
                caller.spend(0)
            except RateLimited as early:
                return early
        return error

    def note(self, caller: Caller | None, call: str, outcome: str, **about: Any) -> None:
        """Writes a line of the audit log, if there is one. Requests of unknown callers (None) have none: strangers could fill the disk."""
        if self.audit is not None and caller is not None:
            self.audit.wrote(
                caller=caller.name, subject=caller.subject, proof=caller.proof, call=call, outcome=outcome, topology=self.name, **about
            )

    # -- requests ----------------------------------------------------------------------------------------------------

    def deadline(self, seconds: float | None) -> float:
        """Returns when an answer is too late: after `seconds`, and at the latest after the setting request_timeout."""
        most = self.settings.request_timeout
        return time.monotonic() + (most if seconds is None else min(seconds, most))

    def future(self) -> asyncio.Future[tuple[Live, Outcome]]:
        """Returns a receiver for a task that waits."""
        return asyncio.get_running_loop().create_future()

    def ask_model(
        self, model: Model, part: Columns, answer: Receiver, *, size: int, deadline: float, version: str = "", gather: bool = False
    ) -> None:
        """Puts tensors in line; others may `gather` before they run. Raises CallRefused."""
        self._submit(model.name, part, part.rows, answer, size=size, deadline=deadline, version=version, model=model, gather=gather)

    @property
    def crowded(self) -> bool:
        """Whether it was worth while when batches last gathered."""
        return self._gathered >= ENOUGH

    def score(self, events: Events, records: list[RecordLike], *, size: int, deadline: float) -> asyncio.Future[tuple[Live, Outcome]]:
        """Returns the future outcome of events, at least one, which are looked up first where there is a store. Raises CallRefused."""

        def submit(events: Events, records: list[RecordLike]) -> asyncio.Future[tuple[Live, Outcome]]:
            answer = self.future()
            self.ask_events(events, records, answer, size=size, deadline=deadline)
            return answer

        if self._looking is None:
            return submit(events, records)
        return asyncio.ensure_future(self._looking.score(events, records, lambda: self.live, submit))

    @property
    def looks(self) -> bool:
        """Whether events are looked up before they are scored."""
        return self._looking is not None

    def ask_events(self, events: Events, records: list[RecordLike], answer: Receiver, *, size: int, deadline: float) -> None:
        """Puts events in line, at least one. Raises CallRefused."""
        self._submit((events.source.name,), records, len(records), answer, size=size, deadline=deadline)

    def _submit(
        self, lane: str | tuple[str], part: Any, rows: int, answer: Receiver, *,
        size: int, deadline: float, version: str = "", model: Model | None = None, gather: bool = False,
    ) -> None:  # fmt: skip
        job = _Job(rows=rows, bytes=size, deadline=deadline, part=part, version=version, answer=answer, model=model)
        self._batcher.offer(lane, job, time.monotonic())
        if gather:
            self._last = time.monotonic()
        if not (self._due or self._busy):
            self._due = True
            loop = asyncio.get_running_loop()
            if gather:
                self._until = self._last + GATHERING
                loop.call_later(PAUSE, self._gathering)
            else:
                loop.call_soon(self._turn)

    # -- one batch after the other --------------------------------------------------------------------------------------

    def _gathering(self) -> None:
        """Runs the next batch when no request has come for PAUSE seconds."""
        left = min(self._last + PAUSE, self._until) - time.monotonic()
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._gathering)
            return
        self._gathered = max(float(len(self._batcher)), self._gathered * FADES)
        self._turn()

    def _turn(self) -> None:
        """Runs the next batch. What the loop has read in one turn is in it: this is called in the next."""
        self._due = False
        now = time.monotonic()
        batch = self._batcher.take(now)
        if batch is None:
            return
        for job in batch.late:
            _settle(job, TooLate("the deadline has passed before the request's turn came"))
        members = [job for job in batch.members if not job.answer.done()]  # a caller that has left cancels its future
        if members:
            self._begin(batch, members, now)
        self._go_on()

    def _go_on(self) -> None:
        if self._batcher and not (self._due or self._busy):
            self._due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _begin(self, batch: Batch[_Job], members: list[_Job], began: float) -> None:
        lane: Any = batch.lane
        try:
            live = self.live
            target: Any = live.model(lane) if isinstance(lane, str) else live.source(lane[0])
        except CallRefused as error:
            for job in members:
                _settle(job, error)
            return
        for job in members:
            if job.version and job.version != target.version:
                _settle(job, NotThere(f"{lane} has another version now, not {job.version}"))
            elif job.model is not None and job.model is not target:  # a release has become active since, which may read other tensors
                try:
                    job.part = target.fit(job.part.asked())
                except CallRefused as error:
                    _settle(job, error)
        members = [job for job in members if not job.answer.done()]
        parts = [job.part for job in members]
        if batch.expected <= self._offload_after:
            self._ended(batch, live, target, members, self._run(target, parts), began)
            return
        self._busy = True
        self.metrics.offloaded.inc()
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._run, target, parts)

        def ended(done: asyncio.Future[Sequence[Outcome]]) -> None:
            self._busy = False
            error = done.exception()
            outcomes = done.result() if error is None else [self._bug(error)] * len(members)
            self._ended(batch, live, target, members, outcomes, began)
            self._go_on()

        running.add_done_callback(ended)

    def _run(self, target: Any, parts: Sequence[Any]) -> Sequence[Outcome]:
        """Returns the outcomes of requests. Where they raise together, each runs alone, so that it fails alone."""
        try:
            outcomes: Sequence[Outcome] = target.run(parts)
        except Exception as error:  # noqa: BLE001  whatever a run raises is its callers' answer
            if len(parts) == 1:
                return [self._bug(error)]
        else:
            return outcomes
        found: list[Outcome] = []
        for part in parts:
            try:
                found += target.run([part])
            except Exception as one:  # noqa: BLE001  as above
                found.append(self._bug(one))
        return found

    def _bug(self, error: BaseException) -> Exception:
        if not isinstance(error, PenstockError):
            logger.error("a request failed: %s", type(error).__name__, exc_info=error)
        return error if isinstance(error, Exception) else RuntimeError("the run was cancelled")

    def _ended(
        self, batch: Batch[_Job], live: Live, target: Any, members: Sequence[_Job], outcomes: Sequence[Outcome], began: float
    ) -> None:
        now = time.monotonic()
        rows = 0
        waited = 0.0
        failed = 0
        for job, outcome in zip(members, outcomes, strict=True):
            rows += job.rows
            waited += began - job.since
            if isinstance(outcome, Exception) or (isinstance(outcome, Scored) and outcome.failures):
                failed += 1
            if not job.answer.done():
                job.answer.set_result((live, outcome))
        took = now - began
        self._batcher.ran(batch.lane, rows, took, now)
        self.metrics.batch_rows.observe(rows)
        self.metrics.batch_seconds.observe(took)
        if isinstance(batch.lane, str):
            tally = self.tally(target)
            tally.requests += len(members) - failed
            tally.failed += failed
            tally.rows += rows
            tally.runs += 1
            tally.queue_ns += int(waited * 1e9)
            tally.compute_ns += int(took * 1e9) * (len(members) - failed)
            tally.failed_ns += int(took * 1e9) * failed
            tally.last_ms = int(time.time() * 1000)

    # -- bodies that are being read ----------------------------------------------------------------------------------------

    def reading(self, size: int) -> bool:
        """Counts bytes of a body that are about to be kept until its answer. Returns False where there is no room for them."""
        if self._reading + size > self.settings.max_in_flight_bytes:
            return False
        self._reading += size
        return True

    def read(self, size: int) -> None:
        """Counts that so many bytes are no longer kept."""
        self._reading -= size

    # -- the end -----------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The service is not ready from now on; the doors close, and what comes until then is answered."""
        self.stopping = True

    def close(self) -> None:
        """Ends the threads. Nothing waits then."""
        if self._looking is not None:
            self._looking.close()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _decoded(value: bytes | None) -> Any:
    try:
        return None if value is None else msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return None  # the decoder will say why it is no event


def _at(event: Any, way: Sequence[Step]) -> Any:
    for step in way:
        if isinstance(step, int):
            event = event[step] if isinstance(event, list) and step < len(event) else None
        else:
            event = event.get(step) if isinstance(event, dict) else None
    return event


def _column(values: list[Any]) -> Array:
    made = np.empty(len(values), object)
    made[:] = values
    return made


def _settle(job: _Job, error: Exception) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)
