"""Models of other kinds are sampled as transformers' own `generate` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

from tinkex.local.engine.adapters import Base
from tinkex.local.engine.base import InvalidRequest, LoraShape, SampleSpec
from tinkex.local.engine.torch_engine import TorchEngine

TINY = Path(__file__).parents[2] / "tinkex" / "tiny"
SHAPE: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 256,
    "initializer_range": 0.3,  # so that their greedy tokens differ
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "sliding window": MistralConfig(**SHAPE, sliding_window=6),
    "sliding and full layers": Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=5, layer_types=["full_attention", "sliding_attention"]
    ),
    "learned positions": GPT2Config(
        vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=128, eos_token_id=256, bos_token_id=256, initializer_range=0.3
    ),
}
PROMPTS = [list(b"The hacker"), list(b"A"), list(b"A longer prompt than the window"), list(b"The hacken")]


def saved(config: PreTrainedConfig, folder: Path) -> Any:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_samples_are_those_of_generate(kind: str, tmp_path: Path) -> None:
    model = saved(CONFIGS[kind], tmp_path)
    engine = TorchEngine([str(tmp_path)], "cpu")
    engine.load_sampler("s", str(tmp_path), None)
    spec = [SampleSpec(prompt, max_tokens=20, temperature=0.0, stop_tokens=[]) for prompt in PROMPTS]
    futures = [engine.sample("s", one) for one in spec]
    for prompt, future in zip(PROMPTS, futures, strict=True):
        tokens = torch.tensor([prompt])
        expected = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=20, eos_token_id=None, pad_token_id=256
        )
        assert future.result(60).sequences[0].tokens == expected[0, len(prompt) :].tolist()
    engine.close()


@pytest.mark.parametrize(
    ("config", "trained"),
    [
        (Phi3Config(**SHAPE), {"qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"}),
        (GPTNeoXConfig(**SHAPE), {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "lm_head"}),
    ],
)
def test_layers_of_other_names_are_trained_too(config: PreTrainedConfig, trained: set[str], tmp_path: Path) -> None:
    saved(config, tmp_path)
    base = Base.load(str(tmp_path), "cpu")
    assert {name.rpartition(".")[2] for name in base.new_adapter(LoraShape(2)).layers} == trained
    only = base.new_adapter(LoraShape(2, train_attn=False, train_mlp=False))
    assert [name.rpartition(".")[2] for name in only.layers] == ["lm_head"]


def test_what_would_be_trained_in_part_alone_is_refused(tmp_path: Path) -> None:
    saved(MixtralConfig(**SHAPE, num_local_experts=2), tmp_path)
    base = Base.load(str(tmp_path), "cpu")
    with pytest.raises(InvalidRequest, match=r"train_mlp must be false for this model: none of its linear layers .* k_proj"):
        base.new_adapter(LoraShape(2))
    assert base.new_adapter(LoraShape(2, train_mlp=False)).layers
    saved(Qwen3MoeConfig(**SHAPE, num_experts=2, moe_intermediate_size=8, mlp_only_layers=[0]), tmp_path)
    with pytest.raises(InvalidRequest, match="train_mlp must be false for this model: it has experts"):
        Base.load(str(tmp_path), "cpu").new_adapter(LoraShape(2))


def test_a_model_that_keeps_other_things_than_keys_and_values_is_refused(tmp_path: Path) -> None:
    types = ["linear_attention", "full_attention"]
    saved(Qwen3NextConfig(**SHAPE, layer_types=types, num_experts=0, mlp_only_layers=[0, 1]), tmp_path)
    engine = TorchEngine([str(tmp_path)], "cpu")
    engine.load_sampler("s", str(tmp_path), None)
    with pytest.raises(InvalidRequest, match="linear_attention can be trained here, but not sampled"):
        engine.sample("s", SampleSpec([1, 2], max_tokens=1)).result(60)
    engine.close()
