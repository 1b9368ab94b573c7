"""The requests of a model, which run one at a time, in the order of their seq_ids."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from tinkex_api.models import UntypedAPIFuture

from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.errors import Refused, bad_request, malformed
from tinkex_server.jobs.futures import Work
from tinkex_server.routes.endpoint import Call
from tinkex_server.state import ServerState
from tinkex_server.store import ModelRow

UNNUMBERED = {"seq_id": 0}
"""For routes whose requests may come without a seq_id."""


def in_turn(
    state: ServerState, call: Call[Any], kind: str, prepare: Callable[[ModelRow], Work]
) -> Mapping[str, Any]:
    """Queues what `prepare` makes of the request at its seq_id's turn, unless it was taken on
    before.

    `prepare` refuses what can be seen to be wrong; the turn of the seq_id passes then. The body has
    `model_id` and `seq_id`.
    """
    model_id: str = call.body.model_id
    # 0 and absent: no number, so it runs when it comes
    number: int | None = call.body.seq_id or None
    if number is not None and number < 0:
        raise malformed("seq_id", message="must be 1 or more")
    run, rule = call.access.run(model_id), state.steps.rule
    ticket = rule.ticket(model_id, number, kind, call.fingerprint, call.access.new_owner)
    request_id = state.futures.repeated(ticket)
    if request_id is None:
        work = _prepared(state, call, run, number, prepare)
        guarded = state.revival.guarded(model_id, kind, work, call.came_at)
        checked = state.steps.checked(model_id, number, guarded)
        state.note_request(run.session_id)
        state.store.models.note_request(model_id, time.time())
        request_id = state.futures.submit(
            ticket, checked, lane=model_id, number=rule.lane_number(number)
        )
        if number is not None:
            state.refusals.taken(model_id, number)
    return UntypedAPIFuture(request_id, model_id).to_dict()


def _prepared(
    state: ServerState,
    call: Call[Any],
    run: ModelRow,
    number: int | None,
    prepare: Callable[[ModelRow], Work],
) -> Work:
    if number is not None:
        state.refusals.check(run.model_id, number, call.fingerprint)
    taking = call.access.taking_requests(run)
    try:
        return prepare(taking)
    except (Refused, InvalidRequest) as error:
        if number is not None:
            refusal = error if isinstance(error, Refused) else bad_request(str(error))
            state.refusals.note(run.model_id, number, call.fingerprint, refusal)
        raise
