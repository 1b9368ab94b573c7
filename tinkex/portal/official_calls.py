"""What programs written for the official SDK may do with the blocking clients: call `…_async`, and
ask a value for its `.result()`.

There most calls give a future, and here the value itself, which therefore answers as a future that
is done.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from concurrent.futures import Future
from typing import Literal

from tinkex_api.types import OwnFuture


def deprecated_twin(method: str) -> None:
    """Warns the caller of a twin. The call itself stands in the generated clients."""
    warnings.warn(
        f"{method}_async is deprecated: call {method}, whose future can be awaited, or use the "
        "asyncio clients",
        FutureWarning,
        stacklevel=3,
    )


class Text(str, OwnFuture):
    """A text that a call gives. Where the official SDK gives a future of it, this is that future,
    too.
    """

    __slots__ = ()


class Done:
    """What a call gives that has nothing to give: it is done. Where the official SDK gives a future
    of None, this is that future.
    """

    __slots__ = ()

    def result(self, timeout: float | None = None) -> None:
        """Returns None, at once."""

    async def result_async(self, timeout: float | None = None) -> None:
        """Returns None, at once."""

    async def coroutine(self) -> None:
        """Returns None, at once."""

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
