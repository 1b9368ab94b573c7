"""Omits fields that strict servers refuse because they do not know them.

Plain values: no I/O here. A server that was built against an older release of the API may answer
422 and name a field that it does not know. The field is omitted if its value is the same as its
absence, and never otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

_DEFAULTS: Mapping[str, Sequence[Any]] = {
    "type": (),
    "sdk_version": (),
    "tags": ([],),
    "user_metadata": ({},),
    "optimizer_config": ({"type": "adamw"},),
    "num_samples": (1,),
    "prompt_logprobs": (False,),
    "topk_prompt_logprobs": (0,),
    "topk_sample_logprobs": (0,),
    "prompt_alt_tokens_k": (0,),
    "record_stability_info": (False,),
    "allow_metadata_only": (True, False),
    "overwrite": (False,),
    "kind": ("snapshot",),
    "optimizer": (False,),
}
"""Fields of requests, and the values that mean the same as no field; for an empty list, all do."""


def refused_fields(problems: Any) -> frozenset[str]:
    """Returns the top-level fields that the `detail` of a 422 calls unknown.

    It has the form `[{"type": "extra_forbidden", "loc": ["body", name]}]`.
    """
    if not isinstance(problems, list):
        return frozenset()
    found = (_refused_field(problem) for problem in cast("list[Any]", problems))
    return frozenset(name for name in found if name)


def _refused_field(problem: Any) -> str | None:
    if not isinstance(problem, dict):
        return None
    facts = cast("dict[str, Any]", problem)
    location = [step for step in facts.get("loc", ()) if step != "body"]
    unknown = facts.get("type") == "extra_forbidden" or "extra" in str(facts.get("msg", "")).lower()
    return location[0] if unknown and len(location) == 1 and isinstance(location[0], str) else None


def without(body: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any] | None:
    """Returns the body without these fields; None if one is absent, or has a value that matters."""
    if not names or not all(name in body and _is_default(name, body[name]) for name in names):
        return None
    return {name: value for name, value in body.items() if name not in names}


def _is_default(name: str, value: Any) -> bool:
    defaults = _DEFAULTS.get(name)
    return defaults is not None and (not defaults or value in defaults)
