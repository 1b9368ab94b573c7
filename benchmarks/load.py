"""A lean load on a server: `load.py URL SAMPLES CLIENTS` asks for samples, so many at once, and
prints as JSON how long all of them took, and each of them.

A sample is two requests, asample and retrieve_future, on connections that are kept open. Nothing is
decoded but the request id, so that the load takes less of the machine than the server does.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from itertools import chain, count
from urllib.parse import urlsplit

_MODEL = "tinkex/tiny"
_PROMPT_TOKENS, _SAMPLED_TOKENS = 64, 32


class Connection:
    """One at a time: a request, then its answer."""

    def __init__(
        self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._host = host
        self._reader = reader
        self._writer = writer

    async def post(self, call: str, body: bytes) -> bytes:
        head = (
            f"POST /api/v1/{call} HTTP/1.1\r\nHost: {self._host}\r\nX-API-Key: tml-local\r\n"
            "Content-Type: application/json\r\n"
        )
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        content = await self._reader.readexactly(length)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{call}: {answer.decode()}{content.decode()}")
        return content

    async def ask(self, call: str, **fields: object) -> dict[str, str]:
        return json.loads(await self.post(call, json.dumps(fields).encode()))


async def connect(url: str) -> Connection:
    parts = urlsplit(url)
    return Connection(parts.netloc, *await asyncio.open_connection(parts.hostname, parts.port))


async def sampler(url: str) -> str:
    """Returns the id of a new sampling session."""
    first = await connect(url)
    session = await first.ask(
        "create_session", tags=[], user_metadata={}, sdk_version="0", type="create_session"
    )
    fields = {
        "session_id": session["session_id"],
        "sampling_session_seq_id": 0,
        "base_model": _MODEL,
    }
    return (await first.ask("create_sampling_session", **fields))["sampling_session_id"]


async def sample_on(
    connection: Connection, before: bytes, numbers: count[int], last: int
) -> list[float]:
    """Takes numbers, and asks for a sample with each, until there are no more; returns the seconds
    that each sample took.
    """
    taken: list[float] = []
    while (number := next(numbers)) < last:
        began = time.perf_counter()
        promise = await connection.post("asample", b'%s,"seq_id":%d}' % (before, number))
        request_id = promise.partition(b'"request_id":"')[2].partition(b'"')[0]
        result = await connection.post(
            "retrieve_future", b'{"request_id":"%s","allow_metadata_only":true}' % request_id
        )
        if not result.startswith(b'{"sequences"') and b'"sequences"' not in result:
            raise RuntimeError(f"no sample: {result.decode()}")
        taken.append(time.perf_counter() - began)
    return taken


async def main(url: str, samples: int, clients: int) -> dict[str, float]:
    fields = {
        "sampling_session_id": await sampler(url),
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(range(_PROMPT_TOKENS))}]},
        "sampling_params": {
            "max_tokens": _SAMPLED_TOKENS,
            "temperature": 1.0,
            "top_k": -1,
            "top_p": 1.0,
        },
        "num_samples": 1,
        "type": "sample",
    }
    before, numbers = json.dumps(fields).encode()[:-1], count()
    connections = [await connect(url) for _ in range(clients)]
    began, cpu = time.perf_counter(), time.process_time()
    taken = await asyncio.gather(
        *(sample_on(connection, before, numbers, samples) for connection in connections)
    )
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    percentiles = statistics.quantiles(chain.from_iterable(taken), n=100)
    return {
        "seconds": seconds,
        "client_cpu": cpu,
        "median": percentiles[49],
        "p99": percentiles[98],
    }


if __name__ == "__main__":
    url, samples, clients = sys.argv[1:]
    print(json.dumps(asyncio.run(main(url, int(samples), int(clients)))))
