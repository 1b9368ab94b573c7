"""`SampleRequest`: the samples of one request, from the prompt to the result."""

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
from tinkex_server.engine.torch.adapter import Adapter
from tinkex_server.engine.torch.prefix_cache import Prompt
from tinkex_server.engine.torch.prompt_scoring import PromptScores
from tinkex_server.engine.torch.sampling import random_key
from tinkex_server.engine.torch.stopping import StopRule


@define(eq=False)
class GenerationState:
    """The state of one sequence of a request: its tokens so far, their logprobs and its stop
    reason.
    """

    request: SampleRequest
    key: NDArray[np.uint64]
    tokens: list[int] = field(factory=list[int])
    logprobs: list[float] = field(factory=list[float])
    top: list[TopTokens] = field(factory=list[TopTokens])
    stop_reason: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the sequence grows no further: it is complete, or nobody waits for it."""
        return self.stop_reason is not None or self.request.future.done()

    def add(self, token: int, logprob: float) -> None:
        """Appends a token. Raises `InvalidRequest` if its logprob is NaN."""
        if logprob != logprob:
            raise InvalidRequest("the model's logits are NaN: its weights have diverged")
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self.request.stop_rule.ends(self.tokens):
            self.stop_reason = "stop"
        elif len(self.tokens) >= self.request.max_new_tokens:
            self.stop_reason = "length"
        if self.request.on_token:
            self.request.on_token(token, logprob)

    def result(self) -> SampledTokens:
        top = self.top if self.request.spec.topk_sample_logprobs else None
        return SampledTokens(self.tokens, self.logprobs, self.stop_reason or "length", top)


@define(eq=False)
class SampleRequest:
    """A request for samples of one prompt under one adapter (None: the base model alone), with the
    future of its result.
    """

    adapter: Adapter | None
    spec: SampleSpec
    max_new_tokens: int  # tokens that may be sampled
    stop_rule: StopRule
    on_token: OnToken | None = None
    future: Future[SampleResult] = field(factory=Future[SampleResult])
    prompt_scores: PromptScores = PromptScores()  # set after the prefill
    cached_tokens: int = 0  # of the prompt, whose prefill was not computed; set by the prefill
    samples: list[GenerationState] = field(init=False)
    prompt: Prompt = field(init=False)
    prompt_key: Hashable = field(init=False)
    """A key that is equal for requests that can share one prefill."""

    def __attrs_post_init__(self) -> None:
        self.prompt = np.array(self.spec.prompt, np.int64)
        self.prompt_key = self.adapter, self.prompt.tobytes()
        ended = None if self.max_new_tokens else "length"
        keys = [random_key(self.spec.seed, index) for index in range(self.spec.num_samples)]
        self.samples = [GenerationState(self, key, stop_reason=ended) for key in keys]

    @property
    def scores_prompt(self) -> bool:
        spec = self.spec
        asked = spec.prompt_logprobs or spec.topk_prompt_logprobs or spec.prompt_alt_tokens_k
        return bool(asked) or spec.target_prompt_tokens is not None

    def resolve(self, result: SampleResult | Exception) -> None:
        """Completes the future with a result or an error, unless nobody waits for it."""
        if self.future.done() or not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)

    def resolve_if_complete(self) -> None:
        if all(sample.stop_reason for sample in self.samples):
            samples = [sample.result() for sample in self.samples]
            self.resolve(SampleResult(samples, *self.prompt_scores, self.cached_tokens))
