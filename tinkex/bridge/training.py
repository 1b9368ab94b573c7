"""The bridge's routes of training steps.

A step is passed on at the turn of its number, and the next one right after it, so that the server
behind the bridge has both before it has done the first. The model's client keeps their order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tinkex_api.models import (
    ForwardBackwardInput,
    ForwardBackwardRequest,
    ForwardRequest,
    OptimStepRequest,
)

from tinkex.bridge import values
from tinkex.bridge.failures import or_failure
from tinkex.bridge.state import BridgeState
from tinkex.errors import InvalidInputError
from tinkex.types import Datum
from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.jobs.requests import Work
from tinkex_server.routes.support.endpoint import Call, post
from tinkex_server.routes.support.model_requests import UNNUMBERED, submit_model_request
from tinkex_server.store import Batch, ModelRow
from tinkex_server.wire.json import encode
from tinkex_server.wire.protobuf import read_forward_backward, write_loss

T = TypeVar("T")


async def forward_backward(
    state: BridgeState, call: Call[ForwardBackwardRequest]
) -> Mapping[str, Any]:
    batch = call.body.forward_backward_input
    backward = not call.body.additional_properties.get("forward_only")  # of the protobuf form
    kind = "forward_backward" if backward else "forward"
    return submit_model_request(
        state, call, kind, lambda row: _batch(state, row, batch, backward=backward)
    )


async def forward(state: BridgeState, call: Call[ForwardRequest]) -> Mapping[str, Any]:
    batch = call.body.forward_input
    return submit_model_request(
        state, call, "forward", lambda row: _batch(state, row, batch, backward=False)
    )


async def optim_step(state: BridgeState, call: Call[OptimStepRequest]) -> Mapping[str, Any]:
    return submit_model_request(
        state, call, "optim_step", lambda row: _optim_step(state, row, call.body)
    )


def _batch(
    state: BridgeState, row: ModelRow, batch: ForwardBackwardInput, *, backward: bool
) -> Work:
    data = _valid(lambda: values.data(batch))
    loss_fn, settings = batch.loss_fn, values.loss_settings(batch)

    async def work() -> bytes:
        client = await state.model(row.model_id)
        run = client.forward_backward if backward else client.forward
        output = await or_failure(
            state.upstream_of(client).url, lambda: run(data, loss_fn, settings)
        )
        metrics = values.with_loss(data, loss_fn, output)
        _note(state, row, data, metrics, backward=backward)
        return write_loss(values.output_fields(output, metrics))

    return work


def _note(
    state: BridgeState,
    row: ModelRow,
    data: Sequence[Datum],
    metrics: Mapping[str, float],
    *,
    backward: bool,
) -> None:
    """Adds a batch to the losses of the run, and to the usage."""
    now, loss, tokens = time.time(), metrics.get("loss:sum"), values.token_count(data)
    if backward and loss is not None:
        batch = Batch(loss=loss, tokens=values.trained_count(data), computed_tokens=tokens)
        state.store.steps.add_batch(row.model_id, batch, now)
    state.store.usage.add(row.owner, row.session_id, row.base_model, {"training": tokens}, now)


def _optim_step(state: BridgeState, row: ModelRow, body: OptimStepRequest) -> Work:
    settings = _valid(lambda: values.optimizer_settings(body))

    async def work() -> bytes:
        client = await state.model(row.model_id)
        response = await or_failure(
            state.upstream_of(client).url, lambda: client.optim_step(settings)
        )
        state.store.steps.end(row.model_id)
        return encode(response.to_dict())

    return work


def _valid(read: Callable[[], T]) -> T:
    """Returns what `read` returns. Raises `InvalidRequest`, by which the request's number counts as
    used, in place of `InvalidInputError`.
    """
    try:
        return read()
    except InvalidInputError as error:
        raise InvalidRequest(error.message) from error


ROUTES = [
    post(
        "/forward_backward",
        ForwardBackwardRequest,
        forward_backward,
        defaults=UNNUMBERED,
        protobuf=read_forward_backward,
    ),
    post("/forward", ForwardRequest, forward, defaults=UNNUMBERED),
    post("/optim_step", OptimStepRequest, optim_step, defaults=UNNUMBERED),
]
