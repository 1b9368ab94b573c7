"""A check of each model when it is loaded: training, scoring and sampling must compute the same
logprobs as the model's own forward pass.

The check knows no kinds of models: a few tokens pass through all code paths of the engine, alone
and in a batch, and a model whose logprobs differ is refused. This takes about a dozen short forward
passes.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from tinkex_server.engine.interface import Example, InvalidRequest, ModelInfo
from tinkex_server.engine.torch.adapter import Adapter
from tinkex_server.engine.torch.kv_cache import CacheLayout, KVCache, cache_arguments
from tinkex_server.engine.torch.mixed_adapters import AdapterPlan, AdapterPlanner
from tinkex_server.engine.torch.padding import columns_arguments, left_padded
from tinkex_server.engine.torch.scoring import target_logprobs

_LENGTHS = (13, 5, 9)
_CACHED = 4  # tokens of each row that are decoded one by one
_FLOAT32, _LESS_PRECISE = 1e-4, 0.25
"""The mean differences, in nats, that code paths may have. A wrong mask or position causes tenths
of a nat and more in a trained model.

The largest differences measured in correct models: in float32 4e-6 over the kinds of
docs/models.md, 7e-6 with 28 random layers; in bfloat16 0.0022 and 0.068. Trained models were not
measured, hence the margins of 14 and 4.
"""
_FLOAT32_AT_LEAST, _TIMES_ROUNDING = 2e-5, 10
"""A tighter tolerance in float32 for models with small rounding errors: code paths differed by at
most 4 times the rounding error of the first.
"""


@frozen(eq=False)
class ReferenceLogprobs:
    """The logprobs of a few texts, each computed alone by the model itself."""

    rows: Sequence[Sequence[int]]
    logprobs: Sequence[Tensor]
    """The logprobs of each row's tokens except the first, `(N - 1,)`, on the CPU."""


def reference_logprobs(model: Any, info: ModelInfo) -> ReferenceLogprobs:
    """Computes the reference logprobs with the unmodified model.

    Raises `InvalidRequest` if the model does not read plain token ids from left to right, or is not
    deterministic.
    """
    with (
        _refusing(info, "its forward pass fails when token ids are its only input"),
        torch.inference_mode(),
    ):
        rows = _rows(info)
        found, again = ([_alone(model, row) for row in rows] for _ in range(2))
    if _difference(found, again) > _tolerance(model):
        raise refusal(
            info,
            "it is not deterministic: the same tokens get different logprobs in each forward pass",
        )
    short = len(rows[1]) - 1
    if _difference([found[0][:short]], [found[1]]) > _tolerance(model):
        raise refusal(
            info,
            "its attention is bidirectional, as in an encoder: the logprob of a token "
            "depends on the tokens after it",
        )
    return ReferenceLogprobs(rows, found)


@torch.inference_mode()
def check_logprobs(
    model: Any, layout: CacheLayout, info: ModelInfo, found: ReferenceLogprobs
) -> tuple[CacheLayout, int, int]:
    """Returns the layout with which the engine's code paths are right, the bytes of the KV cache
    for each token, and those of other states for each row, over all layers.

    Raises `InvalidRequest` if a code path of the engine, without an adapter, differs from the
    reference.
    """
    with _refusing(info, "its forward pass fails for a batch of several texts"):
        examples = [
            Example(np.array(row[:-1]), {"target_tokens": np.array(row[1:])}) for row in found.rows
        ]
        trained = [logprobs.cpu() for logprobs in target_logprobs(model, examples)]
    _check(info, "training", trained, found.logprobs, _tolerance(model))
    allowed = _tolerance(model, _difference(trained, found.logprobs))
    with _refusing(
        info,
        "it cannot continue from a standard cache: it keeps a state in a format of its own",
    ):
        read, sizes = _engine_logprobs(model, layout, found.rows)
        if layout.recurrent and not _difference(read, found.logprobs) <= allowed:
            # perhaps its layers continue from a state by single tokens alone
            layout = evolve(layout, whole=True)
            read, sizes = _engine_logprobs(model, layout, found.rows)
    for way, tokens in (("scoring", slice(0, 1 - _CACHED)), ("sampling", slice(1 - _CACHED, None))):
        _check(
            info,
            way,
            [row[tokens] for row in read],
            [row[tokens] for row in found.logprobs],
            allowed,
        )
    return layout, *sizes


@torch.inference_mode()
def check_adapters(
    model: Any,
    acquire: Callable[[AdapterPlan], AbstractContextManager[object]],
    info: ModelInfo,
    found: ReferenceLogprobs,
    adapter: Adapter,
) -> None:
    """Raises `InvalidRequest` if texts get other logprobs in a batch in which each has an adapter
    of its own, or none, than each alone.
    """
    other = Adapter(adapter.rank, -adapter.alpha, adapter.layers)
    adapters = [adapter, None, other]
    examples = [
        Example(np.array(row[:-1]), {"target_tokens": np.array(row[1:])}) for row in found.rows
    ]
    alone: list[Tensor] = []
    with _refusing(info, "its forward pass fails for a batch with several adapters"):
        with acquire(AdapterPlanner(model.device).plan(adapters)):
            together = [logprobs.cpu() for logprobs in target_logprobs(model, examples)]
        for example, one in zip(examples, adapters, strict=True):
            with acquire(one):
                alone.append(target_logprobs(model, [example])[0].cpu())
    if not (apart := _difference(together, alone)) <= _tolerance(model):
        raise refusal(
            info,
            "a text gets other logprobs in a batch with several adapters than alone: they differ "
            f"by {apart:.2g} nats per token on average",
        )


def _rows(info: ModelInfo) -> list[list[int]]:
    """Returns token rows of the lengths above; the second row is a prefix of the first."""
    longest = min(info.max_context_length, _LENGTHS[0])
    tokens = [(7919 * place + 104_729) % info.vocab_size for place in range(2 * longest)]
    first, second, third = (min(length, longest) for length in _LENGTHS)
    return [tokens[:first], tokens[:second], tokens[-third:]]


def _alone(model: Any, row: Sequence[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0]
    return _of_next(logits, row)


def _of_next(logits: Tensor, row: Sequence[int]) -> Tensor:
    """Returns the logprob of each token but the first, from the logits of the token before."""
    logprobs = logits[: len(row) - 1].float().log_softmax(dim=-1)
    return logprobs.gather(-1, torch.tensor(row[1:], device=logits.device)[:, None])[:, 0].cpu()


def _engine_logprobs(
    model: Any, layout: CacheLayout, rows: Sequence[Sequence[int]]
) -> tuple[list[Tensor], tuple[int, int]]:
    """Returns the rows' logprobs as the engine computes them, by prefill in two passes and then
    token by token, and the bytes that the caches take for a token and for a row.
    """
    samples = KVCache(layout)
    logits: list[list[Tensor]] = []
    for together in [[row] for row in rows] if layout.alone else [rows]:
        logits += _prefill(model, layout, [row[:-_CACHED] for row in together], samples)
    for place in range(-_CACHED, 0):
        latest = torch.tensor([[row[place]] for row in rows], device=model.device)
        step = model(input_ids=latest, **samples.prepare(model)).logits
        samples.advance()
        for row, own in enumerate(logits):
            own.append(step[row])
    sizes = samples.bytes_per_token, samples.bytes_per_row
    return [_of_next(torch.cat(own), row) for own, row in zip(logits, rows, strict=True)], sizes


def _prefill(
    model: Any, layout: CacheLayout, prompts: Sequence[Sequence[int]], samples: KVCache
) -> list[list[Tensor]]:
    """Reads prompts in two passes, or in one if that is the layout, and adds them to `samples`;
    returns the logits of each.
    """
    tokens, mask = left_padded(prompts)
    cache, half = layout.new_cache(), 0 if layout.whole else tokens.shape[1] // 2
    parts: list[Tensor] = []
    # nor has a prompt of one token a first half
    for columns in (slice(0, half), slice(half, tokens.shape[1]))[half == 0 :]:
        how = columns_arguments(tokens, mask, columns, model.device)
        parts.append(model(**how, **cache_arguments(model, cache), logits_to_keep=0).logits)
    together = torch.cat(parts, dim=1)
    samples.add_rows(cache, [(row, len(prompt)) for row, prompt in enumerate(prompts)])
    return [[together[row, -len(prompt) :]] for row, prompt in enumerate(prompts)]


def _check(
    info: ModelInfo,
    way: str,
    read: Sequence[Tensor],
    alone: Sequence[Tensor],
    allowed: float,
) -> None:
    apart = _difference(read, alone)
    if not apart <= allowed:  # also true for NaN
        raise refusal(
            info,
            f"{way} in a batch gives other logprobs than the model's own forward pass: "
            f"they differ by {apart:.2g} nats per token on average",
        )


def _difference(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Returns the largest mean difference of any row, in nats."""
    return max(float((one - other).abs().mean()) for one, other in zip(some, others, strict=True))


def _tolerance(model: Any, rounding: float = _FLOAT32) -> float:
    """Returns the allowed difference, for a model in which rounding alone caused a difference of
    `rounding`.
    """
    if model.dtype != torch.float32:
        return _LESS_PRECISE
    return min(_FLOAT32, max(_FLOAT32_AT_LEAST, _TIMES_ROUNDING * rounding))


def refusal(info: ModelInfo, why: str) -> InvalidRequest:
    """Returns the error for a model that cannot be served, with the reason."""
    return InvalidRequest(f"the model {info.name!r} ({info.arch}) is not supported: {why}")


@contextmanager
def _refusing(info: ModelInfo, why: str) -> Generator[None, None, None]:
    """Turns any error of a library in the block into a refusal with this reason, except for a lack
    of memory, which says nothing about the model.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model's own code may raise anything
        raise refusal(
            info, f"{why}. transformers raised {type(error).__name__}: {error}"
        ) from error
