"""The models of the embedded server's benchmarks: a random Qwen3 of 0.37 million parameters, or of
0.6 billion for GPUs, with the tokenizer of tinkex/tiny.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Qwen3ForCausalLM

from scripts.random_qwen3 import make_random_qwen3

_SIZES: Mapping[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "vocab_size": 272,
    "max_position_embeddings": 512,
}
QWEN3_600M: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "max_position_embeddings": 4096,
}
"""The sizes of Qwen3-0.6B."""
# so that every sample has as many tokens as are asked for
_NO_STOP: Mapping[str, Any] = {"eos_token_id": None, "pad_token_id": 0}


def make_model(folder: Path, **sizes: Any) -> Qwen3ForCausalLM:
    """Returns the model, ready to sample, and writes it to `folder`."""
    return make_random_qwen3(folder, seed=0, **{**_SIZES, **sizes, **_NO_STOP})
