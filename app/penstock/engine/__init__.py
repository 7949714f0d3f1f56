"""A topology made runnable: `compile` gives an immutable Plan, `execute` runs batches through it. No I/O, no clock, no await."""

from penstock.engine.compile import compile
from penstock.engine.deployment import Deployment, Serving
from penstock.engine.execute import Execution, execute
from penstock.engine.plan import Output, Plan, Stage
from penstock.engine.router import Router
from penstock.engine.watch import Run, watched

__all__ = ["Deployment", "Execution", "Output", "Plan", "Router", "Run", "Serving", "Stage", "compile", "execute", "watched"]
