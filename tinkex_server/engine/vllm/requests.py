"""Sampling requests in the form of vLLM's `POST /inference/v1/generate`: plain functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from tinkex_server.engine.interface import InvalidRequest, ModelInfo, SampleSpec


def generate_body(model: str, spec: SampleSpec, max_tokens: int, *, stream: bool) -> dict[str, Any]:
    """Returns the body of a request, without the scores of the prompt that it may ask for.

    Args:
        model: the name that vLLM has for the base model or the adapter.
        max_tokens: the most tokens of one sample.
    """
    body: dict[str, Any] = {
        "model": model,
        "token_ids": list(spec.prompt),
        "sampling_params": {
            "n": spec.num_samples,
            "max_tokens": max_tokens,
            "temperature": spec.temperature,
            "top_k": max(spec.top_k, 0),
            "top_p": spec.top_p,
            # one more than asked: the sampled token takes a place, too
            "logprobs": spec.topk_sample_logprobs + 1 if spec.topk_sample_logprobs else 0,
            **_stops(spec),
            **({} if spec.seed is None else {"seed": mixed_seed(spec.seed)}),
        },
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def room_for_sample(spec: SampleSpec, info: ModelInfo, context: int) -> int:
    """Returns the most tokens that a sample may have. Raises `InvalidRequest` for an invalid
    prompt.

    Args:
        context: the length of vLLM's context in tokens, at most that of the model.
    """
    room = context - len(spec.prompt)
    if not spec.prompt or room < 1:
        raise InvalidRequest(
            f"the prompt has {len(spec.prompt)} tokens; {info.name} takes 1 to {context - 1} here"
        )
    for position, token in enumerate(spec.prompt):
        if not 0 <= token < info.vocab_size:
            raise InvalidRequest(
                f"prompt[{position}] is {token}; {info.name} has the tokens 0 to "
                f"{info.vocab_size - 1}"
            )
    return room if spec.max_tokens is None else min(room, spec.max_tokens)


def mixed_seed(seed: int) -> int:
    """Returns a seed of 62 bits that depends on all bits of this one.

    vLLM gives sample i of a request the seed plus i, so that near seeds would share samples.
    """
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2


def _stops(spec: SampleSpec) -> dict[str, Any]:
    """Returns the rules by which samples end; without any, the model's end of text does."""
    if spec.stop_tokens is None and spec.stop_strings is None:
        return {"detokenize": False}
    strings: Sequence[str] = spec.stop_strings or ()
    return {
        "ignore_eos": True,
        "stop_token_ids": list(spec.stop_tokens or ()),
        # text is needed only to find stop strings in it
        "detokenize": bool(strings),
        **({"stop": list(strings), "skip_special_tokens": False} if strings else {}),
    }
