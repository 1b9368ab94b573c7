"""The models of the embedded server's benchmarks: a random Qwen3 of 0.37 million parameters, or of
0.6 billion for GPUs, with the tokenizer of tinkex/tiny.
"""

# torch and transformers type some of their functions only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from scripts.official_sdk import ROOT

_SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "vocab_size": 272,
    "max_position_embeddings": 512,
}
_HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
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
_NO_STOP: dict[str, Any] = {"eos_token_id": None, "pad_token_id": 0}


def make_model(folder: Path, **sizes: Any) -> Qwen3ForCausalLM:
    """Returns the model, ready to sample, and writes it to `folder`."""
    torch.manual_seed(0)
    config = Qwen3Config(**{**_SIZES, **_HEADS, **sizes}, **_NO_STOP, tie_word_embeddings=False)
    model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "tinkex" / "tiny").save_pretrained(folder)
    return model
