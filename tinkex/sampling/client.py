"""`AsyncSamplingClient`: sampling from a base model or from saved weights."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

from tinkex_api.api.sampling import create_sampling_session, get_sampler, join_sampling_session, sample
from tinkex_api.models import CreateSamplingSessionRequest, JoinSamplingSessionRequest, SampleRequest, UntypedAPIFuture

from tinkex.config import Config
from tinkex.errors import InvalidInputError
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.futures.poller import Payload, RequestState, read_result, wait_for_payload
from tinkex.sampling.many import Prompts, SampleManyItem, sample_many
from tinkex.session import Session
from tinkex.tokenizer import Tokenizer, get_tokenizer
from tinkex.transport.http import Transport
from tinkex.types import ArrayLike, ModelInput, SampleResponse, SamplingParams, as_model_input
from tinkex.wire import json, protobuf

_NUMBERS_OF_A_COPY = 1_000_000_000
_COPIES = 2**33  # so that all numbers stay below 2**63


class AsyncSamplingClient:
    """Samples from one set of weights. Made by `AsyncServiceClient.create_sampling_client`, or by a training client.

    It can be pickled, and sent to other processes and machines. The key does not go along: a copy takes it from its own environment.
    The session lives as long as the service client that began it. `close` a copy, or leave it as a context manager.
    """

    sampling_session_id: str
    """The server's name for these weights in this session."""

    def __init__(self, session: Session, sampling_session_id: str, *, base_model: str | None) -> None:
        self.sampling_session_id = sampling_session_id
        self._session = session
        self._base_model = base_model
        self._numbers = itertools.count()
        self._is_copy = False
        self._joining = asyncio.Lock()
        self._own_transport: Transport | None = None

    @classmethod
    async def open(cls, session: Session, *, base_model: str | None, model_path: str | None) -> AsyncSamplingClient:
        """Opens a sampling session on the server; the weights are `model_path`'s where it is given, else `base_model`'s."""
        body = CreateSamplingSessionRequest(session.session_id, next(session.sampler_numbers))
        if model_path:
            body.model_path = model_path
        elif base_model:
            body.base_model = base_model
        else:
            raise InvalidInputError("create_sampling_client needs base_model or model_path")
        answer = await session.transport.send(create_sampling_session.request(body=body))
        return cls(session, answer.sampling_session_id, base_model=base_model)

    def sample(
        self,
        prompt: ModelInput | ArrayLike | str,
        num_samples: int = 1,
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        *,
        prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
    ) -> AsyncAPIFuture[SampleResponse]:
        """Samples continuations of a prompt.

        Args:
            prompt: a `ModelInput`, token ids `(N,)`, or a text, which the base model's tokenizer encodes.
            num_samples: how many continuations.
            sampling_params: as a `SamplingParams` or a dict of its fields.
            prompt_logprobs: whether to give the logprob of each of the prompt's tokens, too.
            topk_prompt_logprobs: how many of the likeliest tokens to give for each of the prompt's.

        Raises:
            InvalidInputError: at the call: no tokens, fewer than one sample, or an unknown sampling parameter.
            RequestFailedError: when awaited: the server could not do it.
        """
        text = prompt if isinstance(prompt, str) else None
        model_input = ModelInput() if text is not None else as_model_input(prompt)
        if not text and model_input.is_empty:
            raise InvalidInputError("the prompt is empty", advice="Give it one token at least.")
        _check_counts(num_samples, topk_prompt_logprobs)
        body = SampleRequest(
            prompt=json.encode_model_input(model_input),
            sampling_params=_params(sampling_params),
            num_samples=num_samples,
            prompt_logprobs=prompt_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
            sampling_session_id=self.sampling_session_id,
        )
        state = RequestState("sample")
        return AsyncAPIFuture(self._sample(body, state, text), state)

    def sample_many(
        self,
        prompts: Prompts,
        num_samples: int = 1,
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        *,
        prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        max_in_flight: int = 256,
        ordered: bool = True,
        progress: bool = False,
    ) -> AsyncIterator[SampleManyItem]:
        """Samples for any number of prompts, with a bounded number of them in memory; failures stand beside results.

        Args:
            prompts: `ModelInput`s, token ids or texts, in a list or an iterator, which is read as they are needed.
            num_samples, sampling_params, prompt_logprobs, topk_prompt_logprobs: for each, as for `sample`.
            max_in_flight: at most so many prompts at once.
            ordered: whether the items come in the order of the prompts, or as they finish.
            progress: whether to draw a progress bar on stderr.

        Raises:
            InvalidInputError: at the call: `max_in_flight` or `num_samples` below 1, an unknown sampling parameter, or a single prompt.
        """
        _check_counts(num_samples, topk_prompt_logprobs)
        params = _params(sampling_params)

        def one(prompt: ModelInput | ArrayLike) -> AsyncAPIFuture[SampleResponse]:
            return self.sample(
                prompt, num_samples, params, prompt_logprobs=prompt_logprobs, topk_prompt_logprobs=topk_prompt_logprobs
            )

        return sample_many(one, prompts, max_in_flight=max_in_flight, ordered=ordered, progress=progress)

    def compute_logprobs(self, prompt: ModelInput | ArrayLike) -> AsyncAPIFuture[list[float | None]]:
        """The logprob of each of the prompt's N tokens given those before it, `(N,)`; None for the first."""
        sampled = self.sample(prompt, 1, SamplingParams(max_tokens=1), prompt_logprobs=True)

        async def logprobs() -> list[float | None]:
            return list((await sampled).prompt_logprobs or ())

        return AsyncAPIFuture(logprobs(), RequestState("sample"))

    async def get_base_model(self) -> str:
        """The name of the base model. Raises `NotFoundError` where only the server knows it and does not tell."""
        if self._base_model is None:
            answer = await self._session.transport.send(get_sampler.request(self.sampling_session_id))
            self._base_model = answer.base_model
        return self._base_model

    async def get_tokenizer(self) -> Tokenizer:
        """The base model's tokenizer. Raises `TokenizerError` when it cannot be had."""
        return await asyncio.to_thread(get_tokenizer, await self.get_base_model())

    async def close(self) -> None:
        """Ends the connections of a copy that was unpickled; another one's end with its service client."""
        if self._own_transport is not None:
            await self._own_transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def __getstate__(self) -> dict[str, Any]:
        session = self._session
        return {
            "config": {**session.transport.config.without_secrets(), "dialect": session.transport.server.dialect},
            "session_id": session.session_id,
            "sampling_session_id": self.sampling_session_id,
            "base_model": self._base_model,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        transport = Transport(Config(**state["config"]))
        session = Session(transport, state["session_id"])
        self.__init__(session, state["sampling_session_id"], base_model=state["base_model"])
        self._is_copy, self._own_transport = True, transport

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.sampling_session_id}>"

    async def _sample(self, body: SampleRequest, state: RequestState, text: str | None) -> SampleResponse:
        if text is not None:
            tokens = (await self.get_tokenizer()).encode(text)
            body.prompt = json.encode_model_input(ModelInput.from_ints(tokens))
        if self._is_copy:
            await self._become_distinct()
        body.seq_id = next(self._numbers)
        promise = await self._session.transport.send(sample.request(body=body))
        state.request_id = promise.request_id
        result = await wait_for_payload(self._session.transport, state)
        return read_result(lambda payload: _decode(payload, promise, json.prompt_length(body.prompt)), result, "sample")

    async def _become_distinct(self) -> None:
        """Gives this copy numbers of its own: the server takes two samples of one number for one (openapi/tinker.yaml, SampleRequest.seq_id)."""
        async with self._joining:
            if not self._is_copy:
                return
            number = 1 + secrets.randbelow(_COPIES)
            if self._session.transport.server.dialect.joins_samplers:
                body = JoinSamplingSessionRequest(self.sampling_session_id)
                number = (await self._session.transport.send(join_sampling_session.request(body=body))).client_counter
            self._numbers = itertools.count(number * _NUMBERS_OF_A_COPY)
            self._is_copy = False


def _decode(payload: Payload, promise: UntypedAPIFuture, prompt_length: int | None) -> SampleResponse:
    decode = protobuf.decode_sample if isinstance(payload, bytes) else json.decode_sample
    return decode(payload, promise, prompt_length)  # pyright: ignore[reportArgumentType]


def _check_counts(num_samples: int, topk_prompt_logprobs: int) -> None:
    if num_samples < 1 or topk_prompt_logprobs < 0:
        raise InvalidInputError(
            f"num_samples must be 1 or more, and topk_prompt_logprobs 0 or more; got {num_samples} and {topk_prompt_logprobs}"
        )


def _params(params: SamplingParams | Mapping[str, Any] | None) -> SamplingParams:
    if isinstance(params, SamplingParams):
        return params
    parsed = SamplingParams.from_dict(params or {})
    if parsed.additional_properties:
        raise InvalidInputError(
            f"unknown sampling parameter {next(iter(parsed.additional_properties))!r}",
            advice="Known are max_tokens, seed, stop, temperature, top_k, top_p.",
        )
    return parsed
