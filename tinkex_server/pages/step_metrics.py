"""The metrics of a run's steps for programs: read by `tinkex run watch`, and added to by a program
that computes values of its own, such as a reward.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, cast

from tinkex_server.errors import bad_request, malformed
from tinkex_server.state import CommonState
from tinkex_server.store import ModelRow, StepRow

_MOST_STEPS = 1000
"""The most steps of one answer."""
_MOST_METRICS = 32
"""The most values of one request."""
_LONGEST_NAME = 100


def steps_after(state: CommonState, run: ModelRow, after: int) -> Mapping[str, Any]:
    """Returns the state of a run and its steps after the one of this number."""
    steps = state.store.steps.after(run.model_id, after, _MOST_STEPS)
    return {"state": run.state, "steps": [_step(row) for row in steps]}


def _step(row: StepRow) -> Mapping[str, Any]:
    values = {name: value for name, value in row.metrics.items() if value is not None}
    if row.tokens_per_second is not None:
        values["tokens_per_second"] = row.tokens_per_second
    return {**values, **row.losses, "step": row.number, "at": row.at}


def add(state: CommonState, run: ModelRow, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Adds the values in `metrics` to the step of the number `step`, by default the newest. The
    number after the newest makes a step that trains nothing.

    Raises `Refused` (422) for fields of the wrong kind, and (400) if there is no such step.
    """
    number = fields.get("step")
    if number is not None and (type(number) is not int or number < 1):
        raise malformed("step", message="must be the number of a step, from 1")
    step = state.store.steps.note(run.model_id, number, _metrics(fields), time.time())
    if step is None:
        newest = state.store.steps.count(run.model_id)
        lacking = f"step {number}: its newest is {newest}" if newest else "step yet"
        raise bad_request(f"run {run.model_id!r} has no {lacking}")
    return {"step": step}


def _metrics(fields: Mapping[str, Any]) -> Mapping[str, float]:
    values: Any = fields.get("metrics")
    metrics = cast("dict[str, Any]", values) if isinstance(values, dict) else dict[str, Any]()
    if not 1 <= len(metrics) <= _MOST_METRICS:
        raise malformed("metrics", message=f"must hold 1 to {_MOST_METRICS} numbers by name")
    for name, value in metrics.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise malformed("metrics", name, message="must be a finite number")
        if not name or len(name) > _LONGEST_NAME or name in ("step", "loss", "at"):
            text = f"is no name for a metric: at most {_LONGEST_NAME} letters; not step, loss or at"
            raise malformed("metrics", name, message=text)
    return {name: float(value) for name, value in metrics.items()}
