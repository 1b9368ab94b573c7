"""Scores of a prompt: the logprobs of its tokens and of alternatives."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinkex_server.engine.interface import InvalidRequest, SampleSpec, TopTokens
from tinkex_server.engine.torch.sampling import pick_tokens, random_key, top_tokens, uniforms

_ALTERNATIVES_STREAM = -1  # the index of a random stream that no sample uses


class PromptScores(NamedTuple):
    """The scores of a prompt, in the order of `SampleResult`; None where not requested."""

    logprobs: list[float | None] | None = None
    topk: list[TopTokens | None] | None = None
    targets: NDArray[np.float32] | None = None
    alternatives: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None


class PromptScorer:
    """A scorer of a part of a prompt, from logits `(N, V)`; the first row predicts the prompt's
    token `first`.
    """

    def __init__(self, logits: Tensor, spec: SampleSpec, first: int) -> None:
        # the last position predicts a token beyond the prompt
        self._logits = logits[: len(spec.prompt) - first]
        self._spec = spec
        self._first = first
        unscored = (
            0
            if spec.prompt_logprobs_last_n is None
            else len(spec.prompt) - spec.prompt_logprobs_last_n - first
        )
        self._unscored = min(max(unscored, 0), len(self._logits))

    @cached_property
    def _distribution(self) -> Tensor:
        return torch.log_softmax(self._logits.float(), dim=-1)

    @property
    def _tokens(self) -> slice:
        """The range of the predicted tokens within the prompt."""
        return slice(self._first, self._first + len(self._logits))

    def all(self) -> PromptScores:
        """Returns all requested scores. Raises `InvalidRequest` for a target outside the
        vocabulary.
        """
        return PromptScores(self.logprobs(), self.topk(), self.targets(), self.alternatives())

    def logprobs(self) -> list[float | None] | None:
        if not self._spec.prompt_logprobs:
            return None
        tokens = torch.tensor(
            list(self._spec.prompt[self._tokens]), device=self._logits.device, dtype=torch.long
        )
        logprobs = self._distribution.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return [*[None] * self._unscored, *logprobs[self._unscored :].tolist()]

    def topk(self) -> list[TopTokens | None] | None:
        if not self._spec.topk_prompt_logprobs:
            return None
        return [
            *[None] * self._unscored,
            *top_tokens(self._distribution[self._unscored :], self._spec.topk_prompt_logprobs),
        ]

    def targets(self) -> NDArray[np.float32] | None:
        """Returns the logprobs of the requested targets, 0 where none is requested."""
        asked = self._spec.target_prompt_tokens
        if asked is None:
            return None
        if (asked < -1).any() or (asked >= self._logits.shape[-1]).any():
            raise InvalidRequest(
                "target_prompt_logprobs must contain token ids, 0 to "
                f"{self._logits.shape[-1] - 1}, or -1 for none"
            )
        tokens = torch.from_numpy(np.array(asked[self._first - 1 :][: len(self._logits)])).to(
            self._logits.device
        )
        return (
            self._distribution.gather(-1, tokens.clamp(min=0))
            .masked_fill(tokens < 0, 0.0)
            .cpu()
            .numpy()
        )

    def alternatives(self) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Samples tokens with replacement, at the request's temperature, from the whole
        distribution.
        """
        count, temperature = self._spec.prompt_alt_tokens_k, self._spec.temperature
        if not count:
            return None
        if temperature == 0:
            drawn = self._logits.argmax(dim=-1, keepdim=True).expand(-1, count)
        else:
            steps = np.arange(len(self._logits) * count, dtype=np.uint64) + np.uint64(
                (self._first - 1) * count
            )
            chance = torch.from_numpy(
                uniforms(random_key(self._spec.seed, _ALTERNATIVES_STREAM), steps)
            ).reshape(-1, count)
            drawn = pick_tokens(
                torch.softmax(self._logits.float() / temperature, dim=-1),
                chance.to(self._logits.device),
            )
        return drawn.cpu().numpy(), self._distribution.gather(-1, drawn).cpu().numpy()


def join_scores(parts: Sequence[PromptScores]) -> PromptScores:
    """Joins the scores of the parts of a prompt, whose first token has none."""
    logprobs, topk, targets, alternatives = zip(*parts, strict=True)
    return PromptScores(
        None if None in logprobs else [None, *chain.from_iterable(logprobs)],
        None if None in topk else [None, *chain.from_iterable(topk)],
        None if targets[0] is None else np.concatenate(targets),
        None
        if None in alternatives
        else (
            np.concatenate([a for a, _ in alternatives]),
            np.concatenate([b for _, b in alternatives]),
        ),
    )
