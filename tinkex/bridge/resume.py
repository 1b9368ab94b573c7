"""Continues what an earlier process of the bridge began, and did not end because it was killed.

A model goes on where its server still has its session, and the outcome of every step that was sent
is known. The results of steps that the server had accepted are fetched. All else is told plainly:
what was not sent was not applied, and a model that is lost names its last saved state.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial

from tinkex_api.models import OptimStepResponse

from tinkex.bridge import values
from tinkex.bridge.failures import or_failure, words
from tinkex.bridge.journal import SentRequest, UpstreamModel, UpstreamSession
from tinkex.bridge.state import BridgeState
from tinkex.bridge.upstream import Upstream
from tinkex.errors import APIConnectionError, TinkexError
from tinkex.futures.poller import of_fields, wait_for_result
from tinkex.session.session import Session
from tinkex.training import metrics
from tinkex.training.batch_requests import read_batch
from tinkex.training.client import AsyncTrainingClient
from tinkex.types import LoraConfig
from tinkex.waiting.wait import RequestState
from tinkex_server.jobs.requests import WorkFailed
from tinkex_server.store import FutureRow, ModelRow
from tinkex_server.wire.json import encode
from tinkex_server.wire.protobuf import write_loss

logger = logging.getLogger("tinkex.bridge")

_PATIENCE = 300.0
"""Seconds for which a server is waited for that cannot be reached; then its models are given up."""
_PAUSE = 2.0
_STEPS = frozenset({"forward", "forward_backward", "optim_step"})


def begin_to_resume(state: BridgeState) -> asyncio.Task[None]:
    """Takes on all requests that were left behind, and starts to decide on models.

    New requests of models wait until the returned task is done.
    """
    for future in state.store.futures.pending():
        state.futures.adopt(future, partial(_finish, state, future))
    return asyncio.get_running_loop().create_task(_resume(state))


async def _resume(state: BridgeState) -> None:
    """Decides on all models that were left behind, then lets requests through."""
    try:
        models = {model.model_id: model for model in state.journal.models()}
        sessions, reasons = await _resume_sessions(state, list(models.values()))
        for row in state.store.models.in_memory():
            _resume_model(state, row, models.get(row.model_id), sessions, reasons)
    except Exception:
        logger.exception("what the bridge had begun before it was killed cannot be continued")
        raise
    state.resumed.set()


async def _resume_sessions(
    state: BridgeState, models: Sequence[UpstreamModel]
) -> tuple[Mapping[str, Session], Mapping[str, str]]:
    """Continues the sessions on the servers. Returns those that go on, and why others do not, by
    the server's id.
    """
    sessions: dict[str, Session] = {}
    reasons: dict[str, str] = {}
    begun = state.journal.sessions()
    outcomes = await asyncio.gather(
        *(_resume_session(state, each, models) for each in begun), return_exceptions=True
    )
    for each, outcome in zip(begun, outcomes, strict=True):
        if isinstance(outcome, Session):
            sessions[each.upstream_id] = outcome
        elif isinstance(outcome, TinkexError):
            reasons[each.upstream_id] = words(outcome, each.url)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            reasons[each.upstream_id] = f"the bridge was started without the server {each.url}"
    return sessions, reasons


async def _resume_session(
    state: BridgeState, begun: UpstreamSession, models: Sequence[UpstreamModel]
) -> Session | None:
    upstream = state.upstreams.at_url(begun.url)
    if upstream is None:
        return None
    last = {
        model.upstream_id: state.journal.last_seq_id(model)
        for model in models
        if model.url == begun.url
    }
    return await _when_reachable(upstream, begun, last, state)


async def _when_reachable(
    upstream: Upstream, begun: UpstreamSession, last: Mapping[str, int], state: BridgeState
) -> Session:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return await upstream.resume_session(begun, last, state.journal)
        except APIConnectionError as error:
            if time.monotonic() > until:
                raise
            logger.warning("waiting for a server to continue a session: %s", error.message)
            await asyncio.sleep(_PAUSE)


def _resume_model(
    state: BridgeState,
    row: ModelRow,
    model: UpstreamModel | None,
    sessions: Mapping[str, Session],
    reasons: Mapping[str, str],
) -> None:
    """Continues a model, or marks it as lost and says why."""
    # requests after the last one that came wait for no earlier one
    for number in range(1, state.store.futures.last_number(row.model_id) + 1):
        state.lanes.skip(row.model_id, number)
    session = sessions.get(model.upstream_session) if model else None
    if row.state == "creating":
        _give_up(state, row, "the bridge was restarted while it was being created")
    elif model is None:
        _give_up(state, row, "the bridge was stopped, which ended it")
    elif session is None:
        reason = reasons.get(model.upstream_session, "its session there is not known")
        _give_up(state, row, f"the bridge was restarted, and {reason}")
    elif state.journal.has_unknown(model) or _has_half_sent(state, row.model_id):
        _give_up(
            state,
            row,
            "the bridge was killed while it sent a request, so nobody knows whether all of that "
            "was applied",
        )
    else:
        shape = LoraConfig(
            rank=row.lora.rank,
            train_attn=row.lora.train_attn,
            train_mlp=row.lora.train_mlp,
            train_unembed=row.lora.train_unembed,
        )
        state.models[row.model_id] = AsyncTrainingClient(
            session, model.upstream_id, row.base_model, shape
        )


def _has_half_sent(state: BridgeState, model_id: str) -> bool:
    """Returns whether a call of several requests was sent in part."""
    calls = (
        _sent_for(state, future)
        for future in state.store.futures.pending()
        if future.scope == model_id
    )
    return any(0 < len(sent) < sent[0].requests for sent in calls if sent)


def _sent_for(state: BridgeState, future: FutureRow) -> Sequence[SentRequest]:
    """Returns the requests that were sent for a request of the bridge, without extra ones by which
    its effect is checked.
    """
    sent = state.journal.sent(future.scope, future.seq_id) if future.seq_id else ()
    return [request for request in sent if request.operation == future.kind]


def _give_up(state: BridgeState, row: ModelRow, reason: str) -> None:
    saved = state.store.checkpoints.last(row.model_id, "weights")
    advice = (
        f"its last saved state is {saved.path}: load that into a new model"
        if saved
        else "it was never saved: create a new model, and save it regularly"
    )
    text = f"model {row.model_id!r} is lost: {reason}; {advice}"
    state.lose_model(row, text)


async def _finish(state: BridgeState, future: FutureRow) -> bytes:
    """Returns the result of a request that was left behind, if the server had accepted it.

    Raises `WorkFailed` for any other request.
    """
    await state.resumed.wait()
    if lost := state.store.models.failure(future.scope):
        raise WorkFailed(lost, "server")
    client, sent = state.models.get(future.scope), _sent_for(state, future)
    if client is None or not sent:
        raise WorkFailed(
            "the bridge was restarted before it sent this request to the server, so it was not "
            "done: make the call again",
            "server",
        )
    upstream = state.upstream_of(client)
    if future.kind in _STEPS:
        return await _fetched(upstream, future.kind, sent)
    return await _done_and_lost(upstream, sent)


async def _fetched(upstream: Upstream, kind: str, sent: Sequence[SentRequest]) -> bytes:
    """Fetches the results of the requests of a step, and returns its result."""
    states = [RequestState(kind, request.upstream_request) for request in sent]
    if kind == "optim_step":
        step = await or_failure(
            upstream.url,
            lambda: wait_for_result(
                upstream.transport, states[0], of_fields(OptimStepResponse.from_dict)
            ),
        )
        return encode(step.to_dict())
    results = [
        await or_failure(
            upstream.url, partial(wait_for_result, upstream.transport, state, read_batch)
        )
        for state in states
    ]
    output = metrics.combine(results)
    return write_loss(values.output_fields(output, output.metrics))


async def _done_and_lost(upstream: Upstream, sent: Sequence[SentRequest]) -> bytes:
    """Waits until a save or a load is done, whose result the bridge cannot make any more."""
    state = RequestState(sent[0].operation, sent[0].upstream_request)
    await or_failure(
        upstream.url, lambda: wait_for_result(upstream.transport, state, of_fields(dict))
    )
    raise WorkFailed(
        f"the bridge was restarted while the server did this {sent[0].operation}: it is done there,"
        " but the bridge has not recorded it; make the call again, a save under another name",
        "server",
    )
