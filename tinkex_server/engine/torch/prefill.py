"""`Reading`: prompts on their way into a cache, in passes that are bounded."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.kv_cache import how_cached
from tinkex_server.engine.torch.lora import plan_rows
from tinkex_server.engine.torch.padding import left_padded, positions_of
from tinkex_server.engine.torch.prompt_scoring import Answers, PromptAnswers, joined
from tinkex_server.engine.torch.request import Request


class Reading:
    """The prompts of some requests, equal ones once. To be used on one thread.

    After the last pass, the requests know what they asked about their prompts.
    """

    def __init__(self, base: LoadedBaseModel, requests: Sequence[Request], tokens: int) -> None:
        """A pass reads so many tokens, padding counted. Several different prompts must be few
        enough for one pass.
        """
        distinct = list({request.reads: request for request in requests}.values())
        rows = {request.reads: row for row, request in enumerate(distinct)}
        self.requests = requests
        self.rows = [rows[request.reads] for request in requests]
        """Where the prompt of each request is."""
        self.cache = DynamicCache()
        self.logits = torch.empty(0)
        """Of each row's last position, `(rows, V)`, after the last pass."""
        self._base = base
        self._plan = plan_rows([request.adapter for request in distinct], base.device)
        self._tokens, self._mask = left_padded([request.spec.prompt for request in distinct])
        self._width = max(1, tokens // len(distinct))
        self._columns = slice(0, 0)  # of the last pass
        self._answers: dict[int, list[Answers]] = {
            i: [] for i, request in enumerate(requests) if request.asks_about_prompt
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
        how = {"input_ids": self._tokens[:, columns], **positions_of(self._mask, columns)}
        how = {name: tensor.to(self._base.device) for name, tensor in how.items()}
        with self._base.running(self._plan) as network:
            logits = network(
                **how, **how_cached(network, self.cache), logits_to_keep=0 if self._answers else 1
            ).logits
        for index in list(self._answers):
            self._answer(index, logits[self.rows[index]])
        if columns.stop < self._tokens.shape[1]:
            return False
        self.logits = logits[:, -1]
        for index, parts in self._answers.items():
            self.requests[index].answers = joined(parts)
        return True

    def _answer(self, index: int, logits: Tensor) -> None:
        """What the last pass says about the prompt of a request."""
        request, parts = self.requests[index], self._answers[index]
        padding = self._tokens.shape[1] - len(request.spec.prompt)
        start = max(self._columns.start, padding)
        try:
            parts.append(
                PromptAnswers(
                    logits[start - self._columns.start :], request.spec, start - padding + 1
                ).all()
            )
        except InvalidRequest as error:
            request.answer(error)
            del self._answers[index]
