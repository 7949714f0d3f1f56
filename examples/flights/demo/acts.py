"""The view of the demo's releases: the command, each worker's progress, and the outputs of each generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from demo.swaps import SWAPPED, Act
from demo.tally import Tally
from penstock.control.lifecycle import PREPARING, State
from penstock.control.rollout import Stand

__all__ = ["Acts", "came_to", "folded", "generations", "stage", "switch"]

Acts = Sequence[Act]  # the deploy and the rollback, or nothing

NAME: Final = 24  # columns of a worker's name
_STEPS: Final = (*PREPARING, State.READY, State.LIVE)


def stage(tally: Tally, acts: Acts) -> RenderableType:
    """The commands as a person would type them, the state of the release on each worker, and the results of each generation."""
    parts: list[RenderableType] = []
    for act in acts:
        if act.began:
            parts.append(folded(Text(f"$ {act.command}", style="bold green")))
            came = folded(Text("  " + came_to(act, tally), style="red" if act.error else ""))
            parts.append(came if act.over else _workers(act.stands))
        else:
            parts.append(folded(Text(f"$ {act.command}   at event {act.begins:,}", style="dim")))
    return Group(*parts, Text(), generations(tally)) if acts[0].began else Group(*parts)


def _workers(stands: Sequence[Stand]) -> RenderableType:
    """One line per worker: the number of finished steps, the current step, and its detail."""
    rows = Table.grid(padding=(0, 1))
    rows.add_column(max_width=NAME, no_wrap=True)
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True, style="bold")
    rows.add_column(no_wrap=True, overflow="ellipsis", style="dim")
    for stand in stands:
        done = _STEPS.index(State(stand.state)) + 1 if stand.state in _STEPS else 0
        bad = stand.failed or not stand.live
        steps = Text("▰" * done + "▱" * (len(_STEPS) - done), "red" if bad else "cyan")
        rows.add_row(Text(f"  {stand.worker}"), steps, stand.step, Text(stand.detail))
    return rows


def came_to(act: Act, tally: Tally) -> str:
    """A release in one line."""
    if act.error:
        return f"failed: {act.error}"
    if act.result is None:
        return "stopped before it was active" if act.began else "not started"
    many = len(act.stands)
    seconds = switch(act, tally)
    first = f"first output {seconds * 1000:,.0f} ms after activate" if seconds is not None else "no output yet"
    late = f"; not switched: {'; '.join(map(str, act.late))}" if act.late else ""
    workers = "1 worker" if many == 1 else f"{many} workers"
    return f"generation {act.generation}: ready on {workers} after {act.ready - act.began:.1f} s, {first}{late}"


def switch(act: Act, tally: Tally) -> float | None:
    """Seconds from `activate` to the first output of the new generation that this process received."""
    made = tally.generations.get(act.generation) if act.generation is not None else None
    return made.first - act.ready if made else None


def generations(tally: Tally) -> RenderableType:
    """The number of outputs of each generation, its models, and how well it ranked the flights that it scored."""
    rows = Table.grid(padding=(0, 2))
    rows.add_row(*(Text(name, "bold") for name in ("generation", "outputs", *SWAPPED, *(f"AUC {node}" for node in SWAPPED))))
    for number, one in sorted(tally.generations.items()):
        models, areas = (one.models.get(node, "") for node in SWAPPED), (str(one.auc[node]) for node in SWAPPED)
        rows.add_row(str(number), f"{one.outputs:,}", *models, *areas)
    return rows


def folded(text: Text) -> Text:
    """Folds the text at the console's width, also for a console that does not fold."""
    text.no_wrap, text.overflow = False, "fold"
    return text
