"""A topology made runnable: `compile` gives an immutable Plan, `execute` runs batches through it. No I/O, no clock, no await."""

from penstock.engine.compile import compile
from penstock.engine.execute import Execution, execute
from penstock.engine.live import Live, Serving
from penstock.engine.plan import Output, Plan, Stage
from penstock.engine.watch import Run, watched

__all__ = ["Execution", "Live", "Output", "Plan", "Run", "Serving", "Stage", "compile", "execute", "watched"]
