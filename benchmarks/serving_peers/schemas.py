"""The events as pydantic models, for the frameworks whose documentation shows them so."""

from __future__ import annotations

from pydantic import BaseModel


class Flight(BaseModel):
    flight_id: str
    year: int
    month: int
    day: int
    hour: int
    minute: int
    sched_dep_time: int
    sched_arr_time: int
    dep_delay: float | None = None
    carrier: str
    flight: int
    tailnum: str | None = None
    origin: str
    dest: str
    distance: int
    departed_at: int


class Score(BaseModel):
    flight_id: str
    score: float
    logistic: float
    trees: float
    carrier: str
    dest: str
