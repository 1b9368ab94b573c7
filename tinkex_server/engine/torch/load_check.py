"""A check of each model when it is loaded: training, scoring and sampling must find its texts as
likely as its own forward pass does.

It knows no kinds of models: a few tokens go through all ways that the engine has, alone and beside
others, and a model whose logprobs differ is not served. That takes a dozen forward passes of some
tokens.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor
from transformers.cache_utils import DynamicCache

from tinkex_server.engine.interface import Example, InvalidRequest, ModelInfo
from tinkex_server.engine.torch.kv_cache import KVCache, attention_windows, cache_arguments
from tinkex_server.engine.torch.padding import left_padded, padding_arguments
from tinkex_server.engine.torch.scoring import target_logprobs

_LENGTHS = (13, 5, 9)
_CACHED = 4  # tokens of each row that are read one by one, as a sample's are
_FLOAT32, _LESS_PRECISE = 1e-4, 0.25
"""Nats, on average, that ways may be apart. A wrong mask or position makes tenths and more where
weights are trained.

Measured where all is right, at most: in float32 4e-6 over the kinds of docs/models.md, 7e-6 with 28
random layers; in bfloat16 0.0022 and 0.068. Trained models were not among these, hence the margins:
14, and 4 where all is rounded coarsely.
"""
_FLOAT32_AT_LEAST, _TIMES_ROUNDING = 2e-5, 10
"""In float32 a model whose rounding is small may be apart by less: ways were at most 4 times as far
apart as it makes the first.
"""


@frozen(eq=False)
class ReferenceLogprobs:
    """The logprobs of a few texts' tokens, as a model by itself finds them, each text alone."""

    rows: Sequence[Sequence[int]]
    logprobs: Sequence[Tensor]
    """Of each row's tokens but the first, on the CPU."""


def reference_logprobs(model: Any, info: ModelInfo) -> ReferenceLogprobs:
    """Reads some texts by a model that nothing has been done to.

    Raises `InvalidRequest` when it does not read plain token ids from left to right, the same way
    each time.
    """
    with _refusing(info, "it does not read plain token ids"), torch.inference_mode():
        rows = _rows(info)
        found, again = ([_alone(model, row) for row in rows] for _ in range(2))
    if _difference(found, again) > _tolerance(model):
        raise _refusal(
            info,
            "it finds other logprobs for the same tokens each time (it draws lots inside)",
        )
    short = len(rows[1]) - 1
    if _difference([found[0][:short]], [found[1]]) > _tolerance(model):
        raise _refusal(
            info,
            "what follows changes how likely it finds a token: it reads in both directions, as "
            "encoders do, not from left to right",
        )
    return ReferenceLogprobs(rows, found)


@torch.inference_mode()
def check_logprobs(model: Any, info: ModelInfo, found: ReferenceLogprobs) -> int:
    """Returns how many bytes the model keeps of each token that it has read, in all layers.

    Raises `InvalidRequest` when a way of the engine, with no adapter, does not find what the model
    found by itself.
    """
    with _refusing(info, "several texts cannot be read at once"):
        examples = [
            Example(np.array(row[:-1]), {"target_tokens": np.array(row[1:])}) for row in found.rows
        ]
        trained = [logprobs.cpu() for logprobs in target_logprobs(model, examples)]
    _check(info, "trained in company", trained, found.logprobs, _tolerance(model))
    allowed = _tolerance(model, _difference(trained, found.logprobs))
    with _refusing(
        info,
        "it cannot go on from the keys and values of the tokens before: it keeps something else "
        "(a state, as Mamba "
        "and linear attention do), or keeps them in a way of its own",
    ):
        read, size = _engine_logprobs(model, found.rows)
    for way, tokens in (("scored", slice(0, 1 - _CACHED)), ("sampled", slice(1 - _CACHED, None))):
        _check(
            info,
            f"{way} in company",
            [row[tokens] for row in read],
            [row[tokens] for row in found.logprobs],
            allowed,
        )
    return size


def _rows(info: ModelInfo) -> list[list[int]]:
    """Of these lengths; the second is the beginning of the first."""
    longest = min(info.max_context_length, _LENGTHS[0])
    tokens = [(7919 * place + 104_729) % info.vocab_size for place in range(2 * longest)]
    first, second, third = (min(length, longest) for length in _LENGTHS)
    return [tokens[:first], tokens[:second], tokens[-third:]]


def _alone(model: Any, row: Sequence[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0]
    return _of_next(logits, row)


def _of_next(logits: Tensor, row: Sequence[int]) -> Tensor:
    """How likely each token but the first is by the logits of the one before it."""
    logprobs = logits[: len(row) - 1].float().log_softmax(dim=-1)
    return logprobs.gather(-1, torch.tensor(row[1:], device=logits.device)[:, None])[:, 0].cpu()


def _engine_logprobs(model: Any, rows: Sequence[Sequence[int]]) -> tuple[list[Tensor], int]:
    """The rows' logprobs, read together as prompts are, in two passes, and then token by token as
    samples; and bytes a token.
    """
    prompts = [row[:-_CACHED] for row in rows]
    tokens, mask = left_padded(prompts)
    cache, half = DynamicCache(), tokens.shape[1] // 2
    parts: list[Tensor] = []
    for columns in (slice(0, half), slice(half, tokens.shape[1])):
        how = {"input_ids": tokens[:, columns], **padding_arguments(mask, columns)}
        how = {name: tensor.to(model.device) for name, tensor in how.items()}
        parts.append(model(**how, **cache_arguments(model, cache), logits_to_keep=0).logits)
    together = torch.cat(parts, dim=1)
    logits = [[together[row, -len(prompt) :]] for row, prompt in enumerate(prompts)]
    samples = KVCache(attention_windows(model.config.get_text_config(decoder=True)))
    samples.add_rows(cache, [(row, len(prompt)) for row, prompt in enumerate(prompts)])
    for place in range(-_CACHED, 0):
        latest = torch.tensor([[row[place]] for row in rows], device=model.device)
        step = model(input_ids=latest, **samples.prepare(model)).logits
        samples.advance()
        for row, own in enumerate(logits):
            own.append(step[row])
    return [
        _of_next(torch.cat(own), row) for own, row in zip(logits, rows, strict=True)
    ], samples.bytes_per_token


def _check(
    info: ModelInfo,
    way: str,
    read: Sequence[Tensor],
    alone: Sequence[Tensor],
    allowed: float,
) -> None:
    apart = _difference(read, alone)
    if not apart <= allowed:  # NaN, too
        raise _refusal(
            info,
            f"a text that is {way} has other logprobs than alone, by {apart:.2g} nats a token",
        )


def _difference(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """How far they are apart, on average; of the rows, where they are furthest."""
    return max(float((one - other).abs().mean()) for one, other in zip(some, others, strict=True))


def _tolerance(model: Any, rounding: float = _FLOAT32) -> float:
    """Returns how far ways may be apart, of a model whose rounding alone was seen to make so
    much.
    """
    if model.dtype != torch.float32:
        return _LESS_PRECISE
    return min(_FLOAT32, max(_FLOAT32_AT_LEAST, _TIMES_ROUNDING * rounding))


def _refusal(info: ModelInfo, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"the model {info.name!r} ({info.arch}) is of a kind that is not served: {why}"
    )


@contextmanager
def _refusing(info: ModelInfo, why: str) -> Generator[None, None, None]:
    """A library's error in the block is told as what it means; running out of memory means nothing
    about the model.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model's own code raises for what it cannot do
        raise _refusal(
            info, f"{why}. transformers said: {type(error).__name__}: {error}"
        ) from error
