"""Padding of token rows of different lengths into one tensor, with the matching model arguments."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
    """Returns the prompts as a tensor `(rows, tokens)`, int64, padded on the left, and a mask of
    the same shape, 1 for tokens; None if there is no padding.
    """
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return tokens, None if mask.all() else mask


def columns_arguments(
    tokens: Tensor, mask: Tensor | None, columns: slice, device: torch.device
) -> dict[str, Tensor]:
    """Returns the arguments of a forward pass over these columns, of which those before were read
    already, on the device of the model.
    """
    how = {"input_ids": tokens[:, columns]}
    if mask is not None:
        positions = (mask.cumsum(dim=-1) - 1).clamp_(min=0)
        how |= {"attention_mask": mask[:, : columns.stop], "position_ids": positions[:, columns]}
    elif columns.start:  # some models count from 0 again in each pass unless they are told
        positions = torch.arange(columns.start, columns.stop)
        how["position_ids"] = positions.expand(len(tokens), -1)
    return {name: tensor.to(device) for name, tensor in how.items()}
