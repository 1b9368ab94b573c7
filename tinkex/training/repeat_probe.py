"""Finds out what a server does with a repeated (model, seq_id), by its effect on a model that is
made for this.

The request id in the answer proves nothing: one server returns the first request's id, but does the
work again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tinkex_api.api.training import optim_step
from tinkex_api.models import OptimStepRequest, UntypedAPIFuture
from tinkex_api.types import Request

from tinkex.dialects.dialect import SeqIdRepeats
from tinkex.dialects.resend import expected_number
from tinkex.errors import APIStatusError, RequestFailedError, TinkexError
from tinkex.futures.poller import RequestState, of_fields, wait_for_result
from tinkex.session.session import Session
from tinkex.training.batch_requests import batch_bodies, read_batch
from tinkex.training.client import AsyncTrainingClient
from tinkex.training.creation import new_model
from tinkex.training.unloading import unload_or_log
from tinkex.types import AdamParams, Datum, LoraConfig, ModelInput

_RANK = 8
_ONE_STEP = Datum(ModelInput.from_ints([0, 1]), {"target_tokens": [1, 2], "weights": [1.0, 1.0]})
_ADAM = AdamParams(learning_rate=1e-2)  # large enough for a visible effect
_MIN_EFFECT = 1e-5  # nats of a logprob
_NOISE_FACTOR = 4.0
"""The factor by which a step must change a logprob more than two equal calls differ."""


async def probe_repeats(session: Session, base_model: str) -> SeqIdRepeats:
    """Returns what the server does. Raises what creating and training a model raise."""
    model = await new_model(session, base_model, LoraConfig(rank=_RANK), None, None)
    try:
        return await _probe(session, model)
    finally:
        await unload_or_log(session, model.model_id)


async def _probe(session: Session, model: AsyncTrainingClient) -> SeqIdRepeats:
    gradients, update = (
        model.forward_backward([_ONE_STEP], "cross_entropy"),
        model.optim_step(_ADAM),
    )
    await gradients
    await update
    trained, repeated = await _logprobs(model), await _logprobs(model)
    threshold = max(_MIN_EFFECT, _NOISE_FACTOR * _distance(trained, repeated))
    try:
        for request in _repeats(session, model):
            again = await session.transport.send(request, repeatable=False)
            read = read_batch if request.operation == "forward_backward" else of_fields(dict)
            await wait_for_result(
                session.transport, RequestState(request.operation, again.request_id), read
            )
    except (APIStatusError, RequestFailedError) as refusal:
        return "refuses" if _names_number(refusal) else "unknown"
    if _distance(trained, await _logprobs(model)) > threshold:
        return "ignores"
    await model.forward_backward([_ONE_STEP], "cross_entropy")
    await model.optim_step(_ADAM)
    shows = _distance(trained, await _logprobs(model)) > threshold
    return (
        "repeats" if shows else "unknown"
    )  # if no step has a visible effect, a repeated one has none either


def _repeats(session: Session, model: AsyncTrainingClient) -> list[Request[UntypedAPIFuture]]:
    """Returns the model's first two requests, under the numbers that they had."""
    dialect = session.transport.server.dialect
    gradients = batch_bodies(
        "forward_backward", model.model_id, [_ONE_STEP], "cross_entropy", None, dialect
    )
    return [
        gradients[dialect.encodings[0]](1),
        optim_step.request(body=OptimStepRequest(model.model_id, 2, adam_params=_ADAM)),
    ]


async def _logprobs(model: AsyncTrainingClient) -> np.ndarray[Any, Any]:
    output = await model.forward([_ONE_STEP], "cross_entropy")
    return output.loss_fn_outputs[0]["logprobs"].to_numpy()


def _distance(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(np.max(np.abs(one - other)))


def _names_number(refusal: TinkexError) -> bool:
    """Returns whether a refusal names the expected number. Only then can a later one tell whether
    the first request was applied.
    """
    return expected_number(refusal.message) is not None
