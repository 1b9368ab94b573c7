"""`Prefill`: fills a KV cache with prompts, in passes of bounded size, without those parts that
other prompts have in common with them.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.kv_cache import cache_arguments, keys_and_values
from tinkex_server.engine.torch.mixed_adapters import AdapterPlanner
from tinkex_server.engine.torch.padding import columns_arguments, left_padded
from tinkex_server.engine.torch.prefix_cache import PrefixCache
from tinkex_server.engine.torch.prompt_scoring import PromptScorer, PromptScores, join_scores
from tinkex_server.engine.torch.sample_request import SampleRequest
from tinkex_server.engine.torch.thread_count import threads_worth


class Prefill:
    """A prefill of the prompts of several requests; equal prompts are processed once. It must be
    used on one thread.

    After the last pass, each request has the scores that it asked for, and `prefixes` has the
    prompts. A model that reads prompts alone takes requests of one prompt only.
    """

    def __init__(
        self,
        base: LoadedBaseModel,
        planner: AdapterPlanner,
        prefixes: PrefixCache,
        requests: Sequence[SampleRequest],
        tokens: int,
    ) -> None:
        """Prepares passes of at most `tokens` tokens, padding included, or one pass if the model
        needs that. What is to be computed of several different prompts must fit into one pass.
        """
        distinct = list({request.prompt_key: request for request in requests}.values())
        rows = {request.prompt_key: row for row, request in enumerate(distinct)}
        self.requests = requests
        self.rows = [rows[request.prompt_key] for request in requests]
        """The row of each request's prompt."""
        self.cache = base.layout.new_cache()
        self.logits = torch.empty(0)
        """The logits of each row's last position, `(rows, V)`, after the last pass."""
        self._base = base
        self._prefixes = prefixes
        self._distinct = distinct
        self._plan = planner.plan([request.adapter for request in distinct])
        self._tokens, self._mask = left_padded([request.spec.prompt for request in distinct])
        self._width = (
            self._tokens.shape[1] if base.layout.whole else max(1, tokens // len(distinct))
        )
        self._columns: slice | None = None  # the columns of the last pass
        self._scores: dict[int, list[PromptScores]] = {
            i: [] for i, request in enumerate(requests) if request.scores_prompt
        }

    @property
    def takes_several_passes(self) -> bool:
        """Whether it would take several passes if it began now."""
        return self._width < self._tokens.shape[1] - self._first_column()

    @torch.inference_mode()
    def advance(self) -> bool:
        """Runs one pass; returns whether the prefill is complete."""
        # as late as this, since prompts are added while a prefill waits for its turn
        start = self._reuse_prefixes() if self._columns is None else self._columns.stop
        columns = self._columns = slice(start, min(start + self._width, self._tokens.shape[1]))
        tokens = len(self._tokens) * (columns.stop - columns.start)
        with threads_worth(self._base.product_size(tokens, columns.stop)):
            return self._compute(columns)

    def _compute(self, columns: slice) -> bool:
        """Runs a pass over these columns; returns whether the prefill is complete."""
        how = columns_arguments(self._tokens, self._mask, columns, self._base.device)
        with self._base.acquire(self._plan) as network:
            logits = network(
                **how,
                **cache_arguments(network, self.cache),
                logits_to_keep=0 if self._scores else 1,
            ).logits
        for index in list(self._scores):
            self._score_prompt(index, logits[self.rows[index]], columns)
        if columns.stop < self._tokens.shape[1]:
            return False
        self.logits = logits[:, -1]
        self._keep_prompts()
        for index, parts in self._scores.items():
            self.requests[index].prompt_scores = join_scores(parts)
        return True

    def _padding(self, request: SampleRequest) -> int:
        """Returns the number of columns before the request's prompt."""
        return self._tokens.shape[1] - len(request.prompt)

    def _first_column(self) -> int:
        """Returns the first column that must be computed: that of the longest rest of a prompt."""
        return self._tokens.shape[1] - max(
            unknown_tokens(request, self._prefixes) for request in self.requests
        )

    def _reuse_prefixes(self) -> int:
        """Fills the KV cache before the first column that must be computed, which it returns."""
        start = self._first_column()
        for request in self.requests:
            request.cached_tokens = max(0, start - self._padding(request))
        if start > 0:
            states = self._prefixes.gather(
                [
                    (request.adapter, request.prompt[: request.cached_tokens])
                    for request in self._distinct
                ],
                start,
            )
            for layer in range(len(states) // 2):
                self.cache.update(states[2 * layer], states[2 * layer + 1], layer)
        return start

    def _keep_prompts(self) -> None:
        states = keys_and_values(self.cache)
        for row, request in enumerate(self._distinct):
            padding = self._padding(request)
            own = [part[row, :, padding:] for part in states]
            self._prefixes.add(request.adapter, request.prompt, own)

    def _score_prompt(self, index: int, logits: Tensor, columns: slice) -> None:
        """Adds the scores of a request's prompt from a pass over these columns."""
        request, parts = self.requests[index], self._scores[index]
        padding = self._padding(request)
        start = max(columns.start, padding)
        try:
            parts.append(
                PromptScorer(
                    logits[start - columns.start :], request.spec, start - padding + 1
                ).all()
            )
        except InvalidRequest as error:
            request.resolve(error)
            del self._scores[index]


def unknown_tokens(request: SampleRequest, prefixes: PrefixCache) -> int:
    """Returns how many tokens of the request's prompt, at its end, must be computed: the last one
    at least, for its logits, and all of them if they are scored.
    """
    length = len(request.prompt)
    if request.scores_prompt:
        return length
    return max(1, length - prefixes.count(request.adapter, request.prompt))
