"""`AsyncSamplingClient`: sampling from a base model or from saved weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

from tinkex_api.api.sampling import get_sampler

from tinkex.config import Config, RetrySettings, as_retry_settings
from tinkex.errors import NotFoundError, TinkexError, UnsupportedByServer, WaitTimeoutError
from tinkex.errors.hints import hinted
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.sampling import handle as handles
from tinkex.sampling.many import Prompts, SampleManyItem, sample_many
from tinkex.sampling.plan import (
    Asked,
    ExtraOutputs,
    SamplePlan,
    asked_for,
    no_prompt_logprobs,
    plan_samples,
)
from tinkex.sampling.results import SessionResults
from tinkex.sampling.sampler import Sampler
from tinkex.sampling.sampling_session import open_sampling_session
from tinkex.sampling.service_protocol import CreatesSamplingClients
from tinkex.sampling.stream import SamplePiece
from tinkex.session.model_tokenizer import model_tokenizer
from tinkex.session.session import Session
from tinkex.tokenizer import Tokenizer, names_of_tokenizer
from tinkex.transport.transport import Transport
from tinkex.types import (
    ArrayLike,
    ModelInput,
    SampleResponse,
    SamplingParams,
    TensorData,
    as_model_input,
)
from tinkex.waiting.wait import QueueObserver, RequestState

T = TypeVar("T")


@hinted
class AsyncSamplingClient:
    """A client that samples from one set of weights. Created by
    `AsyncServiceClient.create_sampling_client`, or by a training client.

    It can be pickled, and sent to other processes and machines. The API key is not pickled: a copy
    takes it from its own environment. The session lives as long as the service client that began
    it. `close` a copy, or use it as a context manager.

    Example:
        sampler = await service.create_sampling_client(model_path=sampler_path)
        future = sampler.sample([1, 2, 3], num_samples=2, sampling_params={"max_tokens": 8})
        for sequence in (await future).sequences:
            print(sequence.tokens, sequence.stop_reason)
    """

    sampling_session_id: str
    """The server's id for these weights in this session."""
    on_queue_state_change: QueueObserver
    """A function called as `on_queue_state_change(queue_state, reason)` when the server reports
    that a sample waits for another reason than before. By default it does nothing.
    """

    def __init__(
        self,
        session: Session,
        sampling_session_id: str,
        *,
        base_model: str | None,
        retry_config: RetrySettings | None = None,
        record_stability_info: bool = False,
        is_copy: bool = False,
    ) -> None:
        self.sampling_session_id = sampling_session_id
        self.on_queue_state_change = _ignore_queue_state
        self._retry = retry_config
        self._session = session
        self._last_asked: Asked | None = None
        self._last_plan: SamplePlan | None = None
        self._sampler = Sampler(
            session.transport,
            session.part(SessionResults).for_sampler(sampling_session_id),
            sampling_session_id,
            record_stability_info,
            is_copy,
            base_model,
        )
        self._own_transport = session.transport if is_copy else None

    @classmethod
    async def open(
        cls,
        session: Session,
        *,
        base_model: str | None,
        model_path: str | None,
        retry_config: RetrySettings | None = None,
        record_stability_info: bool = False,
    ) -> AsyncSamplingClient:
        """Opens a sampling session on the server, with the weights of `model_path`, or else those
        of the base model.
        """
        retry_config = as_retry_settings(retry_config)
        opened = await open_sampling_session(session, base_model=base_model, model_path=model_path)
        return cls(
            session,
            opened,
            base_model=base_model,
            retry_config=retry_config,
            record_stability_info=record_stability_info,
        )

    @staticmethod
    async def create(
        service: CreatesSamplingClients[Awaitable[AsyncSamplingClient]],
        model_path: str | None = None,
        base_model: str | None = None,
        *,
        retry_config: RetrySettings | None = None,
        record_stability_info: bool = False,
    ) -> AsyncSamplingClient:
        """Calls `service.create_sampling_client` with the same arguments.

        Example:
            base = await AsyncSamplingClient.create(service, base_model="Qwen/Qwen3-8B")
        """
        return await service.create_sampling_client(
            model_path, base_model, retry_config, record_stability_info
        )

    @staticmethod
    def create_async(
        service: CreatesSamplingClients[Awaitable[AsyncSamplingClient]],
        model_path: str | None = None,
        base_model: str | None = None,
        *,
        retry_config: RetrySettings | None = None,
        record_stability_info: bool = False,
    ) -> AsyncAPIFuture[AsyncSamplingClient]:
        """Calls `create` at once, and returns a future of the client, so that several can be
        created concurrently.

        Example:
            creating = AsyncSamplingClient.create_async(service, sampler_path)
            base = AsyncSamplingClient.create_async(service, base_model="Qwen/Qwen3-8B")
            tuned = await creating
        """
        made = AsyncSamplingClient.create(
            service,
            model_path,
            base_model,
            retry_config=retry_config,
            record_stability_info=record_stability_info,
        )
        return AsyncAPIFuture(made, RequestState("create_async"))

    @staticmethod
    def from_sampler_handle(handle: str, *, api_key: str | None = None) -> AsyncSamplingClient:
        """Returns a client for the sampler that `get_sampler_handle` described. `close` it, or use
        it as a context manager.

        Args:
            handle: the whole string that `get_sampler_handle` returned.
            api_key: the API key; by default `TINKER_API_KEY`.

        Raises:
            InvalidInputError: `handle` is not such a string.
            ConfigError: a setting of the environment is missing or wrong.

        Example:
            handle = sampler.get_sampler_handle()  # send it to another machine
            copy = type(sampler).from_sampler_handle(handle)
            future = copy.sample([1, 2, 3], sampling_params={"max_tokens": 8})
            print((await future).sequences[0].tokens)
            await copy.close()
        """
        known = handles.unpack(handle)
        session = Session(Transport(known.config(api_key)), known.session_id)
        return AsyncSamplingClient(
            session, known.sampling_session_id, base_model=known.base_model, is_copy=True
        )

    def sample(
        self,
        prompt: ModelInput | ArrayLike | str,
        num_samples: int = 1,
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: TensorData | ArrayLike | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
        *,
        prompt_logprobs: bool = False,
        timeout: float | None = None,
        await_timeout: float | None = None,
    ) -> AsyncAPIFuture[SampleResponse]:
        """Samples continuations of a prompt of N tokens.

        Args:
            prompt: a `ModelInput`, token ids `(N,)`, or a string, which the base model's tokenizer
                encodes.
            num_samples: the number of continuations. When the server limits it, several requests
                are sent.
            sampling_params: a `SamplingParams`, or a dict of its fields. Without `max_tokens`, a
                sample may fill the model's context where the server allows that; elsewhere it has
                at most 256 tokens, and a warning says so.
            include_prompt_logprobs: whether to return the logprob of each prompt token,
                `prompt_logprobs` `(N,)`, float32; the first is None.
            topk_prompt_logprobs: how many of the likeliest tokens to return for each position of
                the prompt.
            topk_sample_logprobs: how many to return for each sampled token.
            target_prompt_logprobs: token ids `(N - 1, K)`, int64, whose logprobs to return: row i
                is about position i + 1; -1 leaves a cell out.
            prompt_alt_tokens_k: how many alternative tokens to sample at each position of the
                prompt after the first.
            prompt_logprobs_last_n: score only the last n tokens of the prompt; 1 to N - 1.
            prompt_logprobs: the same as `include_prompt_logprobs`.
            timeout: seconds for the server to accept the request; by default `Config.timeout`.
            await_timeout: seconds for the whole call; by default `Config.poll` bounds the wait.

        Raises:
            InvalidInputError: at the call: no tokens, fewer than one sample, or an argument that
                does not fit.
            UnsupportedByServer: at the call, or when awaited: the server lacks, or ignored,
                something that was asked for.
            RequestFailedError: when awaited: the sampling failed on the server.
            WaitTimeoutError: when awaited: `await_timeout` has passed.

        Example:
            future = sampler.sample(
                [1, 2, 3],
                num_samples=2,
                sampling_params={"max_tokens": 8, "temperature": 0.7},
            )
            for sequence in (await future).sequences:
                print(sequence.tokens, sequence.logprobs)
        """
        scores_prompt = include_prompt_logprobs or prompt_logprobs
        asked = asked_for(
            *(self._session.transport.server.dialect, sampling_params, num_samples, scores_prompt),
            *(topk_prompt_logprobs, topk_sample_logprobs, target_prompt_logprobs),
            *(prompt_alt_tokens_k, prompt_logprobs_last_n),
        )
        # most calls of a client ask for the same
        if asked is None or asked != self._last_asked or self._last_plan is None:
            extras = ExtraOutputs(
                prompt_logprobs=scores_prompt,
                topk_prompt_logprobs=topk_prompt_logprobs,
                topk_sample_logprobs=topk_sample_logprobs,
                target_prompt_logprobs=target_prompt_logprobs,
                prompt_alt_tokens_k=prompt_alt_tokens_k,
                prompt_logprobs_last_n=prompt_logprobs_last_n,
            )
            self._last_plan = self._plan(num_samples, sampling_params, extras)
            self._last_asked = asked
        return self._begin(prompt, self._last_plan, timeout, await_timeout)

    def sample_many(
        self,
        prompts: Prompts,
        num_samples: int = 1,
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        *,
        prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
        timeout: float | None = None,
        await_timeout: float | None = None,
        max_in_flight: int = 256,
        ordered: bool = True,
        progress: bool = False,
    ) -> AsyncIterator[SampleManyItem]:
        """Samples for any number of prompts, and holds only a bounded number of them in memory. A
        prompt that fails does not end the others: its item has the error.

        Args:
            prompts: `ModelInput`s, token ids or strings, in a list or an iterator, which is read as
                prompts are needed.
            num_samples, sampling_params, prompt_logprobs, topk_prompt_logprobs: for each prompt, as
                for `sample`.
            topk_sample_logprobs, prompt_alt_tokens_k, prompt_logprobs_last_n: for each prompt, as
                for `sample`.
            timeout, await_timeout: for each prompt, as for `sample`.
            max_in_flight: the largest number of prompts at once.
            ordered: whether the items come in the order of the prompts, or as they finish.
            progress: whether to draw a progress bar on standard error.

        Raises:
            InvalidInputError: at the call: `max_in_flight` or `num_samples` below 1, an unknown
                sampling parameter, or a single prompt.
            UnsupportedByServer: at the call: the server lacks something that was asked for.

        Example:
            prompts = [[1, 2], [3, 4], [5, 6]]
            async for item in sampler.sample_many(prompts, sampling_params={"max_tokens": 8}):
                if item.error is None:
                    print(item.index, item.result().sequences[0].tokens)
        """
        extras = ExtraOutputs(
            prompt_logprobs=prompt_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
            topk_sample_logprobs=topk_sample_logprobs,
            prompt_alt_tokens_k=prompt_alt_tokens_k,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
        )
        plan = self._plan(num_samples, sampling_params, extras)

        def sample_one(prompt: ModelInput | ArrayLike | str) -> AsyncAPIFuture[SampleResponse]:
            return self._begin(prompt, plan, timeout, await_timeout)

        return sample_many(
            sample_one, prompts, max_in_flight=max_in_flight, ordered=ordered, progress=progress
        )

    def sample_stream(
        self,
        prompt: ModelInput | ArrayLike | str,
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> AsyncIterator[SamplePiece]:
        """Yields one continuation of a prompt, with its tokens as the server samples them. A server
        that cannot stream sends the finished continuation as one piece.

        The last piece has the whole sequence. Closing the iterator ends the sampling.

        Args:
            prompt, sampling_params: as for `sample`.
            timeout: seconds until the first piece, and from one piece to the next; by default
                `Config.timeout`.

        Raises:
            InvalidInputError: at the call: no tokens, or a sampling parameter that does not fit.
            RequestFailedError: at a piece: the sampling failed on the server.
            APIConnectionError: at a piece: the connection broke.

        Example:
            async for piece in sampler.sample_stream([1, 2, 3], {"max_tokens": 8}):
                print(piece.tokens, end=" ", flush=True)
        """
        plan = self._plan(1, sampling_params, ExtraOutputs())
        return self._stream(_checked(prompt, plan), plan, timeout)

    def compute_logprobs(
        self, prompt: ModelInput | ArrayLike | str, prompt_logprobs_last_n: int | None = None
    ) -> AsyncAPIFuture[list[float | None]]:
        """Computes the logprob of each of the prompt's N tokens, given those before it, in nats.
        The result is a list of N floats; the first is None.

        Args:
            prompt: as for `sample`.
            prompt_logprobs_last_n: score only the last n tokens, 1 to N - 1; the others are None.

        Raises:
            InvalidInputError: at the call: no tokens, or n does not fit.
            UnsupportedByServer: at the call, or when awaited: the server computes no logprobs of a
                prompt.
            RequestFailedError: when awaited: the computation failed on the server.

        Example:
            future = sampler.compute_logprobs([1, 2, 3])
            logprobs = (await future)
            print(logprobs[0], sum(logprobs[1:]))  # None, and the logprob of the other two tokens
        """
        extras = ExtraOutputs(prompt_logprobs=True, prompt_logprobs_last_n=prompt_logprobs_last_n)
        plan = self._plan(1, SamplingParams(max_tokens=1), extras)
        sampled = self._begin(prompt, plan, None, None)

        async def logprobs() -> list[float | None]:
            computed = (await sampled.wrapped()).prompt_logprobs
            if computed is None:
                raise no_prompt_logprobs(self._session.transport.server.dialect)
            return computed

        return AsyncAPIFuture(logprobs(), sampled.state, self._session.failures)

    async def get_base_model(self) -> str:
        """Returns the name of the base model.

        Raises:
            NotFoundError, UnsupportedByServer: only the server knows the name, and it does not
                tell.

        Example:
            base_model = await sampler.get_base_model()
        """
        if self._sampler.base_model is None:
            try:
                answer = await self._session.transport.send(
                    get_sampler.request(self.sampling_session_id)
                )
            except (NotFoundError, UnsupportedByServer) as error:
                error.advice = (
                    "Give base_model together with model_path when you create the client."
                )
                raise
            self._sampler.base_model = answer.base_model
        return self._sampler.base_model

    async def get_tokenizer(self) -> Tokenizer:
        """Returns the base model's tokenizer. Raises `TokenizerError` when it cannot be loaded.

        Example:
            tokenizer = await sampler.get_tokenizer()
            tokens = tokenizer.encode("two =")
        """
        base_model = await self.get_base_model()
        return await model_tokenizer(
            self._session.transport, base_model, names_of_tokenizer(None, [base_model])
        )

    def get_sampler_handle(self) -> str:
        """Returns a string from which `from_sampler_handle` makes a client for the same weights
        anywhere. It holds no API key.

        Example:
            handle = sampler.get_sampler_handle()  # a text, to send to another process
        """
        transport = self._session.transport
        return handles.pack(
            transport.base_url,
            self._session.session_id,
            self.sampling_session_id,
            self._sampler.base_model,
            transport.server.dialect,
        )

    async def close(self) -> None:
        """Closes the connections of a copy that was unpickled or made from a handle. Those of other
        clients are closed with their service client.

        Example:
            copy = AsyncSamplingClient.from_sampler_handle(sampler.get_sampler_handle())
            await copy.close()
        """
        if self._own_transport is not None:
            await self._own_transport.shut_down(self._end)

    async def _end(self) -> None:
        await self._session.lifecycle.finish("success")
        await self._session.transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __getstate__(self) -> dict[str, Any]:
        session = self._session
        return {
            "config": {
                **session.transport.config.without_secrets(),
                "base_url": session.transport.base_url,
                "dialect": session.transport.server.dialect,
            },
            "session_id": session.session_id,
            "sampling_session_id": self.sampling_session_id,
            "base_model": self._sampler.base_model,
            "retry_config": self._retry,
            "record_stability_info": self._sampler.record_stability_info,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        session = Session(Transport(Config(**state.pop("config"))), state.pop("session_id"))
        self.__init__(session, is_copy=True, **state)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.sampling_session_id}>"

    def _plan(
        self,
        num_samples: int,
        params: SamplingParams | Mapping[str, Any] | None,
        extras: ExtraOutputs,
    ) -> SamplePlan:
        server = self._session.transport.server
        plan = plan_samples(num_samples, params, extras, server.dialect)
        for warning in plan.warnings:
            server.warn_once(warning)
        return plan

    def _begin(
        self,
        prompt: ModelInput | ArrayLike | str,
        plan: SamplePlan,
        timeout: float | None,
        await_timeout: float | None,
    ) -> AsyncAPIFuture[SampleResponse]:
        self._session.transport.require_open("sample")
        state, checked = self._state(), _checked(prompt, plan)
        work = (
            self._sample_text(checked, plan, state, timeout)
            if isinstance(checked, str)
            else self._sampler.sample(checked, plan, state, timeout)
        )
        if await_timeout is not None:
            work = _within(await_timeout, work, state)
        return AsyncAPIFuture(work, state, self._session.failures)

    async def _sample_text(
        self, prompt: str, plan: SamplePlan, state: RequestState, timeout: float | None
    ) -> SampleResponse:
        return await self._sampler.sample(await self._encode(prompt, plan), plan, state, timeout)

    async def _stream(
        self, prompt: ModelInput | str, plan: SamplePlan, timeout: float | None
    ) -> AsyncGenerator[SamplePiece, None]:
        model_input = await self._encode(prompt, plan)
        async with aclosing(
            self._sampler.stream(model_input, plan, self._state(), timeout)
        ) as pieces:
            async for piece in pieces:
                yield piece

    def _state(self) -> RequestState:
        observer = (
            None
            if self.on_queue_state_change is _ignore_queue_state
            else self.on_queue_state_change
        )
        return RequestState("sample", retry=self._retry, observer=observer)

    async def _encode(self, prompt: ModelInput | str, plan: SamplePlan) -> ModelInput:
        if isinstance(prompt, ModelInput):
            return prompt
        encoded = ModelInput.from_ints((await self.get_tokenizer()).encode_np(prompt))
        plan.check_prompt(encoded)
        return encoded


def _ignore_queue_state(queue_state: str, reason: str | None) -> None:
    """Does nothing: log lines and events report how samples wait."""


def _checked(prompt: ModelInput | ArrayLike | str, plan: SamplePlan) -> ModelInput | str:
    """Checks a prompt and returns it as a `ModelInput`. A string is returned as it is, and checked
    once it is encoded.
    """
    if isinstance(prompt, str) and prompt:
        return prompt
    model_input = ModelInput() if isinstance(prompt, str) else as_model_input(prompt)
    plan.check_prompt(model_input)
    return model_input


async def _within(seconds: float, work: Coroutine[Any, Any, T], state: RequestState) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        if isinstance(error, TinkexError):
            raise
        raise WaitTimeoutError(
            f"no sample within await_timeout, {seconds:g} s",
            waited=seconds,
            operation=state.operation,
            request_id=state.request_id,
            advice="Raise await_timeout, or look at the server's log for the reason of the delay.",
        ) from error
