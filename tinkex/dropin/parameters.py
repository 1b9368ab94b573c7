"""`SamplingParams` and `AdamParams`, made as the official SDK makes them: of numbers in texts, as
YAML reads 1e-4, and of tensors of one number.
"""

from __future__ import annotations

import warnings
from typing import Any

from tinkex import types
from tinkex.dropin.results import OfAnyOrigin


class SamplingParams(types.SamplingParams, metaclass=OfAnyOrigin):
    """The settings of sampling. Unknown ones are ignored with a `FutureWarning`; the official SDK
    ignores them in silence.
    """

    __slots__ = ()

    def __init__(self, **fields: Any) -> None:
        unknown = sorted(fields.keys() - types.SamplingParams.model_fields.keys())
        if unknown:
            warnings.warn(
                f"SamplingParams has no field {', '.join(unknown)}, which is ignored",
                FutureWarning,
                stacklevel=2,
            )
        super().__init__(**_numbers({k: v for k, v in fields.items() if k not in unknown}))


class AdamParams(types.AdamParams, metaclass=OfAnyOrigin):
    """The settings of a step of AdamW."""

    __slots__ = ()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**_numbers(fields))


_INTEGERS = frozenset({"max_tokens", "top_k", "seed"})


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields with numbers in place of what stands for one. What does not is left, to be
    refused by the call that gets it.
    """
    return {
        name: value if name == "stop" else _number(name, value) for name, value in fields.items()
    }


def _number(name: str, value: Any) -> Any:
    if isinstance(value, str):
        try:
            return int(value) if name in _INTEGERS else float(value)
        except ValueError:
            return value
    is_tensor = hasattr(value, "item") and getattr(value, "ndim", None) == 0
    return value.item() if is_tensor else value
