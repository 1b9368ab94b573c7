"""`Request`: samples that somebody waits for, from the prompt to the result."""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import Future

import numpy as np
from attrs import define, field
from numpy.typing import NDArray

from tinkex_server.engine.interface import (
    InvalidRequest,
    OnToken,
    SampledTokens,
    SampleResult,
    SampleSpec,
    TopTokens,
)
from tinkex_server.engine.torch.lora import Adapter
from tinkex_server.engine.torch.prompt_scoring import Answers
from tinkex_server.engine.torch.sampling import stream
from tinkex_server.engine.torch.stopping import StopRule


@define(eq=False)
class Sample:
    """One sequence that grows, of those that a request asks for."""

    request: Request
    key: NDArray[np.uint64]
    tokens: list[int] = field(factory=list[int])
    logprobs: list[float] = field(factory=list[float])
    top: list[TopTokens] = field(factory=list[TopTokens])
    stop_reason: str | None = None

    @property
    def ended(self) -> bool:
        """Whether it grows no more: it is complete, or nobody waits for it."""
        return self.stop_reason is not None or self.request.future.done()

    def add(self, token: int, logprob: float) -> None:
        """Raises `InvalidRequest` when the model cannot say how likely its tokens are."""
        if logprob != logprob:
            raise InvalidRequest("the model's logits are NaN: its weights have diverged")
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self.request.stops.ends(self.tokens):
            self.stop_reason = "stop"
        elif len(self.tokens) >= self.request.room:
            self.stop_reason = "length"
        if self.request.on_token:
            self.request.on_token(token, logprob)

    def finished(self) -> SampledTokens:
        top = self.top if self.request.spec.topk_sample_logprobs else None
        return SampledTokens(self.tokens, self.logprobs, self.stop_reason or "length", top)


@define(eq=False)
class Request:
    """Samples of one prompt under one adapter (None: the base model alone), and the future that
    gets them.
    """

    adapter: Adapter | None
    spec: SampleSpec
    room: int  # tokens that may be sampled
    stops: StopRule
    on_token: OnToken | None = None
    future: Future[SampleResult] = field(factory=Future[SampleResult])
    answers: Answers = Answers()  # about the prompt, once it is read
    samples: list[Sample] = field(init=False)
    reads: Hashable = field(init=False)
    """Equal for requests whose prompts need be read but once."""

    def __attrs_post_init__(self) -> None:
        self.reads = self.adapter, tuple(self.spec.prompt)
        ended = None if self.room else "length"
        keys = [stream(self.spec.seed, index) for index in range(self.spec.num_samples)]
        self.samples = [Sample(self, key, stop_reason=ended) for key in keys]

    @property
    def asks_about_prompt(self) -> bool:
        spec = self.spec
        asked = spec.prompt_logprobs or spec.topk_prompt_logprobs or spec.prompt_alt_tokens_k
        return bool(asked) or spec.target_prompt_tokens is not None

    def answer(self, result: SampleResult | Exception) -> None:
        """Hands it over, unless nobody waits for it any more."""
        if self.future.done() or not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)

    def answer_if_complete(self) -> None:
        if all(sample.stop_reason for sample in self.samples):
            self.answer(SampleResult([sample.finished() for sample in self.samples], *self.answers))
