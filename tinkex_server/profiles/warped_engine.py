"""`WarpedEngine`: an engine whose samples have the logprobs of the distribution that they were
drawn from.
"""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
from attrs import define, evolve, field

from tinkex_server.engine.interface import OnToken, SampledTokens, SampleResult, SampleSpec
from tinkex_server.engine.wrapper import EngineWrapper
from tinkex_server.lasting_pool import LastingPool


@define(eq=False, slots=False)
class WarpedEngine(EngineWrapper):
    """Another engine, except that the logprobs of samples are taken after temperature, top_k and
    top_p.

    Greedy samples, and samples without top_k, keep the logprobs of the model itself.
    """

    _pool: LastingPool = field(factory=lambda: LastingPool(thread_name_prefix="tinkex-warping"))

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        if spec.temperature == 0 or spec.top_k <= 0:
            return self.engine.sample(sampler_id, spec, on_token)
        return self._pool.submit(self._sample, sampler_id, spec, on_token)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        super().close()

    def _sample(self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None) -> SampleResult:
        result = self.engine.sample(sampler_id, spec, on_token).result()
        return evolve(
            result,
            sequences=[self._warped(sampler_id, spec, sequence) for sequence in result.sequences],
        )

    def _warped(self, sampler_id: str, spec: SampleSpec, sequence: SampledTokens) -> SampledTokens:
        """Returns the sequence with warped logprobs, which takes a second pass of the model for the
        likeliest tokens at each position.
        """
        whole = [*spec.prompt, *sequence.tokens]
        scored = self.engine.sample(
            sampler_id,
            SampleSpec(whole, max_tokens=1, prompt_logprobs=True, topk_prompt_logprobs=spec.top_k),
        ).result()
        rows = (scored.topk_prompt_logprobs or ())[len(spec.prompt) :]
        logprobs = [
            warped_logprob(dict(row or ()), token, spec.temperature, spec.top_p)
            for row, token in zip(rows, sequence.tokens, strict=True)
        ]
        return evolve(sequence, logprobs=logprobs)


def warped_logprob(
    logprobs: dict[int, float], token: int, temperature: float, top_p: float
) -> float:
    """Returns a token's logprob after temperature and top_p.

    Args:
        logprobs: the likeliest tokens, best first. A token that is not among them ties with the
            last one.
    """
    scores = np.array(list(logprobs.values())) / temperature
    scores -= np.logaddexp.reduce(scores)
    kept = scores[np.concatenate([[0.0], np.cumsum(np.exp(scores))[:-1]]) < top_p]
    kept -= np.logaddexp.reduce(kept)
    return float(dict(zip(logprobs, kept, strict=False)).get(token, kept[-1]))
