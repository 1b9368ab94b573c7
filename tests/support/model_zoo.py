"""Tiny random models of every kind that transformers has a causal language model for, made from
their configuration classes.
"""

from __future__ import annotations

import dataclasses
import inspect
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

TINY = Path(__file__).parents[2] / "tinkex" / "tiny"
LARGEST = 4_000_000
"""Parameters: a model that is larger was not made tiny, and would make the run slow."""

_SIZES: Mapping[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "n_inner": 48,
    "n_layers": 2,
    "n_heads": 4,
    "max_seq_len": 64,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "ffn_dim": 48,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "index_topk": 4,
    "sliding_window": 6,  # so that the rows are longer than it
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "is_decoder": True,
    # of the parts for images and sounds
    "depth": 1,
    "num_heads": 4,
    "image_size": 32,
    "patch_size": 16,
    "out_hidden_size": 32,
    "audio_config": None,
}
_LATENT: Mapping[str, Any] = {"num_key_value_heads": 4, "first_k_dense_replace": 1}
_OWN: Mapping[str, Mapping[str, Any]] = {
    kind: own
    for kinds, own in (
        (
            "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa "
            "longcat_flash minicpm3",
            _LATENT,
        ),
        ("sarvam_mla youtu kimi_linear dots3_note_text", _LATENT),
        (
            "granitemoehybrid",
            {
                "mamba_n_heads": 4,
                "mamba_d_head": 16,
                "mamba_n_groups": 1,
                "layer_types": ["linear_attention", "full_attention"],
            },
        ),
        (
            "bamba",
            {
                "mamba_n_heads": 4,
                "mamba_d_head": 16,
                "mamba_n_groups": 1,
                "attn_layer_indices": [1],
            },
        ),
        (
            "nemotron_h",
            {
                "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
                "mamba_num_heads": 4,
                "mamba_head_dim": 16,
                "n_groups": 1,
                "ssm_state_size": 16,
                "moe_shared_expert_intermediate_size": 16,
            },
        ),
        (
            "qwen3_next qwen3_5_text qwen3_5_moe_text olmo_hybrid",
            {
                "layer_types": ["linear_attention", "full_attention"],
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
            },
        ),
        ("jamba", {"attn_layer_period": 2, "attn_layer_offset": 1}),
        ("kimi_linear minimax", {"layer_types": ["linear_attention", "full_attention"]}),
        ("llama4_text", {"attention_chunk_size": 6, "no_rope_layers": [1, 0]}),
        ("mamba2", {"num_heads": 4, "head_dim": 16, "n_groups": 1}),
        ("codegen gptj", {"rotary_dim": 8}),
        (
            "cohere_compass_text",
            {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
        ),
        (
            "dbrx",
            {
                "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4},
                "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4},
            },
        ),
        ("dots1", {"n_shared_experts": 1}),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("beam", {"mlp_layer_types": ["dense", "sparse"]}),
        (
            "gemma2 gemma3_text cohere2 olmo3 gpt_oss exaone4 mellum",
            {"layer_types": ["sliding_attention", "full_attention"]},
        ),
        ("zamba", {"layer_types": ["mamba", "hybrid"], "attn_layer_offset": 1}),
        ("zamba2", {"layer_types": ["mamba", "hybrid"]}),
        (
            "falcon_h1",
            {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_ssm": 32, "mamba_n_groups": 1},
        ),
        ("gpt_neo", {"attention_types": [[["global", "local"], 1]], "num_layers": 2}),
        ("zaya", {"num_experts_per_tok": 1}),
        ("lfm2_moe", {"layer_types": ["conv", "full_attention"]}),
        ("inkling2_text inkling2_loop_text inkling_text", {"unpadded_vocab_size": 128}),
        ("roc_bert", {"pronunciation_vocab_size": 16, "shape_vocab_size": 16}),
        (
            "gemma4_text gemma4_assistant",
            {"vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 0},
        ),
        ("gemma3n_text", {"vocab_size_per_layer_input": 128, "num_kv_shared_layers": 0}),
        ("xmod", {"default_language": "en_XX"}),
        ("reformer", {"axial_pos_embds": False}),
    )
    for kind in kinds.split()
}
_DENSE: Mapping[str, Any] = {
    "first_k_dense_replace": 2,
    "num_dense_layers": 2,
    "mlp_layer_types": ["dense", "dense"],
    "mlp_only_layers": [0, 1],
    "moe_layer_start_index": 2,
}


class CannotBeMade(Exception):
    """No tiny model of a kind can be made, by this release of transformers."""


def names_of_kinds() -> set[str]:
    """Returns the names of the kinds without importing their classes, which takes seconds."""
    others = {"gpt-sw3", "code_llama"}  # other names of gpt2 and llama, the latter in old releases
    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - others


@cache
def kinds() -> dict[str, type[PreTrainedConfig]]:
    """Returns the configuration class of every causal language model that transformers has, by its
    `model_type`.
    """
    return {config.model_type: config for config in MODEL_FOR_CAUSAL_LM_MAPPING}


def tiny_config(config: type[PreTrainedConfig], **own: Any) -> PreTrainedConfig:
    """Returns one of this class, of small sizes in all its parts. `own` goes before them. Raises
    `CannotBeMade`.
    """
    sizes = {**_SIZES, **_OWN.get(config.model_type, {})}
    names = _fields(config) | set(config.attribute_map)
    given = {name: size for name, size in sizes.items() if name in names}
    for name, part in config.sub_configs.items():
        if name in names and name not in given:
            of_part = type(getattr(config(), name)) if part is AutoConfig else part
            given[name] = None if of_part is type(None) else tiny_config(of_part).to_dict()
    try:
        return config(**{**given, **own})
    except Exception as error:  # whatever its own checks raise
        raise CannotBeMade(f"{config.__name__}: {error}") from error


def without_experts(config: type[PreTrainedConfig]) -> dict[str, Any]:
    """Returns the settings by which a mixture of this class has layers without experts alone; none:
    it has no such settings.
    """
    return {name: value for name, value in _DENSE.items() if name in _fields(config)}


def make_model(config: PreTrainedConfig, folder: Path) -> Any:
    """Saves a random model, whose positions and layers all matter, with a tokenizer; returns it as
    loaded from the folder.

    Raises `CannotBeMade`, when it is not tiny, too.
    """
    try:
        with torch.device("meta"):
            count = sum(
                weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters()
            )
    except Exception as error:  # whatever a model's own code raises
        raise CannotBeMade(f"{type(config).__name__}: {error}") from error
    if count > LARGEST:
        raise CannotBeMade(f"{type(config).__name__} makes a model of {count:,} parameters")
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(2)
            weight.add_(torch.randn_like(weight) * 0.02)
    model.save_pretrained(folder)
    for file in TINY.glob("tokenizer*"):
        shutil.copy(file, folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _fields(config: type[PreTrainedConfig]) -> set[str]:
    if dataclasses.is_dataclass(config):
        return {field.name for field in dataclasses.fields(config)}
    return set(inspect.signature(config.__init__).parameters)
