"""`submit_model_request`: accepts the requests of a model, which run one at a time, in the order of
their seq_ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen
from tinkex_api.models import UntypedAPIFuture

from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.errors import Refused, bad_request, malformed
from tinkex_server.jobs.requests import RequestIdentity, Work
from tinkex_server.routes.support.endpoint import Call
from tinkex_server.state import CommonState, ModelRequest
from tinkex_server.store import ModelRow

UNNUMBERED = {"seq_id": 0}
"""The defaults of routes whose requests may come without a seq_id."""

Prepare = Callable[[ModelRow], Work]
"""Checks a request and returns the work that it asks for. It raises `Refused` or `InvalidRequest`
for a fault that can be seen before the request runs.
"""


def submit_model_request(
    state: CommonState, call: Call[Any], kind: str, prepare: Prepare
) -> Mapping[str, Any]:
    """Queues a request for the turn of its seq_id, unless it is a repeat; returns the promise.

    The body has `model_id` and `seq_id`. When `prepare` refuses the request, the turn of its seq_id
    is skipped.
    """
    seq_id: int | None = call.body.seq_id or None  # 0 and null: the request has no turn to wait for
    if seq_id is not None and seq_id < 0:
        raise malformed("seq_id", message="must be 1 or more")
    run = call.access.run(call.body.model_id)
    return _ModelRequest(state, call, kind, run, seq_id).submit(prepare)


@frozen
class _ModelRequest:
    """A request for a model that exists."""

    _state: CommonState
    _call: Call[Any]
    _kind: str
    _run: ModelRow
    _seq_id: int | None

    def submit(self, prepare: Prepare) -> Mapping[str, Any]:
        identity = self._identify()
        request_id = self._state.futures.find_repeated(identity)
        if request_id is None:
            self._state.refused_seq_ids.check(
                self._run.model_id, self._seq_id, self._call.fingerprint
            )
            work = self._prepare(prepare)
            request_id = self._queue(identity, work)
        return UntypedAPIFuture(request_id, self._run.model_id).to_dict()

    def _identify(self) -> RequestIdentity:
        return self._state.step_order.rule.identify(
            self._run.model_id,
            self._seq_id,
            self._kind,
            self._call.fingerprint,
            self._call.access.new_owner,
        )

    def _prepare(self, prepare: Prepare) -> Work:
        row = self._call.access.taking_requests(self._run)
        try:
            return prepare(row)
        except (Refused, InvalidRequest) as error:
            refusal = error if isinstance(error, Refused) else bad_request(str(error))
            self._state.refused_seq_ids.note(
                self._run.model_id, self._seq_id, self._call.fingerprint, refusal
            )
            raise

    def _queue(self, identity: RequestIdentity, work: Work) -> str:
        state, model_id = self._state, self._run.model_id
        request = ModelRequest(
            model_id=model_id,
            seq_id=self._seq_id,
            kind=self._kind,
            arrived_at=self._call.arrived_at,
        )
        state.activity.note_request(self._run.session_id)
        state.store.models.note_request(model_id, time.time())
        number = state.step_order.rule.lane_number(self._seq_id)
        request_id = state.futures.submit(
            identity, state.checked(request, work), lane=model_id, number=number
        )
        state.refused_seq_ids.note_accepted(model_id, self._seq_id)
        return request_id
