"""Rows of tokens of many lengths as one tensor, and what a forward pass is to be told of them."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
    """Returns the prompts `(rows, tokens)`, padded on the left, and 1 where they are; None where
    there is no padding.
    """
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return tokens, None if mask.all() else mask


def padding_arguments(mask: Tensor | None, columns: slice) -> dict[str, Tensor]:
    """Returns what a pass over these columns of padded rows is to be told of the padding."""
    if mask is None:
        return {}
    positions = (mask.cumsum(dim=-1) - 1).clamp_(min=0)
    return {"attention_mask": mask[:, : columns.stop], "position_ids": positions[:, columns]}
