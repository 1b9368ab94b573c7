"""Decides from config.json which kinds of models can be served exactly, and up to which context
length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from tinkex_server.engine.interface import InvalidRequest

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
"""The kinds of layers, by transformers' names, whose only state is the keys and values of each
token.
"""
RECURRENT = frozenset(("linear_attention", "conv", "hybrid"))
"""The kinds that keep a state of all tokens together, alone or besides keys and values."""
STATELESS = frozenset(("mlp", "moe"))
"""The kinds that keep nothing, since each token passes through them alone."""
_OLDER_NAMES = frozenset(("attention", "mamba"))
"""The names of full and linear attention in older files."""

_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""The names that transformers' configurations use for the context length."""
_LENGTH_DEPENDENT_ROPES = ("longrope", "su")  # "su" is Phi-3's older name

_ORIGINAL = "Use the model that it was made from, in bfloat16 or float32"
_BY_TRANSFORMERS = (
    "Use a copy in bfloat16, which these lines make: from transformers import "
    "AutoModelForCausalLM, {config}; AutoModelForCausalLM.from_pretrained(NAME, "
    'dtype="bfloat16", quantization_config={config}(dequantize=True)).save_pretrained(FOLDER). '
    "Copy the tokenizer's files there, too"
)
_DEQUANTIZED: Mapping[str, str] = {
    "mxfp4": _BY_TRANSFORMERS.format(config="Mxfp4Config"),
    "fp8": _BY_TRANSFORMERS.format(config="FineGrainedFP8Config"),
}
"""The remedy for a quantized model, by its method, where transformers can undo it."""


def check_kind(name: str, config: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` for a model that, by its config.json, cannot be served exactly."""
    if config.get("is_encoder_decoder"):
        raise InvalidRequest(
            f"the model {name!r} is an encoder-decoder model, as used for translation; "
            "only decoder-only language models can be trained and sampled here"
        )
    if method := _quantization(config):
        raise InvalidRequest(
            f"the model {name!r} is quantized ({method}), and only weights of 16 or 32 bits can be "
            f"trained and sampled here. {_DEQUANTIZED.get(method, _ORIGINAL)}"
        )
    if unknown := unsupported_layers(text_config(config).get("layer_types")):
        raise InvalidRequest(
            f"the model {name!r} has {', '.join(unknown)} layers, which are not supported: "
            "sampling relies on caches, and only those of full, sliding-window and chunked "
            "attention, of linear attention and of state spaces such as Mamba are known here"
        )


def _quantization(config: Mapping[str, Any]) -> str | None:
    """Returns the method by which a model is quantized."""
    found = config.get("quantization_config") or text_config(config).get("quantization_config")
    if not found:
        return None
    bits = next((n for n in (4, 8) if found.get(f"load_in_{n}bit")), None)
    known = "bitsandbytes" if bits else "by an unknown method"
    return str(found.get("quant_method") or known)


def unsupported_layers(kinds: object) -> list[str]:
    """Returns the kinds of layers in a configuration's `layer_types` that cannot be sampled."""
    listed = cast("list[str]", kinds) if isinstance(kinds, list) else []
    return sorted(set(listed) - {FULL, SLIDING, CHUNKED} - RECURRENT - STATELESS - _OLDER_NAMES)


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of the text part of a model, which may also read images."""
    return {**config, **(config.get("text_config") or {})}


def context_length(name: str, config: Mapping[str, Any]) -> tuple[int, str]:
    """Returns the context length in tokens, and why it is shorter than the model's own ("" if it is
    not).

    Rotary positions that depend on the length of the text (longrope) change the logprobs of the
    whole text when it grows beyond a bound: tokens sampled below the bound and scored above it
    would come from different models. The context length is therefore limited to the bound. Dynamic
    NTK changes beyond `max_position_embeddings` only.

    Raises `InvalidRequest` if the configuration does not state the length.
    """
    text = text_config(config)
    longest = next((text[key] for key in _CONTEXT if text.get(key)), None)
    if longest is None:
        raise InvalidRequest(
            f"the config.json of the model {name!r} states no context length "
            f"({', '.join(_CONTEXT)}): models that keep a recurrent state (Mamba, RWKV, "
            "xLSTM), or that limit their texts in another way (BLOOM, Whisper), are not "
            "supported"
        )
    ropes = list(_length_dependent_ropes(text))
    if not ropes:
        return longest, ""
    bounds = [rope.get("original_max_position_embeddings") for rope in ropes]
    bound = text.get("original_max_position_embeddings") or min(
        (bound for bound in bounds if bound), default=None
    )
    if bound is None:
        raise InvalidRequest(
            f"the model {name!r} uses longrope, whose position embeddings change beyond a "
            "certain length, but its config.json does not state that length "
            "(original_max_position_embeddings)"
        )
    if bound >= longest:
        return longest, ""
    return bound, (
        f"the model supports {longest} tokens, but its position embeddings (longrope) "
        f"change all logprobs of a text that exceeds {bound}, so that logprobs from "
        "sampling and training would differ"
    )


def _length_dependent_ropes(text: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yields the rotary embeddings whose frequencies depend on the length of the text; there may be
    one for each kind of layer.
    """
    ropes: dict[str, Any] = text.get("rope_parameters") or text.get("rope_scaling") or {}
    for rope in (ropes, *ropes.values()):
        if isinstance(rope, dict):
            known = cast("dict[str, Any]", rope)
            if known.get("rope_type", known.get("type")) in _LENGTH_DEPENDENT_ROPES:
                yield known
