"""The inputs that each loss reads. One that would have no effect is refused, so that nobody trains
on what was not meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from tinkex_api import models as api

from tinkex_server.errors import malformed

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
"""The losses that the engines have beside those that clients send; openapi/tinker.yaml,
ForwardBackwardInput, has their formulas.
"""

_MEANT = {
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
"""Names of other libraries for the same thing."""


def check_inputs(batch: api.ForwardBackwardInput, at: tuple[str | int, ...]) -> None:
    """Raises `Refused`, saying what was meant, for an input that the batch's loss does not read."""
    known = LOSS_INPUTS.get(batch.loss_fn)
    if known is None:  # a client's own, which says itself what it reads
        return
    for index, datum in enumerate(batch.data):
        for name in datum.loss_fn_inputs:
            if name not in known:
                raise malformed(
                    *at, index, "loss_fn_inputs", name, message=_words(batch.loss_fn, name, known)
                )


def _words(loss_fn: str, name: str, known: frozenset[str]) -> str:
    close = get_close_matches(name, sorted(known), n=1)
    meant = close[0] if close else _MEANT.get(name)
    hint = f"; {meant} is what it is called here" if meant in known else ""
    return (
        f"has no effect: {loss_fn} reads {', '.join(sorted(known))}{hint}. Rename it, or leave it "
        "out"
    )
