"""A stand-in for vLLM over real sockets. Its answers are those that a real one gave, with the
numbers of `FakeEngine` in them, so that a fake engine that trains agrees with it.

It runs in a thread of the test, or as a process that a test can kill, in the place of `python`.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import shutil
import socket
import sys
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from attrs import define, field

from tinkex_server.engine.fake import FakeEngine
from tinkex_server.engine.interface import ADAPTER_FILES, SampledTokens, SampleSpec

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "vllm_recordings.json").read_text()
)
BASE = "fake/base"
_FILE = "fake_adapter.json"


class PeftNamedEngine(FakeEngine):
    """A fake engine whose adapters have the names of peft's files."""

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        super().save_model(model_id, folder, optimizer=optimizer)
        for name in ADAPTER_FILES:
            shutil.copy(folder / _FILE, folder / name)


@define
class FakeVllm:
    """The state of one fake vLLM."""

    root: str = BASE
    engine: FakeEngine = field(factory=lambda: FakeEngine([BASE]))
    adapters: dict[str, str] = field(factory=dict[str, str])
    faults: Counter[str] = field(factory=Counter[str])
    """The number of times that each fault is still to happen, by name."""
    calls: Counter[str] = field(factory=Counter[str])
    """The number of requests by path."""
    most_adapters: int = 0
    bodies: list[dict[str, Any]] = field(factory=list[dict[str, Any]])
    """The requests to sample."""
    url: str = ""
    pause: float = 0.0
    """The seconds that a sample takes."""
    delay: float = 0.0
    """The seconds after which a request to sample is looked at."""
    running: int = 0
    aborted: int = 0
    """The number of samples whose client disconnected."""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/version", self.version),
                web.get("/metrics", self.metrics),
                web.get("/v1/models", self.models),
                web.post("/v1/load_lora_adapter", self.load),
                web.post("/v1/unload_lora_adapter", self.unload),
                web.post("/inference/v1/generate", self.generate),
                web.post("/fault", self.add_fault),
            ]
        )
        self.engine.load_sampler("base", BASE, None)
        return app

    def strikes(self, fault: str) -> bool:
        """Returns whether a fault happens now, which it does as often as was asked for."""
        if self.faults[fault] > 0:
            self.faults[fault] -= 1
            return True
        return False

    async def add_fault(self, request: web.Request) -> web.Response:
        self.faults.update(await request.json())
        return web.Response()

    async def health(self, request: web.Request) -> web.Response:
        if self.faults["deaf"]:
            await asyncio.sleep(3600)
        return web.Response(status=503 if self.faults["ill"] else 200)

    async def version(self, request: web.Request) -> web.Response:
        return recorded("version")

    async def metrics(self, request: web.Request) -> web.Response:
        text = RECORDED["metrics"]["answer"]
        moved = 0 if self.faults["stuck"] else self.calls["/metrics"]
        self.calls["/metrics"] += 1
        return web.Response(text=text.replace("1050.0", f"{1050 + moved}.0"))

    async def models(self, request: web.Request) -> web.Response:
        if self.faults["no vllm"]:
            return web.json_response({"detail": "no such page"}, status=422)
        answer = json.loads(RECORDED["models with adapter"]["answer"])
        base, adapter = answer["data"]
        base |= {"root": self.root, "max_model_len": 32_768}
        adapters = [{**adapter, "id": name, "root": path} for name, path in self.adapters.items()]
        return web.json_response({**answer, "data": [base, *adapters]})

    async def load(self, request: web.Request) -> web.Response:
        self.calls[request.path] += 1
        if self.faults["no run-time adapters"]:
            return web.json_response({"detail": "Not Found"}, status=404)
        if self.strikes("large adapter"):
            return recorded("load of a large one")
        body = await request.json()
        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            return recorded("load again")
        try:
            shutil.copy(folder / ADAPTER_FILES[1], folder / _FILE)
        except FileNotFoundError:
            return recorded("load of nothing")
        self.engine.load_sampler(name, BASE, folder)
        self.adapters[name] = str(folder)
        self.most_adapters = max(self.most_adapters, len(self.adapters))
        return recorded("load")

    async def unload(self, request: web.Request) -> web.Response:
        self.calls[request.path] += 1
        name = (await request.json())["lora_name"]
        return recorded("unload" if self.adapters.pop(name, None) else "unload again")

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self.calls[request.path] += 1
        body = await request.json()
        self.bodies.append(body)
        self.running += 1
        try:
            return await self._generate(request, body)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.running -= 1

    async def _generate(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.strikes("dies"):
            os._exit(1)
        if self.strikes("500"):
            return web.json_response({"error": {"message": "CUDA error", "code": 500}}, status=500)
        if self.strikes("disabled"):
            text = "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out"
            return web.json_response({"error": {"message": text, "code": 403}}, status=403)
        if self.faults["hangs"]:
            await asyncio.sleep(3600)
        await asyncio.sleep(self.delay)
        if body["model"] != "base" and body["model"] not in self.adapters:
            return recorded("unknown adapter")
        if not 0 < body["sampling_params"].get("top_p", 1.0) <= 1:
            return recorded("bad top_p")
        await asyncio.sleep(self.pause)
        samples = self.engine.sample(body["model"], spec_of(body)).result().sequences
        if body.get("stream"):
            return await self._stream(request, samples[0])
        answer = json.loads(RECORDED["greedy"]["answer"])
        answer["choices"] = [self._choice(i, sample) for i, sample in enumerate(samples)]
        return web.json_response(answer)

    def _choice(self, index: int, sample: SampledTokens) -> dict[str, Any]:
        choice = copy.deepcopy(json.loads(RECORDED["greedy"]["answer"])["choices"][0])
        content = [
            {"token_id": token, "logprob": logprob, "rank": 1, "top_logprobs": top_tokens(row)}
            for token, logprob, row in zip(
                sample.tokens,
                sample.logprobs,
                sample.topk_logprobs or [()] * len(sample.tokens),
                strict=True,
            )
        ]
        choice |= {"index": index, "token_ids": list(sample.tokens)}
        choice |= {"finish_reason": sample.stop_reason, "logprobs": {"content": content}}
        if self.strikes("wrong token"):
            choice["token_ids"][0] += 1
        if self.strikes("token beyond the vocabulary"):
            choice["token_ids"][0] = content[0]["token_id"] = 1 << 20
        if self.strikes("no logprobs"):
            choice["logprobs"] = None
        if self.strikes("diverged"):
            content[0]["logprob"] = -9999.0
        if self.faults["other logprobs"]:
            for one in content:
                one["logprob"] -= 0.5
        if self.strikes("aborted"):
            choice["finish_reason"] = "abort"
        return choice

    async def _stream(self, request: web.Request, sample: SampledTokens) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        whole = self._choice(0, sample)
        for place, scored in enumerate(whole["logprobs"]["content"]):
            if place == 3 and self.strikes("breaks off"):
                assert request.transport
                request.transport.close()
                return response
            last = place == len(sample.tokens) - 1
            part = {
                **whole,
                "token_ids": [scored["token_id"]],
                "logprobs": {"content": [scored]},
                "finish_reason": whole["finish_reason"] if last else None,
            }
            await response.write(b"data: %s\n\n" % json.dumps({"choices": [part]}).encode())
        await response.write(b"data: [DONE]\n\n")
        return response


def top_tokens(row: Any) -> list[dict[str, Any]]:
    return [
        {"token_id": token, "logprob": logprob, "rank": rank}
        for rank, (token, logprob) in enumerate(row, 1)
    ]


def recorded(name: str) -> web.Response:
    """Returns an answer of the real vLLM."""
    one = RECORDED[name]
    return web.Response(status=one["status"], text=one["answer"])


def spec_of(body: dict[str, Any]) -> SampleSpec:
    params = body["sampling_params"]
    return SampleSpec(
        body["token_ids"],
        params.get("n", 1),
        params["max_tokens"],
        temperature=params["temperature"],
        seed=params.get("seed"),
        stop_tokens=params.get("stop_token_ids"),
        topk_sample_logprobs=params["logprobs"],
    )


@contextmanager
def running_vllm(fake: FakeVllm | None = None, port: int = 0) -> Generator[FakeVllm]:
    """Runs a fake vLLM in a thread."""
    fake = fake or FakeVllm()
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(fake.app(), shutdown_timeout=0.1, handler_cancellation=True)

    listening = socket.create_server(("127.0.0.1", port))
    fake.url = "http://{}:{}".format(*listening.getsockname())

    async def start() -> None:
        await runner.setup()
        await web.SockSite(runner, listening).start()

    async def stop() -> None:
        # asyncio leaks a connection that it has accepted, and not yet handed on, when its server
        # is closed: no more are accepted, and the last one is handed on within three turns
        asyncio.get_running_loop().remove_reader(listening)
        for _ in range(3):
            await asyncio.sleep(0)
        await runner.cleanup()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def fake_python(folder: Path, *, prelude: str = "") -> str:
    """Returns the path of a Python interpreter whose vLLM is the fake one; `prelude` is run before
    it, by the shell.
    """
    program, packages = folder / "python", folder / "packages"
    server = packages / "vllm" / "entrypoints" / "openai" / "api_server.py"
    server.parent.mkdir(parents=True, exist_ok=True)
    server.write_text("from tests.support.fake_vllm import main\nmain()\n")
    path = os.pathsep.join([str(packages), str(Path(__file__).parents[2]), *sys.path])
    program.write_text(f'#!/bin/sh\n{prelude}\nPYTHONPATH={path} exec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return str(program)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model")
    known = parser.parse_known_args()[0]
    fake = FakeVllm(root=known.model)
    web.run_app(fake.app(), host="127.0.0.1", port=known.port, print=None)
