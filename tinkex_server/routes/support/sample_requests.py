"""The forms that routes of sampling sessions and samples share, whoever samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tinkex_api.models import CreateSamplingSessionRequest, SampleRequest, UntypedAPIFuture

from tinkex_server.errors import Refused, bad_request, malformed
from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.routes.support.endpoint import Call
from tinkex_server.state import CommonState
from tinkex_server.store import SamplerRow


def id_of_new_sampler(state: CommonState, call: Call[CreateSamplingSessionRequest]) -> str:
    """Returns the id of the sampling session that a request creates, or has created before. Raises
    `Refused` for a wrong number, or a session that the caller may not see.
    """
    body = call.body
    if body.sampling_session_seq_id < 0:
        raise malformed("sampling_session_seq_id", message="must be 0 or more")
    call.access.session(body.session_id)
    return state.ids.sampler_of(body.session_id, body.sampling_session_seq_id)


def used_for_others(call: Call[CreateSamplingSessionRequest]) -> Refused:
    """Returns the refusal of a sampling session whose number other weights have."""
    return bad_request(
        f"sampling_session_seq_id {call.body.sampling_session_seq_id} was already used for other "
        "weights"
    )


def submit_sample(
    state: CommonState,
    call: Call[SampleRequest],
    sampler: SamplerRow,
    submit: Callable[[RequestIdentity], str],
) -> Mapping[str, Any]:
    """Begins a sample by `submit`, which returns its request id, unless it is a repeat; returns the
    promise.
    """
    body = call.body
    # a request without a session cannot be repeated: nothing tells it from another one
    number = body.seq_id if isinstance(body.seq_id, int) and body.sampling_session_id else None
    identity = call.identify(sampler.sampler_id, number, "sample")
    request_id = state.futures.find_repeated(identity) or submit(identity)
    if sampler.session_id:
        state.activity.note_request(sampler.session_id)
    ids = [f"{request_id}:{index}" for index in range(body.num_samples)]
    return UntypedAPIFuture(request_id, sample_sequence_ids=ids).to_dict()
