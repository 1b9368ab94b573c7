"""Measures what the two requests of a sample cost in HTTP libraries: CPU time of the client's
process, 2,000 samples at once. `python -m benchmarks.http_libraries`; docs/performance.md says what
else was compared. A library that is not installed is skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.prepared_answers import server
from benchmarks.workload import PROMPT_TOKENS, SAMPLES, WARM_UP
from scripts.official_sdk import ROOT

_AT_ONCE = 256  # requests for samples, as in the client
_ROUNDS = 3
_TIMEOUT = 60.0
_HEADERS = {
    "User-Agent": "benchmark",
    "Accept": "application/json",
    "X-API-Key": "tml-local",
    "X-Idempotency-Key": "0" * 32,
    "Content-Type": "application/json",
}
_SAMPLE = orjson.dumps(
    {
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(range(PROMPT_TOKENS))}]},
        "sampling_params": {"max_tokens": 64, "temperature": 1.0},
        "sampling_session_id": "session:sample:0",
        "seq_id": 1,
    }
)
_POLL = orjson.dumps({"request_id": "asample"})

Send = Callable[[str, bytes], Awaitable[bytes]]
Sample = Callable[[], Awaitable[None]]


async def _tinkex() -> Send:
    from tinkex.transport.connection import ConnectionPool
    from tinkex.transport.port import Message

    pool = ConnectionPool()

    async def send(url: str, body: bytes) -> bytes:
        return (await pool.exchange(Message("POST", url, _HEADERS, body, _TIMEOUT))).content

    return send


async def over_aiohttp() -> Send:
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    timeout = aiohttp.ClientTimeout(sock_read=_TIMEOUT)

    async def send(url: str, body: bytes) -> bytes:
        async with session.post(url, data=body, headers=_HEADERS, timeout=timeout) as answer:
            return await answer.read()

    return send


async def _pyreqwest() -> Send:
    library: Any = import_module("pyreqwest.client")  # which need not be installed
    client = library.ClientBuilder().no_proxy().build()

    async def send(url: str, body: bytes) -> bytes:
        request = client.post(url).headers(_HEADERS).body_bytes(body).build()
        return bytes(await (await request.send()).bytes())

    return send


async def _httpx() -> Send:
    import httpx

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=_TIMEOUT)

    async def send(url: str, body: bytes) -> bytes:
        return (await client.post(url, content=body, headers=_HEADERS)).content

    return send


_LIBRARIES: dict[str, Callable[[], Awaitable[Send]]] = {
    "tinkex": _tinkex,
    "pyreqwest": _pyreqwest,
    "aiohttp": over_aiohttp,
    "httpx": _httpx,
}


def sampler(send: Send, url: str) -> Sample:
    """Returns a function that asks for one sample, of which so many requests are sent at once as a
    client sends.
    """
    limit = asyncio.Semaphore(_AT_ONCE)

    async def sample() -> None:
        async with limit:
            await send(f"{url}/api/v1/asample", _SAMPLE)
        assert await send(f"{url}/api/v1/retrieve_future", _POLL)

    return sample


async def _measure(library: str, url: str) -> float:
    """Returns the CPU time of a sample, in milliseconds."""
    sample = sampler(await _LIBRARIES[library](), f"{url}/protobuf")
    await asyncio.gather(*(sample() for _ in range(WARM_UP)))  # opens connections
    began = time.process_time()
    await asyncio.gather(*(sample() for _ in range(SAMPLES)))
    return (time.process_time() - began) / SAMPLES * 1000


def _in_process(library: str, loop: str, url: str) -> float:
    command = [sys.executable, "-m", "benchmarks.http_libraries", library, loop, url]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout)


def main() -> None:
    table = Table("CPU time a sample, median, ms", "asyncio", "uvloop")
    with server() as url:
        for library in filter(find_spec, _LIBRARIES):
            figures = [
                statistics.median(_in_process(library, loop, url) for _ in range(_ROUNDS))
                if find_spec(loop)
                else None
                for loop in ("asyncio", "uvloop")
            ]
            table.add_row(library, *("-" if one is None else f"{one:.2f}" for one in figures))
    Console().print(table)


def _measure_one(library: str, loop: str, url: str) -> None:
    factory: Any = __import__(loop).new_event_loop
    runner = asyncio.Runner(loop_factory=factory)
    print(runner.run(_measure(library, url)), flush=True)
    os._exit(0)  # connections that are still open are no part of what is measured


if __name__ == "__main__":
    if sys.argv[1:]:
        _measure_one(*sys.argv[1:])
    else:
        main()
