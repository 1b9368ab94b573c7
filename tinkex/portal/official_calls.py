"""Compatibility with programs for the official SDK: `…_async` methods, and values with `.result()`.

Most calls of the official SDK return a future. Blocking clients return the value itself, which also
behaves like a future that is done.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from concurrent.futures import Future
from typing import Literal

from tinkex_api.types import OwnFuture


def deprecated_twin(method: str) -> None:
    """Warns that a method `…_async` is deprecated. The generated clients call it."""
    warnings.warn(
        f"{method}_async is deprecated: call {method}, whose future can be awaited, or use the "
        "asyncio clients",
        FutureWarning,
        stacklevel=3,
    )


class Text(str, OwnFuture):
    """A string that a call returns, which also behaves like a future of itself."""

    __slots__ = ()


class Done:
    """The return value of a call without a result, which behaves like a future of None."""

    __slots__ = ()

    def result(self, timeout: float | None = None) -> None:
        """Returns None immediately."""

    async def result_async(self, timeout: float | None = None) -> None:
        """Returns None immediately."""

    async def coroutine(self) -> None:
        """Returns None immediately."""

    def future(self) -> Future[None]:
        """Returns a future of the standard library that is done."""
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def __await__(self) -> Generator[None, None, None]:
        yield from ()

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "<done>"


DONE = Done()
