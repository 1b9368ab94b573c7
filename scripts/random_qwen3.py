"""A Qwen3 with random weights, for scripts and benchmarks that need a model of a certain size."""

# torch and transformers type some of their functions only in part
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

TINY = Path(__file__).resolve().parents[1] / "tinkex" / "tiny"


def make_random_qwen3(folder: Path, *, seed: int, **settings: Any) -> Qwen3ForCausalLM:
    """Writes a model with the tokenizer of tinkex/tiny to a folder, and returns it, ready to
    sample.

    `settings` are those of `Qwen3Config`; by default the model has two layers, 4 heads, and stops
    at the tokenizer's last token.
    """
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "vocab_size": 257,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": 256,
        "tie_word_embeddings": False,
    }
    model = Qwen3ForCausalLM(Qwen3Config(**{**config, **settings})).eval()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder / name)
    return model
