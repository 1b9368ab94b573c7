"""`Batch`: samples that grow together, token after token, each with its own adapter, settings and end."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from attrs import define, field
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache

from tinkex.local.engine.adapters import Base
from tinkex.local.engine.base import InvalidRequest, OnToken, SampledTokens, SampleResult, SampleSpec, TopTokens
from tinkex.local.engine.kv_cache import RowCache, attention_windows
from tinkex.local.engine.lora import Adapter, Plan, plan_rows
from tinkex.local.engine.prompt import PromptAnswers
from tinkex.local.engine.sampling import Drawing, draw, stream, top_tokens
from tinkex.local.engine.stopping import StopRule


@define(eq=False)
class Sample:
    """One sequence that grows, of those that a request asks for."""

    request: Request
    key: NDArray[np.uint64]
    tokens: list[int] = field(factory=list)
    logprobs: list[float] = field(factory=list)
    top: list[TopTokens] = field(factory=list)
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
    """Samples of one prompt under one adapter (None: the base model alone), and the future that gets them."""

    adapter: Adapter | None
    spec: SampleSpec
    room: int  # tokens that may be sampled
    stops: StopRule
    on_token: OnToken | None = None
    future: Future[SampleResult] = field(factory=Future)
    answers: Sequence[Any] = ()  # about the prompt, in the order of `SampleResult`
    samples: list[Sample] = field(init=False)

    def __attrs_post_init__(self) -> None:
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


class Batch:
    """The samples under way on one base model. To be used on one thread."""

    def __init__(self, base: Base) -> None:
        self.samples: list[Sample] = []
        self._base = base
        self._vocab_size = base.description.vocab_size
        self._cache = RowCache(attention_windows(base.model.config))
        self._settings: tuple[Plan, Drawing] | None = None  # for as long as the samples are the same

    @torch.inference_mode()
    def begin(self, requests: Sequence[Request]) -> None:
        """Reads the prompts in one pass, and draws the first token of each sample. When it raises, the others can go on."""
        read = self._read(requests)
        for row, request in enumerate(requests):
            if request.asks_about_prompt:
                _answer_about_prompt(request, read.logits[row, -len(request.spec.prompt) :])
            request.answer_if_complete()
        rows = [(row, sample) for row, request in enumerate(requests) for sample in request.samples if not sample.ended]
        if rows:
            begun = [sample for _, sample in rows]
            self._grow(begun, read.logits[[row for row, _ in rows], -1], self._drawing(begun))
        rows = [(row, sample) for row, sample in rows if not sample.ended]
        if rows:
            self._cache.extend(read.cache, [(row, len(sample.request.spec.prompt)) for row, sample in rows])
            self.samples += [sample for _, sample in rows]
            self._settings = None

    @torch.inference_mode()
    def step(self) -> None:
        """Draws one more token of each sample."""
        if self._settings is None:
            self._settings = self._plan(self.samples), self._drawing(self.samples)
        plan, drawing = self._settings
        tokens = torch.tensor([[sample.tokens[-1]] for sample in self.samples], device=self._base.device)
        how = self._cache.prepare()
        with self._base.running(plan) as network:
            logits = network(input_ids=tokens, **how).logits[:, -1]
        self._cache.advance()
        self._grow(self.samples, logits, drawing)

    @torch.inference_mode()
    def drop_ended(self) -> None:
        """Takes out the samples that grow no more."""
        for row in reversed(range(len(self.samples))):
            if self.samples[row].ended:
                self._cache.drop(row)
                self.samples[row] = self.samples[-1]
                self.samples.pop()
                self._settings = None

    def _read(self, requests: Sequence[Request]) -> Any:
        """The model's output for the prompts, padded on the left: logits of all positions if any request needs them, and the cache."""
        lengths = [len(request.spec.prompt) for request in requests]
        tokens = torch.zeros(len(requests), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, (request, length) in enumerate(zip(requests, lengths, strict=True)):
            tokens[row, -length:] = torch.tensor(list(request.spec.prompt))
            mask[row, -length:] = 1
        how: dict[str, Any] = {"input_ids": tokens}
        if len(set(lengths)) > 1:
            how |= {"attention_mask": mask, "position_ids": (mask.cumsum(dim=-1) - 1).clamp_(min=0)}
        how = {name: tensor.to(self._base.device) for name, tensor in how.items()}
        keep = 0 if any(request.asks_about_prompt for request in requests) else 1
        plan = plan_rows([request.adapter for request in requests], self._base.device)
        with self._base.running(plan) as network:
            return network(**how, cache=DynamicCache(), use_cache=True, logits_to_keep=keep)

    def _plan(self, samples: Sequence[Sample]) -> Plan:
        return plan_rows([sample.request.adapter for sample in samples], self._base.device)

    def _drawing(self, samples: Sequence[Sample]) -> Drawing:
        specs = [sample.request.spec for sample in samples]
        return Drawing.of(specs, [sample.key for sample in samples], self._vocab_size, self._base.device)

    def _grow(self, samples: Sequence[Sample], logits: Tensor, drawing: Drawing) -> None:
        """Draws a token for each sample from its row of `logits`; answers the requests that are complete by it."""
        tokens, logprobs = draw(logits, drawing, [len(sample.tokens) for sample in samples])
        _add_top_tokens(samples, logits)
        for sample, token, logprob in zip(samples, tokens.tolist(), logprobs.tolist(), strict=True):
            try:
                sample.add(token, logprob)
            except Exception as error:  # noqa: BLE001  handed on to the one who asked; the other samples go on
                sample.request.answer(error)
            if sample.stop_reason:
                sample.request.answer_if_complete()


def _answer_about_prompt(request: Request, logits: Tensor) -> None:
    asked = PromptAnswers(logits, request.spec)
    try:
        request.answers = asked.logprobs(), asked.topk(), asked.targets(), asked.alternatives()
    except InvalidRequest as error:
        request.answer(error)


def _add_top_tokens(samples: Sequence[Sample], logits: Tensor) -> None:
    """The likeliest tokens of each row, for the samples that are asked for them."""
    counts = {row: sample.request.spec.topk_sample_logprobs for row, sample in enumerate(samples)}
    rows = [row for row, count in counts.items() if count]
    if rows:
        top = top_tokens(logits[rows].float().log_softmax(dim=-1), max(counts.values()))
        for row, likeliest in zip(rows, top, strict=True):
            samples[row].top.append(likeliest[: counts[row]])
