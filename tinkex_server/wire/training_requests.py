"""Requests to make and to train a model, from the contract's types to the engine's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tinkex_api import models as api

from tinkex_server.engine.interface import Example, LoraShape
from tinkex_server.errors import Location, bad_request, malformed
from tinkex_server.wire.loss_inputs import LOSS_FNS, check_inputs
from tinkex_server.wire.tensors import LARGEST_FLOAT32, MOST_CELLS, to_array, tokens


def lora_shape(config: api.LoraConfig) -> LoraShape:
    """Returns the shape of an adapter. Raises `Refused` for one that would train nothing."""
    if config.rank < 1:
        raise malformed("lora_config", "rank", message="must be 1 or more")
    if not (config.train_attn or config.train_mlp or config.train_unembed):
        raise malformed(
            "lora_config",
            message="trains nothing: one of train_attn, train_mlp and train_unembed must be true",
        )
    seed = config.seed if isinstance(config.seed, int) else None
    return LoraShape(config.rank, seed, config.train_attn, config.train_mlp, config.train_unembed)


def loss_config(batch: api.ForwardBackwardInput, at: Location) -> dict[str, float]:
    """Returns the settings of a loss. Raises `Refused` for an unknown loss or a wrong setting."""
    if batch.loss_fn == "stable_reinforce":
        raise bad_request(
            "this server has no stable_reinforce: its formula is not published, only that it needs "
            "what the hosted service records while sampling (record_stability_info). Use cispo "
            "or ppo, which bound the ratio of a policy that has moved on, or importance_sampling, "
            "with the logprobs that came with the samples (loss_fn in the cookbook)"
        )
    if batch.loss_fn not in LOSS_FNS:
        raise bad_request(
            f"unknown loss_fn {batch.loss_fn!r}; known are {', '.join(LOSS_FNS)}, and custom"
        )
    settings: Mapping[str, Any] = batch.loss_fn_config or {}
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise malformed(*at, "loss_fn_config", name, message="must be a number")
        if not abs(value) <= LARGEST_FLOAT32:
            raise malformed(
                *at,
                "loss_fn_config",
                name,
                message=f"must be finite, and at most {LARGEST_FLOAT32}, the largest float32",
            )
    return dict(settings)


def examples(batch: api.ForwardBackwardInput, at: Location) -> list[Example]:
    """Returns the data of a batch. Raises `Refused` for data that the loss cannot use."""
    if not batch.data:
        raise malformed(*at, "data", message="is empty")
    check_inputs(batch, (*at, "data"))
    _check_cells(batch.data, (*at, "data"))
    return [_example(datum, (*at, "data", index)) for index, datum in enumerate(batch.data)]


def _check_cells(data: Sequence[api.Datum], at: Location) -> None:
    """Raises `Refused` if the sparse tensors of a batch have too many cells.

    A sparse tensor can have thousands of cells for each byte that is sent, so the cells of all are
    counted before the first array is made.
    """
    total = 0
    for index, datum in enumerate(data):
        for name, tensor in datum.loss_fn_inputs.items():
            if tensor.sparse_crow_indices is not None and all(
                type(size) is int and size >= 0 for size in tensor.shape or ()
            ):
                total += math.prod(tensor.shape or ())
            if total > MOST_CELLS:
                text = f"has more than {MOST_CELLS} cells, with the sparse tensors before it"
                raise malformed(*at, index, "loss_fn_inputs", name, "shape", message=text)


def count_trained(data: Sequence[Example]) -> int:
    """Returns the number of tokens that the loss is over: those with a weight other than 0, and all
    tokens of data without weights.
    """
    weights = [example.loss_inputs.get("weights") for example in data]
    return sum(
        len(example.tokens) if w is None else int(np.count_nonzero(w))
        for example, w in zip(data, weights, strict=True)
    )


def _example(datum: api.Datum, at: Location) -> Example:
    inputs = datum.loss_fn_inputs
    return Example(
        tokens(datum.model_input, (*at, "model_input")),
        {name: to_array(tensor, (*at, "loss_fn_inputs", name)) for name, tensor in inputs.items()},
    )
