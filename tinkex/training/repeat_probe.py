"""What a server does with a repeated (model, seq_id), found out by its effect on a model that is
made for it.

A request id that comes back proves nothing: one server gives the first one's, and does the work
again all the same.
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
_ADAM = AdamParams(learning_rate=1e-2)  # so that a step shows
_LEAST_EFFECT = 1e-5  # nats of a logprob
_NOISES = 4.0
"""By how much more than two equal calls differ a step must change a logprob to be seen."""


async def probe_repeats(session: Session, base_model: str) -> SeqIdRepeats:
    """Raises what making a model, a step and a forward raise."""
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
    trained, once_more = await _logprobs(model), await _logprobs(model)
    least = max(_LEAST_EFFECT, _NOISES * _distance(trained, once_more))
    try:
        for request in _repeats(session, model):
            again = await session.transport.send(request, repeatable=False)
            read = read_batch if request.operation == "forward_backward" else of_fields(dict)
            await wait_for_result(
                session.transport, RequestState(request.operation, again.request_id), read
            )
    except (APIStatusError, RequestFailedError) as refusal:
        return "refuses" if _says_why(refusal) else "unknown"
    if _distance(trained, await _logprobs(model)) > least:
        return "ignores"
    await model.forward_backward([_ONE_STEP], "cross_entropy")
    await model.optim_step(_ADAM)
    shows = _distance(trained, await _logprobs(model)) > least
    return "repeats" if shows else "unknown"  # where no step shows, none that was done twice does


def _repeats(session: Session, model: AsyncTrainingClient) -> list[Request[UntypedAPIFuture]]:
    """The model's first two requests under the numbers that they had."""
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


def _says_why(refusal: TinkexError) -> bool:
    """Only a refusal that names the number it expected can tell later whether the first request was
    applied.
    """
    return expected_number(refusal.message) is not None
