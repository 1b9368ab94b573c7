"""`Prefill`: prompts on their way into a cache, in passes that are bounded."""

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
from tinkex_server.engine.torch.lora import plan_adapters
from tinkex_server.engine.torch.padding import left_padded, padding_arguments
from tinkex_server.engine.torch.prompt_scoring import PromptScorer, PromptScores, join_scores
from tinkex_server.engine.torch.sample_request import SampleRequest


class Prefill:
    """The prompts of some requests, equal ones once. To be used on one thread.

    After the last pass, the requests know what they asked about their prompts.
    """

    def __init__(
        self, base: LoadedBaseModel, requests: Sequence[SampleRequest], tokens: int
    ) -> None:
        """A pass prompt_key so many tokens, padding counted. Several different prompts must be few
        enough for one pass.
        """
        distinct = list({request.prompt_key: request for request in requests}.values())
        rows = {request.prompt_key: row for row, request in enumerate(distinct)}
        self.requests = requests
        self.rows = [rows[request.prompt_key] for request in requests]
        """Where the prompt of each request is."""
        self.cache = DynamicCache()
        self.logits = torch.empty(0)
        """Of each row's last position, `(rows, V)`, after the last pass."""
        self._base = base
        self._plan = plan_adapters([request.adapter for request in distinct], base.device)
        self._tokens, self._mask = left_padded([request.spec.prompt for request in distinct])
        self._width = max(1, tokens // len(distinct))
        self._columns = slice(0, 0)  # of the last pass
        self._scores: dict[int, list[PromptScores]] = {
            i: [] for i, request in enumerate(requests) if request.scores_prompt
        }

    @property
    def takes_several_passes(self) -> bool:
        return self._width < self._tokens.shape[1]

    @torch.inference_mode()
    def advance(self) -> bool:
        """Reads as much as one pass may; whether all is read."""
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
        """What the last pass says about the prompt of a request."""
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
