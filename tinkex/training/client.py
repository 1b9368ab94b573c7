"""`AsyncTrainingClient`: one model in training."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from tinkex_api.api.models import get_info
from tinkex_api.api.training import forward, forward_backward, optim_step
from tinkex_api.api.weights import save_weights_for_sampler
from tinkex_api.models import (
    ForwardBackwardRequest,
    ForwardRequest,
    GetInfoRequest,
    OptimStepRequest,
    SaveWeightsForSamplerRequest,
    UntypedAPIFuture,
)
from tinkex_api.types import Request

from tinkex.errors import (
    APIConnectionError,
    APIStatusError,
    InternalServerError,
    InvalidInputError,
    StepOutcomeUnknown,
    TinkexError,
)
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.futures.poller import RequestState, wait_for_result
from tinkex.sampling.client import AsyncSamplingClient
from tinkex.session import Session
from tinkex.tokenizer import Tokenizer, get_tokenizer
from tinkex.training import chunking, metrics
from tinkex.training.sequencer import Sequencer, Turn
from tinkex.training.validation import check_batch
from tinkex.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    GetInfoResponse,
    OptimStepResponse,
    SaveWeightsForSamplerResponse,
)
from tinkex.wire import json

T = TypeVar("T")
Submit = Callable[[int], Request[UntypedAPIFuture]]
"""Builds the request for a seq_id."""


class AsyncTrainingClient:
    """One model in training. Made by `AsyncServiceClient.create_lora_training_client`.

    The methods that change the model return at once; **their order is fixed by the order of the calls**, whenever they are
    awaited. Call `forward_backward` and `optim_step` before awaiting either, and both are under way together:

        fb = client.forward_backward(batch, "cross_entropy")
        step = client.optim_step(AdamParams(learning_rate=1e-4))
        loss = (await fb).metrics["loss:sum"]
        await step
    """

    model_id: str
    """The server's name for the model, and for its training run."""
    base_model: str

    def __init__(self, session: Session, model_id: str, base_model: str) -> None:
        self.model_id = model_id
        self.base_model = base_model
        self._session = session
        self._transport = session.transport
        self._sequencer = Sequencer()

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str, loss_fn_config: Mapping[str, float | str] | None = None
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        """Computes the loss of a batch and adds its gradients to the model's, until `optim_step` applies them.

        A batch over the server's limits is split into several requests, and the results are put together again.

        Args:
            data: the batch.
            loss_fn: `"cross_entropy"`, `"importance_sampling"`, `"ppo"`, `"cispo"`, or another that the server has.
            loss_fn_config: the loss's settings, for example `{"clip_low_threshold": 0.8}`.

        Raises:
            InvalidInputError: at the call: an empty batch, or a loss input that is missing or unknown.
            RequestFailedError: when awaited: the server could not do it, for example for a token out of its vocabulary.
            StepOutcomeUnknown: when awaited: nobody knows whether it was applied.
        """
        return self._run_batch("forward_backward", data, loss_fn, loss_fn_config)

    def forward(
        self, data: Sequence[Datum], loss_fn: str, loss_fn_config: Mapping[str, float | str] | None = None
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        """Computes what `forward_backward` does, and no gradients. Takes and raises the same."""
        return self._run_batch("forward", data, loss_fn, loss_fn_config)

    def optim_step(self, adam_params: AdamParams) -> AsyncAPIFuture[OptimStepResponse]:
        """Applies the gathered gradients by AdamW, and clears them.

        Raises:
            StepOutcomeUnknown: when awaited: nobody knows whether it was applied.
        """
        if not isinstance(adam_params, AdamParams):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"adam_params is {type(adam_params).__name__}, not AdamParams")

        def submit(seq_id: int) -> Request[UntypedAPIFuture]:
            return optim_step.request(body=OptimStepRequest(self.model_id, seq_id, adam_params=adam_params))

        return self._run("optim_step", submit, OptimStepResponse.from_dict)

    def save_weights_for_sampler(
        self, name: str, *, ttl_seconds: int | None = None
    ) -> AsyncAPIFuture[SaveWeightsForSamplerResponse]:
        """Saves the weights as they are after the calls so far; the result's `path` can be sampled from.

        Args:
            name: letters, digits, `-`, `_` and `.`; no `/`.
            ttl_seconds: how long they are kept; for ever by default.

        Raises:
            InvalidInputError: at the call: the name is empty or holds a `/`.
        """
        if not name or "/" in name:
            raise InvalidInputError(f"the name {name!r} must not be empty or hold a '/'")

        def submit(seq_id: int) -> Request[UntypedAPIFuture]:
            body = SaveWeightsForSamplerRequest(self.model_id, seq_id, path=name)
            if ttl_seconds is not None:
                body.ttl_seconds = ttl_seconds
            return save_weights_for_sampler.request(body=body)

        return self._run("save_weights_for_sampler", submit, SaveWeightsForSamplerResponse.from_dict)

    async def save_weights_and_get_sampling_client(self) -> AsyncSamplingClient:
        """A client that samples from the weights as they are after the calls so far; later steps do not change it."""
        number = next(self._session.sampler_numbers)

        def submit(seq_id: int) -> Request[UntypedAPIFuture]:
            body = SaveWeightsForSamplerRequest(self.model_id, seq_id, sampling_session_seq_id=number)
            return save_weights_for_sampler.request(body=body)

        saved = await self._run("save_weights_for_sampler", submit, SaveWeightsForSamplerResponse.from_dict)
        if saved.sampling_session_id:
            return AsyncSamplingClient(self._session, saved.sampling_session_id, base_model=self.base_model)
        return await AsyncSamplingClient.open(self._session, base_model=self.base_model, model_path=saved.path or None)

    async def get_info(self) -> GetInfoResponse:
        """What the server says of the model."""
        return await self._transport.send(get_info.request(body=GetInfoRequest(self.model_id)))

    async def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer, found by `get_info`. Raises `TokenizerError` when it cannot be had."""
        data = (await self.get_info()).model_data
        return await asyncio.to_thread(get_tokenizer, data.tokenizer_id or data.model_name or self.base_model)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model_id} over {self.base_model}>"

    def _run_batch(
        self, operation: str, data: Sequence[Datum], loss_fn: str, config: Mapping[str, float | str] | None
    ) -> AsyncAPIFuture[ForwardBackwardOutput]:
        data = list(data)  # the caller may go on with its list
        check_batch(data, loss_fn)
        chunks = chunking.split(data, self._session.dialect.chunk_limits)
        submits = [self._batch_submit(operation, chunk, loss_fn, config) for chunk in chunks]
        turn = self._sequencer.turn(operation)
        state = RequestState(operation)

        async def work() -> ForwardBackwardOutput:
            async with turn:
                waits = await self._submit_chunks(turn, state, submits)
            results = await asyncio.gather(*(wait() for wait in waits))
            return metrics.combine([json.decode_forward_backward(result) for result in results])

        return AsyncAPIFuture(work(), state)

    def _batch_submit(
        self, operation: str, chunk: Sequence[Datum], loss_fn: str, config: Mapping[str, float | str] | None
    ) -> Submit:
        def submit(seq_id: int) -> Request[UntypedAPIFuture]:
            batch = json.encode_batch(chunk, loss_fn, config)
            if operation == "forward":
                return forward.request(body=ForwardRequest(self.model_id, seq_id, batch))
            return forward_backward.request(body=ForwardBackwardRequest(self.model_id, seq_id, batch))

        return submit

    def _run(self, operation: str, submit: Submit, parse: Callable[[Mapping[str, object]], T]) -> AsyncAPIFuture[T]:
        turn = self._sequencer.turn(operation)
        state = RequestState(operation)

        async def work() -> T:
            async with turn:
                [wait] = await self._submit_chunks(turn, state, [submit])
            return parse(await wait())

        return AsyncAPIFuture(work(), state)

    async def _submit_chunks(
        self, turn: Turn, state: RequestState, submits: Sequence[Submit]
    ) -> list[Callable[[], Awaitable[Mapping[str, object]]]]:
        """Sends a call's requests under consecutive numbers; returns what waits for each result, in order.

        Together, where the server says so, and then the first one last, so that it finds all the others queued.
        """
        first = self._sequencer.next_seq_id
        states = [state, *(RequestState(state.operation) for _ in submits[1:])]

        async def send(index: int) -> None:
            await self._submit(states[index], submits[index], first + index)

        sent = 0
        try:
            if self._session.dialect.parallel_chunks and len(submits) > 1:
                await _all_or_first_error([send(index) for index in range(1, len(submits))])
                sent = len(submits) - 1
                await send(0)
            else:
                for index in range(len(submits)):
                    await send(index)
                    sent += 1
        except TinkexError as error:
            self._give_up(error, untouched=sent == 0 and (len(submits) == 1 or not self._session.dialect.parallel_chunks))
            raise
        except BaseException:
            self._sequencer.poison(StepOutcomeUnknown("cancelled while it was being sent", operation=turn.operation))
            raise
        self._sequencer.accepted(len(submits))
        return [lambda state=state: wait_for_result(self._transport, state) for state in states]

    async def _submit(self, state: RequestState, submit: Submit, seq_id: int) -> None:
        repeatable = self._session.dialect.steps_repeatable
        request = await asyncio.to_thread(submit, seq_id)  # a large body takes long to encode
        try:
            promise = await self._transport.send(request, repeatable=repeatable)
        except (APIConnectionError, InternalServerError) as error:
            if isinstance(error, APIConnectionError) and not error.sent:
                raise
            raise StepOutcomeUnknown(
                f"nobody knows whether it was applied: {error.message}",
                operation=state.operation,
                advice="Make a new training client from the last saved state.",
            ) from error
        state.request_id = promise.request_id

    def _give_up(self, error: TinkexError, *, untouched: bool) -> None:
        refused = isinstance(error, (APIStatusError, APIConnectionError))
        if refused and untouched:
            self._sequencer.refused(error)
        else:
            self._sequencer.poison(error)


async def _all_or_first_error(work: Sequence[Awaitable[None]]) -> None:
    """Waits for all, so that none is left running, and raises the first error in order."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
