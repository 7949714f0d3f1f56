"""A dry run: which columns feed which fields, what the first rows become, and where it would be written. Nothing is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from penstock.cli.bounded import Into, run_bounded, written_to
from penstock.cli.output import counted, out, print_json, table
from penstock.cli.part import STANDARD, Part
from penstock.settings import Settings

if TYPE_CHECKING:
    from penstock.parcel import Parcel
    from penstock.pipeline import Program
    from penstock.runtime import Loaded
    from penstock.transports.base import Sent
    from penstock.transports.tracker import Span

__all__ = ["dry_run"]

ROWS: Final = 5


class _Kept:
    """A sink that keeps the outputs by topic, and the dead letters."""

    def __init__(self) -> None:
        from penstock.transports.base import UNLIMITED, Abilities

        self.abilities = Abilities(replay=True)
        self.outputs: dict[str, list[Any]] = {}
        self.letters: list[Any] = []
        self._limit = UNLIMITED

    def limit(self, topic: str) -> int:
        return self._limit

    def fits(self, parcel: Parcel) -> bool:
        return True

    def partition_for(self, topic: str, key: bytes | None) -> int:
        return 0

    async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
        from penstock.transports.base import Sent
        from penstock.transports.files.letters import lines

        for parcel in parcels:
            if parcel.dead:
                self.letters += map(json.loads, lines(parcel))
            else:
                self.outputs.setdefault(parcel.topic, []).extend(json.loads(value or b"null") for value in parcel.values)
        sent = Sent(1)
        sent.settle()
        return sent


def dry_run(loaded: Loaded, program: Program, part: Part, settings: Settings, form: str) -> int:
    """Prints it. Returns 1 when none of the first rows could be scored, else 0."""
    from penstock.transports.checkpoint import Checkpoint

    sink, places = _Kept(), written_to(loaded, part)
    few = replace(part, limit=min(part.limit or ROWS, ROWS), workers=1, resume=False, output=STANDARD, form=None)
    columns: list[tuple[str, str, str, str]] = []
    ran = run_bounded(loaded, program, few, settings, into=Into(sink, Checkpoint(), "json", columns.extend))
    if form == "json":
        named = [dict(zip(("field", "type", "column", "column_type"), row, strict=True)) for row in columns]
        print_json({"columns": named, "read": ran.read, "outputs": sink.outputs, "dead_letters": sink.letters, "writes": places})
        return int(bool(ran.read) and not ran.written)
    if columns:
        mapping = table("columns", "field", "type", "column", "its type", wraps="its type")
        for row in columns:
            mapping.add_row(*row)
        out.print(mapping)
    for topic, outputs in sink.outputs.items():
        out.print(f"{topic}: the outputs of the first {counted(ran.read, 'event')}", markup=False)
        for one in outputs:
            out.print(f"  {json.dumps(one, ensure_ascii=False)}", markup=False)
    for letter in sink.letters:
        out.print(f"dead letter {letter['id']}: {letter['message']} (at {letter['failed_at']})", style="yellow", markup=False)
    for topic, where in places.items():
        out.print(f"{topic} would be written to {where}", markup=False)
    return int(bool(ran.read) and not ran.written)
