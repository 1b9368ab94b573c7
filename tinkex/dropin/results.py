"""Results of sampling that programs make themselves, for tests and for caches of responses.

The official SDK's classes also take plain lists, by private names, where tinkex takes arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinkex import types

D = TypeVar("D", bound=np.generic)


class OfAnyOrigin(type):
    """A metaclass of classes whose instances are all those of their base, which clients return."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.__mro__[1])


class SampledSequence(types.SampledSequence, metaclass=OfAnyOrigin):
    """One sampled sequence, made of arrays or of lists."""

    def __init__(
        self,
        stop_reason: str,
        sequence_id: str = "",
        tokens_np: NDArray[np.integer] | None = None,
        logprobs_np: NDArray[np.float32] | None = None,
        topk_logprobs_np: types.TopkLogprobs | None = None,
        _tokens_list: Sequence[int] | None = None,
        _logprobs_list: Sequence[float] | None = None,
        **more: Any,
    ) -> None:
        tokens = _array(tokens_np, _tokens_list or (), np.int64)
        super().__init__(
            stop_reason,
            sequence_id,
            np.empty(0, np.int64) if tokens is None else tokens,
            _array(logprobs_np, _logprobs_list, np.float32),
            topk_logprobs_np,
            **more,
        )


class SampleResponse(types.SampleResponse, metaclass=OfAnyOrigin):
    """The result of a sample, made of arrays or of lists. None in a list is NaN in an array."""

    def __init__(
        self,
        sequences: Sequence[types.SampledSequence],
        prompt_logprobs_np: NDArray[np.float32] | None = None,
        topk_prompt_logprobs_np: types.TopkLogprobs | None = None,
        target_prompt_logprobs: types.TensorData | None = None,
        prompt_cache_hit_tokens: int = 0,
        prompt_alt_tokens: types.PromptAltTokens | None = None,
        _prompt_logprobs_list: Sequence[float | None] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(
            sequences,
            _array(prompt_logprobs_np, _prompt_logprobs_list, np.float32),
            topk_prompt_logprobs_np,
            target_prompt_logprobs,
            prompt_cache_hit_tokens,
            prompt_alt_tokens,
            **more,
        )


def _array(
    array: NDArray[Any] | None, values: Sequence[float | None] | None, dtype: type[D]
) -> NDArray[D] | None:
    """Returns the array, or else the values as one."""
    if array is not None or values is None:
        return array
    return np.asarray([np.nan if value is None else value for value in values], dtype)
