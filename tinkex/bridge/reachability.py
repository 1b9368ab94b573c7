"""Tells at the start of a bridge which of the servers behind it do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tinkex.bridge.routing import Routing, Target
from tinkex.bridge.upstream import Upstream
from tinkex.errors import APIConnectionError, APIStatusError, ConfigError, TinkexError

_PATIENCE = 5.0
"""Seconds that a server has to answer."""


def find_unreachable(routing: Routing, key: str | None) -> Mapping[str, str]:
    """Returns why servers do not answer as a Tinker server does, by their URL."""
    return asyncio.run(_find(routing, key))


async def _find(routing: Routing, key: str | None) -> Mapping[str, str]:
    targets = routing.targets
    reasons = await asyncio.gather(*(_reason(target, key) for target in targets))
    pairs = zip(targets, reasons, strict=True)
    return {target.url: reason for target, reason in pairs if reason is not None}


async def _reason(target: Target, key: str | None) -> str | None:
    try:
        upstream = Upstream(target, key)
    except ConfigError:  # it cannot be asked without a key, which callers have
        return None
    try:
        async with asyncio.timeout(_PATIENCE):
            await upstream.discovered()
    except TimeoutError:
        return f"no answer within {_PATIENCE:g} s"
    except APIStatusError:  # it answers, and wants a key, which callers have
        return None
    except APIConnectionError as error:
        return error.message
    except TinkexError as error:
        return str(error)
    finally:
        await upstream.close()
    return None
