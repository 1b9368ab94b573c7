"""`WarpedEngine`: an engine whose samples have the logprobs of the distribution that they were
drawn from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from attrs import define, evolve, field

from tinkex_server.engine.interface import (
    CustomLoss,
    Engine,
    EngineExit,
    Example,
    LoraShape,
    LossResult,
    ModelInfo,
    OnToken,
    OptimizerKind,
    OptimizerSettings,
    SampledTokens,
    SampleResult,
    SampleSpec,
)


@define(eq=False)
class WarpedEngine:
    """Another engine, except that the logprobs of samples are taken after temperature, top_k and
    top_p.

    Greedy samples, and samples without top_k, keep the logprobs of the model itself.
    """

    engine: Engine
    _pool: ThreadPoolExecutor = field(
        factory=lambda: ThreadPoolExecutor(thread_name_prefix="tinkex-warping")
    )

    @property
    def base_models(self) -> Sequence[ModelInfo]:
        return self.engine.base_models

    @property
    def ready(self) -> Future[str]:
        return self.engine.ready

    def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind = "adamw"
    ) -> Sequence[str]:
        return self.engine.create_model(model_id, base_model, lora, optimizer)

    def unload_model(self, model_id: str) -> None:
        self.engine.unload_model(model_id)

    def check_loss(self, loss: CustomLoss) -> None:
        self.engine.check_loss(loss)

    def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        return self.engine.forward_backward(model_id, data, loss_fn, config, backward=backward)

    def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        return self.engine.optim_step(model_id, settings)

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        self.engine.save_model(model_id, folder, optimizer=optimizer)

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        self.engine.load_model(model_id, folder, optimizer=optimizer)

    def import_adapter(self, base_model: str, lora: LoraShape, source: Path, folder: Path) -> None:
        self.engine.import_adapter(base_model, lora, source, folder)

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        self.engine.load_sampler(sampler_id, base_model, folder)

    def unload_sampler(self, sampler_id: str) -> None:
        self.engine.unload_sampler(sampler_id)

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        if spec.temperature == 0 or spec.top_k <= 0:
            return self.engine.sample(sampler_id, spec, on_token)
        return self._pool.submit(self._sample, sampler_id, spec, on_token)

    def watch(self, died: Callable[[EngineExit], None]) -> None:
        self.engine.watch(died)

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
