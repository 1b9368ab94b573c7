"""`add_metrics`: sends values that a program computes to the run that they belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tinkex_api.api.training_runs import add_metrics as operation
from tinkex_api.models import AddMetricsRequest, StepMetrics

from tinkex.dialects.dialect import Dialect
from tinkex.errors import InvalidInputError, NotFoundError, UnsupportedByServer
from tinkex.transport.transport import Transport

_PATIENCE = 10.0  # seconds for an attempt: training should not wait long for its picture
_ATTEMPTS = 2


async def add_metrics(
    transport: Transport, model_id: str, metrics: Mapping[str, float], step: int | None
) -> int:
    """Adds values to a step of a run, and returns the number of that step. Raises what
    `AsyncTrainingClient.add_metrics` does.
    """
    dialect = transport.server.dialect
    if not dialect.keeps_metrics:
        raise _unsupported(dialect)
    values = StepMetrics.from_dict({name: _finite(name, one) for name, one in metrics.items()})
    request = operation.request(model_id, body=AddMetricsRequest(values, step))
    try:
        added = await transport.send(request, timeout=_PATIENCE, max_attempts=_ATTEMPTS)
    except NotFoundError as error:
        if is_unknown_run(error):
            raise
        transport.server.update_dialect(keeps_metrics=False)
        raise _unsupported(dialect) from error
    return added.step


def is_unknown_run(error: NotFoundError) -> bool:
    """Returns whether the embedded server says that it has no such run; another server says that it
    has no such operation.
    """
    return "unknown model" in error.message


def _unsupported(dialect: Dialect) -> UnsupportedByServer:
    return UnsupportedByServer(
        f"{dialect.name} is not known to keep metrics that programs compute",
        server=dialect.name,
        operation="add_metrics",
        advice="Write them to a file, or to a tracker of experiments. If the server does keep "
        "them, give Config a Dialect with keeps_metrics=True.",
    )


def _finite(name: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidInputError(f"metrics[{name!r}] is {value!r}, not a finite number")
    return number
