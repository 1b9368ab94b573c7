"""The inputs that each loss reads. An input that would have no effect is refused, since it is most
likely a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from tinkex_api import models as api

from tinkex_server.errors import Location, malformed

_POLICY = frozenset({"target_tokens", "logprobs", "advantages", "weights"})
_CLIPPED = _POLICY | {"clip_low_threshold", "clip_high_threshold"}
LOSS_INPUTS: Mapping[str, frozenset[str]] = {
    "cross_entropy": frozenset({"target_tokens", "weights"}),
    "importance_sampling": _POLICY,
    "ppo": _CLIPPED,
    "cispo": _CLIPPED,
    "dro": _POLICY,
    "gspo": _CLIPPED | {"sequence_ratio_mask"},
}
LOSS_FNS = tuple(LOSS_INPUTS)
"""The built-in losses. Their formulas are in openapi/tinker.yaml, at ForwardBackwardInput."""

_OTHER_NAMES = {
    **dict.fromkeys(
        (
            "mask",
            "masks",
            "loss_mask",
            "action_mask",
            "attention_mask",
            "response_mask",
            "loss_weights",
        ),
        "weights",
    ),
    **dict.fromkeys(
        (
            "old_logprobs",
            "sampling_logprobs",
            "sampled_logprobs",
            "ref_logprobs",
            "logp",
            "old_log_probs",
        ),
        "logprobs",
    ),
    **dict.fromkeys(("adv", "reward", "rewards", "returns"), "advantages"),
    **dict.fromkeys(("targets", "labels", "target", "target_ids", "tokens"), "target_tokens"),
}
"""The names that other libraries have for the same inputs."""


def check_inputs(batch: api.ForwardBackwardInput, at: Location) -> None:
    """Raises `Refused` for an input that the loss of the batch does not read, and suggests one."""
    known = LOSS_INPUTS.get(batch.loss_fn)
    if known is None:  # a custom loss, which says itself what it reads
        return
    for index, datum in enumerate(batch.data):
        for name in datum.loss_fn_inputs:
            if name not in known:
                raise malformed(
                    *at, index, "loss_fn_inputs", name, message=_message(batch.loss_fn, name, known)
                )


def _message(loss_fn: str, name: str, known: frozenset[str]) -> str:
    close = get_close_matches(name, sorted(known), n=1)
    meant = close[0] if close else _OTHER_NAMES.get(name)
    hint = f"; this server calls it {meant}" if meant in known else ""
    return (
        f"has no effect: {loss_fn} reads {', '.join(sorted(known))}{hint}. Rename it, or leave it "
        "out"
    )
