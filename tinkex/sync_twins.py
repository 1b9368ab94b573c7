"""The `…_async` twins of the blocking clients' methods, which programs written for the official SDK may call."""

from __future__ import annotations

import warnings


def deprecated_twin(method: str) -> None:
    """Warns the caller of a twin. The call itself stands in the generated clients."""
    warnings.warn(
        f"{method}_async is deprecated: call {method}, whose future can be awaited, or use the asyncio clients",
        FutureWarning,
        stacklevel=3,
    )
