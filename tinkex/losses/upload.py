"""`CustomLosses`: the custom losses of a session, each uploaded once if the server runs them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

from tinkex_api.api.training import create_custom_loss
from tinkex_api.models import CreateCustomLossRequest

from tinkex.errors import InvalidInputError
from tinkex.futures.poller import send_and_wait
from tinkex.losses.handle import LossHandle, PerDatumLossFn, Rank, TracedLoss
from tinkex.session.session import Session
from tinkex.transport.answers import required_text


def traced(fn: PerDatumLossFn, input_ranks: Mapping[str, Rank]) -> TracedLoss:
    """Returns and raises what `losses.tracing.trace` does.

    Raises `InvalidInputError` also if torch is not installed.
    """
    try:
        from tinkex.losses.tracing import trace
    except ImportError as error:
        raise InvalidInputError(
            "a custom loss needs torch, which cannot be imported", advice="Install it."
        ) from error
    return trace(fn, input_ranks)


class CustomLosses:
    """The custom losses of one session. For one event loop."""

    def __init__(self) -> None:
        self._handles: dict[str, LossHandle] = {}
        self._numbers = itertools.count()
        self._uploading = asyncio.Lock()

    async def handle(self, session: Session, loss: TracedLoss) -> LossHandle:
        """Returns the session's handle for this loss. Losses with the same graph share a handle.

        Raises what sending and waiting raise.
        """
        async with self._uploading:
            known = self._handles.get(loss.key)
            # losses do not outlive their session
            if known is None or known.session_id != session.session_id:
                loss_id = (
                    await self._upload(session, loss)
                    if session.transport.server.dialect.runs_custom_losses
                    else None
                )
                self._handles[loss.key] = LossHandle(
                    name=loss.name,
                    inputs=loss.inputs,
                    graph=loss.graph,
                    run=loss.run,
                    session_id=session.session_id,
                    loss_id=loss_id,
                )
            return self._handles[loss.key]

    async def _upload(self, session: Session, loss: TracedLoss) -> str:
        body = CreateCustomLossRequest(
            session.session_id, next(self._numbers), loss.name, list(loss.inputs), loss.graph
        )
        return await send_and_wait(
            session.transport,
            create_custom_loss.request(body=body),
            lambda fields: required_text(fields, "loss_id"),
        )
