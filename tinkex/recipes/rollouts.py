"""Rollouts: answers of the model in training, and the datums that teach from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from tinkex import Datum, ModelInput, SamplingClient, UnsupportedByServer
from tinkex.data import PromptRow


@frozen(eq=False)
class Rollout:
    """One sampled answer of M tokens to a prompt of N."""

    prompt: PromptRow
    tokens: NDArray[np.int64]
    """int64 `(M,)`"""
    logprobs: NDArray[np.float32]
    """float32 `(M,)`: the logprobs with which the tokens were sampled."""

    @property
    def whole(self) -> NDArray[np.int64]:
        """The prompt and the answer, int64 `(N + M,)`."""
        return np.concatenate([self.prompt.tokens, self.tokens])

    def datum(self, advantages: NDArray[np.float32]) -> Datum:
        """Returns the datum for a loss of reinforcement learning. The prompt's tokens have the
        advantage 0, so that they do not count.

        Args:
            advantages: the advantage of each token of the answer, float32 `(M,)`.
        """
        before = np.zeros(len(self.prompt.tokens) - 1, np.float32)
        whole = self.whole
        return Datum(
            ModelInput.from_ints(whole[:-1]),
            {
                "target_tokens": whole[1:],
                "logprobs": np.concatenate([before, self.logprobs]),
                "advantages": np.concatenate([before, advantages]),
            },
        )


def roll_out(
    sampler: SamplingClient,
    prompts: Sequence[PromptRow],
    group_size: int,
    *,
    max_tokens: int,
    stop: Sequence[str],
    seed: int,
) -> Sequence[Sequence[Rollout]]:
    """Samples `group_size` answers to each prompt at temperature 1, where the logprobs are those of
    the model itself. Returns one group per prompt, in their order.

    Raises:
        UnsupportedByServer: the server sends no logprobs of what it samples.
    """
    params = {"max_tokens": max_tokens, "stop": list(stop) or None, "seed": seed}
    items = sampler.sample_many([prompt.tokens for prompt in prompts], group_size, params)
    return [
        [_rollout(prompt, each.tokens_np, each.logprobs_np) for each in item.result().sequences]
        for prompt, item in zip(prompts, items, strict=True)
    ]


def _rollout(
    prompt: PromptRow, tokens: NDArray[np.int64], logprobs: NDArray[np.float32] | None
) -> Rollout:
    if logprobs is None:
        raise UnsupportedByServer(
            "this server sends no logprobs of sampled tokens, without which no ratio of "
            "probabilities can be computed",
            server="",
            operation="sample",
            advice="Train with sft or dpo there, which sample nothing.",
        )
    return Rollout(prompt, tokens, logprobs)


def sampling_seed(seed: int, step: int, group_size: int) -> int:
    """Returns the seed of the samples of a step. A group may take as many seeds as it has answers,
    if the server gets several requests for it.
    """
    mixed = np.random.SeedSequence([abs(seed), step]).generate_state(1)[0]
    return int(mixed) % (2**31 - group_size)
