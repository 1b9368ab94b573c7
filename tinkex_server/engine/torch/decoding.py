"""`Batch`: samples that are decoded together, each with its own adapter, settings and end."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.kv_cache import KVCache
from tinkex_server.engine.torch.mixed_adapters import AdapterPlan, AdapterPlanner
from tinkex_server.engine.torch.prefill import Prefill
from tinkex_server.engine.torch.sample_request import GenerationState
from tinkex_server.engine.torch.sampling import SamplingSettings, sample_tokens, top_tokens
from tinkex_server.engine.torch.thread_count import threads_worth


class Batch:
    """The running samples of one base model. It must be used on one thread."""

    def __init__(self, base: LoadedBaseModel, planner: AdapterPlanner) -> None:
        self.samples: list[GenerationState] = []
        self._base = base
        self._planner = planner
        self._vocab_size = base.info.vocab_size
        self._cache = KVCache(base.layout)
        # valid while the set of samples is unchanged
        self._settings: tuple[AdapterPlan, SamplingSettings] | None = None

    @torch.inference_mode()
    def join(self, prefill: Prefill) -> None:
        """Adds the prefilled requests and samples the first token of each sample. An error leaves
        the other samples intact.
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
        """Samples one more token for each sample."""
        size = self._base.product_size(len(self.samples), max(self._cache.lengths))
        with threads_worth(size):
            self._step()

    def _step(self) -> None:
        if self._settings is None:
            self._settings = (
                self._planner.plan([sample.request.adapter for sample in self.samples]),
                self._sampling_settings(self.samples),
            )
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
        """Removes the samples that have ended."""
        for row in reversed(range(len(self.samples))):
            if self.samples[row].ended:
                self._cache.remove_row(row)
                self.samples[row] = self.samples[-1]
                self.samples.pop()
                self._settings = None

    def _sampling_settings(self, samples: Sequence[GenerationState]) -> SamplingSettings:
        specs = [sample.request.spec for sample in samples]
        return SamplingSettings.of(
            specs, [sample.key for sample in samples], self._vocab_size, self._base.device
        )

    def _append_tokens(
        self, samples: Sequence[GenerationState], logits: Tensor, settings: SamplingSettings
    ) -> None:
        """Samples a token for each sample from its row of `logits` `(B, V)`; resolves requests that
        are then complete.
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
    """Adds the most likely tokens of each row to the samples that requested them."""
    counts = {row: sample.request.spec.topk_sample_logprobs for row, sample in enumerate(samples)}
    rows = [row for row, count in counts.items() if count]
    if rows:
        top = top_tokens(logits[rows].float().log_softmax(dim=-1), max(counts.values()))
        for row, likeliest in zip(rows, top, strict=True):
            samples[row].top.append(likeliest[: counts[row]])
