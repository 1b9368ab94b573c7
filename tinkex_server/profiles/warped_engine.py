"""`with_warped_logprobs`: an engine whose logprobs of samples are those of the distribution that
was sampled from.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from attrs import define, evolve, field

from tinkex_server.engine.interface import (
    Engine,
    ModelInfo,
    OnToken,
    SampledTokens,
    SampleResult,
    SampleSpec,
)


def with_warped_logprobs(engine: Engine) -> Engine:
    return cast("Engine", _WarpedSampling(engine))  # it passes on all that it does not change


@define(eq=False)
class _WarpedSampling:
    """All of `engine`'s, but that a sample's logprobs are taken after temperature, top_k and top_p.

    Greedy samples, and those over all tokens, keep the model's own.
    """

    engine: Engine
    _pool: ThreadPoolExecutor = field(
        factory=lambda: ThreadPoolExecutor(thread_name_prefix="tinkex-warping")
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    @property
    def base_models(self) -> Sequence[ModelInfo]:
        return self.engine.base_models

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        if spec.temperature == 0 or spec.top_k <= 0:
            return self.engine.sample(sampler_id, spec, on_token)
        return self._pool.submit(self._sample, sampler_id, spec, on_token)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self.engine.close()

    def _sample(self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None) -> SampleResult:
        result = self.engine.sample(sampler_id, spec, on_token).result()
        return evolve(
            result,
            sequences=[self._warped(sampler_id, spec, sequence) for sequence in result.sequences],
        )

    def _warped(self, sampler_id: str, spec: SampleSpec, sequence: SampledTokens) -> SampledTokens:
        """The model is asked once more, for the likeliest tokens at each of the sample's
        positions.
        """
        whole = [*spec.prompt, *sequence.tokens]
        scored = self.engine.sample(
            sampler_id,
            SampleSpec(whole, max_tokens=1, prompt_logprobs=True, topk_prompt_logprobs=spec.top_k),
        ).result()
        rows = (scored.topk_prompt_logprobs or ())[len(spec.prompt) :]
        logprobs = [
            warped(dict(row or ()), token, spec.temperature, spec.top_p)
            for row, token in zip(rows, sequence.tokens, strict=True)
        ]
        return evolve(sequence, logprobs=logprobs)


def warped(logprobs: dict[int, float], token: int, temperature: float, top_p: float) -> float:
    """The token's logprob among these, best first, after temperature and top_p. One that ties with
    the last counts as the last.
    """
    scores = np.array(list(logprobs.values())) / temperature
    scores -= np.logaddexp.reduce(scores)
    kept = scores[np.concatenate([[0.0], np.cumsum(np.exp(scores))[:-1]]) < top_p]
    kept -= np.logaddexp.reduce(kept)
    return float(dict(zip(logprobs, kept, strict=False)).get(token, kept[-1]))
