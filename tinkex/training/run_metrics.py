"""`add_metrics`: sends values that a program computes to the run that they belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from urllib.parse import quote

from tinkex_api.types import Request, json_reader, write_json

from tinkex.dialects.dialect import Dialect
from tinkex.errors import InvalidInputError, NotFoundError, UnsupportedByServer
from tinkex.transport.transport import Transport

_OPERATION = "add_metrics"
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
    body = {"metrics": {name: _finite(name, value) for name, value in metrics.items()}}
    request = Request(
        _OPERATION,
        "POST",
        f"/runs/{quote(model_id, safe='')}/metrics",
        json_reader(lambda answer: int(answer["step"])),
        headers={"Content-Type": "application/json"},
        content=write_json(body if step is None else {**body, "step": step}),
    )
    try:
        return await transport.send(request, timeout=_PATIENCE, max_attempts=_ATTEMPTS)
    except NotFoundError as error:
        if "unknown model" in error.message:
            raise
        transport.server.update_dialect(keeps_metrics=False)
        raise _unsupported(dialect) from error


def _unsupported(dialect: Dialect) -> UnsupportedByServer:
    return UnsupportedByServer(
        f"{dialect.name} is not known to keep metrics that programs compute",
        server=dialect.name,
        operation=_OPERATION,
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
