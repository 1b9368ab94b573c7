"""`VllmApi`: the calls of one vLLM's HTTP API that sampling needs."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, Self, TypeAlias, cast

import aiohttp
import orjson
from attrs import frozen

from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.engine.vllm.errors import (
    AdapterMissing,
    CallLost,
    SamplerFailed,
    WrongAnswer,
)

_CONNECTING = 10.0  # seconds
_KEEP_ALIVE = 4.0  # seconds; vLLM closes a connection that is idle for 5
_SHORT = aiohttp.ClientTimeout(total=10.0)
# a large adapter from a slow disk
_LOADING = aiohttp.ClientTimeout(total=600.0, sock_connect=_CONNECTING)
# no bound here: a long sample takes its time, and `Replica.live` notices a vLLM that hangs
_SAMPLING = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECTING)
_GENERATE = "/inference/v1/generate"
_COUNTERS = re.compile(
    rb"^vllm:(?:generation_tokens_total|prompt_tokens_total|iteration_tokens_total_count)"
    rb"(?:\{[^}]*\})? ([0-9.e+]+)$",
    re.MULTILINE,
)

Health: TypeAlias = Literal["well", "silent", "gone"]
"""The answer of vLLM to the question for its health: none in time is "silent"; "gone" is a refused
connection, or the answer that it cannot compute.
"""


@frozen
class Served:
    """The models of a vLLM: its name for the base model, where it loaded it from, the length of its
    context in tokens, and its adapters by name.
    """

    base: str
    root: str
    context: int
    adapters: frozenset[str]


class VllmApi:
    """The HTTP API of the vLLM at `url`. To be used on one event loop."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
        self._session = aiohttp.ClientSession(connector=connector)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Breaks off the calls under way."""
        await self._session.close()

    async def health(self) -> Health:
        """Asks vLLM whether it can compute."""
        try:
            async with self._session.get(f"{self.url}/health", timeout=_SHORT) as response:
                return "well" if response.status == 200 else "gone"
        except TimeoutError:
            return "silent"
        except (aiohttp.ClientError, OSError):
            return "gone"

    async def progress(self) -> float:
        """Returns a number that grows whenever vLLM computes something."""
        status, body = await self._exchange("GET", "/metrics", None, _SHORT)
        _check_status(status, body)
        return sum(float(value) for value in _COUNTERS.findall(body))

    async def version(self) -> str:
        status, body = await self._exchange("GET", "/version", None, _SHORT)
        _check_status(status, body)
        return str(_object(body).get("version", "of unknown version"))

    async def served(self) -> Served:
        """Returns what vLLM serves now."""
        status, body = await self._exchange("GET", "/v1/models", None, _SHORT)
        _check_status(status, body)
        cards = cast("list[dict[str, Any]]", _object(body).get("data") or [])
        bases = [card for card in cards if card.get("parent") is None]
        if not bases or not isinstance(bases[0].get("max_model_len"), int):
            raise WrongAnswer("GET /v1/models names no base model with a max_model_len")
        return Served(
            bases[0]["id"],
            str(bases[0].get("root") or ""),
            bases[0]["max_model_len"],
            frozenset(card["id"] for card in cards if card.get("parent") is not None),
        )

    async def load_adapter(self, name: str, folder: str) -> None:
        """Makes vLLM read an adapter. Does nothing if it has one of this name.

        Raises `InvalidRequest` if vLLM cannot use the adapter.
        """
        body = {"lora_name": name, "lora_path": folder}
        status, answer = await self._exchange("POST", "/v1/load_lora_adapter", body, _LOADING)
        if status == 200 or (status == 400 and b"already been loaded" in answer):
            return
        if status == 404 and b"No adapter found" not in answer:
            raise SamplerFailed(
                f"the vLLM at {self.url} does not load adapters at run time: start it with "
                "--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
            )
        raise InvalidRequest(f"vLLM cannot load the adapter: {error_text(answer)}{_advice(answer)}")

    async def unload_adapter(self, name: str) -> None:
        """Makes vLLM forget an adapter. Ignores one that it does not have."""
        body = {"lora_name": name}
        status, answer = await self._exchange("POST", "/v1/unload_lora_adapter", body, _LOADING)
        if status != 404:
            _check_status(status, answer)

    async def generate(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the answer to a sampling request."""
        status, answer = await self._exchange("POST", _GENERATE, body, _SAMPLING)
        _check_status(status, answer)
        return _object(answer)

    async def generate_stream(
        self, body: Mapping[str, Any]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yields the parts of the answer to a sampling request, as they arrive."""
        async with self._request("POST", _GENERATE, body, _SAMPLING) as response:
            if response.status != 200:
                _check_status(response.status, await response.read())
            async for line in response.content:
                if not line.startswith(b"data:"):
                    continue
                data = line[len(b"data:") :].strip()
                if data == b"[DONE]":
                    return
                part = _object(data)
                if "error" in part:
                    raise CallLost(f"vLLM failed during the sample: {error_text(data)}")
                yield part

    async def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout: aiohttp.ClientTimeout,
    ) -> tuple[int, bytes]:
        async with self._request(method, path, body, timeout) as response:
            return response.status, await response.read()

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        if self._session.closed:
            raise CallLost("vLLM was given up")
        try:
            async with self._session.request(
                method,
                f"{self.url}{path}",
                data=None if body is None else orjson.dumps(body),
                headers={"Content-Type": "application/json"},
                timeout=timeout,
            ) as response:
                yield response
        except TimeoutError as error:
            raise CallLost(f"{method} {path} was not answered in time") from error
        except (aiohttp.ClientError, OSError) as error:
            text = str(error) or type(error).__name__
            raise CallLost(f"{method} {path} broke off: {text}") from error


def error_text(body: bytes) -> str:
    """Returns the message in the body of an error, in one line."""
    try:
        found: Any = orjson.loads(body)
    except ValueError:
        return " ".join(body.decode("utf-8", "replace").split())[:300] or "no message"
    for name in ("error", "message", "detail"):  # the second is in the first, or one is alone
        if isinstance(found, dict):
            found = cast("dict[str, Any]", found).get(name, cast("Any", found))
    return " ".join(str(found).split())[:500]


def _check_status(status: int, body: bytes) -> None:
    if status == 200:
        return
    text = error_text(body)
    if status == 404 and "does not exist" in text:
        raise AdapterMissing(text)
    if status in (400, 422):
        raise InvalidRequest(f"vLLM refused the request: {text}{_advice(body)}")
    if status == 403 and "Scale-out" in text:
        raise SamplerFailed(
            f"this vLLM does not offer {_GENERATE}, which takes and returns token ids: start it "
            "with --enable-scale-out"
        )
    if status in (401, 403):
        raise SamplerFailed(
            f"vLLM refused the server ({status}: {text}): start it without --api-key, on an "
            "address that only this server reaches"
        )
    if status == 404:
        raise SamplerFailed(
            f"this vLLM has no {_GENERATE}, which takes and returns token ids: install a newer "
            "release (0.32.0 is known to have it)"
        )
    raise CallLost(f"vLLM answered {status}: {text}")


def _advice(body: bytes) -> str:
    """Returns what to change, after a refusal that the arguments of vLLM cause."""
    if b"max_lora_rank" in body:
        return ' (start vLLM with a larger --max-lora-rank: --vllm-args "--max-lora-rank 128")'
    if b"No adapter found" in body:
        return (
            " (vLLM must see the adapters at the same path as this server: give --vllm-adapters a "
            "folder that both share)"
        )
    if b"max allowed" in body or b"max_logprobs" in body:
        return " (start vLLM with a larger --max-logprobs; -1 allows all)"
    return ""


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(body)
    except ValueError as error:
        raise WrongAnswer("it is not valid JSON") from error
    if not isinstance(found, dict):
        raise WrongAnswer("it is not a JSON object")
    return cast("dict[str, Any]", found)
