"""The changes of a result under a profile. Plain functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinkex_server.profiles.profile import BATCHES, Profile, Sampling
from tinkex_server.profiles.templates import look_up, mapping_at


def shape_result(profile: Profile, kind: str, result: dict[str, Any]) -> dict[str, Any]:
    """Returns the result of this kind of request as the profile's server writes it."""
    derived: Mapping[str, float | None] = _derived(result) if kind in BATCHES else {}
    if kind == "forward" and profile.batches.padded_forward:
        _pad(result["loss_fn_outputs"])
    if kind == "sample":
        _change_sample(profile.sampling, result)
    shape = profile.results.get(kind)
    return shape.of(result, derived=derived) if shape else result


def _derived(result: Mapping[str, Any]) -> Mapping[str, float | None]:
    """Returns the sum of the loss, and its mean over the tokens."""
    total = look_up(result, "metrics.loss:sum")
    logprobs = (look_up(output, "logprobs.data") for output in result["loss_fn_outputs"])
    tokens = sum(len(values) for values in logprobs if values is not None)
    return {"loss_sum": total, "loss_mean": None if total is None else total / max(tokens, 1)}


def _pad(outputs: Sequence[Mapping[str, Any]]) -> None:
    """Pads the logprobs of each output with 0 to the length of the longest."""
    tensors = [tensor for output in outputs if (tensor := mapping_at(output, "logprobs"))]
    longest = max((len(tensor["data"]) for tensor in tensors), default=0)
    for tensor in tensors:
        tensor.update(
            data=[*tensor["data"], *[0.0] * (longest - len(tensor["data"]))], shape=[longest]
        )


def _change_sample(rule: Sampling, result: dict[str, Any]) -> None:
    if rule.stop_reason:
        for sequence in result["sequences"]:
            sequence["stop_reason"] = rule.stop_reason
    if rule.prompt_logprobs == "without the first" and result.get("prompt_logprobs"):
        result["prompt_logprobs"] = result["prompt_logprobs"][1:]
