"""Services of a job that answer nothing: members that follow its releases, each a process, as `penstock serve` runs them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from penstock import runtime, settings
from penstock.host import on_signals
from penstock.telemetry import Metrics, logs
from penstock.testing import unique, wait_for
from penstock.topology.find import find
from penstock.transports.kafka.connection import Admin
from penstock.worker.member import Member
from tests.kafka.operating import CONFIG, status
from tests.kafka.running import Job


class Service:
    """A process. Ends on leaving the `with` block, however it is left. Configure the job first."""

    def __init__(self, job: Job, **given: str) -> None:
        self.job = job
        self._file = job.folder / f"{unique('service')}.log"
        line = [sys.executable, "-m", "tests.kafka.services", str(job.folder), job.topology, *(f"{k}={v}" for k, v in given.items())]
        with self._file.open("wb") as log:
            self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self._file.read_text(errors="replace")

    @property
    def told(self) -> dict[str, object]:
        """What `penstock status` says of it; nothing while it has not said a word."""
        return next((dict(one) for one in status(self.job)["workers"] if one["pid"] == self.process.pid), {})

    def wait_until_ready(self) -> None:
        wait_for(self._is_ready, lambda: f"a ready service\n{self.log}", 60.0, 0.25)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log
        told = self.told
        return bool(told.get("ready")) and bool(told.get("member"))

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


async def serve(folder: Path, topology: str, given: dict[str, str]) -> None:
    chosen = settings.load(given, file=folder / CONFIG)
    loaded = runtime.load(find(topology, chosen.topologies), models=chosen.models, schemas=chosen.schemas, absent=True)
    cluster = await asyncio.to_thread(Admin(chosen).cluster_id)
    over = asyncio.Event()
    failures: list[BaseException] = []
    with on_signals(over.set):
        async with Member(loaded, chosen, cluster, Metrics()).following(failures.append) as member:
            said = ""
            while not over.is_set():
                followed = member.followed
                now = f"generation {followed.generation} {'fresh' if followed.seconds < 10 else 'stale'} {followed.reason}"
                if now != said:
                    print(now, flush=True)
                    said = now
                await asyncio.sleep(0.1)
    assert not failures, failures


if __name__ == "__main__":
    logs.configure("info", "text")
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], dict(one.split("=", 1) for one in sys.argv[3:])))
