"""`RequestSender`: sends numbered requests, again where that is safe, and awaits their results."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from attrs import define
from tinkex_api.models import UntypedAPIFuture
from tinkex_api.types import Request

from tinkex.dialects import resend
from tinkex.dialects.detect import refuses_encoding
from tinkex.dialects.dialect import Encoding
from tinkex.errors import (
    APIConnectionError,
    APIStatusError,
    ClientClosedError,
    ConfigError,
    CredentialError,
    InvalidInputError,
    RequestFailedError,
    ResultLostError,
    ServerStateLostError,
    StepOutcomeUnknown,
    TinkexError,
    UnsupportedByServer,
)
from tinkex.futures.poller import Payload, RequestState, wait_for_result
from tinkex.session.session import Session
from tinkex.training.encoded_requests import EncodedRequests
from tinkex.training.sequencer import Sequencer, Turn

R = TypeVar("R")
_NOT_ACCEPTED = (
    *(APIStatusError, APIConnectionError, ClientClosedError, UnsupportedByServer),
    *(InvalidInputError, CredentialError, ConfigError),
)
"""Errors of a call's first request that mean that the server did not accept it."""
_NO_RESULT = (400, 403, 404, 409, 410, 422)
"""Statuses of a poll which mean that a training request has no result, and never will."""
_NUMBERED_REFUSALS = (400, 404, 422)
"""Statuses with which a server refuses a request that it has read, so that it may have counted it.
"""
_MAKE_A_NEW_CLIENT = "Make a new training client from the last saved state."


@define(eq=False)
class SentRequest:
    """A request that was sent under a number."""

    state: RequestState
    index: int
    """The place among the call's requests, from 0."""
    seq_id: int
    requests: int
    """The number of the call's requests."""
    twice: bool = False
    """Whether it was sent a second time, since no answer told whether the first one arrived."""
    error: TinkexError | None = None
    """The reason why there is no result to wait for."""


class RequestSender:
    """The part of a model's queue that talks to the server. For one event loop."""

    def __init__(self, session: Session, model_id: str, sequencer: Sequencer) -> None:
        self._session = session
        self._model_id = model_id
        self._transport = session.transport
        self._sequencer = sequencer

    async def send_all(
        self, turn: Turn, state: RequestState, requests: EncodedRequests, *, optional: bool = False
    ) -> Sequence[SentRequest]:
        """Sends a call's requests under consecutive numbers; returns them in order.

        They are sent at the same time where the server allows it. The first one is then sent last,
        so that it finds all the others queued.

        Args:
            turn: the call's turn, which has come.
            state: the state of the first request.
            requests: the call's requests.
            optional: whether later calls may go on when this one fails, as far as the numbers
                allow.
        """
        # the session may have been lost since the turn came: other requests may lie between
        self._session.check(turn.operation)
        await self._sequencer.reclaim_numbers()
        first, count = self._sequencer.next_seq_id, len(requests)
        all_sent = [
            SentRequest(
                RequestState(state.operation) if index else state, index, first + index, count
            )
            for index in range(count)
        ]
        parallel = self._transport.server.dialect.parallel_chunks and count > 1
        accepted = 0
        try:
            if parallel:
                await _all_or_first_error([self._send(sent, requests) for sent in all_sent[1:]])
            for sent in all_sent[: 1 if parallel else None]:
                if not parallel:
                    requests.encode_ahead(sent.index + 1, sent.seq_id + 1)
                await self._send(sent, requests)
                accepted += 1
        except TinkexError as error:
            none_accepted = accepted == 0 and not parallel and isinstance(error, _NOT_ACCEPTED)
            self._after_failed_call(
                error, turn.operation, none_accepted=none_accepted, optional=optional
            )
            raise
        except BaseException:  # the event loop ends, or there is a bug here
            self._sequencer.poison(
                StepOutcomeUnknown("interrupted while it was being sent", operation=turn.operation)
            )
            raise
        self._sequencer.take_numbers(count)
        return all_sent

    async def results(
        self, all_sent: Sequence[SentRequest], read: Callable[[Payload], R]
    ) -> Sequence[R]:
        """Waits for the results of requests, and returns what `read` makes of them, in order."""
        return await asyncio.gather(*(self._result(sent, read) for sent in all_sent))

    async def _send(self, sent: SentRequest, requests: EncodedRequests) -> None:
        """Sends a request in the encoding that the server is known to read.

        If that is not known, tries one encoding after the other, and remembers the one that works.
        """
        order = requests.encodings(sent.index)
        server = self._transport.server
        refusals: list[APIStatusError] = []
        for encoding in order:
            request = await requests.get(sent.index, encoding, sent.seq_id)
            is_unreadable = (
                partial(_is_unreadable, encoding, sent.state.operation) if len(order) > 1 else None
            )
            try:
                await self._send_encoded(sent, request, is_unreadable)
            except APIStatusError as error:
                if is_unreadable is None or not is_unreadable(error):
                    server.note_missing_route(error)
                    raise
                refusals.append(error)
            else:
                if len(order) > 1:
                    server.update_dialect(encodings=(encoding,))
                return
        server.note_missing_route(refusals[0])
        raise refusals[0]

    async def _send_encoded(
        self,
        sent: SentRequest,
        request: Request[UntypedAPIFuture],
        is_unreadable: Callable[[APIStatusError], bool] | None,
    ) -> None:
        """Sends a request, again where that is safe.

        Raises:
            StepOutcomeUnknown: nobody knows whether the server accepted it.
        """
        self._note_sending(sent)
        operation, repeats = sent.state.operation, self._transport.server.dialect.seq_id_repeats
        repeatable = resend.decide("unanswered", operation, repeats) == "resend"
        try:
            sent.state.request_id = (
                await self._transport.send(request, repeatable=repeatable, state=sent.state)
            ).request_id
        except TinkexError as error:
            if isinstance(error, APIStatusError) and is_unreadable and is_unreadable(error):
                raise
            failed_at = resend.failure_point_of(error)
            if failed_at is None:
                if sent.state.possibly_taken and not resend.refuses_all_attempts(error):
                    raise _unknown(error, operation) from error
                raise
            if resend.decide(failed_at, operation, repeats) != "resend_once":
                raise _unknown(error, operation) from error
            await self._resend_once(sent, request, error)
        self._note_accepted(sent)

    async def _resend_once(
        self, sent: SentRequest, request: Request[UntypedAPIFuture], first: TinkexError
    ) -> None:
        """Sends a request again to a server that refuses a number which it has received before."""
        sent.twice = True
        try:
            sent.state.request_id = (
                await self._transport.send(request, repeatable=False, state=sent.state)
            ).request_id
        except APIStatusError as refusal:
            sent.error = self._outcome_from_refusal(sent, refusal)
            if sent.error is None:
                raise _unknown(first, sent.state.operation) from refusal
        except TinkexError as error:
            raise _unknown(first, sent.state.operation) from error

    def _outcome_from_refusal(self, sent: SentRequest, refusal: TinkexError) -> TinkexError | None:
        """Returns the outcome of a request that was sent twice, as the refusal of the second one
        tells it; None where it does not tell.
        """
        match resend.meaning_of_refusal(refusal.message, sent.seq_id):
            case "applied":
                return ResultLostError(
                    f"it was applied, but its result is lost: {refusal.message}",
                    operation=sent.state.operation,
                    advice="Continue with the next step.",
                )
            case "state_lost":
                error = ServerStateLostError(
                    f"the server has lost earlier steps: {refusal.message}",
                    operation=sent.state.operation,
                    advice=_MAKE_A_NEW_CLIENT,
                )
                self._sequencer.poison(error)
                return error
            case "unclear":
                return None

    def _after_failed_call(
        self, error: TinkexError, operation: str, *, none_accepted: bool, optional: bool
    ) -> None:
        """Updates the order after a call that could not be sent whole."""
        if none_accepted:
            self._count_refusal(error)
            if self._session.journal is not None:
                self._session.journal.refused(self._model_id, self._sequencer.next_seq_id)
            if not optional:
                changes = resend.effect_of(operation) == "changes"
                self._sequencer.note_refusal(error, changes=changes)
        elif optional and self._transport.server.dialect.seq_id_order == "arrival":
            # the server may have it, and must not get another request under its number
            self._sequencer.take_numbers()
        else:
            self._sequencer.poison(error)

    def _note_sending(self, sent: SentRequest) -> None:
        if self._session.journal is not None:
            self._session.journal.sending(
                self._model_id, sent.state.operation, sent.seq_id, sent.requests
            )

    def _note_accepted(self, sent: SentRequest) -> None:
        if self._session.journal is not None and sent.state.request_id is not None:
            self._session.journal.accepted(self._model_id, sent.seq_id, sent.state.request_id)

    def _count_refusal(self, error: TinkexError) -> None:
        """Takes the number of a refused request, on a server that counts such requests."""
        if self._transport.server.dialect.refusals_take_numbers and isinstance(
            error, APIStatusError
        ):
            self._sequencer.take_numbers(int(error.status_code in _NUMBERED_REFUSALS))

    async def _result(self, sent: SentRequest, read: Callable[[Payload], R]) -> R:
        if sent.error is not None:
            raise sent.error
        with self._sequencer.awaiting_result():
            try:
                return await wait_for_result(self._transport, sent.state, read)
            except (RequestFailedError, APIStatusError) as error:
                if isinstance(error, APIStatusError) and error.status_code not in _NO_RESULT:
                    raise
                if outcome := self._after_failed_request(sent, error):
                    raise outcome from error
                raise

    def _after_failed_request(
        self, sent: SentRequest, error: RequestFailedError | APIStatusError
    ) -> TinkexError | None:
        """Updates the order after a request that failed; returns the error to raise instead, if the
        request was sent twice and the failure tells the outcome of the first one.
        """
        if isinstance(error, RequestFailedError):
            self._sequencer.note_state_loss(error)
        if sent.twice and (outcome := self._outcome_from_refusal(sent, error)):
            return outcome
        dialect = self._transport.server.dialect
        expected = (
            resend.expected_number(error.message) if dialect.seq_id_order == "strict" else None
        )
        if expected is not None or dialect.failed_step_keeps_number:
            self._sequencer.free_number(sent.seq_id if expected is None else expected)
        return None


def _is_unreadable(encoding: Encoding, operation: str, error: APIStatusError) -> bool:
    return refuses_encoding(encoding, operation, error.status_code, error.body)


def _unknown(error: TinkexError, operation: str) -> StepOutcomeUnknown:
    if resend.effect_of(operation) == "changes":
        what = "nobody knows whether it was applied"
    else:
        what = "it changes nothing in the model, but nobody knows whether the server counted it"
    return StepOutcomeUnknown(
        f"{what}: {error.message}", operation=operation, advice=_MAKE_A_NEW_CLIENT
    )


async def _all_or_first_error(work: Sequence[Awaitable[Any]]) -> None:
    """Waits for all, so that none keeps running, and raises the first error in order."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
