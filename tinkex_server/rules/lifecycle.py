"""The end of models and sessions: what is unloaded, freed and forgotten, and in which order."""

from __future__ import annotations

from functools import partial

from tinkex_server.jobs.lanes import Job
from tinkex_server.state import CommonState
from tinkex_server.store import ModelRow


def retire_model(state: CommonState, row: ModelRow) -> bool:
    """Closes a model for new requests, and fails those that wait for a missing seq_id.

    Returns whether the model was open until now.
    """
    if not row.in_memory:
        return False
    state.store.models.set_state(row.model_id, "unloaded")
    state.retire(row.model_id)
    state.futures.fail_early(row.model_id, "the model was unloaded before its turn came")
    return True


async def unload_model(state: CommonState, model_id: str) -> None:
    """Frees the model's memory. To be run as the last job of the model's lane."""
    await state.free_model(model_id)
    state.lanes.forget(model_id)
    state.step_order.forget(model_id)
    state.refused_seq_ids.forget(model_id)


def end_session(
    state: CommonState, session_id: str, reason: str, detail: str | None, now: float
) -> bool:
    """Ends a session: unloads its models after the requests whose turn has come, and frees its
    sampler weights.

    Returns whether the session was open until now; the first reason stays.
    """
    if not state.store.sessions.finish(session_id, reason, detail, now):
        return False
    for model in state.store.models.of_session(session_id):
        if retire_model(state, model):
            unload = partial(unload_model, state, model.model_id)
            state.lanes.put(model.model_id, None, Job(None, unload))
    for sampler in state.store.samplers.of_session(session_id):
        state.free_sampler(sampler)
        state.futures.forget_ended(sampler.sampler_id)
    state.activity.forget(session_id)
    state.note_ended(session_id, reason, detail)
    return True
