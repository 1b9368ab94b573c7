"""`Batch`: samples that grow together, token after token, each with its own adapter, settings and
end.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.kv_cache import KVCache, attention_windows
from tinkex_server.engine.torch.lora import AdapterPlan, plan_adapters
from tinkex_server.engine.torch.prefill import Prefill
from tinkex_server.engine.torch.sample_request import GenerationState
from tinkex_server.engine.torch.sampling import SamplingSettings, sample_tokens, top_tokens


class Batch:
    """The samples under way on one base model. To be used on one thread."""

    def __init__(self, base: LoadedBaseModel) -> None:
        self.samples: list[GenerationState] = []
        self._base = base
        self._vocab_size = base.info.vocab_size
        self._cache = KVCache(attention_windows(base.model.config.get_text_config(decoder=True)))
        # for as long as the samples are the same
        self._settings: tuple[AdapterPlan, SamplingSettings] | None = None

    @torch.inference_mode()
    def join(self, prefill: Prefill) -> None:
        """Draws the first token of each sample of the requests that were read. When it raises, the
        others can go on.
        """
        for request in prefill.requests:
            request.resolve_if_complete()
        rows = [
            (row, sample)
            for row, request in zip(prefill.rows, prefill.requests, strict=True)
            for sample in request.samples
            if not sample.ended
        ]
        if rows:
            begun = [sample for _, sample in rows]
            self._append_tokens(
                begun, prefill.logits[[row for row, _ in rows]], self._sampling_settings(begun)
            )
        rows = [(row, sample) for row, sample in rows if not sample.ended]
        if rows:
            self._cache.add_rows(
                prefill.cache, [(row, len(sample.request.spec.prompt)) for row, sample in rows]
            )
            self.samples += [sample for _, sample in rows]
            self._settings = None

    @torch.inference_mode()
    def step(self) -> None:
        """Draws one more token of each sample."""
        if self._settings is None:
            self._settings = self._plan(self.samples), self._sampling_settings(self.samples)
        plan, settings = self._settings
        tokens = torch.tensor(
            [[sample.tokens[-1]] for sample in self.samples], device=self._base.device
        )
        how = self._cache.prepare(self._base.model)
        with self._base.acquire(plan) as network:
            logits = network(input_ids=tokens, **how).logits[:, -1]
        self._cache.advance()
        self._append_tokens(self.samples, logits, settings)

    @torch.inference_mode()
    def drop_ended(self) -> None:
        """Takes out the samples that grow no more."""
        for row in reversed(range(len(self.samples))):
            if self.samples[row].ended:
                self._cache.remove_row(row)
                self.samples[row] = self.samples[-1]
                self.samples.pop()
                self._settings = None

    def _plan(self, samples: Sequence[GenerationState]) -> AdapterPlan:
        return plan_adapters([sample.request.adapter for sample in samples], self._base.device)

    def _sampling_settings(self, samples: Sequence[GenerationState]) -> SamplingSettings:
        specs = [sample.request.spec for sample in samples]
        return SamplingSettings.of(
            specs, [sample.key for sample in samples], self._vocab_size, self._base.device
        )

    def _append_tokens(
        self, samples: Sequence[GenerationState], logits: Tensor, settings: SamplingSettings
    ) -> None:
        """Draws a token for each sample from its row of `logits`; prompt_scores the requests that are
        complete by it.
        """
        tokens, logprobs = sample_tokens(
            logits, settings, [len(sample.tokens) for sample in samples]
        )
        _add_top_tokens(samples, logits)
        for sample, token, logprob in zip(samples, tokens.tolist(), logprobs.tolist(), strict=True):
            try:
                sample.add(token, logprob)
            except Exception as error:  # noqa: BLE001  handed on to the one who asked; the other samples go on
                sample.request.resolve(error)
            if sample.stop_reason:
                sample.request.resolve_if_complete()


def _add_top_tokens(samples: Sequence[GenerationState], logits: Tensor) -> None:
    """The likeliest tokens of each row, for the samples that are asked for them."""
    counts = {row: sample.request.spec.topk_sample_logprobs for row, sample in enumerate(samples)}
    rows = [row for row, count in counts.items() if count]
    if rows:
        top = top_tokens(logits[rows].float().log_softmax(dim=-1), max(counts.values()))
        for row, likeliest in zip(rows, top, strict=True):
            samples[row].top.append(likeliest[: counts[row]])
