"""The checks and the changes of a request's fields under a profile. Plain functions.

They raise `Refused`. `adapt` changes the fields of a body in place. Fields that are missing or of
another type than the contract's are passed over: the embedded server refuses them, by their names.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import attrs
import numpy as np
from tinkex_api import models as api

from tinkex_server.profiles.profile import Batches, Loading, Profile, Rule, Sampling
from tinkex_server.profiles.templates import (
    Fields,
    integer_at,
    list_at,
    look_up,
    mapping_at,
    text_at,
)
from tinkex_server.wire.refusals import RefusedWithStatus

_KINDS: Mapping[str, type[Any]] = {
    "create_session": api.CreateSessionRequest,
    "create_model": api.CreateModelRequest,
    "optim_step": api.OptimStepRequest,
    "save_weights": api.SaveWeightsRequest,
    "save_weights_for_sampler": api.SaveWeightsForSamplerRequest,
    "load_weights": api.LoadWeightsRequest,
    "create_sampling_session": api.CreateSamplingSessionRequest,
    "asample": api.SampleRequest,
    "retrieve_future": api.FutureRetrieveRequest,
}
_FIRST_SEEN: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "create_session": {"project_id": (0, 16), "display_name": (0, 36)},
    "create_model": {"optimizer_config": (0, 30)},
    "optim_step": {"optimizer_params": (0, 30)},
    "save_weights": {"ttl_seconds": (0, 12), "overwrite": (0, 22)},
    "save_weights_for_sampler": {"ttl_seconds": (0, 12), "kind": (0, 38)},
    "load_weights": {
        "session_id": (0, 24),
        "model_seq_id": (0, 24),
        "base_model": (0, 24),
        "weights_access_token": (0, 18),
        "optimizer_config": (0, 30),
    },
    "asample": {
        "record_stability_info": (0, 26),
        "topk_sample_logprobs": (0, 30),
        "target_prompt_logprobs": (0, 30),
        "prompt_alt_tokens_k": (0, 33),
        "prompt_logprobs_last_n": (0, 33),
    },
    "retrieve_future": {"allow_metadata_only": (0, 16)},
}
"""The releases of the official client that first sent a field. A field that is not listed is as old
as its request.

Source: openapi/tinker.yaml, x-tinker-first-seen.
"""
_INPUTS = {"cross_entropy": {"target_tokens", "weights"}}
_POLICY_INPUTS = {"target_tokens", "logprobs", "advantages", "weights"}


def check(profile: Profile, operation: str, fields: Fields) -> None:
    """Raises `Refused` for a body that the profile's server refuses."""
    if profile.bodies.release:
        _check_strictly(operation, fields, profile.bodies.release)
    for rule in profile.rules:
        if operation in rule.operations and (problem := _problem(rule, fields)):
            raise RefusedWithStatus(rule.status, f"{rule.field} {problem}")
    if operation == "load_weights":
        _check_load(profile.loading, fields)
    if batch := mapping_at(fields, f"{operation}_input"):
        _check_batch(profile.batches, batch)


def adapt(profile: Profile, operation: str, fields: Fields) -> None:
    """Turns a body into one that has the embedded server act as the profile's server."""
    if edits := profile.edits.get(operation):
        for path, value in edits.defaults.items():
            if look_up(fields, path) is None:
                _put(fields, path, value)
        for path in edits.ignored:
            _take_out(fields, path)
        for path, value in edits.forced.items():
            _put(fields, path, value)
    if batch := mapping_at(fields, f"{operation}_input"):
        _adapt_batch(profile.batches, batch)
    if operation == "asample":
        _adapt_sample(profile.sampling, fields)
        if not profile.sample_repeats:
            fields.pop("seq_id", None)
    if (
        operation == "create_model"
        and profile.full_weights_at_rank_0
        and look_up(fields, "lora_config.rank") == 0
    ):
        fields["lora_config"] = {"rank": _STANDS_FOR_FULL}
    if (
        operation == "save_weights_for_sampler"
        and fields.get("path")
        and not profile.names_samplers
    ):
        fields["path"] = str(time.time_ns())


_STANDS_FOR_FULL = 32  # rank


def _check_strictly(operation: str, fields: Fields, release: tuple[int, int]) -> None:
    kind, first_seen = _KINDS.get(operation), _FIRST_SEEN.get(operation, {})
    if kind is None:
        return
    known = {field.name.removesuffix("_") for field in attrs.fields(kind) if field.init}
    unknown = [
        name for name in fields if name not in known or first_seen.get(name, release) > release
    ]
    if unknown:
        raise RefusedWithStatus(422, [_extra(name, fields[name]) for name in unknown])


def _extra(name: str, value: object) -> dict[str, object]:
    return {
        "type": "extra_forbidden",
        "loc": ["body", name],
        "msg": "Extra inputs are not permitted",
        "input": value,
    }


def _problem(rule: Rule, fields: Fields) -> str | None:
    value = look_up(fields, rule.field)
    if value is None:
        nulled = rule.not_null and rule.field in fields
        return "must not be null" if nulled else "is missing" if rule.needed else None
    if rule.absent:
        return "is not supported"
    if rule.among is not None and value not in rule.among:
        return f"must be one of {', '.join(map(str, rule.among))}"
    if rule.not_text and isinstance(value, str):
        return "must be a list"
    size = len(list_at(fields, rule.field)) if isinstance(value, list) else value
    if rule.most is not None and isinstance(size, (int, float)) and size > rule.most:
        return f"is at most {rule.most:g}"
    return None


def _check_load(loading: Loading, fields: Fields) -> None:
    number = integer_at(fields, "seq_id")
    if loading.first_request_only and fields.get("model_id") and number is not None and number > 1:
        raise RefusedWithStatus(
            400,
            f"load_weights is not permitted with seq_id {number}: it must be the model's first "
            "request",
        )


def _check_batch(rule: Batches, batch: Fields) -> None:
    loss = text_at(batch, "loss_fn")
    if rule.losses is not None and loss not in rule.losses:
        raise RefusedWithStatus(rule.unknown_loss, f"Unsupported loss_fn {batch.get('loss_fn')!r}")
    for index, inputs in _inputs(batch):
        if rule.weights_needed and loss == "cross_entropy" and "weights" not in inputs:
            raise RefusedWithStatus(400, f"data {index}: cross_entropy needs weights")
        if rule.known_inputs_only and (
            extra := sorted(inputs.keys() - _INPUTS.get(str(loss), _POLICY_INPUTS))
        ):
            raise RefusedWithStatus(400, f"data {index}: {loss} takes no {extra[0]}")
        for name, tensor in inputs.items():
            if rule.flat == "refused" and len(list_at(tensor, "shape")) > 1:
                raise RefusedWithStatus(400, f"data {index}: {name} must be one-dimensional")
            if not rule.sparse and look_up(tensor, "sparse_crow_indices") is not None:
                raise RefusedWithStatus(422, f"data {index}: {name} must be dense")


def _adapt_batch(rule: Batches, batch: Fields) -> None:
    if rule.losses is not None:
        loss = rule.losses[batch["loss_fn"]]
        batch["loss_fn"] = loss.name
        if not loss.settings:
            batch.pop("loss_fn_config", None)
    if rule.means and batch.get("loss_fn") == "cross_entropy":
        _divide_by_all_weights(batch)
    if rule.flat == "shapes dropped":
        for _, inputs in _inputs(batch):
            for input_name in inputs:
                tensor = mapping_at(inputs, input_name) or {}
                for name in ("shape", "sparse_crow_indices", "sparse_col_indices"):
                    tensor.pop(name, None)


def _divide_by_all_weights(batch: Fields) -> None:
    weights = [tensor for _, inputs in _inputs(batch) if (tensor := mapping_at(inputs, "weights"))]
    if not all(_has_numbers(tensor) for tensor in weights):
        return  # the embedded server refuses them
    total = sum(abs(weight) for tensor in weights for weight in tensor["data"])
    for tensor in weights:
        tensor["data"] = [weight / max(total, 1e-9) for weight in tensor["data"]]


def _has_numbers(tensor: Fields) -> bool:
    data = tensor.get("data")
    if isinstance(data, np.ndarray):  # of a protobuf body
        return True
    return isinstance(data, list) and all(
        isinstance(weight, (int, float)) for weight in cast("list[object]", data)
    )


def _inputs(batch: Fields) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, datum in enumerate(list_at(batch, "data")):
        yield index, mapping_at(datum, "loss_fn_inputs") or {}


def _adapt_sample(rule: Sampling, fields: Fields) -> None:
    params = _holder(fields, ["sampling_params"])
    if params is None:
        return
    if rule.first_chunk_only and (chunks := list_at(fields, "prompt.chunks")):
        fields["prompt"]["chunks"] = chunks[:1]
    if rule.zero_temperature_is is not None and params.get("temperature") == 0:
        params["temperature"] = rule.zero_temperature_is
    plain = (
        fields.get("num_samples", 1),
        params.get("temperature", 1.0),
        params.get("top_p", 1.0),
    ) == (1, 1.0, 1.0)
    if rule.default_top_k is not None and _is_off(params.get("top_k")):
        params["top_k"] = rule.default_top_k
    if rule.greedy_when_plain and plain:
        params["temperature"] = 0.0
    if rule.prompt_logprobs == "never":
        fields["prompt_logprobs"], fields["topk_prompt_logprobs"] = False, 0


def _is_off(top_k: object) -> bool:
    return top_k is None or (type(top_k) is int and top_k <= 0)


def _put(fields: Fields, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    if (holder := _holder(fields, parents)) is not None:
        holder[name] = value


def _holder(fields: Fields, keys: Sequence[str]) -> Fields | None:
    """Returns the object at these keys, which is added if it is missing; None if there is another
    value, which the embedded server will refuse.
    """
    for key in keys:
        if fields.get(key) is None:
            fields[key] = {}
        if (inner := mapping_at(fields, key)) is None:
            return None
        fields = inner
    return fields


def _take_out(fields: Fields, path: str) -> None:
    *parents, name = path.split(".")
    if holder := mapping_at(fields, ".".join(parents)) if parents else fields:
        holder.pop(name, None)
