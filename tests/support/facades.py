"""Lets one test speak to both facades: the asyncio clients, called from here as the blocking ones
are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from attrs import frozen

import tinkex
from tinkex import (
    AsyncAdminClient,
    AsyncAPIFuture,
    AsyncRecoverableRun,
    AsyncRestClient,
    AsyncSamplingClient,
    AsyncServiceClient,
    AsyncTrainingClient,
    RecoverableRun,
)
from tinkex.portal import portal
from tinkex.portal.iteration import iterate

_CLIENTS = (
    *(
        AsyncServiceClient,
        AsyncTrainingClient,
        AsyncSamplingClient,
        AsyncRestClient,
        AsyncAdminClient,
    ),
    AsyncRecoverableRun,
)


@frozen
class _Future:
    """An AsyncAPIFuture whose await is called `result()`."""

    future: AsyncAPIFuture[Any]

    def result(self, timeout: float | None = None) -> Any:
        async def wait() -> Any:
            return await self.future

        return portal.shared().run(wait)

    def __getattr__(self, name: str) -> Any:
        return _called_on_the_loop(getattr(self.future, name))


@frozen
class _Client:
    """An asyncio client whose methods wait."""

    client: Any

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.client, name)
        return (
            _Client(attribute)
            if isinstance(attribute, _CLIENTS)
            else _called_on_the_loop(attribute)
        )

    def __enter__(self) -> _Client:
        portal.shared().run(self.client.__aenter__)
        return self

    def __exit__(self, *error: Any) -> None:
        portal.shared().run(self.client.__aexit__, *error)

    def __repr__(self) -> str:
        return repr(self.client)


def _called_on_the_loop(attribute: Any) -> Any:
    if not callable(attribute):
        return attribute

    async def wait(*args: Any, **kwargs: Any) -> Any:
        given = attribute(*args, **kwargs)
        return (
            given
            if isinstance(given, AsyncAPIFuture) or not hasattr(given, "__await__")
            else await given
        )

    def call(*args: Any, **kwargs: Any) -> Any:
        given = portal.shared().run(
            wait, *(arg.client if isinstance(arg, _Client) else arg for arg in args), **kwargs
        )
        if isinstance(given, AsyncAPIFuture):
            return _Future(given)
        return _Client(given) if isinstance(given, _CLIENTS) else given

    return call


def _asyncio(kind: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: _Client(kind(*args, **kwargs))


def everything(items: Any) -> list[Any]:
    """Returns all items of an iterator of either facade."""

    async def gather() -> list[Any]:
        return [item async for item in items]

    return portal.shared().run(gather) if hasattr(items, "__anext__") else list(items)


FACADES: dict[str, Callable[..., Any]] = {
    "asyncio": _asyncio(AsyncServiceClient),
    "blocking": tinkex.ServiceClient,
}
"""Constructors of service clients by facade."""
RESTS: dict[str, Callable[..., Any]] = {
    "asyncio": _asyncio(AsyncRestClient),
    "blocking": tinkex.RestClient,
}
ADMINS: dict[str, Callable[..., Any]] = {
    "asyncio": _asyncio(AsyncAdminClient),
    "blocking": tinkex.AdminClient,
}


def steps_of(run: Any, until: int) -> Iterator[int]:
    """Iterates over the steps of a recoverable run of either facade."""
    return (
        run.steps(until)
        if isinstance(run, RecoverableRun)
        else iterate(portal.shared(), lambda: run.client.steps(until))
    )
