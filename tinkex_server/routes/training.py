"""The routes of training steps, each of which runs at its turn in the model's lane."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tinkex_api.models import (
    ForwardBackwardInput,
    ForwardBackwardRequest,
    ForwardRequest,
    Metrics,
    OptimStepRequest,
    OptimStepResponse,
)

from tinkex_server.engine.interface import CustomLoss, OptimizerSettings
from tinkex_server.errors import Location, Refused, bad_request, malformed
from tinkex_server.jobs.requests import Work
from tinkex_server.limits import check_at_most
from tinkex_server.routes.support.endpoint import Call, post
from tinkex_server.routes.support.model_requests import UNNUMBERED, submit_model_request
from tinkex_server.rules.records import recording
from tinkex_server.state import ServerState
from tinkex_server.store import Batch, ModelRow
from tinkex_server.wire.json import encode
from tinkex_server.wire.optimizers import optimizer_settings
from tinkex_server.wire.protobuf import read_forward_backward, write_loss
from tinkex_server.wire.results import loss_fields
from tinkex_server.wire.training_requests import count_trained, examples, loss_config

_IN_STEP = ("loss:sum",)
"""The metrics of a batch that a step has as fields of their own."""


async def forward_backward(
    state: ServerState, call: Call[ForwardBackwardRequest]
) -> Mapping[str, Any]:
    batch, at = call.body.forward_backward_input, "forward_backward_input"
    backward = not call.body.additional_properties.get("forward_only")  # of the protobuf form
    kind = "forward_backward" if backward else "forward"
    return submit_model_request(
        state, call, kind, lambda row: _forward_backward(state, row, batch, at, backward=backward)
    )


async def forward(state: ServerState, call: Call[ForwardRequest]) -> Mapping[str, Any]:
    batch, at = call.body.forward_input, "forward_input"
    return submit_model_request(
        state, call, "forward", lambda row: _forward_backward(state, row, batch, at, backward=False)
    )


async def optim_step(state: ServerState, call: Call[OptimStepRequest]) -> Mapping[str, Any]:
    return submit_model_request(
        state, call, "optim_step", lambda row: _optim_step(state, row, call.body)
    )


def _forward_backward(
    state: ServerState, row: ModelRow, batch: ForwardBackwardInput, at: str, *, backward: bool
) -> Work:
    if batch.loss_fn == "custom":
        loss, config = _find_custom_loss(state, row, batch, (at,)), {}
    else:
        loss, config = batch.loss_fn, loss_config(batch, (at,))
    limits = state.limits
    check_at_most(limits.datums, len(batch.data), at, "number of data")
    data = examples(batch, (at,))
    token_count = sum(len(example.tokens) for example in data)
    check_at_most(limits.tokens, token_count, at, "number of tokens")

    def compute() -> tuple[bytes, Mapping[str, float], float]:
        begun = time.monotonic()
        result = state.engine.forward_backward(row.model_id, data, loss, config, backward=backward)
        seconds = time.monotonic() - begun
        return write_loss(loss_fields(result)), result.metrics, seconds

    async def work() -> bytes:
        encoded, metrics, seconds = await state.lanes.call(compute)
        now = time.time()
        if backward:
            done = Batch(
                loss=metrics["loss:sum"],
                tokens=count_trained(data),
                computed_tokens=token_count,
                seconds=seconds,
                metrics={name: metrics[name] for name in metrics if name not in _IN_STEP},
            )
            with recording(f"a forward_backward of {row.model_id}"):
                state.store.steps.add_batch(row.model_id, done, now)
        state.store.usage.add(
            row.owner, row.session_id, row.base_model, {"training": token_count}, now
        )
        return encoded

    return work


def _find_custom_loss(
    state: ServerState, model: ModelRow, batch: ForwardBackwardInput, at: Location
) -> CustomLoss:
    """Returns the custom loss that the batch's config names. Raises `Refused` for one that the
    model's session does not have.
    """
    config: Mapping[str, Any] = batch.loss_fn_config or {}
    loss_id = config.get("loss_id")
    if set(config) != {"loss_id"} or not isinstance(loss_id, str):
        raise malformed(
            *at, "loss_fn_config", message="must hold loss_id, a string, and nothing else"
        )
    row = state.store.custom_losses.get(loss_id)
    if row is None or row.session_id != model.session_id:
        raise bad_request(
            f"session {model.session_id!r} has no custom loss {loss_id!r}; create it by "
            "create_custom_loss"
        )
    return row.loss


def _optim_step(state: ServerState, row: ModelRow, body: OptimStepRequest) -> Work:
    try:
        settings = _settings(row, body)
    except Refused as refusal:
        refusal.append(_NOT_APPLIED)
        raise

    async def work() -> bytes:
        begun = time.monotonic()
        metrics = await state.lanes.call(state.engine.optim_step, row.model_id, settings)
        with recording(f"an optim_step of {row.model_id}"):
            state.store.steps.end(row.model_id, metrics, time.monotonic() - begun)
        return encode(OptimStepResponse(Metrics.from_dict(metrics)).to_dict())

    return work


_NOT_APPLIED = (
    "; the step was not applied, and the gradients are kept for the next optim_step: send it again "
    "with valid settings"
)


def _settings(row: ModelRow, body: OptimStepRequest) -> OptimizerSettings:
    settings = optimizer_settings(body)
    if settings.kind != row.optimizer:
        raise bad_request(
            f"model {row.model_id!r} was created with the optimizer {row.optimizer}, but this step "
            f"has settings of {settings.kind}"
        )
    return settings


ROUTES = [
    post(
        "/forward_backward",
        ForwardBackwardRequest,
        forward_backward,
        defaults=UNNUMBERED,
        protobuf=read_forward_backward,
    ),
    post("/forward", ForwardRequest, forward, defaults=UNNUMBERED),
    post("/optim_step", OptimStepRequest, optim_step, defaults=UNNUMBERED, refused=_NOT_APPLIED),
]
