"""From records to outputs and back to offsets: ports, the steps of a chunk, the one delivery loop, and when work counts as finished."""

from penstock.pipeline.answers import Answer, Answered, Answers
from penstock.pipeline.commit import AtLeastOnce, Commit
from penstock.pipeline.delivery import Delivery, Fixed, Pace, Served
from penstock.pipeline.ports import Port, Program, Writes, ports, tensors
from penstock.pipeline.score import Chunk, Pass, Pipeline
from penstock.pipeline.trial import Candidate, check_beside

__all__ = [
    "Answer",
    "Answered",
    "Answers",
    "AtLeastOnce",
    "Candidate",
    "Chunk",
    "Commit",
    "Delivery",
    "Fixed",
    "Pace",
    "Pass",
    "Pipeline",
    "Port",
    "Program",
    "Served",
    "Writes",
    "check_beside",
    "ports",
    "tensors",
]
