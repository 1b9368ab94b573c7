"""What is past its time goes: results, requests, records of what was done, checkpoints with a time
to live, and sessions without a client.
"""

from __future__ import annotations

import asyncio
import logging
import time

from tinkex_server.limits import Limits
from tinkex_server.rules.lifecycle import end_session
from tinkex_server.state import ServerState
from tinkex_server.store import Store

logger = logging.getLogger("tinkex.local")

PERIOD = 30.0
"""Seconds from one sweep to the next."""
_PIECE = 1000  # rows at once, so that the event loop is not held up


async def keep_sweeping(state: ServerState) -> None:
    """Until it is cancelled."""
    while True:
        await asyncio.sleep(PERIOD)
        try:
            await sweep(state, time.time())
        except Exception:
            logger.exception("what is past its time could not be removed; it is tried again")


async def sweep(state: ServerState, now: float) -> None:
    silence = state.limits.silence_seconds
    for session in state.activity.silent(now - silence):
        logger.info("session %s lost its client", session.session_id)
        detail = f"neither a heartbeat nor a request came for {silence:.0f} seconds"
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
    await state.folders.collect(state.store.folders)
    await asyncio.to_thread(state.uploads.drop_expired, now)


def expire(store: Store, limits: Limits, now: float) -> bool:
    """Forgets what is past its time, a piece of it. Whether there may be more."""
    for checkpoint in store.checkpoints.expired(now):
        store.checkpoints.delete(checkpoint.path)
        store.audit.add(
            checkpoint.owner, "checkpoint.expired", {"tinker_path": str(checkpoint.path)}, now
        )
    dropped = store.futures.drop_results(now - limits.result_seconds, limits.result_bytes, _PIECE)
    deleted = store.futures.delete_dropped(now - limits.request_seconds, _PIECE)
    return _PIECE in (dropped, deleted, *_drop_records(store, limits, now - limits.record_seconds))


def _drop_records(store: Store, limits: Limits, before: float) -> tuple[int, int]:
    store.usage.drop(before, limits.records)
    entries = store.audit.drop(before, limits.records, _PIECE)
    return entries, store.usage.drop_stored(before, limits.records, _PIECE)
