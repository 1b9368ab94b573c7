"""A small model for tests with peft, and the logprobs of a model in transformers or peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

ROW = [72, 105, 33, 40, 41, 42]
SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


@torch.inference_mode()
def logprobs(model: Any, row: Sequence[int] = ROW) -> np.ndarray[Any, Any]:
    """Returns the logprobs of all tokens of the row but the first, by the model's forward pass."""
    of_all = model.eval()(input_ids=torch.tensor([row[:-1]])).logits[0].float().log_softmax(-1)
    return of_all.gather(-1, torch.tensor(row[1:])[:, None])[:, 0].numpy()
