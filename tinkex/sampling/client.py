"""`AsyncSamplingClient`: sampling from a base model or from saved weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

from tinkex_api.api.sampling import create_sampling_session, get_sampler
from tinkex_api.models import CreateSamplingSessionRequest, CreateSamplingSessionResponse

from tinkex.config import Config, RetrySettings, as_retry_settings
from tinkex.errors import NotFoundError, TinkexError, UnsupportedByServer, WaitTimeoutError
from tinkex.errors.hints import hinted
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.futures.poller import RequestState, of_fields, wait_for_result
from tinkex.sampling import handle as handles
from tinkex.sampling import ways
from tinkex.sampling.maker import MakesSamplers
from tinkex.sampling.many import Prompts, SampleManyItem, sample_many
from tinkex.sampling.request import Ask, Questions
from tinkex.sampling.results import SampleResults
from tinkex.sampling.sampler import Sampler
from tinkex.sampling.stream import SamplePiece
from tinkex.session.model_tokenizer import model_tokenizer
from tinkex.session.session import Session
from tinkex.tokenizer import Tokenizer, names_of_tokenizer
from tinkex.transport.answers import required_text
from tinkex.transport.transport import Transport
from tinkex.types import (
    ArrayLike,
    ModelInput,
    SampleResponse,
    SamplingParams,
    TensorData,
    as_model_input,
)
from tinkex.waiting.wait import QueueObserver

T = TypeVar("T")


@hinted
class AsyncSamplingClient:
    """Samples from one set of weights. Made by `AsyncServiceClient.create_sampling_client`, or by a
    training client.

    It can be pickled, and sent to other processes and machines. The key does not go along: a copy
    takes it from its own environment. The session lives as long as the service client that began
    it. `close` a copy, or leave it as a context manager.
    """

    sampling_session_id: str
    """The server's name for these weights in this session."""
    on_queue_state_change: QueueObserver
    """Called as `…(queue_state, reason)` when the server says that a sample waits in another way;
    does nothing until another is set.
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
        self.on_queue_state_change = _tell_nobody
        self._retry = retry_config
        self._session = session
        self._base_model = base_model
        self._sampler = Sampler(
            session.transport,
            session.part(SampleResults).of(sampling_session_id),
            sampling_session_id,
            record_stability_info,
            is_copy,
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
        """Opens a sampling session on the server; the weights are `model_path`'s where it is given,
        else `base_model`'s.
        """
        transport, retry_config = session.transport, as_retry_settings(retry_config)
        ways.require_weights(transport.server.dialect, base_model=base_model, model_path=model_path)
        body = CreateSamplingSessionRequest(session.session_id, next(session.sampler_numbers))
        body.model_path = model_path or None
        names_base = not model_path or transport.server.dialect.sampling.names_base
        body.base_model = base_model if names_base else None
        answer = await transport.send(create_sampling_session.request(body=body))
        opened = answer.sampling_session_id or await _promised(transport, answer)
        return cls(
            session,
            opened,
            base_model=base_model,
            retry_config=retry_config,
            record_stability_info=record_stability_info,
        )

    @staticmethod
    async def create(
        service: MakesSamplers[Awaitable[AsyncSamplingClient]],
        model_path: str | None = None,
        base_model: str | None = None,
        *,
        retry_config: RetrySettings | None = None,
        record_stability_info: bool = False,
    ) -> AsyncSamplingClient:
        """What `service.create_sampling_client` makes of the same arguments."""
        return await service.create_sampling_client(
            model_path, base_model, retry_config, record_stability_info
        )

    @staticmethod
    def create_async(
        service: MakesSamplers[Awaitable[AsyncSamplingClient]],
        model_path: str | None = None,
        base_model: str | None = None,
        *,
        retry_config: RetrySettings | None = None,
        record_stability_info: bool = False,
    ) -> AsyncAPIFuture[AsyncSamplingClient]:
        """What `create` makes, as a future: begins at once, so that several can be made side by
        side.
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
        """A client for the sampler that `get_sampler_handle` described. `close` it, or leave it as
        a context manager.

        Args:
            handle: the text, whole.
            api_key: by default `TINKER_API_KEY`.

        Raises:
            InvalidInputError: it is no such text.
            ConfigError: a setting of the environment is missing or wrong.
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
            prompt: a `ModelInput`, token ids `(N,)`, or a text, which the base model's tokenizer
                encodes.
            num_samples: how many continuations; more than the server gives at once are asked for in
                several requests.
            sampling_params: as a `SamplingParams` or a dict of its fields. Without `max_tokens` up
                to the model's context, on servers
                that can; elsewhere 256, and a warning says so.
            include_prompt_logprobs: whether to give the logprob of each of the prompt's tokens,
                too.
            topk_prompt_logprobs: how many of the likeliest tokens to give for each of the prompt's.
            topk_sample_logprobs: how many to give for each of the sampled ones.
            target_prompt_logprobs: tokens `(N - 1, K)`, int64, whose logprobs to give: row i asks
                about position i + 1; -1 asks nothing.
            prompt_alt_tokens_k: how many tokens to draw at each of the prompt's positions but the
                first.
            prompt_logprobs_last_n: of the prompt, score the last n tokens alone, 1 to N - 1.
            prompt_logprobs: the same as `include_prompt_logprobs`.
            timeout: seconds for the server to take the request on; by default `Config.timeout`.
            await_timeout: seconds for all; by default `Config.poll` bounds the wait.

        Raises:
            InvalidInputError: at the call: no tokens, fewer than one sample, or an argument that
                does not fit.
            UnsupportedByServer: at the call, or when awaited: the server cannot do it, or passed
                over something that was asked.
            RequestFailedError: when awaited: the server could not do it.
            WaitTimeoutError: when awaited: `await_timeout` is over.
        """
        questions = Questions(
            prompt_logprobs=include_prompt_logprobs or prompt_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
            topk_sample_logprobs=topk_sample_logprobs,
            target_prompt_logprobs=target_prompt_logprobs,
            prompt_alt_tokens_k=prompt_alt_tokens_k,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
        )
        return self._begin(
            prompt, self._ask(num_samples, sampling_params, questions), timeout, await_timeout
        )

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
        """Samples for any number of prompts, with a bounded number of them in memory; failures
        stand beside results.

        Args:
            prompts: `ModelInput`s, token ids or texts, in a list or an iterator, which is read as
                they are needed. num_samples, sampling_params, prompt_logprobs,
                topk_prompt_logprobs, topk_sample_logprobs, prompt_alt_tokens_k,
                prompt_logprobs_last_n, timeout, await_timeout: for each, as for `sample`.
            max_in_flight: at most so many prompts at once.
            ordered: whether the items come in the order of the prompts, or as they finish.
            progress: whether to draw a progress bar on stderr.

        Raises:
            InvalidInputError: at the call: `max_in_flight` or `num_samples` below 1, an unknown
                sampling parameter, or a single prompt.
            UnsupportedByServer: at the call: the server cannot do it.
        """
        questions = Questions(
            prompt_logprobs=prompt_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
            topk_sample_logprobs=topk_sample_logprobs,
            prompt_alt_tokens_k=prompt_alt_tokens_k,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
        )
        ask = self._ask(num_samples, sampling_params, questions)

        def one(prompt: ModelInput | ArrayLike | str) -> AsyncAPIFuture[SampleResponse]:
            return self._begin(prompt, ask, timeout, await_timeout)

        return sample_many(
            one, prompts, max_in_flight=max_in_flight, ordered=ordered, progress=progress
        )

    def sample_stream(
        self,
        prompt: ModelInput | ArrayLike | str,
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> AsyncIterator[SamplePiece]:
        """One continuation of a prompt, its tokens as they come where the server can; elsewhere the
        finished one in one piece.

        The last piece has the whole sequence. Leaving early ends the sampling.

        Args:
            prompt, sampling_params: as for `sample`.
            timeout: seconds until the first piece, and from one to the next; by default
                `Config.timeout`.

        Raises:
            InvalidInputError: at the call: no tokens, or a sampling parameter that does not fit.
            RequestFailedError: at a piece: the server could not do it.
            APIConnectionError: at a piece: the connection broke.
        """
        model_input, ask = _checked(prompt, Questions()), self._ask(1, sampling_params, Questions())
        return self._stream(model_input, ask, timeout)

    def compute_logprobs(
        self, prompt: ModelInput | ArrayLike | str, prompt_logprobs_last_n: int | None = None
    ) -> AsyncAPIFuture[list[float | None]]:
        """The logprob of each of the prompt's N tokens given those before it, `(N,)`; None for the
        first.

        Args:
            prompt: as for `sample`.
            prompt_logprobs_last_n: score the last n tokens alone, 1 to N - 1; the others are None.

        Raises:
            InvalidInputError: at the call: no tokens, or n does not fit.
            UnsupportedByServer: at the call, or when awaited: the server gives no logprobs of a
                prompt.
            RequestFailedError: when awaited: the server could not do it.
        """
        questions = Questions(prompt_logprobs=True, prompt_logprobs_last_n=prompt_logprobs_last_n)
        sampled = self._begin(
            prompt, self._ask(1, SamplingParams(max_tokens=1), questions), None, None
        )

        async def logprobs() -> list[float | None]:
            given = (await sampled.wrapped()).prompt_logprobs
            if given is None:
                raise ways.no_prompt_logprobs(self._session.transport.server.dialect)
            return given

        return AsyncAPIFuture(logprobs(), sampled.state, self._session.failures)

    async def get_base_model(self) -> str:
        """The name of the base model. Raises `NotFoundError` or `UnsupportedByServer` where only
        the server knows it and does not tell.
        """
        if self._base_model is None:
            try:
                answer = await self._session.transport.send(
                    get_sampler.request(self.sampling_session_id)
                )
            except (NotFoundError, UnsupportedByServer) as error:
                error.advice = "Give base_model beside model_path when the client is made."
                raise
            self._base_model = answer.base_model
        return self._base_model

    async def get_tokenizer(self) -> Tokenizer:
        """The base model's tokenizer. Raises `TokenizerError` when it cannot be had."""
        base_model = await self.get_base_model()
        return await model_tokenizer(
            self._session.transport, base_model, names_of_tokenizer(None, [base_model])
        )

    def get_sampler_handle(self) -> str:
        """A text by which `from_sampler_handle` makes a client for the same weights anywhere. It
        holds no key.
        """
        transport = self._session.transport
        return handles.pack(
            transport.config.base_url,
            self._session.session_id,
            self.sampling_session_id,
            self._base_model,
            transport.server.dialect,
        )

    async def close(self) -> None:
        """Ends the connections of a copy that was unpickled; another one's end with its service
        client.
        """
        if self._own_transport is not None:
            await self._own_transport.end(self._end)

    async def _end(self) -> None:
        await self._session.life.finish("success")
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
                "dialect": session.transport.server.dialect,
            },
            "session_id": session.session_id,
            "sampling_session_id": self.sampling_session_id,
            "base_model": self._base_model,
            "retry_config": self._retry,
            "record_stability_info": self._sampler.record_stability_info,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        session = Session(Transport(Config(**state.pop("config"))), state.pop("session_id"))
        self.__init__(session, is_copy=True, **state)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.sampling_session_id}>"

    def _ask(
        self,
        num_samples: int,
        params: SamplingParams | Mapping[str, Any] | None,
        questions: Questions,
    ) -> Ask:
        server, read = self._session.transport.server, ways.read_params(params)
        ask = Ask.prepared(num_samples, read, questions, server.dialect)
        for remark in ways.remarks(read, server.dialect.sampling):
            server.warn_once(remark)
        return ask

    def _begin(
        self,
        prompt: ModelInput | ArrayLike | str,
        ask: Ask,
        timeout: float | None,
        await_timeout: float | None,
    ) -> AsyncAPIFuture[SampleResponse]:
        self._session.transport.require_open("sample")
        state = self._state()
        work = self._sample(_checked(prompt, ask.questions), ask, state, timeout)
        if await_timeout is not None:
            work = _within(await_timeout, work, state)
        return AsyncAPIFuture(work, state, self._session.failures)

    async def _sample(
        self, prompt: ModelInput | str, ask: Ask, state: RequestState, timeout: float | None
    ) -> SampleResponse:
        return await self._sampler.sample(
            await self._encoded(prompt, ask.questions), ask, state, timeout
        )

    async def _stream(
        self, prompt: ModelInput | str, ask: Ask, timeout: float | None
    ) -> AsyncGenerator[SamplePiece, None]:
        model_input = await self._encoded(prompt, ask.questions)
        async with aclosing(
            self._sampler.stream(model_input, ask, self._state(), timeout)
        ) as pieces:
            async for piece in pieces:
                yield piece

    def _state(self) -> RequestState:
        observer = (
            None if self.on_queue_state_change is _tell_nobody else self.on_queue_state_change
        )
        return RequestState("sample", retry=self._retry, observer=observer)

    async def _encoded(self, prompt: ModelInput | str, questions: Questions) -> ModelInput:
        if isinstance(prompt, ModelInput):
            return prompt
        encoded = ModelInput.from_ints((await self.get_tokenizer()).encode_np(prompt))
        questions.check(encoded)
        return encoded


def _tell_nobody(queue_state: str, reason: str | None) -> None:
    """Leaves it to the log and the events to say how samples wait."""


async def _promised(transport: Transport, promise: CreateSamplingSessionResponse) -> str:
    """The sampling session of a server that answers with a promise of it."""
    state = RequestState("create_sampling_session", promise.request_id)
    return await wait_for_result(
        transport, state, of_fields(lambda fields: required_text(fields, "sampling_session_id"))
    )


def _checked(prompt: ModelInput | ArrayLike | str, questions: Questions) -> ModelInput | str:
    """A text is checked when it is encoded, but for an empty one."""
    if isinstance(prompt, str) and prompt:
        return prompt
    model_input = ModelInput() if isinstance(prompt, str) else as_model_input(prompt)
    questions.check(model_input)
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
            advice="Give it more time, or ask the server why it does not get to the request.",
        ) from error
