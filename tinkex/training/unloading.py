"""Frees models on the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from tinkex_api.api.models import unload_model
from tinkex_api.models import UnloadModelRequest
from tinkex_api.types import UNSET

from tinkex.errors import TinkexError
from tinkex.session.session import Session
from tinkex.transport.transport import Transport

logger = logging.getLogger("tinkex")


async def unload(
    transport: Transport, model_id: str, max_attempts: int | None = None
) -> str | None:
    """Asks the server to free the model. Raises what sending raises.

    Returns the id of a request to wait for, or None if the model is free already.
    """
    in_query = model_id if transport.server.dialect.unloads_by_query else UNSET
    request = unload_model.request(body=UnloadModelRequest(model_id), model_id=in_query)
    return (await transport.send(request, max_attempts=max_attempts)).request_id


async def unload_left_behind(session: Session, model_ids: Iterable[str]) -> None:
    """Frees those of the given models that the session still has, as far as the server can.

    Failures are logged.
    """
    left = session.models.intersection(model_ids)
    await asyncio.gather(*(unload_or_log(session, model_id) for model_id in left))


async def unload_or_log(session: Session, model_id: str) -> None:
    """Frees the model if the server can. A failure is logged."""
    session.models.discard(model_id)
    if session.transport.server.dialect.lacks("unload_model"):
        return
    try:
        await unload(session.transport, model_id, max_attempts=1)
    except TinkexError as error:
        logger.info("could not unload model %s: %s", model_id, error)
