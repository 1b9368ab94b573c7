"""The routes of a run's steps: their metrics, and those that a program adds, such as a reward."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from tinkex_api.models import (
    AddMetricsRequest,
    AddMetricsResponse,
    StepMetrics,
    StepsResponse,
    TrainingStep,
)

from tinkex_server.errors import bad_request, malformed
from tinkex_server.routes.support.endpoint import Call, get, post
from tinkex_server.routes.support.formatting import moment
from tinkex_server.routes.support.query import number
from tinkex_server.state import CommonState
from tinkex_server.store import StepRow

_MOST_STEPS = 1000
"""The most steps of one answer."""
_MOST_METRICS = 32
"""The most values of one request."""
_LONGEST_NAME = 100
_RESERVED = ("step", "loss", "at")


async def list_steps(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    run = call.access.run(call.path["run_id"])
    steps = state.store.steps.after(run.model_id, number(call.query, "after", 0), _MOST_STEPS)
    return StepsResponse(run.state, [_describe(row) for row in steps]).to_dict()


async def add_metrics(state: CommonState, call: Call[AddMetricsRequest]) -> Mapping[str, Any]:
    """Adds values to a step. Raises `Refused` (422) for values that cannot be kept, and (400) if
    there is no such step.
    """
    run = call.access.run(call.path["run_id"])
    chosen = call.body.step
    if chosen is not None and chosen < 1:
        raise malformed("step", message="must be the number of a step, from 1")
    values = call.body.metrics
    _check(values)
    step = state.store.steps.note(run.model_id, chosen, values, time.time())
    if step is None:
        newest = state.store.steps.count(run.model_id)
        lacking = f"step {chosen}: its newest is {newest}" if newest else "step yet"
        raise bad_request(f"run {run.model_id!r} has no {lacking}")
    await state.store.flush()
    return AddMetricsResponse(step).to_dict()


def _describe(row: StepRow) -> TrainingStep:
    values = {name: value for name, value in row.metrics.items() if value is not None}
    if row.tokens_per_second is not None:
        values["tokens_per_second"] = row.tokens_per_second
    return TrainingStep(
        step=row.number,
        at=moment(row.at),
        metrics=StepMetrics.from_dict(values),
        loss=row.losses.get("loss"),
    )


def _check(values: Mapping[str, float]) -> None:
    if not 1 <= len(values) <= _MOST_METRICS:
        raise malformed("metrics", message=f"must hold 1 to {_MOST_METRICS} numbers by name")
    for name, value in values.items():
        if not math.isfinite(value):
            raise malformed("metrics", name, message="must be a finite number")
        if not name or len(name) > _LONGEST_NAME or name in _RESERVED:
            text = f"is no name for a metric: at most {_LONGEST_NAME} letters; not step, loss or at"
            raise malformed("metrics", name, message=text)


ROUTES = [
    get("/training_runs/{run_id}/steps", list_steps),
    post("/training_runs/{run_id}/metrics", AddMetricsRequest, add_metrics),
]
