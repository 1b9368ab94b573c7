"""How likely a model finds the targets of data of many lengths: what training starts from, in
passes whose memory is bounded.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinkex_server.engine.interface import Example

_TOKENS_AT_ONCE = 16_384
# more take no less time each there, and samples wait for the end of a pass
_TOKENS_AT_ONCE_ON_CPU = 4096
_LOGITS_AT_ONCE = 1 << 28


def tokens_at_once(vocab_size: int, device: torch.device) -> int:
    """How many padded tokens one pass is to take, of which it keeps activations and logits."""
    tokens = _TOKENS_AT_ONCE_ON_CPU if device.type == "cpu" else _TOKENS_AT_ONCE
    return min(tokens, _LOGITS_AT_ONCE // vocab_size)


def micro_batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices, of similar lengths together, so that little is padding. One that is longer than
    `tokens` comes alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[index] > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def target_logprobs(network: Any, data: Sequence[Example]) -> list[Tensor]:
    """The model's logprobs of the targets, for each example in the shape of its targets."""
    targets = [np.asarray(example.loss_inputs["target_tokens"], np.int64) for example in data]
    columns = _padded([array.reshape(len(array), -1) for array in targets])
    # padding comes last, and attention looks back only: no mask is needed
    tokens = _padded([example.tokens for example in data])
    logits = network(input_ids=tokens.to(network.device), use_cache=False).logits.float()
    logprobs = cast("Tensor", _TargetLogprobs.apply(logits, columns.to(network.device)))
    rows = zip(logprobs.unbind(), targets, strict=True)
    return [row[: len(array), : array[0].size].reshape(array.shape) for row, array in rows]


class _TargetLogprobs(torch.autograd.Function):
    """Of the tokens in `columns` `(..., K)` under `logits` `(..., V)`.

    One array as large as the logits is kept, and becomes their gradient: torch's log_softmax and
    gather would have three, the largest that there are. So there is one way back only.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, columns: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        largest = logits.amax(dim=-1, keepdim=True)
        weights = (logits - largest).exp_()
        total = weights.sum(dim=-1, keepdim=True)
        ctx.save_for_backward(weights, total, columns)
        return logits.gather(-1, columns) - largest - total.log()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights, total, columns = ctx.saved_tensors
        of_all = weights.mul_(-gradient.sum(dim=-1, keepdim=True) / total)
        return of_all.scatter_add_(-1, columns, gradient), None


def _padded(arrays: Sequence[NDArray[np.int64]]) -> Tensor:
    """One tensor of all, the smaller ones filled up with 0."""
    largest = [max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True)]
    whole = np.zeros((len(arrays), *largest), np.int64)
    for row, array in enumerate(arrays):
        whole[(row, *map(slice, array.shape))] = array
    return torch.from_numpy(whole)
