"""Removes what has expired: results, requests, records of what was done, checkpoints with a time to
live, and sessions whose clients are gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from tinkex_server.limits import Limits
from tinkex_server.rules.lifecycle import end_session
from tinkex_server.state import CommonState
from tinkex_server.store import Store

logger = logging.getLogger("tinkex.local")

PERIOD = 30.0
"""The seconds between two sweeps."""
_ROWS_AT_ONCE = 1000  # so that the event loop is not held up


async def sweep_regularly(states: Callable[[], Sequence[CommonState]]) -> None:
    """Sweeps the states that there are, every `PERIOD`, until it is cancelled."""
    now = time.time()
    while True:
        last = now
        await asyncio.sleep(PERIOD)
        now = time.time()
        for state in states():
            if now - last > 2 * PERIOD:
                # the machine slept, or its clock was set: no client could send a heartbeat
                state.activity.restart(now)
            try:
                await sweep(state, now)
            except Exception:
                logger.exception(
                    "what has expired could not be removed; retrying in %.0f seconds", PERIOD
                )


async def sweep(state: CommonState, now: float) -> None:
    """Ends the sessions whose clients are gone, and removes what has expired by `now`, in seconds
    since 1970.
    """
    silence = state.limits.silence_seconds
    for session in state.activity.silent(now - silence):
        detail = f"neither a heartbeat nor a request came for {silence:.0f} seconds"
        logger.info("session %s is cancelled: %s", session.session_id, detail)
        end_session(state, session.session_id, "cancelled", detail, now)
        state.store.audit.add(
            session.owner,
            "session.cancelled",
            {"session_id": session.session_id, "detail": detail},
            now,
        )
    there_is_more = True
    while there_is_more:
        there_is_more = expire(state.store, state.limits, now)
        await asyncio.sleep(0)
    await state.folders.remove_unused(state.store.folders)
    await state.drop_expired(now)


def expire(store: Store, limits: Limits, now: float) -> bool:
    """Removes from the store a part of what has expired. Returns whether there may be more."""
    for checkpoint in store.checkpoints.expired(now):
        store.checkpoints.delete(checkpoint.path)
        store.audit.add(
            checkpoint.owner, "checkpoint.expired", {"tinker_path": str(checkpoint.path)}, now
        )
    dropped = store.futures.drop_results(
        now - limits.result_seconds, limits.result_bytes, _ROWS_AT_ONCE
    )
    deleted = store.futures.delete_dropped(now - limits.request_seconds, _ROWS_AT_ONCE)
    return _ROWS_AT_ONCE in (
        dropped,
        deleted,
        *_drop_records(store, limits, now - limits.record_seconds),
    )


def _drop_records(store: Store, limits: Limits, before: float) -> tuple[int, int, int]:
    store.usage.drop(before, limits.records)
    return (
        store.audit.drop(before, limits.records, _ROWS_AT_ONCE),
        store.usage.drop_stored(before, limits.records, _ROWS_AT_ONCE),
        store.steps.drop(before, limits.records, _ROWS_AT_ONCE),
    )
