"""The `…_async` twins of the blocking clients' methods, which programs written for the official SDK may call."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import Self


def deprecated_twin(method: str) -> None:
    """Warns the caller of a twin. The call itself stands in the generated clients."""
    warnings.warn(
        f"{method}_async is deprecated: call {method}, whose future can be awaited, or use the asyncio clients",
        FutureWarning,
        stacklevel=3,
    )


class Made:
    """A client that another client made. Where the official SDK gives a future of it, this is that future, too."""

    def result(self, timeout: float | None = None) -> Self:
        """Returns the client itself, which is there already."""
        return self

    def __await__(self) -> Generator[None, None, Self]:
        yield from ()
        return self
