"""What can be asked about a prompt: how likely its tokens are, and others in their place."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinkex.local.engine.base import InvalidRequest, SampleSpec, TopTokens
from tinkex.local.engine.sampling import chances, pick, stream, top_tokens

_ALTERNATIVES = -1  # the random stream of these draws, which is none of a sample's


class PromptAnswers:
    """From the prompt's logits `(N, V)`. Each method gives None where `spec` does not ask."""

    def __init__(self, logits: Tensor, spec: SampleSpec) -> None:
        self._logits = logits[:-1]  # row i is about the token at position i + 1
        self._spec = spec
        self._unscored = 1 if spec.prompt_logprobs_last_n is None else len(spec.prompt) - spec.prompt_logprobs_last_n

    @cached_property
    def _distribution(self) -> Tensor:
        return torch.log_softmax(self._logits.float(), dim=-1)

    @property
    def _scored(self) -> Tensor:
        return self._distribution[self._unscored - 1 :]

    def logprobs(self) -> list[float | None] | None:
        if not self._spec.prompt_logprobs:
            return None
        tokens = torch.tensor(list(self._spec.prompt[self._unscored :]), device=self._logits.device, dtype=torch.long)
        return [*[None] * self._unscored, *self._scored.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).tolist()]

    def topk(self) -> Sequence[TopTokens | None] | None:
        if not self._spec.topk_prompt_logprobs:
            return None
        return [*[None] * self._unscored, *top_tokens(self._scored, self._spec.topk_prompt_logprobs)]

    def targets(self) -> NDArray[np.float32] | None:
        """0 where no token was asked about. Raises `InvalidRequest` for one that there is not."""
        asked = self._spec.target_prompt_tokens
        if asked is None:
            return None
        if (asked < -1).any() or (asked >= self._logits.shape[-1]).any():
            raise InvalidRequest(f"target_prompt_logprobs must hold tokens, 0 to {self._logits.shape[-1] - 1}, and -1 for none")
        tokens = torch.from_numpy(np.array(asked)).to(self._logits.device)
        return self._distribution.gather(-1, tokens.clamp(min=0)).masked_fill(tokens < 0, 0.0).cpu().numpy()

    def alternatives(self) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Drawn with replacement, at the request's temperature, from all of the distribution."""
        count, temperature = self._spec.prompt_alt_tokens_k, self._spec.temperature
        if not count:
            return None
        if temperature == 0:
            drawn = self._logits.argmax(dim=-1, keepdim=True).expand(-1, count)
        else:
            steps = np.arange(len(self._logits) * count, dtype=np.uint64)
            chance = torch.from_numpy(chances(stream(self._spec.seed, _ALTERNATIVES), steps)).reshape(-1, count)
            drawn = pick(torch.softmax(self._logits.float() / temperature, dim=-1), chance.to(self._logits.device))
        return drawn.cpu().numpy(), self._distribution.gather(-1, drawn).cpu().numpy()
