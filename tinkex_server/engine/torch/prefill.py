"""`Prefill`: fills a KV cache with prompts, in passes of bounded size."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.kv_cache import cache_arguments
from tinkex_server.engine.torch.mixed_adapters import AdapterPlanner
from tinkex_server.engine.torch.padding import left_padded, padding_arguments
from tinkex_server.engine.torch.prompt_scoring import PromptScorer, PromptScores, join_scores
from tinkex_server.engine.torch.sample_request import SampleRequest


class Prefill:
    """A prefill of the prompts of several requests; equal prompts are processed once. It must be
    used on one thread.

    After the last pass, each request has the scores that it asked for.
    """

    def __init__(
        self,
        base: LoadedBaseModel,
        planner: AdapterPlanner,
        requests: Sequence[SampleRequest],
        tokens: int,
    ) -> None:
        """Prepares passes of at most `tokens` tokens, padding included. Several different prompts
        must fit into one pass.
        """
        distinct = list({request.prompt_key: request for request in requests}.values())
        rows = {request.prompt_key: row for row, request in enumerate(distinct)}
        self.requests = requests
        self.rows = [rows[request.prompt_key] for request in requests]
        """The row of each request's prompt."""
        self.cache = DynamicCache()
        self.logits = torch.empty(0)
        """The logits of each row's last position, `(rows, V)`, after the last pass."""
        self._base = base
        self._plan = planner.plan([request.adapter for request in distinct])
        self._tokens, self._mask = left_padded([request.spec.prompt for request in distinct])
        self._width = max(1, tokens // len(distinct))
        self._columns = slice(0, 0)  # the columns of the last pass
        self._scores: dict[int, list[PromptScores]] = {
            i: [] for i, request in enumerate(requests) if request.scores_prompt
        }

    @property
    def takes_several_passes(self) -> bool:
        return self._width < self._tokens.shape[1]

    @torch.inference_mode()
    def advance(self) -> bool:
        """Runs one pass; returns whether the prefill is complete."""
        columns = self._columns = slice(
            self._columns.stop, min(self._columns.stop + self._width, self._tokens.shape[1])
        )
        how = {"input_ids": self._tokens[:, columns], **padding_arguments(self._mask, columns)}
        how = {name: tensor.to(self._base.device) for name, tensor in how.items()}
        with self._base.acquire(self._plan) as network:
            logits = network(
                **how,
                **cache_arguments(network, self.cache),
                logits_to_keep=0 if self._scores else 1,
            ).logits
        for index in list(self._scores):
            self._score_prompt(index, logits[self.rows[index]])
        if columns.stop < self._tokens.shape[1]:
            return False
        self.logits = logits[:, -1]
        for index, parts in self._scores.items():
            self.requests[index].prompt_scores = join_scores(parts)
        return True

    def _score_prompt(self, index: int, logits: Tensor) -> None:
        """Adds the scores of a request's prompt from the last pass."""
        request, parts = self.requests[index], self._scores[index]
        padding = self._tokens.shape[1] - len(request.spec.prompt)
        start = max(self._columns.start, padding)
        try:
            parts.append(
                PromptScorer(
                    logits[start - self._columns.start :], request.spec, start - padding + 1
                ).all()
            )
        except InvalidRequest as error:
            request.resolve(error)
            del self._scores[index]
